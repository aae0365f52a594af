"""The score table of any engine, through its answers: with confidences beside P(T), and without hidden states.

Written whole or not at all. What was asked is kept beside it (`OUT.parts`) until then, so that the same call goes on
where it was stopped.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
from tqdm import tqdm

from cascade.engines.base import Engine
from cascade.errors import CascadeError
from cascade.scores.schema import parquet_bytes
from cascade.scoring.confidence.asking import BATCH, Asking, ask_confidences
from cascade.scoring.confidence.parts import Parts
from cascade.tasks.base import Question, Task
from cascade.tasks.load import PROBED_ON
from probes.files import write_atomically
from probes.split import stratified_split


def write_answers(engine: Engine, task: Task, out: Path, asking: Asking, limit: int | None = None) -> pa.Table:
    """Asks an engine a task and its confidences, and writes the score table.

    Args:
        engine: Any; released afterwards.
        task: What is asked.
        out: Parquet file.
        asking: What is asked beside.
        limit: Only so many questions, from the first on.

    Raises:
        CascadeError: If a question gets no reply; what was answered is kept.
    """
    if limit is not None and limit < 1:
        raise CascadeError(f"Expected `limit` to be at least 1, but got {limit}")
    questions = task.questions[:limit]
    parts, done = Parts(out.with_name(f"{out.name}.parts"), _identity(engine, questions, task.name, asking)), 0
    try:
        with tqdm(
            total=len(questions), desc=f"{engine.name} · {task.name}", unit="q", disable=None, leave=False
        ) as bar:

            def answered(count: int) -> None:
                nonlocal done
                done += count
                bar.update(count)

            table = ask_confidences(engine, questions, task.name, asking, on_answered=answered, parts=parts)
    except CascadeError as error:
        if not done:
            raise
        raise CascadeError(
            f"{error}; {done:,} of {len(questions):,} questions are kept in {parts.folder}, and the same command goes "
            f"on from there"
        ) from error
    finally:
        engine.release()
    table = write_table(table, task, out)
    parts.remove()
    return table


def write_table(table: pa.Table, task: Task, out: Path) -> pa.Table:
    """Writes a score table of a task, and says in it which questions a probe of the task was trained on.

    P(IK) is worth nothing on these, so that nothing is reported on them.
    """
    if task.name not in PROBED_ON:
        split = stratified_split([q.id for q in task.questions], [q.subject for q in task.questions])
        parts = {"train": split.train, "validation": split.validation, "test": split.test}
        of = {task.questions[row].id: name for name, rows in parts.items() for row in rows}
        names = pa.array([of[id] for id in table["question_id"].to_pylist()], pa.string())
        if "split" in table.column_names:
            table = table.set_column(table.column_names.index("split"), "split", names)
        else:
            table = table.append_column("split", names)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, parquet_bytes(table))
    return table


def _identity(engine: Engine, questions: Sequence[Question], label: str, asking: Asking) -> dict[str, Any]:
    """All that a table depends on."""
    asked = json.dumps([asdict(question) for question in questions], sort_keys=True)
    settings = asdict(asking)
    return {
        "model": engine.identity,
        "task": label,
        "questions": hashlib.sha256(asked.encode()).hexdigest()[:16],
        "batch": BATCH,
        "confidences": settings.pop("methods"),
        **settings,
    }
