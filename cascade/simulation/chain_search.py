"""The thresholds of one sub-chain: what each question adds, and which of them are worth having.

Two models are searched exactly. For three and more, a grid of quantile levels gives every combination at once, and
exact steps in one stage after another polish what it finds. All sub-chains together are in
`cascade.simulation.frontier`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from itertools import pairwise

import numpy as np

from cascade.policies.base import LivePolicy, Thresholds
from cascade.policies.calibration import Calibrated
from cascade.policies.fused import FusedPolicy
from cascade.policies.ledgers import PassCosts, charges
from cascade.policies.outcome import Outcome
from cascade.policies.thresholds import SIGNALS, ThresholdPolicy
from cascade.policies.tuning import SLACK, Point
from cascade.scores.arrays import ChainScores
from cascade.simulation.grid import grid_cells, grid_sums, quantile_levels
from cascade.simulation.quadrant import QuadrantSearch, one_threshold
from cascade.simulation.window import Corner, Window

_EARLY_OUTCOME = {
    None: Outcome.REJECTED_BY_P_IK,
    "p_ik": Outcome.REJECTED_BY_P_IK,
    "p_ik_reader": Outcome.PASSED_BY_READER,
}
_Pair = tuple[float | None, float | None]
_Limits = Sequence[_Pair]
_Values = tuple[np.ndarray, np.ndarray, np.ndarray]  # kept, early_out, late_out
_ROUNDING = 1e-12
# A price so low that it only breaks ties, and one so high that accuracy only does.
_LOWEST_PRICE, _HIGHEST_PRICE = 1e-9, 1e6
_COMBINATIONS = 2**20
_MOST_LEVELS = 128


class ChainSearch:
    """One sub-chain under one set of signals: what each question adds, in accuracy and in cost."""

    def __init__(
        self,
        chain: ChainScores,
        costs: PassCosts,
        places: tuple[int, ...],
        signals: str,
        ledger: str,
        fused: Mapping[int, Calibrated] | None = None,
    ) -> None:
        self.places, self.n = places, len(chain)
        self.first, self.then = (None, "p_t") if fused is not None else SIGNALS[signals]
        part = chain.keep(places)
        known = [model.signals for model in part.models[:-1]]
        self.pairs = [
            (getattr(k, self.first) if self.first else None, getattr(k, self.then) if self.then else None)
            for k in known
        ]
        self.make = ThresholdPolicy if fused is None else partial(FusedPolicy.of, fused=fused)
        asks = [
            k.known & {self.first, self.then} if fused is None else frozenset(fused[place].signals)
            for place, k in zip(places, known, strict=False)
        ]
        charged = charges(costs.keep(places), ledger, [*asks, frozenset()])
        # A mean over the questions is then a share of the last model's cost.
        charged /= costs.whole[-1].mean()
        self.correct, self.kept = part.correct.astype(float), charged[Outcome.ANSWERED]
        self.early_out = charged[_EARLY_OUTCOME[self.first], :-1]
        self.late_out = charged[Outcome.REJECTED_BY_P_T, :-1]
        reads = [
            i for i in places[:-1] if self.first == "p_ik_reader" and "p_ik_reader" in chain.models[i].signals.known
        ]
        self.reader = float(costs.reading(reads).mean() / costs.whole[-1].mean())
        self.searches = [QuadrantSearch(*pair) for pair in self.pairs]
        self.vertices: list[Point[LivePolicy]] = []
        self.sorted: dict[tuple[int, int], np.ndarray] = {}

    def policy(self, limits: _Limits) -> LivePolicy:
        """The thresholds as a policy, each midway between the scores that it parts.

        On the score itself a threshold would decide by that score's rounding, which differs from machine to machine.
        """
        named = []
        for stage, pair in enumerate(limits):
            early, late = (self._midway(stage, which, limit) for which, limit in enumerate(pair))
            named.append(
                Thresholds(
                    p_t=late,
                    p_ik=early if self.first == "p_ik" else None,
                    p_ik_reader=early if self.first == "p_ik_reader" else None,
                )
            )
        return self.make(self.places, tuple(named))

    def _midway(self, stage: int, which: int, limit: float | None) -> float | None:
        if limit is None or self.pairs[stage][which] is None:
            return limit
        values = self.ascending(stage, which)
        below = int(np.searchsorted(values, limit)) - 1
        if below < 0:
            return limit
        middle = (float(values[below]) + limit) / 2
        return middle if middle > values[below] else limit

    def ascending(self, stage: int, which: int) -> np.ndarray:
        """A stage's first or second confidence, sorted. With both, its search has sorted them already."""
        search, values = self.searches[stage], self.pairs[stage][which]
        assert values is not None
        if search.early is not None and search.late is not None:
            return search.levels if which else search.sorted_early[::-1]
        if (stage, which) not in self.sorted:
            self.sorted[stage, which] = np.sort(values)
        return self.sorted[stage, which]

    def split(self, stage: int, limits: _Pair) -> tuple[np.ndarray, np.ndarray]:
        """Which questions a stage's first confidence lets pass, and which of them it answers."""
        (early, late), (first, then) = self.pairs[stage], limits
        passes = np.ones(self.n, dtype=bool) if early is None or first is None else early >= first
        return passes, passes if late is None or then is None else passes & (late >= then)

    def worth(self, values: _Values, limits: _Limits, stage: int = 0) -> np.ndarray:
        """What each question that reaches a stage is worth from there on, ``[questions]``."""
        kept, early_out, late_out = values
        worth: np.ndarray = kept[-1]
        for i in reversed(range(stage, len(limits))):
            passes, keeps = self.split(i, limits[i])
            worth = np.where(keeps, kept[i], np.where(passes, late_out[i], early_out[i]) + worth)
        return worth

    def measure(self, limits: _Limits) -> tuple[float, float]:
        """Accuracy and cost."""
        nothing = np.zeros_like(self.early_out)
        right = self.worth((self.correct, nothing, nothing), limits).mean()
        cost = self.worth((self.kept, self.early_out, self.late_out), limits).mean()
        return float(right), float(cost + self.reader)

    def point(self, limits: _Limits) -> Point[LivePolicy]:
        """A point with its policy."""
        return Point(self.policy(limits), *self.measure(limits))

    def polish(self, price: float, limits: _Limits) -> _Limits:
        """The thresholds that no step in a single stage makes worth more.

        A step is exact: it takes the best thresholds of its stage, all others as they are. It looks at the questions
        that reach the stage, and counts what the stage passes on by what later stages make of it. With one stage the
        first step is the optimum.
        """
        values = (self.correct - price * self.kept, -price * self.early_out, -price * self.late_out)
        found, best = list(limits), -np.inf
        while True:
            for stage, search in enumerate(self.searches):
                after = self.worth(values, found, stage + 1)
                worth = [values[0][stage], values[1][stage] + after, values[2][stage] + after]
                for earlier in range(stage):
                    passed_on = ~self.split(earlier, found[earlier])[1]
                    worth = [part * passed_on for part in worth]
                quadrant = search.best(*worth)
                found[stage] = (quadrant.early, quadrant.late)
            if len(found) == 1:
                return found
            now = float(self.worth(values, found).sum())
            if now <= best + 1e-9 * self.n:
                return found
            best = now

    def grid(self) -> tuple[np.ndarray, np.ndarray, list[tuple[np.ndarray, np.ndarray]]]:
        """Accuracy and cost of every combination of quantile levels, and the levels."""
        axes = sum(values is not None for pair in self.pairs for values in pair)
        count = min(_MOST_LEVELS, int(_COMBINATIONS ** (1 / max(axes, 1)) + 1e-9))
        levels = [(quantile_levels(early, count), quantile_levels(late, count)) for early, late in self.pairs]
        nothing = np.zeros_like(self.early_out)
        cells = grid_cells(self.pairs, levels)
        right = grid_sums(self.pairs, levels, self.correct, nothing, nothing, cells) / self.n
        cost = grid_sums(self.pairs, levels, self.kept, self.early_out, self.late_out, cells) / self.n
        return right, cost + self.reader, levels

    def limits_at(self, flat: int, shape: tuple[int, ...], levels: Sequence[tuple[np.ndarray, np.ndarray]]) -> _Limits:
        """The thresholds of one combination of the grid."""
        at = np.unravel_index(flat, shape)
        return [
            (
                None if pair[0] is None else float(axes[0][at[2 * i]]),
                None if pair[1] is None else float(axes[1][at[2 * i + 1]]),
            )
            for i, (pair, axes) in enumerate(zip(self.pairs, levels, strict=True))
        ]

    def points(self, tolerance: float) -> list[Point[LivePolicy]]:
        """The convex frontier's vertices of this sub-chain, and the grid's undominated points."""
        if not self.pairs:
            return [self.point([])]
        if len(self.pairs) == 1 and any(values is None for values in self.pairs[0]):
            return self._every_threshold()
        right, cost, levels = self.grid()
        found = [
            Point(self.policy(self.limits_at(int(i), right.shape, levels)), float(right.flat[i]), float(cost.flat[i]))
            for i in undominated(right.ravel(), cost.ravel())
        ]
        if self.is_pair:
            self.vertices = self._pair_vertices(tolerance)
            return found + self.vertices
        return found + self._vertices(right, cost, levels, tolerance)

    def _every_threshold(self) -> list[Point[LivePolicy]]:
        """Two models and one confidence: every threshold, by sorting and cumulative sums."""
        early, late = self.pairs[0]
        values = early if late is None else late
        if values is None:
            return [self.point([(None, None)])]
        out = self.early_out[0] if late is None else self.late_out[0]
        limits, right = one_threshold(values, self.correct[0] - self.correct[1])
        _, cost = one_threshold(values, self.kept[0] - out - self.kept[1])
        right = (right + self.correct[1].sum()) / self.n
        cost = (cost + (out + self.kept[1]).sum()) / self.n + self.reader
        pairs = [(float(x), None) if late is None else (None, float(x)) for x in limits]
        return [Point(self.policy([pairs[i]]), float(right[i]), float(cost[i])) for i in undominated(right, cost)]

    def _vertices(
        self,
        right: np.ndarray,
        cost: np.ndarray,
        levels: Sequence[tuple[np.ndarray, np.ndarray]],
        tolerance: float,
    ) -> list[Point[LivePolicy]]:
        """Vertices of the convex frontier, by recursion on the price."""

        def best(price: float) -> Point[LivePolicy]:
            start = self.limits_at(int((right - price * cost).argmax()), right.shape, levels)
            return self.point(self.polish(price, start))

        def between(low: Point[LivePolicy], high: Point[LivePolicy]) -> list[Point[LivePolicy]]:
            price = _slope(low, high)
            if price is None:
                return []
            middle = best(price)
            if not _lies_above(middle, low, high, price, tolerance):
                return []
            return [*between(low, middle), middle, *between(middle, high)]

        high, low = best(_LOWEST_PRICE), best(_HIGHEST_PRICE)
        return [low, *between(low, high), high]

    @property
    def is_pair(self) -> bool:
        """Whether these are two models with two thresholds between them."""
        return len(self.pairs) == 1 and all(values is not None for values in self.pairs[0])

    @cached_property
    def window(self) -> Window:
        """All pairs of thresholds of two models; its two figures are right answers and costs."""
        nothing = np.zeros(self.n)
        return self.searches[0].window(
            (self.correct[0], self.kept[0]),
            (self.correct[1] + nothing, self.early_out[0] + self.kept[1]),
            (self.correct[1] + nothing, self.late_out[0] + self.kept[1]),
        )

    def _of(self, corner: Corner) -> Point[LivePolicy]:
        """A pair of thresholds as a point."""
        right, cost = corner.sums
        return Point(self.policy([(corner.early, corner.late)]), right / self.n, cost / self.n + self.reader)

    def _sums(self, right: float, cost: float) -> tuple[float, float]:
        """An accuracy and a cost as sums of the window's figures."""
        return right * self.n, (cost - self.reader) * self.n

    def _above(
        self, window: Window, low: Point[LivePolicy], high: Point[LivePolicy], price: float, tolerance: float
    ) -> tuple[Window, Point[LivePolicy]] | None:
        """The part of a window that holds all points above the line through two, and the best of these, if any."""
        right, cost = self._sums(low.accuracy + tolerance, low.cost)
        found = window.above(price, right - price * cost)
        if found is None:
            return None
        middle = self._of(found[1])
        return (found[0], middle) if _lies_above(middle, low, high, price, tolerance) else None

    def _pair_vertices(self, tolerance: float) -> list[Point[LivePolicy]]:
        """`_vertices` of two models. What lies above a line lies above all earlier ones: windows only narrow."""

        def between(low: Point[LivePolicy], high: Point[LivePolicy], window: Window) -> list[Point[LivePolicy]]:
            price = _slope(low, high)
            found = None if price is None else self._above(window, low, high, price, tolerance)
            if found is None:
                return []
            part, middle = found
            return [*between(low, middle, part), middle, *between(middle, high, part)]

        high, low = (self._of(self.window.best(price)) for price in (_LOWEST_PRICE, _HIGHEST_PRICE))
        return [low, *between(low, high, self.window), high]

    def best_pair(self, objective: str, limit: float, known: Point[LivePolicy]) -> Point[LivePolicy]:
        """The best pair of thresholds of two models for a goal, exactly; see `choose`.

        Args:
            objective: One of `OBJECTIVES`.
            limit: For it.
            known: A point that keeps the limit. It comes back if no pair is better.
        """
        if objective == "price":
            found = self._of(self.window.best(limit))
            gain = (found.accuracy - limit * found.cost) - (known.accuracy - limit * known.cost)
            return found if gain > _ROUNDING else known
        price = self._slope_at(objective, limit)
        wanted = 1 if objective == "cost" else 0
        window, best = self._better(self.window, wanted, limit - SLACK if wanted else limit + SLACK, price, known)
        if window is None:
            return best
        # Of the pairs that are as good, the best in the other figure.
        then = best.cost + _ROUNDING if wanted else best.accuracy - _ROUNDING
        return self._better(window, 1 - wanted, then, price, best)[1]

    def _better(
        self, window: Window, wanted: int, limit: float, price: float, known: Point[LivePolicy]
    ) -> tuple[Window | None, Point[LivePolicy]]:
        """See `Window.most`; what is known comes back if no pair of the window is better."""
        known_sums, limits = self._sums(known.accuracy, known.cost), self._sums(limit, limit)
        part, found = window.most(wanted, limits[1 - wanted], price, known_sums[wanted], _ROUNDING * self.n)
        return part, known if found is None else self._of(found)

    def _slope_at(self, objective: str, limit: float) -> float:
        """That of the convex frontier's edge at a limit."""
        for low, high in pairwise(self.vertices):
            if limit <= (high.accuracy if objective == "cost" else high.cost):
                return _slope(low, high) or _HIGHEST_PRICE
        return _LOWEST_PRICE


