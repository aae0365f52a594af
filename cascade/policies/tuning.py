"""What is wanted of a cascade, and how policies are compared for it.

A kind of policy gives the study its `Option`s (`cascade.policies.base.Policy.options`): families of policies, of each
of which the study takes the best for the goal. It gives `Ladder`s, too, along which policies are certified.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from cascade.errors import CascadeError
from cascade.policies.ledgers import LEDGERS, PassCosts
from cascade.scores.arrays import ChainScores

OBJECTIVES = ("accuracy", "cost", "price")
ALLOWED_LOSS = 0.01
SLACK = 1e-9

P_co = TypeVar("P_co", covariant=True)


@dataclass(frozen=True)
class Goal:
    """What is wanted of a cascade.

    Attributes:
        objective: accuracy (the best at a budget), cost (the cheapest above a floor) or price.
        limit: The budget (share of the last model's cost; 0.5), an accuracy floor that nothing is promised of, or the
            accuracy that the last model's whole cost is worth (0.1). The cheapest without a limit is the cheapest that
            is promised to lose at most ``epsilon``.
        ledger: answered-only, full-path or early-exit.
        unit: flops, flops-context, tokens, dollars, seconds or calls; by default the first of these that the scores
            allow.
        epsilon: The largest loss of accuracy against the last model that is promised, a share; 0.01 by default. Only
            for the cheapest policy without a limit.
        delta: Probability with which the promise may fail.
        margin: Share of accuracy of the non-inferiority tests.
    """

    objective: str = "cost"
    limit: float | None = None
    ledger: str = "full-path"
    unit: str | None = None
    epsilon: float | None = None
    delta: float = 0.1
    margin: float = 0.01

    def __post_init__(self) -> None:
        for name, known in (("objective", OBJECTIVES), ("ledger", LEDGERS)):
            if getattr(self, name) not in known:
                raise CascadeError(
                    f"Expected `{name}` to be one of {', '.join(known)}, but got {getattr(self, name)!r}"
                )
        if self.limit is not None and not self.limit >= 0:
            raise CascadeError(f"Expected `limit` to be at least 0, but got {self.limit:g}")
        for name in ("epsilon", "delta", "margin"):
            value = getattr(self, name)
            if value is not None and not 0 < value < 1:
                raise CascadeError(f"Expected `{name}` to be between 0 and 1, but got {value:g}")
        if self.epsilon is not None and not self.promised:
            asked = f"objective {self.objective}" if self.objective != "cost" else f"limit {self.limit:g}"
            raise CascadeError(
                f"Expected `epsilon` for the cheapest policy without a `limit`, of which alone something is promised, "
                f"but got {asked}"
            )

    @property
    def promised(self) -> bool:
        """Whether what is recommended is promised: the cheapest policy, without a limit."""
        return self.objective == "cost" and self.limit is None

    @property
    def loss(self) -> float:
        """ε: the loss that is promised, or that the other policies are compared at."""
        return ALLOWED_LOSS if self.epsilon is None else self.epsilon

    @property
    def fixed_limit(self) -> float | None:
        """The limit where no question has to be looked at for it; ``None`` for the default floor."""
        return {"accuracy": 0.5, "price": 0.1}.get(self.objective) if self.limit is None else self.limit


@dataclass(frozen=True)
class Point(Generic[P_co]):
    """A policy with its accuracy, and its cost as a share of the chain's last model alone.

    Both on the questions that the policy was chosen on.
    """

    policy: P_co
    accuracy: float
    cost: float


def rank(point: Point[Any], goal: Goal, limit: float) -> tuple[float, float]:
    """The smaller the better, and what misses the limit last."""
    if goal.objective == "accuracy":
        return float(point.cost > limit + SLACK), -round(point.accuracy, 12)
    if goal.objective == "cost":
        return float(point.accuracy < limit - SLACK), round(point.cost, 12)
    return 0.0, -(point.accuracy - limit * point.cost)


class OutOfReach(CascadeError):
    """No policy of an option keeps the limit.

    Attributes:
        nearest: How near the best of them comes, the larger the nearer; of one goal's options.
    """

    def __init__(self, message: str, nearest: float) -> None:
        super().__init__(message)
        self.nearest = nearest


class Option(Protocol[P_co]):
    """Policies of one kind, of which one is taken for a goal."""

    @property
    def name(self) -> str:
        """As the study's policies are told apart."""
        ...

    def best(self, goal: Goal, limit: float) -> Point[P_co]:
        """The policy for a goal, its limit given as a number.

        Raises:
            OutOfReach: If none keeps the limit.
        """
        ...


@dataclass(frozen=True)
class Tried(Generic[P_co]):
    """An option made of policies that were tried one by one.

    Attributes:
        name: Of the option.
        points: At least one.
    """

    name: str
    points: Sequence[Point[P_co]]

    def best(self, goal: Goal, limit: float) -> Point[P_co]:
        """The best for the goal. Where none keeps the limit, the best of those that miss it: `rank` puts them last."""
        return min(self.points, key=lambda point: rank(point, goal, limit))


@dataclass(frozen=True)
class Tally:
    """What every rung of a ladder does with some questions.

    Attributes:
        questions: How many.
        gains, losses: ``[rungs]``, float64: questions that only the policy, or only the last model, got right. Whole
            numbers, unless they were made of probabilities.
        cost: ``[rungs]``, float64: in all.
        last_cost: Of the last model alone.
    """

    questions: int
    gains: np.ndarray
    losses: np.ndarray
    cost: np.ndarray
    last_cost: float

    def without(self, some: Tally) -> Tally:
        """That of the questions that are not among ``some`` of them."""
        return Tally(
            self.questions - some.questions,
            self.gains - some.gains,
            self.losses - some.losses,
            self.cost - some.cost,
            self.last_cost - some.last_cost,
        )


class Ladder(Protocol[P_co]):
    """Policies in an order that is fixed before a label of the questions that certify them is looked at."""

    @property
    def name(self) -> str:
        """What is asked on it."""
        ...

    def __len__(self) -> int:
        """How many rungs."""
        ...

    def policy(self, rung: int) -> P_co:
        """That of a rung: the first keeps almost nothing, the last everything."""
        ...

    def tally(self, chain: ChainScores, costs: PassCosts, ledger: str) -> Tally:
        """What every rung does with some questions, and what it costs in a ledger."""
        ...
