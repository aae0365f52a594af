"""The journal of a run: every step of every question, on disk as soon as it is known, so that nothing is asked twice.

JSON lines, appended batch by batch. A line that a crash cut short is dropped. The first line says what the journal is
of; another run's is refused.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from cascade.engines.base import Reply
from cascade.errors import CascadeError, json_fault
from cascade.policies.outcome import Outcome
from cascade.runtime.engine import Journey, Step
from cascade.strict_json import finite


class Journal:
    """Steps that were taken, and are not taken again.

    Args:
        path: The file; begun where it is not there.
        identity: What the run depends on, as JSON values: models, policy, questions.

    Raises:
        CascadeError: If the file is another run's, or no journal, or another process is writing to it.
    """

    def __init__(self, path: Path, identity: dict[str, Any]) -> None:
        self.path = path
        self._identity: dict[str, Any] = json.loads(json.dumps(identity))
        self._known: dict[str, dict[str, Any]] = {}
        self._written = False
        self._made = [folder for folder in path.parents if not folder.exists()]
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("ab")
        try:
            self._begin()
        except BaseException:
            self._file.close()
            raise

    def _begin(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise CascadeError(
                f"Expected {self.path} to be written by one run at a time, but another one is at it; wait for its end "
                f"or give another `out`"
            ) from error
        lines, whole = _read(self.path)
        found = dict(lines[0]["run"]) if lines else self._identity
        if differs := [name for name, value in self._identity.items() if found.get(name) != value]:
            raise CascadeError(
                f"Expected {self.path} to be of this run, but its {', '.join(differs)} differ; give another `out`, or "
                f"delete it"
            )
        if whole < self._file.tell():
            self._file.truncate(whole)
        if not lines:
            self._append([{"run": self._identity}])
        for line in lines[1:]:
            self._known[line["question_id"]] = line

    def resume(self, journeys: Sequence[Journey]) -> int:
        """Puts journeys where they were when the journal was last written; failed ones before their first failure.

        Returns:
            How many had steps.
        """
        for journey in journeys:
            line = self._known.get(journey.prompt.question_id)
            if line is None:
                continue
            steps, at = _steps(line)
            if at < 0 and steps[-1].outcome != Outcome.ANSWERED:
                first = next(i for i, step in enumerate(steps) if step.failure)
                steps, at = steps[:first], steps[first].place
            journey.steps, journey.at = steps, at
        return sum(bool(journey.steps) for journey in journeys)

    def write(self, journeys: Sequence[Journey]) -> None:
        """Appends what is known of these questions; of a question's lines the last one counts."""
        self._written = True
        self._append(
            [
                {"question_id": j.prompt.question_id, "at": j.at, "steps": [_values(step) for step in j.steps]}
                for j in journeys
            ]
        )

    def _append(self, lines: Sequence[dict[str, Any]]) -> None:
        # NaN becomes null: a confidence that is not a number keeps no question, as one that is missing.
        self._file.write(b"".join(json.dumps(finite(line), allow_nan=False).encode() + b"\n" for line in lines))
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Closes the file, and removes it, with the folders that were made for it, where no step was ever taken."""
        if not self._known and not self._written:
            self.path.unlink()  # while it is locked: nobody else writes to it
            for folder in self._made:
                with contextlib.suppress(OSError):  # it holds something else by now
                    folder.rmdir()
        self._file.close()


def answered_in(path: Path) -> set[str]:
    """Ids of the questions that a journal has answers of; none where there is no journal. Nothing is written.

    Raises:
        CascadeError: If the file is no journal.
    """
    found: set[str] = set()
    for line in _read(path)[0][1:] if path.exists() else ():
        steps, at = _steps(line)
        if at < 0 and steps[-1].outcome == Outcome.ANSWERED:
            found.add(line["question_id"])
    return found


def _read(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The whole lines of a journal, and the bytes they take."""
    content = path.read_bytes()
    content = content[: content.rfind(b"\n") + 1]
    lines: list[dict[str, Any]] = []
    for number, text in enumerate(content.splitlines(), start=1):
        try:
            line = json.loads(text)
            if number == 1:
                dict(line["run"])
            else:
                _steps(line)
        except (ValueError, KeyError, TypeError) as error:
            fault = json_fault(error) if isinstance(error, json.JSONDecodeError) else repr(error)
            raise CascadeError(f"Expected the journal of a run in {path}, but line {number}: {fault}") from error
        lines.append(line)
    return lines, len(content)


def _steps(line: dict[str, Any]) -> tuple[list[Step], int]:
    """A question's steps, and the place of the model that is next."""
    steps, at = [_step(values) for values in line["steps"]], int(line["at"])
    if not isinstance(line["question_id"], str):
        raise TypeError("question_id is no text")
    if at < 0 and not (steps and (steps[-1].outcome == Outcome.ANSWERED or any(step.failure for step in steps))):
        raise ValueError("at its end without an answer or a failure")
    return steps, at


def _values(step: Step) -> dict[str, Any]:
    values = {f.name: getattr(step, f.name) for f in fields(Step)} | {"outcome": step.outcome.name}
    if step.reply is not None:
        shown = ("tokens", "options")  # nobody resumes with what was shown of them
        values["reply"] = {name: value for name, value in asdict(step.reply).items() if name not in shown}
    return values


def _step(values: dict[str, Any]) -> Step:
    reply = None if values["reply"] is None else Reply(**values["reply"])
    return Step(**(values | {"outcome": Outcome[values["outcome"]], "reply": reply}))
