"""What policies are tuned with in a study: the questions that choose, and the search of their frontiers.

What is wanted, and how policies are compared for it, is `cascade.policies.tuning`'s. How a policy then does on other
questions is `cascade.simulation.study`'s to find out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from cascade.policies.base import Policy
from cascade.policies.calibration import Calibrated
from cascade.policies.ledgers import PassCosts
from cascade.policies.tuning import Goal, Point
from cascade.scores.arrays import ChainScores
from cascade.simulation.frontier import Frontier, frontier
from cascade.simulation.simulator import play, spent

ALLOWED_DROP = 0.01

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

    def point(self, policy: P) -> Point[P]:
        """A policy with its accuracy and cost on these questions."""
        played = play(self.chain, policy)
        cost = spent(self.chain, policy, played.outcome, self.costs, self.goal.ledger).sum()
        return Point(policy, float(played.correct.mean()), float(cost / self.costs.whole[-1].sum()))

    def frontier(self, signals: str, fused: Mapping[int, Calibrated] | None = None) -> Frontier:
        """See `cascade.simulation.frontier.frontier`."""
        found = frontier(self.chain, self.costs, self.goal.ledger, signals, fused=fused)
        self.frontiers[signals] = found
        return found

    def note(self, line: str) -> None:
        """Adds to the notes."""
        self.notes.append(line)


def limit_for(goal: Goal, chain: ChainScores, best: Callable[[float], Point[Any]]) -> float:
    """The limit, or its default on the questions that choose.

    The default floor is one point below the last model, and above that by one standard error of the difference between
    the two (the rule of Breiman et al., 1984). The cheapest of many policies owes some of its accuracy to the questions
    that chose it: held to the point itself, it loses more than that on others about every second time.

    Args:
        goal: What is wanted.
        chain: The questions that choose.
        best: The policy chosen at a limit; the error is of its difference.
    """
    if goal.fixed_limit is not None:
        return goal.fixed_limit
    last = chain.models[-1].correct.astype(float)
    floor = max(float(last.mean()) - ALLOWED_DROP, 0.0)
    difference = play(chain, best(floor).policy).correct - last
    error = float(difference.std(ddof=1)) / math.sqrt(len(difference))
    return min(floor + error, float(last.mean()))
