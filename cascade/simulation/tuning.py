"""What policies are tuned with in a study: the questions that choose, and the search of their frontiers.

What is wanted, and how policies are compared for it, is `cascade.policies.tuning`'s. How a policy then does on other
questions is `cascade.simulation.study`'s to find out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeVar

import numpy as np

from cascade.policies.base import Policy
from cascade.policies.calibration import Calibrated
from cascade.policies.ledgers import PassCosts
from cascade.policies.tuning import Goal, Point
from cascade.scores.arrays import ChainScores, place_of
from cascade.simulation.frontier import Frontier, frontier
from cascade.simulation.simulator import play, spent

# Parts of the questions that choose: what is fitted is fitted on all but one, and measured on that one.
PARTS = 5

P = TypeVar("P", bound=Policy)


@dataclass(frozen=True)
class StudyTuner:
    """A `cascade.policies.tuning.Tuner` that keeps what it was asked for.

    Attributes:
        chain: The questions that choose.
        costs: Of their passes, in the goal's unit.
        goal: What is wanted.
        seed: Of what is done by lot.
        notes: What the scores do not allow, a line each.
        frontiers: By name, those that were searched.
    """

    chain: ChainScores
    costs: PassCosts
    goal: Goal
    seed: int = 0
    notes: list[str] = field(default_factory=list)
    frontiers: dict[str, Frontier] = field(default_factory=dict)

    @cached_property
    def part(self) -> np.ndarray:
        """By each question's id, as `cascade.scores.arrays.parts` draws them."""
        return place_of(self.chain, [1 / PARTS] * PARTS, "fit")

    @cached_property
    def rests(self) -> Sequence[ChainScores]:
        """For each part all questions that are not in it."""
        return [self.chain.take(self.part != i) for i in range(PARTS)]

    def point(self, policy: P, apart: Sequence[P] = ()) -> Point[P]:
        """A policy with its accuracy and cost on these questions, out of fold where something was fitted."""
        if apart:
            pieces = [(one, np.flatnonzero(self.part == i)) for i, one in enumerate(apart)]
            played = [self._played(one, self.chain.take(rows), self.costs.take(rows)) for one, rows in pieces]
        else:
            played = [self._played(policy, self.chain, self.costs)]
        right, cost = np.sum(played, axis=0)
        return Point(policy, float(right / len(self.chain)), float(cost / self.costs.whole[-1].sum()))

    def _played(self, policy: Policy, chain: ChainScores, costs: PassCosts) -> tuple[float, float]:
        """Questions answered rightly, and what all of them cost."""
        played = play(chain, policy)
        cost = spent(chain, policy, played.outcome, costs, self.goal.ledger).sum()
        return float(played.correct.sum()), float(cost)

    def frontier(
        self, signals: str, fused: Mapping[int, Calibrated] | None = None, out_of_fold: ChainScores | None = None
    ) -> Frontier:
        """See `cascade.simulation.frontier.frontier`."""
        found = frontier(self.chain, self.costs, self.goal.ledger, signals, fused=fused, out_of_fold=out_of_fold)
        self.frontiers[signals] = found
        return found

    def note(self, line: str) -> None:
        """Adds to the notes."""
        self.notes.append(line)


def limit_for(goal: Goal, chain: ChainScores) -> float:
    """The limit, or its default on the questions that choose: the promised loss below the last model."""
    if goal.fixed_limit is not None:
        return goal.fixed_limit
    return max(float(chain.models[-1].correct.mean()) - goal.loss, 0.0)
