"""How good probabilities of being right are: the paper's Table 14, and calibration, with bootstrap intervals.

The only AUROC, calibration error, Brier score and NLL of the project; needs numpy alone. What `probe_metrics` gives is
computed under row weights, so that a thousand resamples are a matrix product and not a loop.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from probes.errors import ProbeError

if TYPE_CHECKING:
    from torch import Tensor

ECE_BINS = 15
RESAMPLES = 1000


def probe_metrics(p_ik: np.ndarray | Tensor, labels: np.ndarray | Tensor, threshold: float = 0.5) -> dict[str, float]:
    """The figures of one head on one set of questions.

    Args:
        p_ik: ``[rows]`` in [0, 1].
        labels: ``[rows]``, 0 or 1; a share of right answers counts as right from a half on, but for brier, nll and
            the calibration errors.
        threshold: For accuracy and F1; reaching it counts as "knows".

    Returns:
        accuracy, f1, auroc (NaN where there is one class), ece (15 bins of equal width), ece_mass (15 bins of
        equal mass), brier, nll.

    Raises:
        ProbeError: If the shapes differ.
    """
    p, y = _checked(p_ik, labels)
    return {name: float(value[0]) for name, value in _weighted(p, y, threshold, np.ones((1, len(y)))).items()}


def bootstrap_metrics(
    p_ik: np.ndarray, labels: np.ndarray, threshold: float = 0.5, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, np.ndarray]:
    """`probe_metrics` on questions drawn again with replacement; the same draws for every call with one seed.

    Returns:
        For each figure ``[resamples]``, float64.
    """
    p, y = _checked(p_ik, labels)
    weights = np.random.default_rng(seed).multinomial(len(y), np.full(len(y), 1 / len(y)), size=resamples)
    return dict(_weighted(p, y, threshold, weights.astype(np.float64)))


def auroc(scores: np.ndarray, labels: np.ndarray) -> float:
    """Area under the ROC curve, ties counted half; NaN if there is only one class.

    Args:
        scores: ``[rows]``; only their order counts.
        labels: ``[rows]``, bool.
    """
    right = labels.astype(bool)
    if right.all() or not right.any():
        return float("nan")
    return float(_auroc(scores, right, np.ones((1, len(right))))[0])


@dataclass(frozen=True)
class Reliability:
    """A reliability diagram: what was claimed and what was so, bin by bin.

    Attributes:
        mean: ``[bins]``, the mean probability in each bin; NaN in an empty one.
        share: ``[bins]``, the share right in each bin; NaN in an empty one.
        count: ``[bins]``, rows in each bin.
    """

    mean: np.ndarray
    share: np.ndarray
    count: np.ndarray


def reliability(p: np.ndarray, y: np.ndarray, bins: int = ECE_BINS, equal: str = "width") -> Reliability:
    """Sorts rows into bins of probability.

    Args:
        p: ``[rows]``, probabilities of being right.
        y: ``[rows]``, 0 or 1, or the share of answers that are right, in [0, 1].
        bins: How many.
        equal: "width" for the bins ((b − 1)/B, b/B] of Guo et al. (2017), 0 in the first; "mass" for bins between
            quantiles of ``p``, as many rows in each but for ties.

    Raises:
        ProbeError: If p and y are not columns of one length in [0, 1], or the binning is none of these.
    """
    p, y = _probabilities(p, y)
    place = np.searchsorted(_inner_edges(p, bins, equal), p)
    count = np.bincount(place, minlength=bins)
    with np.errstate(invalid="ignore"):  # 0 / 0 is the NaN of an empty bin
        return Reliability(np.bincount(place, p, bins) / count, np.bincount(place, y, bins) / count, count)


def ece(p: np.ndarray, y: np.ndarray, bins: int = ECE_BINS, equal: str = "width") -> float:
    """Expected calibration error, Σ_b n_b/n · |share_b − mean_b| (Guo et al. 2017, eq. 3), in [0, 1].

    Above 0 by chance alone with few rows in a bin, even for perfect probabilities. Arguments and errors are those of
    `reliability`.
    """
    p, y = _probabilities(p, y)
    return float(_calibration_error(p, y, np.ones((1, len(p))), _inner_edges(p, bins, equal))[0])


def brier(p: np.ndarray, y: np.ndarray) -> float:
    """Mean of (p − y)², of probabilities and labels as in `reliability`."""
    p, y = _probabilities(p, y)
    return float(_brier(p, y).mean())


def nll(p: np.ndarray, y: np.ndarray) -> float:
    """Mean of −(y log p + (1 − y) log(1 − p)), in nats, of probabilities and labels as in `reliability`.

    Probabilities are clipped to [1e-12, 1 − 1e-12], so that one that is sure and wrong does not make it infinite.
    """
    p, y = _probabilities(p, y)
    return float(_nll(p, y).mean())


def _checked(p_ik: np.ndarray | Tensor, labels: np.ndarray | Tensor) -> tuple[np.ndarray, np.ndarray]:
    if p_ik.shape != labels.shape or p_ik.ndim != 1 or not len(labels):
        raise ProbeError(
            f"Expected p_ik and labels of one shape [rows], but got {tuple(p_ik.shape)}, {tuple(labels.shape)}"
        )
    return np.asarray(p_ik, dtype=np.float64), np.asarray(labels, dtype=np.float64)


def _probabilities(p: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    p, y = np.asarray(p, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if p.ndim != 1 or p.size == 0:
        raise ProbeError(f"Expected `p` to be [rows], at least one, but got shape {p.shape}")
    if y.shape != p.shape:
        raise ProbeError(f"Expected `y` to have as many rows as `p`, {p.shape}, but got {y.shape}")
    for name, values in (("p", p), ("y", y)):
        if not ((values >= 0) & (values <= 1)).all():
            raise ProbeError(f"Expected `{name}` to be in [0, 1], but got {values.min():g} to {values.max():g}")
    return p, y


def _inner_edges(p: np.ndarray, bins: int, equal: str) -> np.ndarray:
    """The edges between bins (low, high], ``[bins − 1]``."""
    if bins < 1:
        raise ProbeError(f"Expected `bins` to be at least 1, but got {bins}")
    shares = np.arange(1, bins) / bins
    if equal == "width":
        return shares
    if equal == "mass":
        return np.asarray(np.quantile(p, shares))
    raise ProbeError(f"Expected `equal` to be width or mass, but got {equal!r}")


def _brier(p: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.asarray((p - y) ** 2)


def _nll(p: np.ndarray, y: np.ndarray) -> np.ndarray:
    q = np.clip(p, 1e-12, 1 - 1e-12)
    return np.asarray(-(y * np.log(q) + (1 - y) * np.log1p(-q)))


def _weighted(p: np.ndarray, y: np.ndarray, threshold: float, weights: np.ndarray) -> Mapping[str, np.ndarray]:
    """The figures under each row of ``weights``, ``[sets, rows]``."""
    right, knows, total = y >= 0.5, p >= threshold, weights.sum(1)
    hits, said, true = weights @ (right & knows), weights @ knows, weights @ right
    return {
        "accuracy": weights @ (knows == right) / total,
        "f1": np.where(said + true > 0, 2 * hits / np.maximum(said + true, 1e-300), 0.0),
        "auroc": _auroc(p, right, weights),
        "ece": _calibration_error(p, y, weights, _inner_edges(p, ECE_BINS, "width")),
        "ece_mass": _calibration_error(p, y, weights, _inner_edges(p, ECE_BINS, "mass")),
        "brier": weights @ _brier(p, y) / total,
        "nll": weights @ _nll(p, y) / total,
    }


def _auroc(p: np.ndarray, right: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Share of (right, wrong) pairs in the right order, ties counted half; ``[sets]``."""
    order = np.argsort(p, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(p[order]) > 0])
    of_right = np.add.reduceat((weights * right)[:, order], starts, axis=1)
    of_wrong = np.add.reduceat((weights * ~right)[:, order], starts, axis=1)
    below = np.cumsum(of_wrong, axis=1) - of_wrong
    pairs = of_right.sum(1) * of_wrong.sum(1)
    with np.errstate(invalid="ignore"):  # 0 / 0 is the NaN of a single class
        ordered: np.ndarray = (of_right * (below + of_wrong / 2)).sum(1) / pairs
    return ordered


def _calibration_error(p: np.ndarray, y: np.ndarray, weights: np.ndarray, inner_edges: np.ndarray) -> np.ndarray:
    """Expected calibration error: the mean over rows of their bin's |mean probability − share right|, ``[sets]``."""
    bins = np.searchsorted(inner_edges, p, side="left")
    gaps = np.zeros((len(p), len(inner_edges) + 1))
    gaps[np.arange(len(p)), bins] = p - y
    error: np.ndarray = np.abs(weights @ gaps).sum(1) / weights.sum(1)
    return error
