"""The thresholds worth having: accuracy against cost, over every sub-chain and every combination of thresholds.

Two models are searched exactly: every vertex of their convex frontier, and for a limit the best pair of thresholds, on
that frontier or not (`choose`). For three and more, a grid of quantile levels gives every combination at once, and
exact steps in one stage after another polish what it finds. Single models, and chains that skip models, always compete.
The accuracy and cost of a point are those on the questions that chose it. Report them on others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from tqdm import tqdm

from cascade.errors import CascadeError
from cascade.policies.base import LivePolicy
from cascade.policies.calibration import Calibrated
from cascade.policies.fused import with_fused
from cascade.policies.ledgers import PassCosts
from cascade.policies.thresholds import SIGNALS
from cascade.policies.tuning import OBJECTIVES, SLACK, Goal, OutOfReach, Point
from cascade.scores.arrays import ChainScores, sub_chains
from cascade.simulation.chain_search import ChainSearch, undominated
from cascade.statistics.hull import upper_hull


@dataclass(frozen=True)
class Frontier:
    """The accuracies and costs that some questions allow, each with its policy.

    Attributes:
        name: One of `SIGNALS`, or that of the fused probability.
        ledger, unit: In which cost is counted.
        vertices: Of the convex frontier, cheapest first. The line between two of them is what a lot between both
            policies would reach on average. No such lot is chosen.
        candidates: Every point that no other one found beats in both accuracy and cost, cheapest first.
        pairs: The sub-chains of two models and two thresholds, of which `choose` takes the best pair there is, be it
            among the candidates or not.
    """

    name: str
    ledger: str
    unit: str
    vertices: tuple[Point[LivePolicy], ...]
    candidates: tuple[Point[LivePolicy], ...]
    pairs: tuple[ChainSearch, ...] = field(default=(), repr=False, compare=False)

    def best(self, goal: Goal, limit: float) -> Point[LivePolicy]:
        """See `choose`."""
        return choose(self, goal.objective, limit)


def frontier(
    chain: ChainScores,
    costs: PassCosts,
    ledger: str,
    signals: str = "P(IK) + P(T)",
    tolerance: float = 1e-4,
    fused: Mapping[int, Calibrated] | None = None,
    out_of_fold: ChainScores | None = None,
) -> Frontier:
    """The frontier over every sub-chain, single models among them.

    Args:
        chain: The scores that choose; report on others.
        costs: From `cascade.policies.ledgers.pass_costs`, of the same questions.
        ledger: One of `LEDGERS`.
        signals: One of `SIGNALS`; with ``fused`` a name for the fused probability.
        tolerance: How much accuracy (a share) may lie between the convex frontier and what is found of it; 0
            finds every vertex.
        fused: To search thresholds on the fused probability: from `cascade.policies.fused.calibrations`.
        out_of_fold: The chain with the probabilities to search on, where they are not those of ``fused`` itself.

    Raises:
        CascadeError: If there are no labels, or nobody has the signals.
    """
    if not chain.labelled:
        raise CascadeError("Expected scores with labels to find thresholds on, but these have none")
    if fused is not None:
        chain = out_of_fold or with_fused(chain, [fused])
    wanted = [name for name in (SIGNALS[signals] if fused is None else ("p_t",)) if name]
    for name in wanted:
        if not any(name in m.signals.known for m in chain.models[:-1]):
            raise CascadeError(f"Expected some model to have {name}, for {signals}, but none has")
    found: list[Point[LivePolicy]] = []
    pairs: list[ChainSearch] = []
    can_stop = [not m.signals.known.isdisjoint(wanted) for m in chain.models]
    all_places = [p for p in sub_chains(chain, shortest=1) if all(can_stop[i] for i in p[:-1])]
    for places in tqdm(all_places, desc=f"frontier of {signals}", delay=2, disable=None, leave=False):
        search = ChainSearch(chain, costs, places, signals, ledger, fused)
        found += search.points(tolerance)
        if search.is_pair:
            pairs.append(search)
    right, cost = np.array([p.accuracy for p in found]), np.array([p.cost for p in found])
    candidates = tuple(found[i] for i in undominated(right, cost))
    hull = upper_hull(np.array([p.cost for p in candidates]), np.array([p.accuracy for p in candidates]))
    return Frontier(signals, ledger, costs.unit, tuple(candidates[i] for i in hull), candidates, tuple(pairs))


def choose(found: Frontier, objective: str, limit: float) -> Point[LivePolicy]:
    """The point a user would take.

    Of two models and two thresholds it is the best pair there is. Otherwise it is the best of the candidates.

    Args:
        found: The frontier.
        objective: *accuracy*: the most accurate at a cost of at most ``limit``, a share of the last model's.
            *cost*: the cheapest of an accuracy of at least ``limit``. *price*: the most of accuracy − limit · cost.
        limit: As above.

    Raises:
        OutOfReach: If nothing found keeps the limit.
        CascadeError: If the objective is unknown.
    """
    best = _choose_found(found, objective, limit)
    for pair in found.pairs:
        best = pair.best_pair(objective, limit, best)
    return best


def _choose_found(found: Frontier, objective: str, limit: float) -> Point[LivePolicy]:
    """The best of the points that were found."""
    points = found.candidates
    if objective == "accuracy":
        allowed = [p for p in points if p.cost <= limit + SLACK]
        if not allowed:
            raise OutOfReach(
                f"Expected a budget of at least {points[0].cost:.4g} of the last model's cost ({found.ledger}, "
                f"{found.unit}), the cheapest there is, but got {limit:g}",
                nearest=-points[0].cost,
            )
        return max(allowed, key=lambda p: p.accuracy)
    if objective == "cost":
        allowed = [p for p in points if p.accuracy >= limit - SLACK]
        if not allowed:
            best = max(p.accuracy for p in points)
            raise OutOfReach(
                f"Expected an accuracy floor of at most {best:.4f}, the best there is, but got {limit:g}", nearest=best
            )
        return min(allowed, key=lambda p: p.cost)
    if objective == "price":
        return max(found.vertices, key=lambda p: p.accuracy - limit * p.cost)
    raise CascadeError(f"Expected `objective` to be one of {', '.join(OBJECTIVES)}, but got {objective!r}")
