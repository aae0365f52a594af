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
from cascade.policies.ledgers import PassCosts, charges, question_costs
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
        part, rungs = chain.keep(self.places), len(self)
        asks = self.asks(part)
        charged = charges(costs.keep(self.places), ledger, [*asks, frozenset()])
        gained, lost, spent = np.zeros(rungs + 1), np.zeros(rungs + 1), np.zeros(rungs + 1)

        def add(total: np.ndarray, start: np.ndarray, end: np.ndarray, values: np.ndarray) -> None:
            """Adds each question's value to the rungs from start up to end."""
            end = np.maximum(start, end)
            total += np.bincount(start, weights=values, minlength=rungs + 1)
            total -= np.bincount(end, weights=values, minlength=rungs + 1)

        last = part.models[-1].correct.astype(float)
        never = np.full(len(chain), rungs)
        # From which rung on an earlier stage answers: a stage is asked on the rungs before.
        taken = never
        begin = np.zeros(len(chain), dtype=np.intp)
        for stage, model in enumerate(part.models[:-1]):
            passes = self._from(getattr(model.signals, self.first) if self.first else None, self.gates, begin)
            keeps = np.maximum(
                passes, self._from(getattr(model.signals, self.then) if self.then else None, self.levels, begin)
            )
            right = model.correct.astype(float)
            add(gained, keeps, taken, right * (1 - last))
            add(lost, keeps, taken, (1 - right) * last)
            if self.first is not None:
                add(spent, begin, np.minimum(passes, taken), charged[REJECTED_EARLY[self.first], stage])
            add(spent, passes, np.minimum(keeps, taken), charged[Outcome.REJECTED_BY_P_T, stage])
            add(spent, keeps, taken, charged[Outcome.ANSWERED, stage])
            taken = np.minimum(taken, keeps)
        add(spent, begin, taken, charged[Outcome.ANSWERED, -1])
        readers = [place for place, asked in zip(self.places, asks, strict=False) if "p_ik_reader" in asked]
        spent = np.cumsum(spent[:-1]) + costs.reading(readers).sum()
        return Tally(len(chain), np.cumsum(gained[:-1]), np.cumsum(lost[:-1]), spent, float(costs.whole[-1].sum()))

    def asks(self, part: ChainScores) -> list[frozenset[str]]:
        """What is asked, and so charged, at each model of the sub-chain but the last."""
        return [model.signals.known & {self.first, self.then} for model in part.models[:-1]]

    @staticmethod
    def _from(values: np.ndarray | None, limits: np.ndarray, begin: np.ndarray) -> np.ndarray:
        """The first rung whose limit each question reaches; the number of rungs where it reaches none."""
        return begin if values is None else np.searchsorted(-limits, -values, side="left")
