"""What is wanted of a cascade, and each kind of policy at its best for it, on the questions that choose.

How a policy then does on other questions is `cascade.simulation.study`'s to find out.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from cascade.errors import CascadeError
from cascade.policies.ledgers import LEDGERS, PassCosts
from cascade.policies.policy import ExpectedUtilityPolicy, Policy, RandomPolicy
from cascade.scores.arrays import ChainScores
from cascade.simulation.frontier import OBJECTIVES, Point, upper_hull
from cascade.simulation.simulator import play, spent

ALLOWED_DROP = 0.01


@dataclass(frozen=True)
class Goal:
    """What is wanted of a cascade.

    Attributes:
        objective: *accuracy* (the best at a budget), *cost* (the cheapest above a floor) or *price*.
        limit: The budget as a share of the last model's cost, the accuracy floor, or the price; ``None`` is a
            budget of half, the floor of `limit_for`, or a price of 0.1.
        ledger: One of `LEDGERS`.
        unit: One of `cascade.policies.ledgers.UNITS`; by default the first that the scores allow.
        epsilon: Accuracy that may be lost for the promise (a share), or ``None`` for no promise.
        delta: Probability with which the promise may fail.
        margin: Of the non-inferiority tests, a share.
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


def limit_for(goal: Goal, chain: ChainScores, best: Callable[[float], Point]) -> float:
    """The limit, or its default on the questions that choose.

    The default floor is one point below the last model, and above that by one standard error of the difference between
    the two (the rule of Breiman et al., 1984): the cheapest of many policies owes some of its accuracy to the questions
    that chose it, and held to the point itself it loses more on others about every second time.

    Args:
        goal: What is wanted.
        chain: The questions that choose.
        best: The policy chosen at a limit; the error is of its difference.
    """
    if goal.limit is not None:
        return goal.limit
    if goal.objective != "cost":
        return {"accuracy": 0.5, "price": 0.1}[goal.objective]
    last = chain.models[-1].correct.astype(float)
    floor = max(float(last.mean()) - ALLOWED_DROP, 0.0)
    difference = play(chain, best(floor).policy).correct - last
    error = float(difference.std(ddof=1)) / math.sqrt(len(difference))
    return min(floor + error, float(last.mean()))


def rank(point: Point, goal: Goal, limit: float) -> tuple[float, float]:
    """The smaller the better, and what misses the limit last."""
    if goal.objective == "accuracy":
        return float(point.cost > limit + 1e-9), -round(point.accuracy, 12)
    if goal.objective == "cost":
        return float(point.accuracy < limit - 1e-9), round(point.cost, 12)
    return 0.0, -(point.accuracy - limit * point.cost)


def point_on(chain: ChainScores, policy: Policy, costs: PassCosts, ledger: str) -> Point:
    """A policy with its accuracy and cost on these questions."""
    played = play(chain, policy)
    cost = spent(chain, policy, played.outcome, costs, ledger).sum() / costs.whole[-1].sum()
    return Point(policy, float(played.correct.mean()), float(cost))


def best_expected_utility(chain: ChainScores, costs: PassCosts, goal: Goal, limit: float) -> Point:
    """The best price for the goal among forty."""
    means = costs.whole.mean(axis=1) / costs.whole[-1].mean()
    fitted = ExpectedUtilityPolicy.fit(chain, means.tolist(), 0.0)
    prices = [limit] if goal.objective == "price" else np.geomspace(1e-3, 10, 40)
    tried = [point_on(chain, replace(fitted, price=float(price)), costs, goal.ledger) for price in prices]
    return min(tried, key=lambda p: rank(p, goal, limit))


def best_random(chain: ChainScores, costs: PassCosts, goal: Goal, limit: float, seed: int) -> Point:
    """The best lot between single models: on the upper hull of their costs and accuracies."""
    right = chain.correct.mean(axis=1)
    cost = costs.whole.sum(axis=1) / costs.whole[-1].sum()
    hull = upper_hull(cost, right)

    def mix(low: int, high: int, share: float) -> Point:
        shares = np.zeros(len(right))
        shares[low] += 1 - share
        shares[high] += share
        return Point(RandomPolicy(tuple(shares), seed), float(shares @ right), float(shares @ cost))

    options = [mix(i, i, 0.0) for i in hull]
    for low, high in pairwise(hull):
        start, end = (cost[low], cost[high]) if goal.objective == "accuracy" else (right[low], right[high])
        if goal.objective != "price" and min(start, end) < limit < max(start, end):
            options.append(mix(low, high, float((limit - start) / (end - start))))
    return min(options, key=lambda p: rank(p, goal, limit))
