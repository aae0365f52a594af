"""A policy in one file: a question stays where the mean of P(T) and P(IK) reaches one threshold for all stages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from cascade.policies.base import LivePolicy, Offers, Tuner
from cascade.policies.ladders import Steps
from cascade.policies.outcome import Outcome
from cascade.policies.tuning import Ladder, Option, Tried
from cascade.scores.columns import Signals

USED = {"p_t", "p_ik"}


@dataclass(frozen=True)
class MeanPolicy(LivePolicy):
    """Keeps an answer whose mean confidence is at least ``threshold``."""

    places: tuple[int, ...]
    threshold: float
    name: ClassVar[str] = "mean confidence"
    key: ClassVar[str] = "mean_at_least"

    def asks(self, offers: Offers) -> tuple[frozenset[str], ...]:
        stages = self.places[:-1]
        return tuple(known & USED if place in stages else frozenset() for place, known in enumerate(offers.values()))

    def decide(self, place: int, signals: Signals) -> tuple[np.ndarray, np.ndarray]:
        said = [values for values in (signals.p_t, signals.p_ik) if values is not None]
        last = place == self.places[-1]
        keeps = np.full(len(signals), True) if last else np.mean(said, axis=0) >= self.threshold
        later = -1 if last else self.places[self.places.index(place) + 1]
        outcome = np.where(keeps, Outcome.ANSWERED, Outcome.REJECTED_BY_P_T).astype(np.int8)
        return outcome, np.where(keeps, -1, later)

    def describe(self, names: Sequence[str]) -> str:
        return f"{' → '.join(names[place] for place in self.places)}, each at ≥ {self.threshold:.3f}"

    def to_json(self, names: Sequence[str]) -> dict[str, object]:
        return {"models": [names[place] for place in self.places], self.key: self.threshold}

    @classmethod
    def from_json(cls, values: Mapping[str, Any], places: tuple[int, ...], names: Sequence[str], source: str) -> Self:
        return cls(places, float(values[cls.key]))

    @classmethod
    def options(cls, tuner: Tuner) -> Iterator[Option[LivePolicy]]:
        places = tuple(range(len(tuner.chain.models)))
        yield Tried(cls.name, [tuner.point(cls(places, float(limit))) for limit in np.linspace(0, 1, 101)])

    @classmethod
    def ladders(cls, tuner: Tuner) -> Iterator[Ladder[LivePolicy]]:
        places = tuple(range(len(tuner.chain.models)))
        yield Steps(cls.name, [cls(places, float(limit)) for limit in np.linspace(1, 0, 201)])
