"""Tango's score test of a paired difference, and the critical value that makes it exact.

Tango (1998), "Equivalence test and confidence interval for the difference in proportions for the paired-sample
design", Statistics in Medicine 17. Two columns of answers to the same n questions differ in b questions that only the
first got right and c that only the second did. The normal approximation of the score statistic is too generous for few
questions: `critical_value` replaces the normal quantile by the smallest number at which the test's true size, at its
worst over the nuisance parameter, is at most the level asked for.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from scipy import special

from cascade.errors import CascadeError

# Up to so many questions every count is summed; for more, so many of them, as neighbours hardly differ.
EVERY_COUNT = 20_000
NODES = 200
# Standard deviations of the first count that are summed; what lies outside has a probability below 1e-14.
WIDE = 8
# Values of the nuisance parameter, log-spaced; and more where nearly all answers differ, as the size jumps most there.
SHARES, NEAR_THE_END = 160, 80


def score(only_first: np.ndarray | float, only_second: np.ndarray | float, n: float, difference: float) -> np.ndarray:
    """The score statistic of H0: P(only first) − P(only second) = difference.

    (b − c − nδ) / √(n (2q + δ(1 − δ))), with q the likelihood's maximum for P(only second) under H0, the larger root
    of 2n q² − (b + c − (2n − b + c) δ) q − c δ (1 − δ) = 0.

    Args:
        only_first: b, any shape, float64. Need not be whole numbers: shares of another number of questions are scaled.
        only_second: c, the same.
        n: Questions in all.
        difference: δ, in (−1, 1).

    Returns:
        The same shape; 0 where the observed difference is δ.
    """
    b, c, d = np.asarray(only_first, dtype=float), np.asarray(only_second, dtype=float), difference
    linear = b + c - (2 * n - b + c) * d
    q = (linear + np.sqrt(np.maximum(linear**2 + 8 * n * c * d * (1 - d), 0.0))) / (4 * n)
    # Where nearly all answers differ in one way rounding may take the variance below 0.
    excess, variance = b - c - n * d, np.maximum(n * (2 * q + d * (1 - d)), 1e-30)
    return np.asarray(excess / np.sqrt(variance))


def size(n: int, epsilon: float, critical: float, shares: np.ndarray) -> np.ndarray:
    """How often the test of "the loss is ε or more" rejects where the loss is just ε.

    Args:
        n: Questions.
        epsilon: ε, in (0, 1).
        critical: The score from which on it rejects.
        shares: The nuisance parameter, P(only first), any number of values in [0, (1 − ε) / 2].

    Returns:
        The probability at each of ``shares``. Summed over every count up to `EVERY_COUNT` questions.
    """
    spread = WIDE * np.sqrt(n * shares * (1 - shares)) + WIDE
    low, high = np.maximum(n * shares - spread, 0).astype(int), np.minimum(n * shares + spread, n).astype(int)
    if n > EVERY_COUNT:
        # Rounded, and so not at equal steps: these may keep time with the jumps of the largest c.
        first = np.linspace(low, high, NODES, axis=1).astype(int)
        limit = _most_losses(first, n, epsilon, critical)
        weight, below = _rejected(first, limit, n, epsilon, shares[:, None])
        weight[:, 1:] *= np.diff(first, axis=1) > 0
        return np.asarray((weight * below).sum(axis=1) / weight.sum(axis=1))
    counts = np.arange(n + 1)
    most = _most_losses(counts, n, epsilon, critical)
    found = np.empty(len(shares))
    for place, share in enumerate(shares):
        near = slice(low[place], high[place] + 1)
        weight, below = _rejected(counts[near], most[near], n, epsilon, share)
        found[place] = (weight * below).sum()
    return found


def _rejected(
    first: np.ndarray, limit: np.ndarray, n: int, epsilon: float, share: np.ndarray | float
) -> tuple[np.ndarray, np.ndarray]:
    """The probability of each b, and given it that of a c of at most a limit, where the loss is just ε."""
    log = special.xlogy(first, share) + special.xlog1py(n - first, -share)
    log += special.gammaln(n + 1) - special.gammaln(first + 1) - special.gammaln(n - first + 1)
    # Given b, the other count is binomial among the rest. `bdtr` takes no −1, the count that nothing is below.
    below = special.bdtr(np.maximum(limit, 0), n - first, np.minimum((share + epsilon) / (1 - share), 1.0))
    return np.exp(log), np.where(limit < 0, 0.0, below)


def _most_losses(first: np.ndarray, n: int, epsilon: float, critical: float) -> np.ndarray:
    """For each b the largest c at which the test rejects; −1 where it never does. The score falls as c grows."""
    low, high = np.full(first.shape, -1), n - first + 1
    while (wide := high - low > 1).any():
        middle = np.where(wide, (low + high) // 2, low)
        rejects = score(first, middle, n, -epsilon) >= critical
        low, high = np.where(wide & rejects, middle, low), np.where(wide & ~rejects, middle, high)
    return low


@lru_cache(maxsize=256)
def critical_value(n: int, epsilon: float, delta: float) -> float:
    """The score from which on a loss of at least ε is ruled out on n questions, at level δ.

    The smallest number at which `size` is at most δ for every nuisance parameter, by bisection. It lies a little above
    the normal quantile, and the more so the fewer the questions.

    Args:
        n: Questions, at least 1.
        epsilon: ε, in (0, 1).
        delta: δ, in (0, 1).

    Raises:
        CascadeError: If one is not what it has to be.
    """
    if n < 1:
        raise CascadeError(f"Expected `n` to be at least 1 question, but got {n}")
    for name, value in (("epsilon", epsilon), ("delta", delta)):
        if not 0 < value < 1:
            raise CascadeError(f"Expected `{name}` to be between 0 and 1, but got {value:g}")
    most, every = (1 - epsilon) / 2, n <= EVERY_COUNT
    shares = np.r_[0.0, np.geomspace(0.01 / n, most, SHARES if every else SHARES // 3)]
    shares = np.r_[shares, np.linspace(0.8 * most, most, NEAR_THE_END)] if every else shares

    def too_low(critical: float) -> bool:
        return bool(size(n, epsilon, critical, shares).max() > delta)

    low = float(special.ndtri(1 - delta))
    width = 0.02
    while too_low(low + width):
        low, width = low + width, 2 * width
    high = low + width
    while high - low > 1e-4:
        middle = (low + high) / 2
        low, high = (middle, high) if too_low(middle) else (low, middle)
    return high


def interval(only_first: int, only_second: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Tango's two-sided interval of the difference of two paired accuracies, first − second.

    The differences that the score test at level 1 − confidence does not reject.

    Args:
        only_first: Questions that only the first got right.
        only_second: Questions that only the second got right.
        n: Questions in all.
        confidence: In (0, 1).
    """
    from scipy import optimize

    found, end = (only_first - only_second) / n, 1 - 1e-12
    quantile = float(special.ndtri((1 + confidence) / 2))

    def at(difference: float, sign: int) -> float:
        return float(score(only_first, only_second, n, difference)) - sign * quantile

    low = -1.0 if found == -1 else float(optimize.brentq(at, -end, found, args=(1,)))
    high = 1.0 if found == 1 else float(optimize.brentq(at, found, end, args=(-1,)))
    return low, high
