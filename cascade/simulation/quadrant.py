"""The best pair of thresholds of one stage, exactly, in O(N log N).

A stage with two confidences keeps the questions of a quadrant: ``early`` ≥ a and ``late`` ≥ b. Given what each
question is worth if it is kept, if ``early`` rejects it, and if ``late`` does, `QuadrantSearch` finds the a and b
of the greatest sum.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cascade.simulation.window import Window


@dataclass(frozen=True)
class Quadrant:
    """The best pair of thresholds.

    Attributes:
        early: a, one of the values of ``early``; ``None`` where there is no such confidence.
        late: b, the same of ``late``.
        value: The sum of the questions' worth.
    """

    early: float | None
    late: float | None
    value: float


class QuadrantSearch:
    """Finds the best thresholds of one stage; what does not depend on the questions' worth is sorted once.

    Args:
        early: ``[questions]``, asked first, or ``None`` where there is none.
        late: ``[questions]``, asked of what ``early`` keeps, or ``None``.
    """

    def __init__(self, early: np.ndarray | None, late: np.ndarray | None) -> None:
        self.early, self.late = early, late
        if early is not None and late is not None:
            self.levels, ranks = np.unique(late, return_inverse=True)
            self.order = np.argsort(early)[::-1]
            self.sorted_early = early[self.order]
            first = np.r_[True, self.sorted_early[1:] < self.sorted_early[:-1]]
            self.starts = np.flatnonzero(first)
            self.x = np.cumsum(first, dtype=np.int32) - np.int32(1)
            self.y = (len(self.levels) - 1 - ranks[self.order]).astype(np.int32)

    def best(self, kept: np.ndarray, early_out: np.ndarray, late_out: np.ndarray) -> Quadrant:
        """Maximises Σ (early < a ? early_out : late < b ? late_out : kept) over thresholds a and b.

        Questions of equal confidence move together. Some question is always kept: keeping none is the chain
        without this stage's model.

        Args:
            kept: ``[questions]``, float64: what each question is worth if it is kept.
            early_out: The same if ``early`` rejects it.
            late_out: The same if ``late`` does.
        """
        if self.early is None and self.late is None:
            return Quadrant(None, None, float(kept.sum()))
        if self.early is None or self.late is None:
            values, out = (self.late, late_out) if self.early is None else (self.early, early_out)
            assert values is not None
            limits, sums = one_threshold(values, kept - out)
            best = int(sums.argmax())
            total, limit = float(sums[best] + out.sum()), float(limits[best])
            return Quadrant(None, limit, total) if self.early is None else Quadrant(limit, None, total)
        nothing = np.zeros_like(kept)
        found = self.window((kept, nothing), (early_out, nothing), (late_out, nothing)).best(0.0)
        return Quadrant(found.early, found.late, found.sums[0])

    def window(
        self,
        kept: tuple[np.ndarray, np.ndarray],
        early_out: tuple[np.ndarray, np.ndarray],
        late_out: tuple[np.ndarray, np.ndarray],
    ) -> Window:
        """All pairs of thresholds on two confidences. The arguments are those of `best`, of two figures each."""
        gain, passed, base = [], [], []
        for keeps, early, late in zip(kept, early_out, late_out, strict=True):
            gain.append((keeps - late)[self.order])
            passed.append(np.add.reduceat((late - early)[self.order], self.starts))
            base.append(early.sum())
        return Window(
            early=self.sorted_early[self.starts],
            late=self.levels[::-1],
            x=self.x,
            y=self.y,
            gain=np.array(gain),
            columns=np.array(passed),
            rows=np.zeros((2, len(self.levels))),
            base=np.array(base),
            held=np.zeros(len(self.levels), dtype=bool),
            above_all=False,
        )


def one_threshold(values: np.ndarray, gain: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Σ of ``gain`` over the questions kept, for every threshold on one confidence.

    Args:
        values: ``[questions]``: the confidence.
        gain: ``[questions]``.

    Returns:
        The distinct values, ascending, and the sum over ``values >= limit`` for each.
    """
    limits, inverse = np.unique(values, return_inverse=True)
    return limits, _from_the_top(np.bincount(inverse, gain, minlength=len(limits)))


def _from_the_top(sums: np.ndarray) -> np.ndarray:
    """Sums from each place to the end."""
    return np.asarray(np.cumsum(sums[::-1])[::-1])
