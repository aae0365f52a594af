"""How good a cascade's answers are: macro scores, AUROC, F1."""

from __future__ import annotations

import numpy as np
from scipy import stats


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
