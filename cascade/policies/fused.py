"""Thresholds on one calibrated probability of being right, fused from P(IK) and P(T)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, Self

import numpy as np

from cascade.errors import CascadeError
from cascade.policies.base import LivePolicy, Offers, Thresholds, Tuner, stages_in_words, threshold_text
from cascade.policies.calibration import Calibrated, calibrate_model
from cascade.policies.ladders import LEVELS, Levels
from cascade.policies.ledgers import PassCosts
from cascade.policies.thresholds import ThresholdPolicy, check_count, offered, stopping
from cascade.policies.tuning import Ladder, Option, Tally
from cascade.scores.arrays import ChainScores
from cascade.scores.columns import Signals

NAME = "fused P(IK), P(T)"


@dataclass(frozen=True)
class FusedPolicy(LivePolicy):
    """Thresholds on the fused probability.

    Attributes:
        places: As in `ThresholdPolicy`.
        thresholds: One for each of ``places`` but the last.
        fused: For each of them by its place what `calibrate_model` fitted.
    """

    places: tuple[int, ...]
    thresholds: tuple[float, ...]
    fused: Mapping[int, Calibrated]
    key: ClassVar[str] = "fused"

    @property
    def name(self) -> str:
        """The same for all of them."""
        return NAME

    def asks(self, offers: Offers) -> tuple[frozenset[str], ...]:
        """Where it may stop, what was there to be fused."""
        may_stop = self.places[:-1]
        return tuple(
            frozenset(self.fused[place].signals) if place in may_stop else frozenset() for place in range(len(offers))
        )

    def decide(self, place: int, signals: Signals) -> tuple[np.ndarray, np.ndarray]:
        """A question that its fused probability rejects has had its P(T) read."""
        limits = tuple(Thresholds(p_t=limit, p_ik=None) for limit in self.thresholds)
        fused = _fuse(signals, self.fused[place]) if place in self.places[:-1] else signals
        return ThresholdPolicy(self.places, limits).decide(place, fused)

    def describe(self, names: Sequence[str]) -> str:
        """``a (fused ≥ 0.9) → b``."""
        limits = [*(f" (fused ≥ {threshold_text(limit)})" for limit in self.thresholds), ""]
        return " → ".join(names[place] + limit for place, limit in zip(self.places, limits, strict=True))

    def in_words(self, names: Sequence[str]) -> str:
        """Stage by stage."""
        limits = [f"fused probability ≥ {threshold_text(limit)}" for limit in self.thresholds]
        return stages_in_words(names, self.places, limits)

    def to_json(self, names: Sequence[str]) -> dict[str, object]:
        """Thresholds, unrounded, calibrations, and the models by name."""
        return {
            "thresholds": list(self.thresholds),
            "fused": {names[place]: self.fused[place].to_json() for place in self.places[:-1]},
            "models": [names[place] for place in self.places],
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any], places: tuple[int, ...], names: Sequence[str], source: str) -> Self:
        """See `LivePolicy.from_json`."""
        check_count(values["thresholds"], places, source)
        fused = {str(name): Calibrated.from_json(fitted) for name, fitted in values["fused"].items()}
        if missing := {names[place] for place in places[:-1]} - set(fused):
            raise CascadeError(f"Expected {source} to hold fused confidences of {sorted(missing)}, but got none")
        limits = [float(limit) for limit in values["thresholds"]]
        for limit in limits:
            Thresholds(p_t=limit)  # raises where it is no threshold
        return cls(places, tuple(limits), {place: fused[names[place]] for place in places[:-1]})

    @classmethod
    def of(
        cls, places: tuple[int, ...], thresholds: tuple[Thresholds, ...], fused: Mapping[int, Calibrated]
    ) -> LivePolicy:
        """What thresholds on P(T) are where the fused probability stands in its place (`with_fused`)."""
        if not thresholds:
            return ThresholdPolicy(places, ())
        limits = tuple(limits.p_t or 0.0 for limits in thresholds)
        return cls(places, limits, fused)

    @classmethod
    def options(cls, tuner: Tuner) -> Iterator[Option[LivePolicy]]:
        """The frontier of the fused probability, where there are both confidences to fuse.

        The thresholds are found on probabilities out of fold: those of each part as fused on the rest.
        """
        chain = tuner.chain
        if offered(chain, ("p_ik", "p_t")):
            rests = [calibrations(rest) for rest in tuner.rests]
            yield tuner.frontier(NAME, calibrations(chain), with_fused(chain, rests, tuner.part))

    @classmethod
    def ladders(cls, tuner: Tuner) -> Iterator[Ladder[LivePolicy]]:
        """For each sub-chain one level of the fused probability, where there are labels to fuse by."""
        if not (tuner.chain.labelled and offered(tuner.chain, ("p_ik", "p_t"))):
            return
        fused = calibrations(tuner.chain)
        make = partial(cls.of, fused=fused)
        for places in stopping(tuner.chain, ("p_ik", "p_t")):
            yield FusedLevels(places, None, "p_t", LEVELS, LEVELS, make, NAME, fused)


@dataclass(frozen=True)
class FusedLevels(Levels):
    """A ladder of thresholds on the fused probability.

    Attributes:
        fused: By place; fitted on questions that certify nothing.
    """

    fused: Mapping[int, Calibrated]

    def tally(self, chain: ChainScores, costs: PassCosts, ledger: str) -> Tally:
        """As that of P(T), with the fused probability in its place."""
        return super().tally(with_fused(chain, [self.fused]), costs, ledger)

    def asks(self, part: ChainScores) -> list[frozenset[str]]:
        """All that was fused."""
        return [frozenset(self.fused[place].signals) for place in self.places[:-1]]


def calibrations(chain: ChainScores) -> dict[int, Calibrated]:
    """By place the probability of being right of every model but the last that has a confidence of its own."""
    return {
        place: calibrate_model(model)
        for place, model in enumerate(chain.models[:-1])
        if model.signals.known & {"p_t", "p_ik"}
    }


def with_fused(
    chain: ChainScores, fused: Sequence[Mapping[int, Calibrated]], part: np.ndarray | None = None
) -> ChainScores:
    """The chain with the fused probability in P(T)'s place, and no P(IK).

    Args:
        chain: The scores.
        fused: From `calibrations`: one, or one for each part of the questions.
        part: ``[questions]``, int: which of ``fused`` is for which question; by default the only one for all.
    """

    def of(place: int, signals: Signals) -> Signals:
        values = np.stack([each[place].predict(signals) for each in fused])
        return Signals(len(signals), p_t=values[0] if part is None else values[part, np.arange(len(signals))])

    return replace(
        chain,
        models=tuple(
            replace(model, signals=of(place, model.signals)) if place in fused[0] else model
            for place, model in enumerate(chain.models)
        ),
    )


def _fuse(signals: Signals, fitted: Calibrated) -> Signals:
    return Signals(len(signals), p_t=fitted.predict(signals))
