"""Watches a live cascade: whether its promise is being broken, and whether its questions are still of the same kind.

Tests that may be looked at after every answer (`cascade.statistics.sequential`). All alarms of one watch together are
false with probability at most `LEVEL`, however long it goes on: nearly, for the confidences of later models
(`cascade.policies.promise.reference`). No alarm does not show that the promise is kept.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from cascade.engines.base import Prompt
from cascade.errors import CascadeError
from cascade.policies.base import LivePolicy
from cascade.policies.file import policy_json
from cascade.runtime.engine import Cascade, Step
from cascade.statistics.sequential import Histogram, MeanBets, UniformBets, lower_bound

LEVEL = 0.05
"""Probability of any false alarm of a watch, ever. A third each for the loss, the accuracy and all signals together."""


@dataclass
class _Loss:
    """Against H0: feedback loses at most ε on average. Observations are −1, 0 and 1."""

    name: str
    bets: MeanBets
    level: float
    total: float = 0.0

    def observe(self, value: float) -> None:
        self.bets.observe(value)
        self.total += value

    @property
    def alarm(self) -> bool:
        return bool(self.bets.peak >= 1 / self.level)

    def values(self) -> dict[str, Any]:
        seen = self.bets.observations
        return {
            "observations": seen,
            "mean": self.total / seen if seen else None,
            "e_value": float(self.bets.value),
            "alarm_at": 1 / self.level,
            "alarm": self.alarm,
        }


@dataclass
class _Signal:
    """Against H0: a confidence is exchangeable with that of the questions of reference."""

    reference: Histogram
    seen: Histogram
    bets: UniformBets
    level: float

    @property
    def alarm(self) -> bool:
        return bool(self.bets.peak >= 1 / self.level)

    @property
    def distance(self) -> float | None:
        live = self.seen - self.reference
        return live.distance(self.reference) if live.size else None


class Watch:
    """The tests of one policy.

    Args:
        cascade: Whose policy is watched, by what its file says.
    """

    def __init__(self, cascade: Cascade) -> None:
        self._cascade, self.watched = cascade, cascade.watched
        self.feedback = 0
        self.right = 0
        promise = self.watched.promise
        self._loss = self._wrong = None
        if promise is not None:
            self._loss = _Loss("loss", MeanBets(promise.epsilon, -1), LEVEL / 3)
            # Half of its level is for the last model's accuracy, which is known from so many questions only.
            known = lower_bound(promise.reference_accuracy, promise.questions, LEVEL / 6)
            self.least_accuracy = max(known - promise.epsilon, 0.0)
            self._wrong = _Loss("accuracy", MeanBets(1 - self.least_accuracy, 0), LEVEL / 6)
        count = max(len(self.watched.signals), 1)
        self._signals = {
            key: _Signal(one, one.copy(), UniformBets(), LEVEL / 3 / count) for key, one in self.watched.signals.items()
        }
        self._said: set[str] = set()

    def step(self, prompt: Prompt, policy: LivePolicy, step: Step) -> list[str]:
        """A model's confidences in a question; those under the cascade's own policy count. Alarms that are new."""
        if policy is not self._cascade.policy or step.reply is None or step.best_effort:
            return []
        p_t = self._cascade.decisive_p_t(prompt, step.reply)
        for confidence, value in (("p_ik", step.reply.p_ik), ("p_t", p_t)):
            one = self._signals.get((step.model, confidence))
            if one is not None and value is not None and np.isfinite(value):
                lot = _lot(f"{step.model} {confidence} {one.bets.observations}")
                one.bets.observe(one.seen.p_value(min(max(value, 0.0), 1.0), lot))
        return self._new()

    def verdict(self, correct: bool, reference_correct: bool | None) -> list[str]:
        """Feedback on an answer that the cascade gave by its own policy. Alarms that are new.

        Args:
            correct: Whether the cascade's answer was right.
            reference_correct: Whether the last model's was, or would have been; ``None`` where nobody knows. Then
                the answer is counted by its own accuracy alone.
        """
        self.feedback += 1
        self.right += correct
        if self._wrong is not None:
            self._wrong.observe(float(not correct))
        if self._loss is not None and reference_correct is not None:
            self._loss.observe(float(reference_correct) - float(correct))
        return self._new()

    def _new(self) -> list[str]:
        found = {key: line for key, line in self._alarms().items() if key not in self._said}
        self._said |= set(found)
        return list(found.values())

    @property
    def alarms(self) -> list[str]:
        """A line each."""
        return list(self._alarms().values())

    def _alarms(self) -> dict[str, str]:
        found: dict[str, str] = {}
        promise, last = self.watched.promise, self._cascade.names[self._cascade.policy.places[-1]]
        if promise is not None and self._loss is not None and self._loss.alarm:
            one = self._loss.values()
            # What was lost of late may be outweighed by all that was kept before, or since.
            stretch = "" if one["mean"] > promise.epsilon else " in all, but more over a stretch of them"
            found["loss"] = (
                f"The promise is broken: at most {promise.epsilon:.2%} accuracy was to be lost against {last}, and "
                f"over {one['observations']:,} labelled answers {one['mean']:.2%} were{stretch} "
                f"({_sure(self._loss.level)})"
            )
        if promise is not None and self._wrong is not None and self._wrong.alarm:
            one = self._wrong.values()
            right = 1 - one["mean"]
            stretch = "" if right < self.least_accuracy else " in all, but lower over a stretch of them"
            found["accuracy"] = (
                f"The accuracy is below {self.least_accuracy:.2%}, as much as was to be expected at least: {last} is "
                f"right {self.least_accuracy + promise.epsilon:.2%} of the time or more, by the "
                f"{promise.questions:,} questions that certified, and {promise.epsilon:.2%} may be lost. Over "
                f"{one['observations']:,} labelled answers it was {right:.2%}{stretch} "
                f"({_sure(2 * self._wrong.level)}); whether {last} would do better now is not said"
            )
        for (model, confidence), signal in self._signals.items():
            if signal.alarm:
                name = {"p_ik": "P(IK)", "p_t": "P(T)"}.get(confidence, confidence)
                found[f"{model} {confidence}"] = (
                    f"The questions are not like those that set the thresholds: {name} of {model} is distributed "
                    f"differently over {signal.bets.observations:,} questions, by {signal.distance:.2f} (Kolmogorov-"
                    f"Smirnov distance; {_sure(signal.level * len(self._signals))}); no promise reaches there"
                )
        return found

    def to_json(self) -> dict[str, Any]:
        """What is known by now, as plain values."""
        values: dict[str, Any] = {
            "level": LEVEL,
            "missing": self.watched.missing or None,
            "feedback": self.feedback,
            "accuracy": self.right / self.feedback if self.feedback else None,
            "alarms": self.alarms,
            "tests": {one.name: one.values() for one in (self._loss, self._wrong) if one is not None},
            "signals": [
                {
                    "model": model,
                    "confidence": confidence,
                    "observations": one.bets.observations,
                    "distance": one.distance,
                    "e_value": float(one.bets.value),
                    "alarm_at": 1 / one.level,
                    "alarm": one.alarm,
                }
                for (model, confidence), one in self._signals.items()
            ],
        }
        return values

    def lines(self) -> list[str]:
        """What a person is told, a line each."""
        found = [self.watched.missing] if self.watched.missing else []
        found += self.alarms
        if self._loss is not None and self._wrong is not None:
            tested, told = self._loss.bets.observations, self._wrong.bets.observations
            if not (self._loss.alarm or self._wrong.alarm):
                found.append(
                    f"No alarm on the promise by {told:,} verdicts, of which {tested:,} say how the last model's "
                    f"answer was"
                )
        if self._signals and not any(one.alarm for one in self._signals.values()):
            most = max(one.bets.observations for one in self._signals.values())
            found.append(
                f"No alarm on the signals by {most:,} questions (all false alarms together at most {LEVEL:.0%})"
            )
        return found

    @property
    def identity(self) -> str:
        """Of the policy and all that it is watched by: a state of another one is none of this."""
        cascade = self._cascade
        whole = [policy_json(cascade.policy, cascade.names, cascade.normalize), self.watched.to_json(), LEVEL]
        return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()[:16]

    def state(self) -> dict[str, Any]:
        """All that it takes to go on elsewhere."""
        return {
            "watch": self.identity,
            "feedback": self.feedback,
            "right": self.right,
            "said": sorted(self._said),
            "tests": {
                one.name: {"bets": one.bets.to_json(), "total": one.total}
                for one in (self._loss, self._wrong)
                if one is not None
            },
            "signals": {
                f"{model} {confidence}": {"bets": one.bets.to_json(), "seen": one.seen.to_json()}
                for (model, confidence), one in self._signals.items()
            },
        }

    def restore(self, values: Mapping[str, Any], source: str) -> None:
        """Goes on from what `state` gave.

        Raises:
            CascadeError: If it is of another policy, or none.
        """
        try:
            if values["watch"] != self.identity:
                raise CascadeError("it is of another policy, promise or sample of reference; give another file")
            feedback, right, said = int(values["feedback"]), int(values["right"]), {str(one) for one in values["said"]}
            for one in (self._loss, self._wrong):
                if one is not None:
                    one.bets.restore(values["tests"][one.name]["bets"])
                    one.total = float(values["tests"][one.name]["total"])
            for (model, confidence), signal in self._signals.items():
                kept = values["signals"][f"{model} {confidence}"]
                signal.bets.restore(kept["bets"])
                signal.seen = Histogram.from_json(kept["seen"])
        except (KeyError, TypeError, ValueError) as error:
            raise CascadeError(f"Expected the state of this watch in {source}, but {error}") from error
        self.feedback, self.right, self._said = feedback, right, said


def _sure(level: float) -> str:
    return f"a false alarm with probability at most {100 * level:.2g} % over any time"


def _lot(what: str) -> float:
    """Uniform on [0, 1), the same for the same text: no generator has to be kept over a restart."""
    return int.from_bytes(hashlib.blake2b(what.encode(), digest_size=8).digest(), "big") / 2**64
