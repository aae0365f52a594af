"""Goes on where a later model's expected gain is worth its price; may skip models."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np

from cascade.errors import CascadeError
from cascade.policies.base import LivePolicy, Offers, Tuner
from cascade.policies.calibration import Calibrated, calibrate_model
from cascade.policies.ladders import Steps
from cascade.policies.outcome import Outcome
from cascade.policies.tuning import Ladder, Option, Tried
from cascade.scores.arrays import ChainScores
from cascade.scores.columns import Signals

NAME = "expected utility"


@dataclass(frozen=True)
class ExpectedUtilityPolicy(LivePolicy):
    """Compares what each later model is expected to gain with what it costs.

    At model i with confidences x the question stays if P(i right | x) ≥ max over j > i of
    P(j right | x) − price · cost(j), and else goes to that j, which decides in its turn. That a later model may
    pass the question on again is not foreseen.

    Attributes:
        price: Accuracy that the whole cost of the chain's last model is worth (λ).
        costs: ``[models]``: each model's mean cost as a share of the last one's.
        right: ``right[i][j]``: what model i's confidences say of model j's being right, for j ≥ i.
    """

    price: float
    costs: tuple[float, ...]
    right: tuple[Mapping[int, Calibrated], ...]
    key: ClassVar[str] = "right"

    @classmethod
    def fit(cls, chain: ChainScores, costs: Sequence[float], price: float) -> ExpectedUtilityPolicy:
        """Fits the probabilities on labelled questions; the policy is to be reported on others."""
        right = tuple(
            {j: calibrate_model(model, chain.models[j].correct) for j in range(i, len(chain.models))}
            for i, model in enumerate(chain.models[:-1])
        )
        return cls(price, tuple(costs), right)

    @property
    def name(self) -> str:
        """The same for all of them."""
        return NAME

    @property
    def places(self) -> tuple[int, ...]:  # type: ignore[override]
        """All of them may be used."""
        return tuple(range(len(self.costs)))

    def asks(self, offers: Offers) -> tuple[frozenset[str], ...]:
        """What was there to be fitted."""
        return (*(frozenset(here[place].signals) for place, here in enumerate(self.right)), frozenset())

    def decide(self, place: int, signals: Signals) -> tuple[np.ndarray, np.ndarray]:
        """Stays, or goes where the expected gain is worth most."""
        later = range(place, len(self.costs))
        if place == later[-1]:
            best = np.full(len(signals), place)
        else:
            prices = [self.price * self.costs[j] if j > place else 0.0 for j in later]
            worth = [self.right[place][j].predict(signals) - price for j, price in zip(later, prices, strict=True)]
            # A confidence that is not known keeps nothing.
            worth[0] = np.where(np.isnan(worth[0]), -np.inf, worth[0])
            best = place + np.nan_to_num(np.stack(worth), nan=-1e9).argmax(axis=0)
        outcome = np.where(best == place, Outcome.ANSWERED, Outcome.REJECTED_BY_P_T).astype(np.int8)
        return outcome, np.where(best == place, -1, best)

    def describe(self, names: Sequence[str]) -> str:
        """Its price."""
        return f"expected utility at a price of {self.price:.3g}"

    def in_words(self, names: Sequence[str]) -> str:
        """When it goes on."""
        return (
            f"ask {names[0]} first, and after each answer go on to a later one of {', '.join(names[1:])} if its "
            f"expected gain in accuracy is above {self.price:.3g} × its cost"
        )

    def to_json(self, names: Sequence[str]) -> dict[str, object]:
        """Price, costs and every calibration, the models by name."""
        right = [{names[j]: fitted.to_json() for j, fitted in here.items()} for here in self.right]
        return {
            "models": list(names),
            "price": self.price,
            "costs": list(self.costs),
            "right": dict(zip(names, right, strict=False)),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any], places: tuple[int, ...], names: Sequence[str], source: str) -> Self:
        """See `LivePolicy.from_json`."""
        if len(places) != len(names):
            raise CascadeError(f"Expected the chain to be {', '.join(values['models'])} for {source}, but got {names}")
        right = tuple(
            {names.index(later): Calibrated.from_json(fitted) for later, fitted in values["right"][name].items()}
            for name in names[:-1]
        )
        price, costs = float(values["price"]), tuple(map(float, values["costs"]))
        if len(costs) != len(names) or not np.isfinite([price, *costs]).all():
            raise CascadeError(f"Expected a price and {len(names)} costs in {source}, but got {price}, {costs}")
        if any(set(here) != set(range(place, len(names))) for place, here in enumerate(right)):
            raise CascadeError(f"Expected {source} to hold every later model's calibration for each model")
        return cls(price, costs, right)

    @classmethod
    def options(cls, tuner: Tuner) -> Iterator[Option[LivePolicy]]:
        """The goal's price, or forty of them, where every model but the last has a confidence to calibrate.

        Measured out of fold: on each part of the questions as fitted on the rest.
        """
        goal = tuner.goal
        if not _fits(tuner.chain):
            return
        costs = mean_costs(tuner)
        fitted, apart = cls.fit(tuner.chain, costs, 0.0), [cls.fit(rest, costs, 0.0) for rest in tuner.rests]
        prices = [goal.fixed_limit] if goal.objective == "price" else np.geomspace(1e-3, 10, 40)
        asked = [float(price or 0.0) for price in prices]
        yield Tried(
            NAME,
            [
                tuner.point(replace(fitted, price=price), [replace(one, price=price) for one in apart])
                for price in asked
            ],
        )

    @classmethod
    def ladders(cls, tuner: Tuner) -> Iterator[Ladder[LivePolicy]]:
        """One, of rising prices, where there are labels to fit by."""
        if tuner.chain.labelled and _fits(tuner.chain):
            fitted = cls.fit(tuner.chain, mean_costs(tuner), 0.0)
            yield Steps(NAME, [replace(fitted, price=float(price)) for price in np.geomspace(1e-4, 10, 60)])


def _fits(chain: ChainScores) -> bool:
    return all(model.signals.known & {"p_t", "p_ik"} for model in chain.models[:-1])


def mean_costs(tuner: Tuner) -> list[float]:
    """``[models]``: each model's mean cost as a share of the last one's."""
    whole = tuner.costs.whole
    return [float(cost) for cost in whole.mean(axis=1) / whole[-1].mean()]
