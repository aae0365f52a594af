"""What any policy must beat: each question goes to one model by lot."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from cascade.policies.base import Policy, Tuner, answered_by
from cascade.policies.tuning import Goal, Option, Point, rank
from cascade.scores.arrays import ChainScores
from cascade.statistics.hull import upper_hull

NAME = "random mixing"


@dataclass(frozen=True)
class RandomPolicy(Policy):
    """Sends each question to one model by lot.

    Attributes:
        shares: ``[models]``, of the questions; they sum to 1.
        seed: Of the lot.
    """

    shares: tuple[float, ...]
    seed: int = 0

    @property
    def name(self) -> str:
        """The same for all of them."""
        return NAME

    def route(self, chain: ChainScores) -> np.ndarray:
        """A question goes straight to its model."""
        rng = np.random.default_rng(self.seed)
        return answered_by(rng.choice(len(chain.models), size=len(chain), p=self.shares), len(chain.models))

    def describe(self, names: Sequence[str]) -> str:
        """Each model's share."""
        return ", ".join(f"{100 * s:.0f} % {n}" for s, n in zip(self.shares, names, strict=True) if s > 0)

    def to_json(self, names: Sequence[str]) -> dict[str, object]:
        """The shares, the models by name."""
        return {"shares": dict(zip(names, self.shares, strict=True))}

    @classmethod
    def options(cls, tuner: Tuner) -> Iterator[Option[Policy]]:
        """Every lot between two models, of which only those on the hull are worth having."""
        whole = tuner.costs.whole
        yield Lots(tuner.chain.correct.mean(axis=1), whole.sum(axis=1) / whole[-1].sum(), tuner.seed)


@dataclass(frozen=True)
class Lots:
    """Lots between single models, by their mean accuracies and costs.

    Attributes:
        right: ``[models]``: accuracies.
        cost: ``[models]``: costs as shares of the last model's.
        seed: Of the lot.
    """

    right: np.ndarray
    cost: np.ndarray
    seed: int
    name: str = NAME

    def best(self, goal: Goal, limit: float) -> Point[RandomPolicy]:
        """A single model, or the lot between two neighbours on the hull that just keeps the limit."""
        hull = upper_hull(self.cost, self.right)
        options = [self._mix(place, place, 0.0) for place in hull]
        along = self.cost if goal.objective == "accuracy" else self.right
        for low, high in pairwise(hull):
            start, end = along[low], along[high]
            if goal.objective != "price" and min(start, end) < limit < max(start, end):
                options.append(self._mix(low, high, float((limit - start) / (end - start))))
        return min(options, key=lambda point: rank(point, goal, limit))

    def _mix(self, low: int, high: int, share: float) -> Point[RandomPolicy]:
        shares = np.zeros(len(self.right))
        shares[low] += 1 - share
        shares[high] += share
        return Point(RandomPolicy(tuple(shares), self.seed), float(shares @ self.right), float(shares @ self.cost))
