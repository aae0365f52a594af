"""Ladders: policies in an order that no label has a say in, from "keep almost nothing" to "keep everything".

Thresholds are certified along a ladder (`cascade.simulation.guarantee`): the tests stop at the first rung that fails,
so that each may use the whole level. `Levels` counts all of its rungs in one pass over the questions. `Steps` plays one
policy after another, and takes any.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from cascade.policies.base import LivePolicy, Thresholds
from cascade.policies.ledgers import PassCosts, charge, charges, check_ledger, question_costs
from cascade.policies.outcome import Outcome
from cascade.policies.tuning import Tally
from cascade.scores.arrays import ChainScores

# Fine where confidences saturate, since a rung that keeps many more questions than the last is a leap in the dark.
LEVELS = 1 - np.unique(np.concatenate([np.geomspace(1e-9, 0.05, 400), np.linspace(0.05, 1, 381)]))
"""Thresholds, strictest first: from 1 − 10⁻⁹, log-spaced in their distance to 1, and evenly from 0.95 down to 0."""

GATES = (0.25, 0.5, 0.75)
"""What P(IK) has to reach before P(T) is asked at all, each on a ladder of its own."""

REJECTED_EARLY = {"p_ik": Outcome.REJECTED_BY_P_IK, "p_ik_reader": Outcome.PASSED_BY_READER}


@dataclass(frozen=True)
class Steps:
    """A ladder of any policies.

    Attributes:
        name: What is asked on it.
        policies: Strictest first.
    """

    name: str
    policies: Sequence[LivePolicy]

    def __len__(self) -> int:
        """How many rungs."""
        return len(self.policies)

    def policy(self, rung: int) -> LivePolicy:
        """That of a rung."""
        return self.policies[rung]

    def tally(self, chain: ChainScores, costs: PassCosts, ledger: str) -> Tally:
        """See `cascade.policies.tuning.Ladder`."""
        correct, last = chain.correct.astype(float), len(chain.models) - 1
        gains, losses, spent = [], [], []
        for policy in self.policies:
            outcome, asks = policy.route(chain), policy.asks(chain.offers)
            who = (outcome == Outcome.ANSWERED).argmax(axis=0)
            right, other = correct[who, np.arange(len(who))], who != last
            gains.append((right * (1 - correct[-1]))[other].sum())
            losses.append(((1 - right) * correct[-1])[other].sum())
            readers = [place for place, asked in enumerate(asks) if "p_ik_reader" in asked]
            paid = question_costs(outcome, charges(costs, ledger, asks)) + costs.reading(readers)
            spent.append(paid.sum())
        return Tally(len(chain), np.array(gains), np.array(losses), np.array(spent), float(costs.whole[-1].sum()))


@dataclass(frozen=True)
class Levels:
    """A ladder of thresholds on one sub-chain, the same at every stage.

    Attributes:
        places: The models used, by their place in the chain.
        first: The confidence that is asked before P(T), or ``None``.
        then: ``"p_t"``, or ``None``.
        gates: ``[rungs]``: what ``first`` has to reach, not rising.
        levels: ``[rungs]``: what ``then`` has to reach, not rising.
        make: Makes the policy of places and thresholds.
        name: What is asked on it.
    """

    places: tuple[int, ...]
    first: str | None
    then: str | None
    gates: np.ndarray
    levels: np.ndarray
    make: Callable[[tuple[int, ...], tuple[Thresholds, ...]], LivePolicy]
    name: str

    def __len__(self) -> int:
        """How many rungs."""
        return len(self.levels)

    def policy(self, rung: int) -> LivePolicy:
        """The same thresholds for every stage; where they keep everything, the first model alone."""
        asked = {self.first: float(self.gates[rung]), self.then: float(self.levels[rung])}
        if not any(limit for signal, limit in asked.items() if signal):
            return self.make(self.places[:1], ())
        limits = Thresholds(p_t=asked.get("p_t"), p_ik=asked.get("p_ik"), p_ik_reader=asked.get("p_ik_reader"))
        return self.make(self.places, (limits,) * (len(self.places) - 1))

    def tally(self, chain: ChainScores, costs: PassCosts, ledger: str) -> Tally:
        """See `cascade.policies.tuning.Ladder`.

        A confidence lets a question pass from some rung on, so that each stage answers it on one stretch of rungs. What
        begins and ends where is added up, rung by rung, and all rungs follow by a running sum.
        """
        check_ledger(ledger)
        part, rungs = chain.keep(self.places), len(self)
        asks = [*self.asks(part), frozenset[str]()]
        gained, lost, spent = np.zeros(rungs + 1), np.zeros(rungs + 1), np.zeros(rungs + 1)

        def add(total: np.ndarray, start: np.ndarray, end: np.ndarray | None, values: np.ndarray) -> None:
            """Adds each question's value to the rungs from start up to end; without one to all that follow."""
            if end is not None:
                end = np.maximum(start, end)
            total += np.bincount(start, weights=values, minlength=rungs + 1)
            if end is not None:
                total -= np.bincount(end, weights=values, minlength=rungs + 1)

        def charged(stage: int, outcome: Outcome) -> np.ndarray:
            return charge(costs, ledger, self.places[stage], outcome, asks[stage])

        last = part.models[-1].correct.astype(float)
        # From which rung on an earlier stage answers: a stage is asked on the rungs before.
        taken: np.ndarray | None = None
        begin = np.zeros(len(chain), dtype=np.intp)
        for stage, model in enumerate(part.models[:-1]):
            passes = begin if self.first is None else self._from(getattr(model.signals, self.first), self.gates, begin)
            keeps = begin if self.then is None else self._from(getattr(model.signals, self.then), self.levels, begin)
            keeps = keeps if passes is begin else np.maximum(passes, keeps)
            right = model.correct.astype(float)
            add(gained, keeps, taken, right * (1 - last))
            add(lost, keeps, taken, (1 - right) * last)
            if self.first is not None:
                early = charged(stage, REJECTED_EARLY[self.first])
                add(spent, begin, passes if taken is None else np.minimum(passes, taken), early)
            until = keeps if taken is None else np.minimum(keeps, taken)
            add(spent, passes, until, charged(stage, Outcome.REJECTED_BY_P_T))
            add(spent, keeps, taken, charged(stage, Outcome.ANSWERED))
            taken = until
        add(spent, begin, taken, charged(-1, Outcome.ANSWERED))
        readers = [place for place, asked in zip(self.places, asks, strict=True) if "p_ik_reader" in asked]
        spent = np.cumsum(spent[:-1]) + costs.reading(readers).sum()
        # The policy that keeps everything is a model alone, and asks nothing.
        limits = np.maximum(self.gates if self.first else 0.0, self.levels if self.then else 0.0)
        alone, whole = (charge(costs, ledger, place, Outcome.ANSWERED, ()).sum() for place in (self.places[0], -1))
        spent[limits == 0] = alone
        return Tally(len(chain), np.cumsum(gained[:-1]), np.cumsum(lost[:-1]), spent, float(whole))

    def asks(self, part: ChainScores) -> list[frozenset[str]]:
        """What is asked, and so charged, at each model of the sub-chain but the last."""
        return [model.signals.known & {self.first, self.then} for model in part.models[:-1]]

    @staticmethod
    def _from(values: np.ndarray | None, limits: np.ndarray, begin: np.ndarray) -> np.ndarray:
        """The first rung whose limit each question reaches; the number of rungs where it reaches none."""
        return begin if values is None else first_reached(limits, values)


# Cells of `first_reached`: 1024 to each power of two, down to a distance of 2⁻³².
_SHIFT, _LOWEST, _CELLS = 42, (1023 - 32) << 10, 32 << 10


def first_reached(limits: np.ndarray, values: np.ndarray) -> np.ndarray:
    """For each value the place of the first limit that it reaches; the number of limits where it reaches none.

    As a binary search finds it, and in a third of the time: most values lie in a cell, by the leading bits of their
    distance to 1, that no limit lies in. Only the others are searched for.

    Args:
        limits: Not rising.
        values: ``[n]``; NaN reaches none.
    """

    def cells(p: np.ndarray) -> np.ndarray:
        distance = np.asarray(1 - p, dtype=np.float64)
        return np.asarray(np.clip((distance.view(np.int64) >> _SHIFT) - _LOWEST, 0, _CELLS))

    held = np.bincount(cells(limits), minlength=_CELLS + 1)
    before = np.cumsum(held) - held
    # Whatever is beyond them, NaN too, lies in the outermost cells.
    held[[0, -1]] += 1
    at = cells(values)
    found: np.ndarray = before[at]
    rest = np.flatnonzero(held[at])
    found[rest] = np.searchsorted(-limits, -values[rest], side="left")
    return found
