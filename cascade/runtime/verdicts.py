"""What is known to be right of a run's answers, and the watch over a run that is at its end.

A file of verdicts has `question_id`, `correct` and, where known, `reference_correct`. It should be of questions drawn
by lot from all that were answered: verdicts on complaints alone say nothing of the rest.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cascade.engines.base import prompt_of
from cascade.errors import CascadeError, json_fault
from cascade.runtime.engine import Answer, Cascade
from cascade.runtime.watch import Watch
from cascade.tasks.task import Task

_WORDS = {"true": True, "1": True, "false": False, "0": False}
_FIELDS = ("question_id", "correct", "reference_correct")


@dataclass(frozen=True)
class Verdict:
    """Whether the cascade's answer was right, and whether the last model's would have been, if that is known."""

    correct: bool
    reference_correct: bool | None = None


def read_verdicts(path: Path, known: Collection[str]) -> dict[str, Verdict]:
    """The verdicts in a file of JSON lines or CSV, by question, in its order.

    Args:
        path: The file.
        known: Ids of the questions that may be named.

    Raises:
        CascadeError: If it is no such file, or names a question twice or one that was not asked.
    """
    found: dict[str, Verdict] = {}
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise CascadeError(f"Expected a file of verdicts at {path}, but {error}") from error
    for where, values in _rows(path, text):
        if unknown := sorted(set(values) - set(_FIELDS)):
            raise CascadeError(f"Expected fields of {', '.join(_FIELDS)} in {where}, but got {', '.join(unknown)}")
        id = values.get("question_id")
        if id not in known or id in found:
            wanted = "each question once" if id in found else "`question_id` of a question that was asked"
            raise CascadeError(f"Expected {wanted} in {where}, but got {id!r}")
        right, reference = values.get("correct"), values.get("reference_correct")
        for name, value in (("correct", right), ("reference_correct", reference)):
            if not isinstance(value, bool) and (name == "correct" or value is not None):
                raise CascadeError(f"Expected `{name}` in {where} to be true or false, but got {value!r}")
        found[str(id)] = Verdict(bool(right), reference)
    if not found:
        raise CascadeError(f"Expected verdicts in {path}, but there is none")
    return found


def _rows(path: Path, text: str) -> list[tuple[str, dict[str, Any]]]:
    found: list[tuple[str, dict[str, Any]]] = []
    if path.suffix == ".csv":
        for number, row in enumerate(csv.DictReader(text.splitlines()), start=2):
            cells = {str(name): value for name, value in row.items() if value not in (None, "")}
            read = {name: _WORDS.get(v.lower(), v) if name != "question_id" else v for name, v in cells.items()}
            found.append((f"{path}, line {number}", read))
        return found
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            try:
                values = json.loads(line)
            except (ValueError, RecursionError) as error:
                fault = json_fault(error) if isinstance(error, ValueError) else "it is nested too deep"
                raise CascadeError(f"Expected JSON in {path}, line {number}, but {fault}") from error
            if not isinstance(values, dict):
                raise CascadeError(f"Expected a JSON object in {path}, line {number}, but got {line.strip()[:40]}")
            found.append((f"{path}, line {number}", values))
    return found


def watch_run(
    cascade: Cascade, task: Task, answers: Sequence[Answer], verdicts: Mapping[str, Verdict] | None = None
) -> Watch:
    """The watch over a run that is at its end.

    Questions and verdicts of a file may be in any order, such as by subject, or wrong answers first. So they are taken
    in one that is drawn by their ids: where they are like the questions of reference, they are exchangeable with these
    in it.

    Args:
        cascade: That answered.
        task: That was asked.
        answers: One for each of its questions, in order.
        verdicts: By question; by default by the task's own answers, where it knows all.
    """
    watch = Watch(cascade)
    pairs = {q.id: (q, answer) for q, answer in zip(task.questions, answers, strict=True)}
    drawn = sorted(pairs, key=lambda id: hashlib.sha256(f"watch {id}".encode()).digest())
    for id in drawn:
        question, answer = pairs[id]
        prompt = prompt_of(question, task)
        for step in answer.steps:
            watch.step(prompt, answer.policy, step)
    if verdicts is None and all(question.answers for question in task.questions):
        verdicts = {
            id: Verdict(task.judge(question, answer.text))
            for id in drawn
            if (answer := pairs[id][1]).model is not None and (question := pairs[id][0])
        }
    last = cascade.names[cascade.policy.places[-1]]
    verdicts = verdicts or {}
    for id in drawn:
        answer = pairs[id][1]
        if id in verdicts and answer.model is not None and not answer.steps[-1].best_effort:
            verdict = verdicts[id]
            # The last model's answer is the cascade's own, where it answered.
            reference = verdict.correct if answer.model == last else verdict.reference_correct
            watch.verdict(verdict.correct, reference)
    return watch
