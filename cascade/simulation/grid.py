"""Every combination of a chain's thresholds on a grid of levels, at once.

A chain's accuracy and cost are sums over questions that fall into quadrants of its stages' confidences, and
into intersections of them. A histogram over all confidences and sums from each cell to the end give them for
every combination in one go, where a loop would go through the questions once a combination.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

# More questions than this and the levels come from as many of them, evenly taken.
_QUANTILE_ROWS = 100_000


def quantile_levels(values: np.ndarray | None, count: int) -> np.ndarray:
    """Thresholds at ``count`` quantiles, the lowest keeping every question; one level where there is no confidence."""
    if values is None:
        return np.zeros(1)
    some = values[:: -(-len(values) // _QUANTILE_ROWS)]
    found = np.unique(np.quantile(some, np.linspace(0, 1, count, endpoint=False), method="inverted_cdf"))
    found[0] = values.min()
    return np.asarray(found)


def grid_cells(
    confidences: Sequence[tuple[np.ndarray | None, np.ndarray | None]],
    levels: Sequence[tuple[np.ndarray, np.ndarray]],
) -> list[np.ndarray]:
    """For each axis of the grid the highest level that keeps a question, ``[questions]``.

    The arguments are those of `grid_sums`.
    """
    return [
        np.zeros(1, dtype=np.intp) if values is None else np.searchsorted(axis, values, side="right") - 1
        for pair, axes in zip(confidences, levels, strict=True)
        for values, axis in zip(pair, axes, strict=True)
    ]


def grid_sums(
    confidences: Sequence[tuple[np.ndarray | None, np.ndarray | None]],
    levels: Sequence[tuple[np.ndarray, np.ndarray]],
    kept: np.ndarray,
    early_out: np.ndarray,
    late_out: np.ndarray,
    cells: Sequence[np.ndarray] | None = None,
) -> np.ndarray:
    """Σ over the questions of what became of them, for every combination of levels.

    Args:
        confidences: For each stage but the last, early and late ``[questions]``, as in
            `cascade.simulation.quadrant.QuadrantSearch`.
        levels: For each of those stages, the early and the late thresholds, ascending; the lowest of each keeps
            every question.
        kept: ``[models, questions]``: what a question adds at the model that answers it.
        early_out: ``[models - 1, questions]``: what it adds at a stage whose first confidence rejects it.
        late_out: The same for the second confidence.
        cells: From `grid_cells`, where there are several sums to take.

    Returns:
        ``[a₁, b₁, a₂, b₂, …]``, float64: one axis for each threshold.
    """
    shape = [len(axis) for pair in levels for axis in pair]
    places = grid_cells(confidences, levels) if cells is None else cells

    def histogram(weights: np.ndarray, axes: int) -> np.ndarray:
        sizes = shape[:axes]
        place = np.zeros(kept.shape[1], dtype=np.intp)
        for size, cell in zip(sizes, places, strict=False):
            place = place * size + cell
        return np.bincount(place, weights, minlength=prod(sizes)).reshape(sizes)

    def add(total: np.ndarray, part: np.ndarray, stages: int) -> None:
        """Adds what comes of the questions that all earlier stages passed on."""
        for stage in range(stages):
            axes = (2 * stage, 2 * stage + 1)
            part = part.sum(axis=axes, keepdims=True) - _from_the_top(part, axes)
        total += part.reshape(part.shape + (1,) * (len(shape) - part.ndim))

    total = np.zeros(shape)
    for stage in range(len(confidences)):
        axes = 2 * stage
        part = _from_the_top(histogram(kept[stage] - late_out[stage], axes + 2), (axes, axes + 1))
        if (step := late_out[stage] - early_out[stage]).any():
            part = part + _from_the_top(histogram(step, axes + 1), (axes,))[..., None]
        if early_out[stage].any():
            part = part + histogram(early_out[stage], axes)[..., None, None]
        add(total, part, stage)
    add(total, histogram(kept[-1], len(shape)), len(confidences))
    return total


def _from_the_top(values: np.ndarray, axes: Sequence[int]) -> np.ndarray:
    """Sums from each cell to the end along some axes."""
    for axis in axes:
        values = np.flip(np.cumsum(np.flip(values, axis), axis), axis)
    return values
