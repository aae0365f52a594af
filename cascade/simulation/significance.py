"""How sure a difference between two columns of answers to the same questions is."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
from scipy import stats


@dataclass(frozen=True)
class McNemar:
    """McNemar's test on paired answers.

    Attributes:
        only_first, only_second: Questions that only one of the two got right.
        p_exact: Two-sided exact binomial p.
        chi2, p_chi2: Without continuity correction.
        chi2_corrected, p_chi2_corrected: With it (Edwards).
    """

    only_first: int
    only_second: int
    p_exact: float
    chi2: float
    p_chi2: float
    chi2_corrected: float
    p_chi2_corrected: float

    def to_json(self) -> dict[str, float]:
        """Plain values."""
        return asdict(self)


def mcnemar(only_first: int, only_second: int) -> McNemar:
    """McNemar's test from the two discordant counts. With none, every p is 1."""
    n = only_first + only_second
    if n == 0:
        return McNemar(0, 0, 1.0, 0.0, 1.0, 0.0, 1.0)
    difference = abs(only_first - only_second)
    chi2, corrected = difference**2 / n, max(difference - 1, 0) ** 2 / n
    exact = float(stats.binomtest(only_first, n, 0.5).pvalue)
    return McNemar(
        only_first,
        only_second,
        exact,
        chi2,
        float(stats.chi2.sf(chi2, 1)),
        corrected,
        float(stats.chi2.sf(corrected, 1)),
    )


def mcnemar_paired(first: np.ndarray, second: np.ndarray) -> McNemar:
    """McNemar's test from two ``[questions]`` arrays of right and wrong."""
    return mcnemar(int((first & ~second).sum()), int((~first & second).sum()))
