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
    "auroc_difference",
    "auroc_interval",
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


def auroc_difference(
    first: np.ndarray, second: np.ndarray, labels: np.ndarray, z: float = 1.96
) -> tuple[float, float, float]:
    """The area of one confidence minus that of another on the same questions, and its interval.

    DeLong, DeLong and Clarke-Pearson (1988): each question's part in an area is the share of those with the other
    label that it is ranked rightly against, ties counting half; the difference's variance is that of these parts'
    differences.

    Args:
        first: ``[questions]``.
        second: ``[questions]``.
        labels: ``[questions]``, bool; some of each.
        z: 1.96 for 95 %.

    Returns:
        The difference, and the ends of its interval.
    """
    labels = np.asarray(labels, dtype=bool)
    (positive, negative), (other_positive, other_negative) = (_parts(scores, labels) for scores in (first, second))
    difference = float(positive.mean() - other_positive.mean())
    apart = [positive - other_positive, negative - other_negative]
    error = math.sqrt(sum(float(part.var(ddof=1)) / len(part) for part in apart))
    return difference, difference - z * error, difference + z * error


def _parts(scores: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each positive the share of negatives below it, and of each negative the share of positives above it."""
    from scipy.stats import rankdata  # which takes a while to load

    whole, positives, negatives = (rankdata(part) for part in (scores, scores[labels], scores[~labels]))
    return (whole[labels] - positives) / len(negatives), 1 - (whole[~labels] - negatives) / len(positives)
