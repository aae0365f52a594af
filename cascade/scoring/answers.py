"""The score table of any engine, through its answers: with confidences beside P(T), and without hidden states.

Written whole or not at all. What was asked is kept beside it (`OUT.parts`) until then, so that the same call goes on
where it was stopped.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa

from cascade.engines.base import Engine
from cascade.errors import CascadeError, Interrupted
from cascade.progress import progress
from cascade.scores.schema import parquet_bytes
from cascade.scoring.confidence.asking import BATCH, Asking, ask_confidences
from cascade.scoring.confidence.parts import Parts
from cascade.tasks.task import Task
from probes.files import write_atomically


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
    asked = task.take(range(len(task.questions))[:limit])
    count, done = len(asked.questions), 0
    parts = Parts(out.with_name(f"{out.name}.parts"), _identity(engine, asked, asking))
    try:
        with progress(count, f"{engine.name} · {task.name}") as bar:

            def answered(more: int) -> None:
                nonlocal done
                done += more
                bar.update(more)

            table = ask_confidences(engine, asked, asking, on_answered=answered, parts=parts)
    except KeyboardInterrupt:
        raise Interrupted(
            f"Stopped; what was asked by then is in {parts.folder}, and the same command goes on from there"
            if parts.folder.exists()
            else f"Stopped: nothing was written to {out}"
        ) from None
    except CascadeError as error:
        if not done:
            raise
        raise CascadeError(
            f"{error}; {done:,} of {count:,} questions are kept in {parts.folder}, and the same command goes "
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
    if task.probed_on is None:
        split = task.split()
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


def _identity(engine: Engine, task: Task, asking: Asking) -> dict[str, Any]:
    """All that a table depends on."""
    asked = json.dumps([asdict(question) for question in (*task.questions, *task.examples)], sort_keys=True)
    settings = asdict(asking)
    return {
        "model": engine.identity,
        "task": task.name,
        "questions": hashlib.sha256(asked.encode()).hexdigest()[:16],
        "batch": BATCH,
        "confidences": settings.pop("methods"),
        **settings,
    }