def _slope(low: Point[LivePolicy], high: Point[LivePolicy]) -> float | None:
    """The price at which two points are worth the same; ``None`` where they hardly differ."""
    if high.cost - low.cost <= _ROUNDING or high.accuracy - low.accuracy <= _ROUNDING:
        return None
    return (high.accuracy - low.accuracy) / (high.cost - low.cost)


def _lies_above(
    middle: Point[LivePolicy], low: Point[LivePolicy], high: Point[LivePolicy], price: float, tolerance: float
) -> bool:
    """Whether a point lies between two others in cost, and above the line through them."""
    gain = (middle.accuracy - price * middle.cost) - (low.accuracy - price * low.cost)
    return gain > max(tolerance, _ROUNDING) and low.cost < middle.cost < high.cost


def undominated(right: np.ndarray, cost: np.ndarray) -> np.ndarray:
    """Places of the points that no other beats in both, cheapest first. Of equal points the first one given stays.

    Sub-chains come shorter ones first: a threshold that keeps everything does not take a single model's place.
    """
    right, cost = np.round(right, 12), np.round(cost, 12)  # sums in another order differ by rounding
    order = np.lexsort((-right, cost))
    best = np.maximum.accumulate(right[order])
    return np.asarray(order[np.r_[True, best[1:] > best[:-1]]])
