"""How good P(IK) is: the paper's Table 14, and calibration, with bootstrap intervals over the questions.

Every figure is computed under row weights, so that a thousand resamples are a matrix product and not a loop.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from torch import Tensor

from probes.errors import ProbeError

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


def _checked(p_ik: np.ndarray | Tensor, labels: np.ndarray | Tensor) -> tuple[np.ndarray, np.ndarray]:
    if p_ik.shape != labels.shape or p_ik.ndim != 1 or not len(labels):
        raise ProbeError(
            f"Expected p_ik and labels of one shape [rows], but got {tuple(p_ik.shape)}, {tuple(labels.shape)}"
        )
    return np.asarray(p_ik, dtype=np.float64), np.asarray(labels, dtype=np.float64)


def _weighted(p: np.ndarray, y: np.ndarray, threshold: float, weights: np.ndarray) -> Mapping[str, np.ndarray]:
    """The figures under each row of ``weights``, ``[sets, rows]``."""
    right, knows, total = y >= 0.5, p >= threshold, weights.sum(1)
    hits, said, true = weights @ (right & knows), weights @ knows, weights @ right
    q = np.clip(p, 1e-12, 1 - 1e-12)
    with np.errstate(invalid="ignore", divide="ignore"):
        return {
            "accuracy": weights @ (knows == right) / total,
            "f1": np.where(said + true > 0, 2 * hits / np.maximum(said + true, 1e-300), 0.0),
            "auroc": _auroc(p, right, weights),
            "ece": _calibration_error(p, y, weights, np.arange(1, ECE_BINS) / ECE_BINS),
            "ece_mass": _calibration_error(p, y, weights, np.quantile(p, np.arange(1, ECE_BINS) / ECE_BINS)),
            "brier": weights @ ((p - y) ** 2) / total,
            "nll": weights @ -(y * np.log(q) + (1 - y) * np.log1p(-q)) / total,
        }


def _auroc(p: np.ndarray, right: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Share of (right, wrong) pairs in the right order, ties counted half."""
    order = np.argsort(p, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(p[order]) > 0])
    of_right = np.add.reduceat((weights * right)[:, order], starts, axis=1)
    of_wrong = np.add.reduceat((weights * ~right)[:, order], starts, axis=1)
    below = np.cumsum(of_wrong, axis=1) - of_wrong
    pairs = of_right.sum(1) * of_wrong.sum(1)
    ordered: np.ndarray = (of_right * (below + of_wrong / 2)).sum(1) / pairs
    return ordered


def _calibration_error(p: np.ndarray, y: np.ndarray, weights: np.ndarray, inner_edges: np.ndarray) -> np.ndarray:
    """Expected calibration error: the mean over rows of |mean P(IK) − share right| of the row's bin (low, high]."""
    bins = np.searchsorted(inner_edges, p, side="left")
    gaps = np.zeros((len(p), ECE_BINS))
    gaps[np.arange(len(p)), bins] = p - y
    error: np.ndarray = np.abs(weights @ gaps).sum(1) / weights.sum(1)
    return error
