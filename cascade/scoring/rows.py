"""A model's reply to a question of a task as a row of the score table."""

from __future__ import annotations

from typing import Any

from cascade.engines.base import Engine, Reply
from cascade.scores.row import score_row
from cascade.scores.schema import SCHEMA
from cascade.tasks.base import Question
from cascade.tasks.task import Task


def reply_row(
    model: Engine, reply: Reply, task: Task, question: Question, label: str | None = None, **more: Any
) -> dict[str, Any]:
    """The row of one reply.

    Args:
        model: That replied.
        reply: Its confidences and usage go into the columns of the same names.
        task: Reads and judges the answer.
        question: With an accepted answer.
        label: What the table calls the task; by default its name.
        more: Further columns, and columns instead of these.
    """
    answer = task.read(question, reply.text)
    columns = {name: getattr(reply, name) for name in SCHEMA.names if hasattr(reply, name)} | {
        "attempted": task.attempted(question, answer),
        "task": task.name if label is None else label,
        "subject": question.subject,
        "answer": question.answers[0],
        "prediction": answer,
        "popularity": question.popularity,
        "parameters": model.parameters,
        "num_layers": model.num_layers,
        "hidden_size": model.hidden_size,
        "probe_layer": model.probe_layer,
        "probe_parameters": model.probe_parameters,
    }
    return score_row(question.id, model.name, task.judge(question, answer), **columns | more)
