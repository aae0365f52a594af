"""Shadow mode: the last model answers, every other is asked beside it, and a journal says what the cascade would do.

Nobody's answer depends on a threshold yet. After a while the journal is a score table of one's own traffic
(`cascade.scores.readers.journal`), from which `cascade simulate` chooses thresholds, and promises what they lose.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from cascade.engines.base import Prompt, Reply
from cascade.errors import CascadeError
from cascade.policies.base import LivePolicy, Offers, Thresholds
from cascade.policies.outcome import Outcome
from cascade.runtime.engine import Answer, Cascade, Journey, Step
from cascade.scores.columns import Signals
from cascade.scores.readers.journal import MARK
from cascade.scoring.confidence.distributions import OF_TOKENS
from cascade.serving.batching import Batcher, ClosedError, FullError, Ticket
from cascade.serving.logs import Log
from cascade.serving.metrics import Metrics
from cascade.serving.questions import Asked
from cascade.serving.replies import Told, outcome_name
from cascade.strict_json import finite
from cascade.tasks.judging import exact_match

NOTE = "shadow mode: the last model answers"


class Measured(LivePolicy):
    """One model answers, whatever its confidences, all of which are read.

    Args:
        place: Of the model.
        confidences: That its chain has of it.
    """

    key: ClassVar[str] = "measured"

    def __init__(self, place: int, confidences: frozenset[str]) -> None:
        self.places, self._confidences = (place,), confidences

    @property
    def name(self) -> str:
        """As tables show it."""
        return "measured"

    def asks(self, offers: Offers) -> tuple[frozenset[str], ...]:
        """All that there are of the one model."""
        return tuple(self._confidences if place == self.places[0] else frozenset() for place in range(len(offers)))

    def gates(self, place: int) -> Thresholds:
        """A reader is asked, and turns nothing away."""
        return Thresholds(None, None, 0.0 if "p_ik_reader" in self._confidences else None)

    def decide(self, place: int, signals: Signals) -> tuple[np.ndarray, np.ndarray]:
        """Every question is answered."""
        return np.full(len(signals), Outcome.ANSWERED, np.int8), np.full(len(signals), -1)

    @classmethod
    def from_json(cls, values: Mapping[str, Any], places: tuple[int, ...], names: Sequence[str], source: str) -> Self:
        """It is never written."""
        raise CascadeError(f"Expected a policy that can be run in {source}, but got one that measures")


class Journal:
    """The files of one folder, one for each form of questions, that one server appends to.

    Args:
        folder: Is made.
        text: Whether questions and answers are written, too.

    Raises:
        CascadeError: If another server writes to the folder, or it cannot be written.
    """

    def __init__(self, folder: Path, text: bool) -> None:
        self.folder, self._text = folder, text
        self._writing = threading.Lock()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = (folder / ".lock").open("a")
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CascadeError(
                f"Expected the journal in {folder} to be written by one server at a time, but another one is at it; "
                f"give another `journal`"
            ) from None
        except OSError as error:
            raise CascadeError(f"Expected a folder for the journal at {folder}, but {error}") from error

    def write(self, form: str, line: Mapping[str, Any], question: Mapping[str, Any]) -> None:
        """Appends what is known of a question, and its text where that may be written."""
        with self._writing:
            _append(self.folder / f"{form}.jsonl", {MARK: form, **line})
            if self._text:
                (self.folder / "texts").mkdir(exist_ok=True)
                _append(self.folder / "texts" / f"{form}.jsonl", question)

    def close(self) -> None:
        """Lets another server write."""
        self._lock.close()


def _append(path: Path, line: Mapping[str, Any]) -> None:
    data = json.dumps(finite(line), allow_nan=False).encode() + b"\n"
    with path.open("ab+") as file:
        if size := file.seek(0, os.SEEK_END):
            file.seek(size - 1)
            if file.read(1) != b"\n":  # a crash cut the last line short
                file.seek(0)
                file.truncate(file.read().rfind(b"\n") + 1)
        file.write(data)


class Shadow:
    """Asks every model beside the one that answers, and writes down what came of it. Lives on one event loop.

    Args:
        cascade: Whose last model answers.
        journal: Where to write.
        metrics: Counts.
        log: Where failures to write are told.
    """

    def __init__(self, cascade: Cascade, journal: Journal, metrics: Metrics, log: Log) -> None:
        self.cascade, self.journal, self.metrics, self.log = cascade, journal, metrics, log
        self._text = journal._text
        self._under_way: set[asyncio.Task[None]] = set()

    def alone(self, asked: Asked) -> Measured:
        """The policy by which the last model answers a request."""
        return self._measured(asked.policy.places[-1], asked)

    def _measured(self, place: int, asked: Asked) -> Measured:
        offered = self.cascade.offers[self.cascade.names[place]]
        return Measured(place, offered - {"p_ik", "p_ik_reader"} if asked.signal else offered)

    def begin(self, batcher: Batcher, asked: Asked, last: Sequence[Ticket]) -> None:
        """Asks the other models a request's questions, where there is room: nobody's answer waits for them."""
        for prompt, ticket in zip(asked.prompts, last, strict=True):
            beside = prompt if prompt.letters else replace(prompt, top_logprobs=max(prompt.top_logprobs, 1))
            journeys = [self._journey(place, beside, asked) for place in range(asked.policy.places[-1])]
            try:
                tickets = batcher.accept(journeys)
            except (FullError, ClosedError):
                self.metrics.shadow("skipped")
                continue
            task = asyncio.create_task(self._finish(asked, prompt, [*tickets, ticket]))
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)

    def _journey(self, place: int, prompt: Prompt, asked: Asked) -> Journey:
        journey = self.cascade.start(prompt, self._measured(place, asked), signal=asked.signal)
        journey.aside = True
        return journey

    async def finish(self) -> None:
        """Waits until all that was asked is written down."""
        await asyncio.gather(*self._under_way)
        self.journal.close()

    async def _finish(self, asked: Asked, prompt: Prompt, tickets: Sequence[Ticket]) -> None:
        try:
            await self._write(asked, prompt, tickets)
        except Exception as error:  # nobody waits for it: a full disk or a mistake of ours is told in the log
            self.metrics.shadow("incomplete")
            self.log.error("journal_failed", error)

    async def _write(self, asked: Asked, prompt: Prompt, tickets: Sequence[Ticket]) -> None:
        told = [await ticket.told for ticket in tickets]
        if any(one.answer.model is None for one in told):
            self.metrics.shadow("incomplete")
            return
        steps = dict(enumerate(one.answer.steps[-1] for one in told))
        answers = [one.answer.text for one in told]
        agrees = [_agrees(prompt, text, answers[-1]) for text in answers]
        would = self._would(asked, prompt, steps)
        by = next(i for i, one in enumerate(told) if one.answer.model == would.answer.model)
        form = "multiple-choice" if prompt.letters else "free-text" if asked.signal else "open-ended"
        line = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "question_id": prompt.question_id,
            "would": {
                "answered_by": would.answer.model,
                "stages": [{"model": s.model, "outcome": outcome_name(s)} for s in would.answer.steps],
                "cost": would.total,
            },
            "models": [
                self._row(prompt, asked, step, text, agree, answers[-1])
                for step, text, agree in zip(steps.values(), answers, agrees, strict=True)
            ],
        }
        question = {"id": prompt.question_id, "question": prompt.text, "answers": [answers[-1]]}
        await asyncio.to_thread(self.journal.write, form, line, question)
        self.metrics.shadow("written", would.answer.model or "", agrees[by])

    def _would(self, asked: Asked, prompt: Prompt, measured: Mapping[int, Step]) -> Told:
        """What the cascade would have done, by its own policy and what was measured."""
        steps: list[Step] = []
        at = asked.policy.places[0]
        while at >= 0:
            step = measured[at]
            assert step.reply is not None
            values = {
                "p_t": self.cascade.decisive_p_t(prompt, step.reply),
                "p_ik": step.p_ik,
                "p_ik_reader": step.p_ik_reader,
            }
            known = self.cascade.offers[step.model]
            columns = {n: np.array([np.nan if v is None else v]) for n, v in values.items() if n in known}
            outcome, after = asked.policy.decide(at, Signals(1, **columns))
            steps.append(replace(step, outcome=Outcome(outcome[0])))
            at = int(after[0])
        answer = Answer(prompt.question_id, "", steps[-1].model, tuple(steps), asked.policy)
        (told,) = Told.many(self.cascade, [answer], [0.0])
        return told

    def _row(self, prompt: Prompt, asked: Asked, step: Step, text: str, agrees: bool, last: str) -> dict[str, Any]:
        model, reply = self.cascade.models[step.place], step.reply
        assert reply is not None
        reader = self.cascade.readers.get(step.place)
        shown = bool(prompt.letters) or self._text
        return {
            "model": model.name,
            "correct": agrees,
            "p_t": None if asked.signal else reply.p_t,
            "p_t_normalized": reply.p_t_normalized,
            "option_mass": reply.option_mass,
            "p_ik": reply.p_ik,
            "p_ik_reader": step.p_ik_reader,
            **({} if prompt.letters else _of_tokens(reply)),
            "prediction": text if shown else None,
            "answer": last if prompt.letters else None,
            "prompt_tokens": reply.prompt_tokens,
            "completion_tokens": reply.completion_tokens,
            "seconds": reply.seconds,
            "prefill_seconds": reply.prefill_seconds,
            "parameters": model.parameters,
            "num_layers": model.num_layers,
            "hidden_size": model.hidden_size,
            "probe_layer": model.probe_layer,
            "probe_parameters": model.probe_parameters,
            "reader": None if reader is None else reader.name,
            "reader_parameters": None if reader is None else reader.parameters,
        }


def _of_tokens(reply: Reply) -> dict[str, float | None]:
    logprobs = [token.logprob for token in reply.tokens]
    return {f"confidence_{name}": of(logprobs) if logprobs else None for name, of in OF_TOKENS.items()}


def _agrees(prompt: Prompt, text: str, last: str) -> bool:
    """Whether two answers are the same: the letter, or the text but for case, punctuation and articles."""
    return text == last if prompt.letters else exact_match(text, [last])
