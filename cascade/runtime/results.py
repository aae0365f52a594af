"""What a live run found, and how it is written: answers, steps, a score table, a summary.

The summary's figures are measured or counted from what was really done; who is asked is `cascade.runtime.engine`'s.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from cascade.policies.file import policy_json
from cascade.policies.outcome import Outcome
from cascade.runtime.costs import last_model_alone, measured_seconds
from cascade.runtime.engine import Answer, Cascade
from cascade.runtime.watch import Watch
from cascade.scores.schema import SCHEMA, parquet_bytes, validate_scores
from cascade.scoring.rows import reply_row
from cascade.strict_json import finite, strict_json
from cascade.tasks.base import Question
from cascade.tasks.task import Task
from probes.files import write_atomically


@dataclass(frozen=True)
class Run:
    """What one run found.

    Attributes:
        cascade: That answered.
        task: That was asked, with its questions in order.
        answers: One each.
        costs: Unit to ledger to ``[questions]``.
        wall_seconds: That this call took; less than the answers' own seconds where some were on disk.
        folder: Where it was written.
        watch: Of its signals and of what is known to be right.
    """

    cascade: Cascade
    task: Task
    answers: tuple[Answer, ...]
    costs: dict[str, dict[str, np.ndarray]]
    wall_seconds: float
    folder: Path
    watch: Watch

    @property
    def questions(self) -> tuple[Question, ...]:
        """In order."""
        return self.task.questions

    @property
    def correct(self) -> np.ndarray | None:
        """``[questions]``, bool, or ``None`` where some question has no known answer."""
        if not all(question.answers for question in self.questions):
            return None
        pairs = zip(self.questions, self.answers, strict=True)
        return np.array([not answer.failure and self.task.judge(question, answer.text) for question, answer in pairs])

    def to_json(self) -> dict[str, Any]:
        """The summary: shares, sums and figures for each stage."""
        correct, alone = self.correct, last_model_alone(self.cascade)
        steps = [step for answer in self.answers for step in answer.steps]
        stages = []
        for place, name in enumerate(self.cascade.names):
            mine = [step for step in steps if step.place == place]
            by_it = np.array([answer.model == name for answer in self.answers])
            failures = [
                {"question_id": answer.question_id, "reason": step.failure}
                for answer in self.answers
                for step in answer.steps
                if step.place == place and step.failure
            ]
            stages.append(
                {
                    "model": name,
                    "tried": sum(step.reply is not None for step in mine),
                    "answered": int(by_it.sum()),
                    "right": None if correct is None else int(correct[by_it].sum()),
                    "rejected_by_p_ik": sum(step.outcome == Outcome.REJECTED_BY_P_IK for step in mine),
                    "rejected_by_p_t": sum(step.outcome == Outcome.REJECTED_BY_P_T for step in mine),
                    "passed_by_reader": sum(step.outcome == Outcome.PASSED_BY_READER for step in mine),
                    "failed": len(failures),
                    "first_failure": failures[0] if failures else None,
                    "seconds": sum(step.reply.seconds for step in mine if step.reply is not None),
                }
            )
        return {
            "policy": policy_json(self.cascade.policy, self.cascade.names, self.cascade.normalize),
            "questions": len(self.questions),
            "failed": sum(bool(answer.failure) for answer in self.answers),
            "accuracy": None if correct is None else float(correct.mean()),
            "stages": stages,
            "cost": {u: {ledger: float(v.sum()) for ledger, v in ledgers.items()} for u, ledgers in self.costs.items()},
            "flops_of_last_model_alone": None if alone is None else alone * len(self.questions),
            "seconds": sum(map(measured_seconds, self.answers)),
            "wall_seconds": self.wall_seconds,
            "watch": self.watch.to_json(),
        }


def write_run(result: Run, task: str) -> None:
    """Writes answers, steps, scores and summary; ``task`` is what the score table calls the questions."""
    answers, correct = result.answers, result.correct
    columns: dict[str, Any] = {
        "question_id": [a.question_id for a in answers],
        "model": pa.array([a.model for a in answers], pa.string()),
        "answer": [a.text for a in answers],
        "failure": [a.failure for a in answers],
        "seconds": [measured_seconds(a) for a in answers],
    }
    if correct is not None:
        columns["correct"] = correct
    for unit, ledgers in result.costs.items():
        columns |= {f"{unit}, {ledger}": values for ledger, values in ledgers.items()}
    write_atomically(result.folder / "answers.parquet", parquet_bytes(pa.table(columns)))
    steps = [
        {
            "question_id": a.question_id,
            "model": s.model,
            "outcome": "FAILED" if s.failure else s.outcome.name,
            "p_ik_reader": s.p_ik_reader,
            "p_ik": s.p_ik,
            "p_t": s.p_t,
            "seconds": None if s.reply is None else s.reply.seconds,
            "failure": s.failure,
        }
        for a in answers
        for s in a.steps
    ]
    write_atomically(result.folder / "steps.parquet", parquet_bytes(pa.Table.from_pylist(steps)))
    scores = None if correct is None else _scores(result, task)
    if scores is None:
        (result.folder / "scores.parquet").unlink(missing_ok=True)
    else:
        write_atomically(result.folder / "scores.parquet", parquet_bytes(scores))
    write_atomically(result.folder / "summary.json", strict_json(result.to_json()).encode())


def _scores(result: Run, label: str) -> pa.Table | None:
    """One row for each model that gave an answer to a question, rejected answers included; ``None`` for no row."""
    rows, cascade = [], result.cascade
    for question, answer in zip(result.questions, result.answers, strict=True):
        for step in answer.steps:
            # A question that left before its answer was generated has no answer, and no row. An empty answer that the
            # model ended by itself has a row, and is wrong.
            if step.reply is None or step.best_effort or (step.reply.rejected_by and not step.reply.text):
                continue
            reader = cascade.readers.get(step.place)
            rows.append(
                reply_row(
                    cascade.models[step.place],
                    step.reply,
                    result.task,
                    question,
                    label,
                    p_ik_reader=step.p_ik_reader,
                    reader=None if reader is None else reader.name,
                    reader_parameters=None if reader is None else reader.parameters,
                )
            )
    table = pa.Table.from_pylist([finite(row) for row in rows], schema=SCHEMA)
    return validate_scores(table, "the run") if rows else None
