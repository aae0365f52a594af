"""Whether two sets of questions look alike, going by several signals at once: a permutation test of exact level.

For two sets that are both there. What comes question by question is `cascade.statistics.sequential`'s.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np

from cascade.errors import CascadeError

MOST = 10_000
"""Questions of each set that are tested at the most, drawn by lot."""


@dataclass(frozen=True)
class TwoSample:
    """The test of H0: the signals of two sets of questions are distributed alike, together.

    Attributes:
        p: Of the largest distance among the signals. Exact: P(p ≤ α) ≤ α under H0 for every α.
        signal: Where the distance is largest.
        distances: Of each signal: Kolmogorov and Smirnov's, the largest difference of the two distribution functions.
        p_values: Of each signal, against the largest distance of all signals (Westfall & Young 1993): the probability
            that any signal which does not differ has one of at most α is at most α.
        tested: Questions of each set that were tested; fewer than there are where these are very many.
        permutations: How many.
    """

    p: float
    signal: str
    distances: dict[str, float]
    p_values: dict[str, float]
    tested: tuple[int, int]
    permutations: int

    def to_json(self) -> dict[str, object]:
        """Plain values."""
        return asdict(self)


def two_sample(
    first: Mapping[str, np.ndarray],
    second: Mapping[str, np.ndarray],
    permutations: int = 999,
    most: int = MOST,
    seed: int = 0,
) -> TwoSample:
    """Tests whether the signals of two sets of questions are distributed alike.

    The statistic is the largest of the signals' Kolmogorov-Smirnov distances, and its p-value that of dealing the
    questions anew: p = (1 + #{permutations with at least this statistic}) / (1 + permutations). A question keeps its
    signals together, so that they may depend on each other in any way, and have ties. A signal that is not known of a
    question (NaN) counts as lower than all others, so that a different share of them is a difference.

    Args:
        first: Name of each signal to its values, ``[n]``.
        second: The same signals, ``[m]``.
        permutations: How many; the smallest p-value is 1 / (1 + permutations).
        most: Questions of each set to test; of more so many are drawn. The level stays exact, and power is that of so
            many: with 10,000 of each, distances above 0.04 are seen nearly always.
        seed: Of what is drawn.

    Raises:
        CascadeError: If the signals are not the same ones, or not columns over the same questions, or there are none.
    """
    if not first or set(first) != set(second):
        raise CascadeError(
            f"Expected the same signals in both sets, at least one, but got {', '.join(first) or 'none'} and "
            f"{', '.join(second) or 'none'}"
        )
    if permutations < 1 or most < 1:
        raise CascadeError(f"Expected `permutations` and `most` to be at least 1, but got {permutations} and {most}")
    names, rng = list(first), np.random.default_rng(seed)
    drawn = [_draw([np.asarray(some[name], float) for name in names], most, rng) for some in (first, second)]
    n, m = (part.shape[1] for part in drawn)
    values = np.nan_to_num(np.concatenate(drawn, axis=1), nan=-np.inf, posinf=np.inf, neginf=-np.inf)
    orders = np.argsort(values, axis=1, kind="stable")
    ordered = np.take_along_axis(values, orders, axis=1)
    # A distance counts at the last of values that are equal.
    last = np.concatenate([ordered[:, 1:] != ordered[:, :-1], np.ones((len(names), 1), bool)], axis=1)

    # +1/n and −1/m as whole numbers, so that equal distances compare as equal.
    steps = np.concatenate([np.full(n, m, dtype=np.int64), np.full(m, -n, dtype=np.int64)])

    def largest(of: np.ndarray) -> np.ndarray:
        return np.array(
            [np.abs(np.cumsum(of[order])[end]).max() for order, end in zip(orders, last, strict=True)], dtype=np.int64
        )

    found = largest(steps)
    above = np.zeros(len(names), dtype=np.int64)
    for _ in range(permutations):
        above += largest(rng.permutation(steps)).max() >= found
    p = (1 + above) / (1 + permutations)
    top = int(found.argmax())
    return TwoSample(
        float(p[top]),
        names[top],
        {name: float(d / (n * m)) for name, d in zip(names, found, strict=True)},
        {name: float(value) for name, value in zip(names, p, strict=True)},
        (n, m),
        permutations,
    )


def _draw(columns: list[np.ndarray], most: int, rng: np.random.Generator) -> np.ndarray:
    """Up to ``most`` questions of columns ``[n]``: ``[signals, questions]``."""
    shapes = {column.shape for column in columns}
    if len(shapes) > 1 or len(shape := shapes.pop()) != 1 or not shape[0]:
        raise CascadeError(
            f"Expected each signal to be [questions] of the same ones, at least one, but got shapes "
            f"{', '.join(str(column.shape) for column in columns)}"
        )
    rows = slice(None) if shape[0] <= most else rng.choice(shape[0], most, replace=False)
    return np.stack([column[rows] for column in columns])
