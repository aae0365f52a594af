"""How good answers are: macro scores, F1 and hallucinations. How good probabilities are is `probes.metrics`', given on.

How sure a difference between two columns of answers is stands in `significance`.
"""

from __future__ import annotations

import math

import numpy as np

from probes.metrics import Reliability, auroc, brier, ece, nll, reliability

__all__ = [
    "Reliability",
    "auroc",
    "binary_f1",
    "brier",
    "ece",
    "hallucination_rate",
    "macro_scores",
    "nll",
    "reliability",
]


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


def hallucination_rate(correct: np.ndarray, attempted: np.ndarray) -> float:
    """Share of all questions that were answered, and wrongly (the paper's Table 11).

    "I don't know" is neither right nor a hallucination, so that accuracy, hallucination rate and the share of
    abstentions add up to 1. Arrays are ``[questions]``, bool.
    """
    return float((attempted & ~correct).mean())


def binary_f1(predicted: np.ndarray, labels: np.ndarray) -> float:
    """F1 of the positive class; 0 where nothing is predicted or present."""
    hit = int((predicted & labels).sum())
    return 0.0 if hit == 0 else 2 * hit / (int(predicted.sum()) + int(labels.sum()))


def auroc_interval(area: float, positives: int, negatives: int, z: float = 1.96) -> tuple[float, float]:
    """The interval of an area under the ROC curve by Hanley and McNeil (1982): the area ± z standard errors, in [0, 1].

    Args:
        area: The area.
        positives: How many are positive.
        negatives: How many are negative.
        z: 1.96 for 95 %.
    """
    first, second = area / (2 - area), 2 * area**2 / (1 + area)
    spread = area * (1 - area) + (positives - 1) * (first - area**2) + (negatives - 1) * (second - area**2)
    error = math.sqrt(max(spread, 0.0) / (positives * negatives))
    return max(area - z * error, 0.0), min(area + z * error, 1.0)
