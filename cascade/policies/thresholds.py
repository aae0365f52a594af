"""The paper's policy, and all that leaves out one of its confidences or puts a reader in front of them.

P(IK) is asked first, before anything is generated, and then P(T). Below either threshold the question escalates, and
the last model always answers. `>=` keeps.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Self

import numpy as np

from cascade.errors import CascadeError
from cascade.policies.base import LivePolicy, Offers, Thresholds, Tuner, stages_in_words
from cascade.policies.ladders import GATES, LEVELS, Levels
from cascade.policies.outcome import Outcome
from cascade.policies.tuning import Ladder, Option
from cascade.scores.arrays import ChainScores, sub_chains
from cascade.scores.columns import Signals

SIGNALS: dict[str, tuple[str | None, str | None]] = {
    "P(IK) + P(T)": ("p_ik", "p_t"),
    "P(T)": (None, "p_t"),
    "P(IK)": ("p_ik", None),
    "reader + P(T)": ("p_ik_reader", "p_t"),
    "reader": ("p_ik_reader", None),
}
"""Which confidence is asked first, at the price of an early rejection, and which on the first token."""


@dataclass(frozen=True)
class ThresholdPolicy(LivePolicy):
    """Thresholds at each stage of a chain, some of whose models may be skipped.

    The paper's policy, P(T) alone, P(IK) alone (routing before generation), a reader's gate in front of them,
    and single models, by which thresholds are there.

    Attributes:
        places: The models used, by their place in the chain; the last of them always answers.
        thresholds: One for each of ``places`` but the last.
    """

    places: tuple[int, ...]
    thresholds: tuple[Thresholds, ...]
    key: ClassVar[str] = "thresholds"

    @classmethod
    def whole(cls, thresholds: Sequence[Thresholds]) -> ThresholdPolicy:
        """Every model of a chain, with these thresholds at each but the last."""
        return cls(tuple(range(len(thresholds) + 1)), tuple(thresholds))

    @classmethod
    def alone(cls, place: int) -> ThresholdPolicy:
        """One model of a chain."""
        return cls((place,), ())

    @property
    def name(self) -> str:
        """Which confidences are asked."""
        asked = frozenset[str]().union(*(limits.asked for limits in self.thresholds))
        words = {"p_ik_reader": "reader", "p_ik": "P(IK)", "p_t": "P(T)"}
        return " + ".join(word for signal, word in words.items() if signal in asked) or "single model"

    def asks(self, offers: Offers) -> tuple[frozenset[str], ...]:
        """Where a stage has a threshold, and its model the confidence."""
        limits = dict(zip(self.places, self.thresholds, strict=False))
        return tuple(
            known & limits[place].asked if place in limits else frozenset()
            for place, known in enumerate(offers.values())
        )

    def shown(self, outcome: np.ndarray) -> list[int]:
        """The models that it uses, even if no question comes to one."""
        return list(self.places)

    def limits(self, place: int) -> Thresholds | None:
        """The stage's thresholds."""
        stage = self.places.index(place)
        return self.thresholds[stage] if stage < len(self.thresholds) else None

    def decide(self, place: int, signals: Signals) -> tuple[np.ndarray, np.ndarray]:
        """The reader's P(IK) first, then P(IK), then P(T); the last model always answers."""
        outcome = np.full(len(signals), Outcome.ANSWERED, dtype=np.int8)
        after, limits = np.full(len(outcome), -1), self.limits(place)
        if limits is not None:
            for values, limit, rejected in (
                (signals.p_ik_reader, limits.p_ik_reader, Outcome.PASSED_BY_READER),
                (signals.p_ik, limits.p_ik, Outcome.REJECTED_BY_P_IK),
                (signals.p_t, limits.p_t, Outcome.REJECTED_BY_P_T),
            ):
                if values is not None and limit is not None:
                    outcome[(outcome == Outcome.ANSWERED) & ~(values >= limit)] = rejected
            after[outcome != Outcome.ANSWERED] = self.places[self.places.index(place) + 1]
        return outcome, after

    def describe(self, names: Sequence[str]) -> str:
        """``a (P(T) ≥ 0.9) → b``."""
        limits = [*(f" ({limit})" for limit in self.thresholds), ""]
        return " → ".join(names[place] + limit for place, limit in zip(self.places, limits, strict=True))

    def in_words(self, names: Sequence[str]) -> str:
        """Stage by stage."""
        limits = [str(limit).replace(", ", " and ") if limit.asked else "" for limit in self.thresholds]
        return stages_in_words(names, self.places, limits)

    def to_json(self, names: Sequence[str]) -> dict[str, object]:
        """Thresholds, unrounded, and the models by name."""
        return {
            "thresholds": [asdict(limits) for limits in self.thresholds],
            "models": [names[place] for place in self.places],
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any], places: tuple[int, ...], names: Sequence[str], source: str) -> Self:
        """See `LivePolicy.from_json`."""
        check_count(values["thresholds"], places, source)
        return cls(places, tuple(Thresholds(**limits) for limits in values["thresholds"]))

    @classmethod
    def options(cls, tuner: Tuner) -> Iterator[Option[LivePolicy]]:
        """The frontier of each of `SIGNALS` that some model has."""
        for name, signals in SIGNALS.items():
            if not offered(tuner.chain, signals):
                continue
            if "p_ik_reader" in signals and not np.isfinite(tuner.costs.reader).all():
                tuner.note(f"What the reader costs in {tuner.costs.unit} is not known: {name} is left out.")
                continue
            yield tuner.frontier(name)

    @classmethod
    def ladders(cls, tuner: Tuner) -> Iterator[Ladder[LivePolicy]]:
        """For each sub-chain and each of `SIGNALS`: one level for all, or P(T) alone behind a fixed gate.

        Without labels only pairs of models: what a stage knows of the questions that an earlier one was unsure of, its
        confidence alone does not say.
        """
        for name, (first, then) in SIGNALS.items():
            wanted = tuple(signal for signal in (first, then) if signal)
            if not offered(tuner.chain, wanted):
                continue
            if first == "p_ik_reader" and not np.isfinite(tuner.costs.reader).all():
                continue
            for places in stopping(tuner.chain, wanted):
                if len(places) > 2 and not tuner.chain.labelled:
                    continue
                yield Levels(places, first, then, LEVELS, LEVELS, cls, name)
                for gate in GATES if first and then else ():
                    yield Levels(places, first, then, np.full(len(LEVELS), gate), LEVELS, cls, name)


