"""Checks columns of numbers, one a question, before something is measured on them."""

from __future__ import annotations

import numpy as np

from cascade.errors import CascadeError


def columns(**given: np.ndarray) -> tuple[np.ndarray, ...]:
    """The arguments as float64 arrays ``[questions]``, in the order given.

    Raises:
        CascadeError: If one is not a column of finite numbers, or is not as long as the first. It is named.
    """
    checked: list[np.ndarray] = []
    for name, values in given.items():
        column = np.asarray(values, dtype=float)
        if column.ndim != 1 or column.size == 0:
            raise CascadeError(f"Expected `{name}` to be [questions], at least one, but got shape {column.shape}")
        if checked and column.shape != checked[0].shape:
            raise CascadeError(
                f"Expected `{name}` to have as many questions as `{next(iter(given))}`, {checked[0].size}, "
                f"but got {column.size}"
            )
        if not np.isfinite(column).all():
            raise CascadeError(f"Expected `{name}` to be finite, but {(~np.isfinite(column)).sum()} values are not")
        checked.append(column)
    return tuple(checked)
