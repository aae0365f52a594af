"""How good a cascade's answers are, and how sure that is: macro scores, AUROC, ECE, McNemar's test."""

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


def macro_scores(answers: np.ndarray, predictions: np.ndarray) -> tuple[float, float, float]:
    """Macro precision, recall and F1 over the classes that occur in ``answers`` (the paper's Table 2).

    A class never predicted has precision 0. Arrays are ``[questions]`` of letters.
    """
    precision, recall, f1 = [], [], []
    for label in np.unique(answers.astype(str)):
        hit = int(((answers == label) & (predictions == label)).sum())
        p = hit / max(int((predictions == label).sum()), 1)
        r = hit / int((answers == label).sum())
        precision.append(p)
        recall.append(r)
        f1.append(0.0 if p + r == 0 else 2 * p * r / (p + r))
    return float(np.mean(precision)), float(np.mean(recall)), float(np.mean(f1))


def auroc(scores: np.ndarray, labels: np.ndarray) -> float:
    """Area under the ROC curve by ranks, ties counted half; NaN if there is only one class."""
    positive = int(labels.sum())
    negative = len(labels) - positive
    if positive == 0 or negative == 0:
        return float("nan")
    ranks = stats.rankdata(scores)
    return float((ranks[labels.astype(bool)].sum() - positive * (positive + 1) / 2) / (positive * negative))


def binary_f1(predicted: np.ndarray, labels: np.ndarray) -> float:
    """F1 of the positive class; 0 where nothing is predicted or present."""
    hit = int((predicted & labels).sum())
    return 0.0 if hit == 0 else 2 * hit / (int(predicted.sum()) + int(labels.sum()))
