"""The best pair of thresholds of one stage, exactly, in O(N log N).

A stage with two confidences keeps the questions of a quadrant: ``early`` ≥ a and ``late`` ≥ b. Given what each
question is worth if it is kept, if ``early`` rejects it, and if ``late`` does, `QuadrantSearch` finds the a and b
of the greatest sum. Compiled by numba at the first call (a second or two, then kept on disk).
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np


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
            self.sorted_early, self.sorted_ranks = early[self.order], ranks[self.order]

    def best(self, kept: np.ndarray, early_out: np.ndarray, late_out: np.ndarray) -> Quadrant:
        """Maximises Σ (early < a ? early_out : late < b ? late_out : kept) over thresholds a and b.

        One sweep lowers a through the values of ``early``, highest first; a tree over the values of ``late``
        holds the sum for every b at once (a node: the sum of its questions, and the best sum of one of its
        upper ends). Questions of equal confidence move together. Some question is always kept: keeping none
        is the chain without this stage's model.

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
            total, found = float(sums[best] + out.sum()), float(limits[best])
            return Quadrant(None, found, total) if self.early is None else Quadrant(found, None, total)
        gain, passed = (kept - late_out)[self.order], (late_out - early_out)[self.order]
        value, last = _sweep(self.sorted_early, self.sorted_ranks, gain, passed, len(self.levels))
        limit, inside = self.sorted_early[last], self.sorted_ranks[: last + 1]
        sums = _from_the_top(np.bincount(inside, gain[: last + 1], minlength=len(self.levels)))
        held = np.zeros(len(self.levels), dtype=bool)
        held[inside] = True
        late = float(self.levels[np.where(held, sums, -np.inf).argmax()])
        return Quadrant(float(limit), late, float(value + early_out.sum()))


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


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def _sweep(
    early: np.ndarray, ranks: np.ndarray, gain: np.ndarray, passed: np.ndarray, levels: int
) -> tuple[float, int]:
    """The greatest sum over all quadrants, less Σ early_out, and the place of the quadrant's last question.

    Places count the questions in order of ``early``, the highest first.
    """
    leaves = 1
    while leaves < levels:
        leaves *= 2
    # tree[node]: the sum of the gains of all questions below the node, and the greatest sum over the highest ranks
    # below it, of at least one question.
    tree = np.zeros((2 * leaves, 2))
    tree[:, 1] = -np.inf
    best, best_last, offset = -np.inf, 0, 0.0
    for i in range(len(early)):
        offset += passed[i]
        node = leaves + ranks[i]
        tree[node, 0] += gain[i]
        tree[node, 1] = tree[node, 0]
        node //= 2
        while node:
            left, right = 2 * node, 2 * node + 1
            tree[node, 0] = tree[left, 0] + tree[right, 0]
            tree[node, 1] = max(tree[right, 1], tree[left, 1] + tree[right, 0])
            node //= 2
        if (i + 1 == len(early) or early[i + 1] < early[i]) and offset + tree[1, 1] > best:
            best, best_last = offset + tree[1, 1], i
    return best, best_last
