"""The convex hull of points in a plane: what choosing between them by lot reaches."""

from __future__ import annotations

import numpy as np


def upper_hull(x: np.ndarray, y: np.ndarray) -> list[int]:
    """Places of the upper convex hull's vertices, by ascending ``x``; both are ``[points]``, at least one.

    Points on the line between two vertices are left out, and of several with the smallest ``x`` all but the highest.
    """
    hull: list[int] = []
    for i in np.lexsort((y, x)):
        while len(hull) > 1:
            a, b = hull[-2], hull[-1]
            if (x[b] - x[a]) * (y[i] - y[a]) - (y[b] - y[a]) * (x[i] - x[a]) < 0:
                break
            hull.pop()
        if len(hull) == 1 and x[hull[0]] == x[i]:
            hull.pop()
        hull.append(int(i))
    return hull
