"""Feedback on answers, POST /v1/feedback, and the watch that it feeds; the state of the watch on disk.

What is tested is `cascade.runtime.watch`'s.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cascade.errors import CascadeError
from cascade.runtime.engine import Cascade, Journey, Step
from cascade.runtime.watch import Watch
from cascade.serving.errors import ApiError, wrong
from cascade.serving.logs import Log
from cascade.serving.replies import Told
from cascade.strict_json import finite
from cascade.tasks.base import LETTERS
from cascade.tasks.judging import exact_match
from probes.files import write_atomically

KEPT = 100_000
"""Answers that feedback can be given on: the last ones since the start."""

LONGEST = 200
"""Characters of an answer that is kept to be judged; on a longer one feedback says itself whether it is right."""

EVERY = 500
"""Values of signals after which the state is written, where no feedback comes and writes it."""


class FeedbackRequest(BaseModel):
    """POST /v1/feedback.

    Attributes:
        id: Of the reply.
        index: Of the choice, where a request held several prompts.
        correct: Whether the answer was right.
        answer: Instead, the right answer; the server compares.
        reference_correct: Whether the last model's answer would have been right, where that is known.
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)
    id: str = Field(min_length=1, max_length=200)
    index: int = Field(default=0, ge=0, le=2**31)
    correct: bool | None = None
    answer: str | None = Field(default=None, min_length=1, max_length=LONGEST)
    reference_correct: bool | None = None


@dataclass
class _Answered:
    """An answer that may be judged. ``verdict`` is what was told of it."""

    text: str | None
    by_last: bool
    own: bool
    verdict: tuple[bool, bool | None] | None = None


class Feedback:
    """Watches a server's cascade.

    Args:
        cascade: That answers.
        log: Where alarms are written, each once.
        path: File of the state, which survives a restart; ``None`` keeps it in memory.

    Raises:
        CascadeError: If the file holds another policy's state, or none.
    """

    def __init__(self, cascade: Cascade, log: Log, path: Path | None = None) -> None:
        self.watch, self._cascade, self._log, self._path = Watch(cascade), cascade, log, path
        self._answered: OrderedDict[str, _Answered] = OrderedDict()
        self._lock, self._writing, self._unwritten = threading.Lock(), threading.Lock(), 0
        if path is not None and path.exists():
            try:
                values = json.loads(path.read_text())
            except ValueError as error:
                raise CascadeError(f"Expected the state of a watch in {path}, but {error}") from error
            if not isinstance(values, dict):
                raise CascadeError(f"Expected the state of a watch in {path}, but got {type(values).__name__}")
            self.watch.restore(values, str(path))

    def start(self) -> None:
        """Says in the log what is not watched."""
        if self.watch.watched.missing:
            self._log.write("not_watching", reason=self.watch.watched.missing)

    def step(self, journey: Journey, step: Step) -> None:
        """A stage is over."""
        with self._lock:
            self._say(self.watch.step(journey.prompt, journey.policy, step))
            self._unwritten += 1
            due = self._unwritten >= EVERY
            self._unwritten = 0 if due else self._unwritten
        if due and self._path is not None:  # on the event loop, which waits for no disk
            threading.Thread(target=self._try_to_write, name="watch", daemon=True).start()

    def end(self, told: Told) -> None:
        """A question is answered."""
        answer = told.answer
        if answer.model is None:
            return
        own = answer.policy is self._cascade.policy and not answer.steps[-1].best_effort
        by_last = answer.model == self._cascade.names[self._cascade.policy.places[-1]]
        text = answer.text if len(answer.text) <= LONGEST else None
        with self._lock:
            self._answered[answer.question_id] = _Answered(text, by_last, own)
            while len(self._answered) > KEPT:
                self._answered.popitem(last=False)

    def tell(self, body: dict[str, Any]) -> dict[str, Any]:
        """Counts feedback, and keeps it before anything is said; what the client is told. Not for the event loop.

        Raises:
            ApiError: 400 where it is none, 404 where no such answer is known, 409 where another verdict was told.
        """
        asked = _parse(body)
        with self._lock:
            found = self._answered.get(asked.id) if asked.index == 0 else None
            found = found or self._answered.get(f"{asked.id}-{asked.index}")
            if found is None:
                raise ApiError(
                    404,
                    f"Expected `id` of one of the last {KEPT:,} answers since the server's start, but got {asked.id!r}",
                    "id",
                    "answer_not_found",
                )
            correct = asked.correct if asked.correct is not None else _judge(asked.answer, found.text)
            # The last model's answer is the cascade's own, where it answered.
            reference = correct if found.by_last else asked.reference_correct
            if found.by_last and asked.reference_correct not in (None, correct):
                raise wrong(
                    "Expected `reference_correct` to be as `correct`, since the last model answered",
                    "reference_correct",
                )
            verdict, before = (correct, reference), found.verdict
            if before is not None and before != verdict:
                raise ApiError(
                    409, f"Expected one verdict an answer, but {asked.id!r} has another", "id", "told_before"
                )
            counted = before is None and found.own
            found.verdict = verdict
            if counted:
                self._say(self.watch.verdict(correct, reference))
        if counted:
            self.write()
        reason = None if counted else "told before" if before is not None else "not by the cascade's own policy"
        return {"object": "feedback", "id": asked.id, "counted": counted, "reason": reason, "watch": self.to_json()}

    def to_json(self) -> dict[str, Any]:
        """What is known by now."""
        with self._lock:
            return self.watch.to_json()

    def write(self) -> None:
        """Writes the state, where it has a file."""
        if self._path is None:
            return
        with self._writing:
            with self._lock:
                data = json.dumps(finite(self.watch.state()), allow_nan=False).encode()
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self._path, data)

    def _try_to_write(self) -> None:
        try:
            self.write()
        except OSError as error:
            self._log.error("watch_not_written", error)

    def _say(self, alarms: list[str]) -> None:
        for alarm in alarms:
            self._log.write("alarm", message=alarm)


def _parse(body: dict[str, Any]) -> FeedbackRequest:
    try:
        asked = FeedbackRequest.model_validate(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        field = str(first["loc"][0])[:60] if first["loc"] else None
        raise wrong(f"Invalid value for '{field}': {first['msg']}", field, "invalid_value") from None
    if (asked.correct is None) == (asked.answer is None):
        got = "neither" if asked.correct is None else "both"
        raise wrong(f"Expected `correct` or `answer`, the right one, but got {got}", "correct")
    return asked


def _judge(answer: str | None, text: str | None) -> bool:
    """Whether an answer is the right one: the same letter, or the same text after normalisation."""
    if text is None:
        raise wrong(f"Expected `correct` of an answer of more than {LONGEST} characters, but got `answer`", "answer")
    assert answer is not None
    said, right = text.strip(), answer.strip()
    return said == right if said in LETTERS and said else exact_match(said, [right])
