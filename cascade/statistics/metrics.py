"""How good answers and confidences are: macro scores, AUROC, F1, and calibration (ECE, Brier score, NLL).

How sure a difference between two columns of answers is stands in `significance`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

from cascade.errors import CascadeError
from cascade.statistics.columns import columns


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


@dataclass(frozen=True)
class Reliability:
    """A reliability diagram: what was claimed and what was so, bin by bin.

    Attributes:
        mean: ``[bins]``, the mean probability in each bin; NaN in an empty one.
        share: ``[bins]``, the share right in each bin; NaN in an empty one.
        count: ``[bins]``, questions in each bin.
    """

    mean: np.ndarray
    share: np.ndarray
    count: np.ndarray

    def to_json(self) -> dict[str, list[float]]:
        """Plain values."""
        return {"mean": self.mean.tolist(), "share": self.share.tolist(), "count": self.count.tolist()}


def reliability(p: np.ndarray, y: np.ndarray, bins: int = 15, equal: str = "width") -> Reliability:
    """Sorts questions into bins of probability.

    Args:
        p: ``[questions]``, probabilities of being right.
        y: ``[questions]``, 0 or 1, or the share of answers that are right, in [0, 1].
        bins: How many.
        equal: "width" for the bins ((b − 1)/B, b/B] of Guo et al. (2017), 0 in the first; "mass" for as many
            questions in each, where equal probabilities stay together, in the bin of their first.

    Raises:
        CascadeError: If p and y are not columns of one length in [0, 1], or the binning is none of these.
    """
    p, y = _probabilities(p, y)
    if bins < 1:
        raise CascadeError(f"Expected `bins` to be at least 1, but got {bins}")
    if equal == "width":
        place = np.searchsorted(np.linspace(0, 1, bins + 1)[1:-1], p)
    elif equal == "mass":
        place = np.searchsorted(np.sort(p), p) * bins // len(p)
    else:
        raise CascadeError(f"Expected `equal` to be width or mass, but got {equal!r}")
    count = np.bincount(place, minlength=bins)
    with np.errstate(invalid="ignore"):  # 0 / 0 is the NaN of an empty bin
        return Reliability(np.bincount(place, p, bins) / count, np.bincount(place, y, bins) / count, count)


def ece(p: np.ndarray, y: np.ndarray, bins: int = 15, equal: str = "width") -> float:
    """Expected calibration error, Σ_b n_b/n · |share_b − mean_b| (Guo et al. 2017, eq. 3), in [0, 1].

    Above 0 by chance alone with few questions in a bin, even for perfect probabilities. Arguments and errors
    are those of `reliability`.
    """
    found = reliability(p, y, bins, equal)
    return float(np.nansum(found.count * np.abs(found.share - found.mean)) / found.count.sum())


def brier(p: np.ndarray, y: np.ndarray) -> float:
    """Brier score, the mean of (p − y)²; p and y as in `reliability`."""
    p, y = _probabilities(p, y)
    return float(((p - y) ** 2).mean())


def nll(p: np.ndarray, y: np.ndarray) -> float:
    """Mean negative log-likelihood in nats, −y log p − (1 − y) log(1 − p); p and y as in `reliability`.

    Probabilities are kept 10⁻¹² from 0 and 1, so that one that is sure and wrong costs 27.6 nats and not infinity.
    """
    p, y = _probabilities(p, y)
    p = p.clip(1e-12, 1 - 1e-12)
    return float(-(y * np.log(p) + (1 - y) * np.log1p(-p)).mean())


def _probabilities(p: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    p, y = columns(p=p, y=y)
    for name, values in (("p", p), ("y", y)):
        if values.min() < 0 or values.max() > 1:
            raise CascadeError(f"Expected `{name}` to be in [0, 1], but got {values.min():g} to {values.max():g}")
    return p, y