def stopping(chain: ChainScores, signals: Sequence[str]) -> list[tuple[int, ...]]:
    """The sub-chains that end in the last model, and whose other models have one of these confidences."""
    can_stop = [not model.signals.known.isdisjoint(signals) for model in chain.models]
    last = len(chain.models) - 1
    return [places for places in sub_chains(chain) if places[-1] == last and all(can_stop[i] for i in places[:-1])]


def offered(chain: ChainScores, signals: Sequence[str | None]) -> bool:
    """Whether each of these confidences is there for some model but the last."""
    known = frozenset[str]().union(*(model.signals.known for model in chain.models[:-1]))
    return {name for name in signals if name} <= known


def check_count(thresholds: Sequence[object], places: Sequence[int], source: str) -> None:
    """Raises `CascadeError` unless there is one threshold for each model but the last."""
    if len(thresholds) != len(places) - 1:
        raise CascadeError(f"Expected {len(places) - 1} thresholds in {source}, but got {thresholds}")


def route(chain: ChainScores, thresholds: Sequence[Thresholds]) -> np.ndarray:
    """What becomes of every question at every stage (the paper's §2.1).

    Args:
        chain: The scores of k models.
        thresholds: One for each of the first k − 1 stages. A stage that lacks a confidence cannot fail it.

    Returns:
        ``[models, questions]``, int8, of `Outcome`. Each question is answered exactly once.

    Raises:
        CascadeError: If there is not one threshold for each stage but the last.
    """
    if len(thresholds) != len(chain.models) - 1:
        raise CascadeError(
            f"Expected {len(chain.models) - 1} thresholds for {len(chain.models)} models, but got {len(thresholds)}"
        )
    return ThresholdPolicy.whole(thresholds).route(chain)
