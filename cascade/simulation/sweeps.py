"""The loops over questions behind `cascade.simulation.window`, whose terms they use.

Compiled by numba at the first call (a few seconds, then kept on disk).
"""

from __future__ import annotations

import numba
import numpy as np


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def bounds(
    x: np.ndarray,
    y: np.ndarray,
    gain: np.ndarray,
    columns: np.ndarray,
    rows: np.ndarray,
    weights: tuple[float, float],
    across: np.ndarray,
    along: np.ndarray,
    strip_of: np.ndarray,
    filled: int,
) -> tuple[np.ndarray, np.ndarray, float]:
    """What the pairs of each cell may be worth, less the window's base.

    A strip's levels of one threshold add up to no more than the best of them. A question that adds something may be
    kept wherever some pair of the cell keeps it; one that takes something away is kept only where all do.

    Args:
        x: The window's.
        y: The window's.
        gain: The window's.
        columns: The window's.
        rows: The window's.
        weights: How much either figure counts.
        across: The places at which strips of the first threshold begin.
        along: Those of the second.
        strip_of: ``[b]``: the strip of each level of the second threshold.
        filled: The first strip of the second threshold that keeps a question at any first threshold.

    Returns:
        The bounds, the worth of the pair at which each cell begins, and the sum of all absolute worths.
    """
    bound, worth = np.zeros((len(across) + 1, len(along) + 1)), np.zeros((len(across) + 1, len(along) + 1))
    first_kept = np.full(len(across) + 1, filled)
    total, strip = 0.0, 0
    for i in range(len(x)):
        value = weights[0] * gain[0, i] + weights[1] * gain[1, i]
        while strip + 1 < len(across) and across[strip + 1] <= x[i]:
            strip += 1
        j, k = strip, strip_of[y[i]]
        # The first strips all of whose levels keep the question.
        j_all, k_all = j + (across[j] < x[i]), k + (along[k] < y[i])
        worth[j_all, k_all] += value
        first_kept[j_all] = min(first_kept[j_all], k_all)
        if value > 0:
            bound[j, k] += value
        else:
            bound[j_all, k_all] += value
        total += abs(value)
    begins_x, best_x, more = _strip_sums(columns, weights, across)
    begins_y, best_y, more_y = _strip_sums(rows, weights, along)
    for j in range(len(across)):
        sum_bound, sum_worth = 0.0, 0.0
        for k in range(len(along)):
            sum_bound += bound[j, k]
            sum_worth += worth[j, k]
            bound[j, k], worth[j, k] = sum_bound, sum_worth
            if j:
                bound[j, k] += bound[j - 1, k]
                worth[j, k] += worth[j - 1, k]
    reached = filled
    for j in range(len(across)):
        reached = min(reached, first_kept[j])
        for k in range(len(along)):
            bound[j, k] += best_x[j] + best_y[k]
            worth[j, k] = worth[j, k] + begins_x[j] + begins_y[k] if k >= reached else -np.inf
    return bound[:-1, :-1], worth[:-1, :-1], total + more + more_y


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def _strip_sums(
    levels: np.ndarray, weights: tuple[float, float], starts: np.ndarray
) -> tuple[np.ndarray, np.ndarray, float]:
    """Sums down to where each strip begins, the greatest down to one of its levels, and the sum of absolute values."""
    begins, best = np.zeros(len(starts)), np.full(len(starts), -np.inf)
    running, total, strip = 0.0, 0.0, -1
    for i in range(levels.shape[1]):
        value = weights[0] * levels[0, i] + weights[1] * levels[1, i]
        running += value
        total += abs(value)
        if strip + 1 < len(starts) and starts[strip + 1] == i:
            strip += 1
            begins[strip] = running
        best[strip] = max(best[strip], running)
    return begins, best, total


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def divide(
    x: np.ndarray,
    y: np.ndarray,
    gain: np.ndarray,
    u0: int,
    w0: int,
    w1: int,
    columns: np.ndarray,
    rows: np.ndarray,
    base: np.ndarray,
    held: np.ndarray,
) -> tuple[np.ndarray, bool]:
    """Adds the questions outside a part to its sums. Places of those inside, and whether some lie above both ranges."""
    inside, count, above = np.empty(len(x), dtype=np.int64), 0, False
    # Many equal costs in a row round the same way: what each addition loses is kept (Kahan).
    lost = np.zeros(2)
    for i in range(len(x)):
        if y[i] >= w1:
            continue
        if x[i] >= u0:
            if y[i] >= w0:
                inside[count] = i
                count += 1
            else:
                columns[0, x[i] - u0] += gain[0, i]
                columns[1, x[i] - u0] += gain[1, i]
        elif y[i] >= w0:
            rows[0, y[i] - w0] += gain[0, i]
            rows[1, y[i] - w0] += gain[1, i]
            held[y[i] - w0] = True
        else:
            for figure in range(2):
                more = gain[figure, i] - lost[figure]
                total = base[figure] + more
                lost[figure] = (total - base[figure]) - more
                base[figure] = total
            above = True
    return inside[:count].copy(), above


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def sweep(
    x: np.ndarray, y: np.ndarray, worth: np.ndarray, columns: np.ndarray, rows: np.ndarray, held: np.ndarray
) -> int:
    """The place of the first threshold of the best pair, in O(size · log size).

    The sweep lowers the first threshold. A tree over the second holds the sum for every one of its levels at once (a
    node: the sum below it, and the best sum of one of its upper ends that ends at the level of a question kept).
    """
    levels, leaves = len(rows), 1
    while leaves < levels:
        leaves *= 2
    tree = np.zeros((2 * leaves, 2))
    tree[:, 1] = -np.inf
    for w in range(levels):
        leaf = leaves + levels - 1 - w
        tree[leaf, 0] = rows[w]
        if held[w]:
            tree[leaf, 1] = rows[w]
    for node in range(leaves - 1, 0, -1):
        left, right = 2 * node, 2 * node + 1
        tree[node, 0] = tree[left, 0] + tree[right, 0]
        tree[node, 1] = max(tree[right, 1], tree[left, 1] + tree[right, 0])
    best, best_u, offset, i = -np.inf, 0, 0.0, 0
    for u in range(len(columns)):
        offset += columns[u]
        while i < len(x) and x[i] == u:
            node = leaves + levels - 1 - y[i]
            tree[node, 0] += worth[i]
            tree[node, 1] = tree[node, 0]
            node //= 2
            while node:
                left, right = 2 * node, 2 * node + 1
                tree[node, 0] = tree[left, 0] + tree[right, 0]
                tree[node, 1] = max(tree[right, 1], tree[left, 1] + tree[right, 0])
                node //= 2
            i += 1
        if offset + tree[1, 1] > best:
            best, best_u = offset + tree[1, 1], u
    return best_u


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def sweep_within(
    x: np.ndarray,
    y: np.ndarray,
    gain: np.ndarray,
    columns: np.ndarray,
    rows: np.ndarray,
    held: np.ndarray,
    best: float,
    least: float,
    weights: np.ndarray,
    slack: float,
) -> tuple[int, int]:
    """The places of the pair with the greatest first sum above ``best`` whose second is at least ``least``, or -1.

    As `sweep`, but the tree holds the best sum of either figure and of both weighted. At every first threshold it is
    searched from the root: a node goes if one of its three bounds cannot do.
    """
    levels, leaves = len(held), 1
    while leaves < levels:
        leaves *= 2
    # A node: both sums, and the best of the first, of the second, and of both weighted.
    tree = np.zeros((2 * leaves, 5))
    tree[:, 2:] = -np.inf
    for w in range(levels):
        leaf = leaves + levels - 1 - w
        tree[leaf, 0], tree[leaf, 1] = rows[0, w], rows[1, w]
        if held[w]:
            _end(tree, leaf, weights)
    for node in range(leaves - 1, 0, -1):
        _join(tree, node, weights)
    stack, sums = np.empty(128, dtype=np.int64), np.empty((128, 2))
    found_u, found_w, i = -1, -1, 0
    across, along = 0.0, 0.0
    for u in range(columns.shape[1]):
        across += columns[0, u]
        along += columns[1, u]
        while i < len(x) and x[i] == u:
            node = leaves + levels - 1 - y[i]
            tree[node, 0] += gain[0, i]
            tree[node, 1] += gain[1, i]
            _end(tree, node, weights)
            node //= 2
            while node:
                _join(tree, node, weights)
                node //= 2
            i += 1
        stack[0], sums[0, 0], sums[0, 1], depth = 1, across, along, 1
        while depth:
            depth -= 1
            node, first, second = stack[depth], sums[depth, 0], sums[depth, 1]
            weighted = weights[0] * first + weights[1] * second
            if not (
                first + tree[node, 2] > best
                and second + tree[node, 3] >= least
                and weighted + tree[node, 4] >= weights[0] * best + weights[1] * least - slack
            ):
                continue
            if node >= leaves:
                best, found_u, found_w = first + tree[node, 2], u, leaves + levels - 1 - node
                continue
            left, right = 2 * node, 2 * node + 1
            beyond = first + tree[right, 0], second + tree[right, 1]
            # What is put down last is looked at first: the more promising half.
            last = depth + (1 if beyond[0] + tree[left, 2] > first + tree[right, 2] else 0)
            other = 2 * depth + 1 - last
            stack[last], sums[last, 0], sums[last, 1] = left, beyond[0], beyond[1]
            stack[other], sums[other, 0], sums[other, 1] = right, first, second
            depth += 2
    return found_u, found_w


@numba.njit(cache=True, inline="always")  # type: ignore[untyped-decorator]
def _end(tree: np.ndarray, leaf: int, weights: np.ndarray) -> None:
    """A leaf's best sums are its own."""
    tree[leaf, 2], tree[leaf, 3] = tree[leaf, 0], tree[leaf, 1]
    tree[leaf, 4] = weights[0] * tree[leaf, 0] + weights[1] * tree[leaf, 1]


@numba.njit(cache=True, inline="always")  # type: ignore[untyped-decorator]
def _join(tree: np.ndarray, node: int, weights: np.ndarray) -> None:
    """A node's sums from those of its halves."""
    left, right = 2 * node, 2 * node + 1
    tree[node, 0] = tree[left, 0] + tree[right, 0]
    tree[node, 1] = tree[left, 1] + tree[right, 1]
    beyond = weights[0] * tree[right, 0] + weights[1] * tree[right, 1]
    tree[node, 2] = max(tree[right, 2], tree[left, 2] + tree[right, 0])
    tree[node, 3] = max(tree[right, 3], tree[left, 3] + tree[right, 1])
    tree[node, 4] = max(tree[right, 4], tree[left, 4] + beyond)
