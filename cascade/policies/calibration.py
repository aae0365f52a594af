"""Probabilities of being right from a model's confidences: logistic on their logits, isotonic on top.

Without torch, for score tables of any origin. The calibrators of P(IK) probes themselves are `probes`'.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import expit, logit

from cascade.errors import CascadeError
from cascade.scores.arrays import ModelScores
from cascade.scores.columns import Signals

SIGNALS = ("p_ik", "p_t")
# Confidences saturate at 0 and 1 (P(T) in bfloat16 does); their logits must not.
CLIP = 1e-6


def logits(p: np.ndarray) -> np.ndarray:
    """Log-odds of probabilities, which are clipped to [1e-6, 1 − 1e-6] first."""
    odds: np.ndarray = logit(np.clip(p, CLIP, 1 - CLIP))
    return odds


def fit_logistic(features: np.ndarray, labels: np.ndarray, ridge: float = 1e-3, steps: int = 50) -> np.ndarray:
    """Logistic regression by Newton's method, with a small ridge so that separable data has an answer.

    Args:
        features: ``[rows, features]``.
        labels: ``[rows]``, 0 or 1.
        ridge: L2 penalty on the weights, not on the intercept; in units of one row.
        steps: At the most.

    Returns:
        ``[1 + features]``: intercept, then weights.
    """
    x = np.column_stack([np.ones(len(features)), features])
    penalty = np.diag([1e-9] + [ridge] * features.shape[1])
    weights = np.zeros(x.shape[1])

    def loss(w: np.ndarray) -> float:
        z = x @ w
        return float(np.logaddexp(0, z).sum() - labels @ z + 0.5 * w @ penalty @ w)

    for _ in range(steps):
        p = expit(x @ weights)
        gradient = x.T @ (p - labels) + penalty @ weights
        step = np.linalg.solve((x * (p * (1 - p))[:, None]).T @ x + penalty, gradient)
        size, here = 1.0, loss(weights)
        while loss(weights - size * step) > here and size > 1e-6:
            size /= 2
        weights = weights - size * step
        if np.abs(size * step).max() < 1e-10:
            break
    return weights


@dataclass(frozen=True)
class Calibrated:
    """Confidences of one model turned into the probability of being right.

    Attributes:
        signals: Which of the model's columns, of `SIGNALS`.
        weights: ``[1 + signals]``, from `fit_logistic`.
        knots: ``[2, knots]``: the isotonic map of the logistic's log-odds, linear in between.
    """

    signals: tuple[str, ...]
    weights: np.ndarray
    knots: np.ndarray

    def to_json(self) -> dict[str, object]:
        """Plain values."""
        return {"signals": list(self.signals), "weights": self.weights.tolist(), "knots": self.knots.tolist()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Calibrated:
        """The inverse of `to_json`.

        Raises:
            CascadeError: If they are not that.
        """
        try:
            signals, weights = tuple(values["signals"]), np.asarray(values["weights"], dtype=float)
            knots = np.asarray(values["knots"], dtype=float)
        except (KeyError, TypeError, ValueError) as error:
            raise CascadeError(f"Expected a calibration (signals, weights, knots), but got {error!r}") from error
        whole = weights.shape == (1 + len(signals),) and knots.ndim == 2 and len(knots) == 2 and knots.size
        if not whole or not set(signals) <= set(SIGNALS) or not np.isfinite([*weights, *knots.ravel()]).all():
            raise CascadeError(
                f"Expected a calibration of {', '.join(SIGNALS)}: 1 + signals finite weights, [2, knots], but got "
                f"{signals}, weights {weights.shape}, knots {knots.shape}"
            )
        return cls(signals, weights, knots)

    def predict(self, signals: Signals) -> np.ndarray:
        """The probability of being right, ``[questions]``."""
        values = np.interp(_design(signals, self.signals) @ self.weights, *self.knots)
        return np.asarray(np.clip(values, 0, 1))


def _design(signals: Signals, names: Sequence[str]) -> np.ndarray:
    return np.column_stack([np.ones(len(signals)), *(logits(getattr(signals, name)) for name in names)])


def calibrate_model(
    model: ModelScores, labels: np.ndarray | None = None, signals: Sequence[str] = SIGNALS
) -> Calibrated:
    """Fits a model's probability of being right to its confidences.

    Args:
        model: The confidences; those of ``signals`` that it has are used.
        labels: ``[questions]``, bool; by default whether this model was right, or another's.
        signals: Of `SIGNALS`.

    Raises:
        CascadeError: If the model has none of the signals.
    """
    used = tuple(name for name in signals if name in model.signals.known)
    if not used:
        raise CascadeError(f"Expected {model.name!r} to have one of {', '.join(signals)}, but it has none")
    right = (model.correct if labels is None else labels).astype(float)
    design = _design(model.signals, used)
    weights = fit_logistic(design[:, 1:], right)
    # Log-odds, not probabilities: what saturates to the same probability still keeps its order.
    odds = design @ weights
    order = np.argsort(odds, kind="stable")
    where, inverse = np.unique(odds[order], return_inverse=True)
    counts = np.bincount(inverse)
    from scipy.optimize import isotonic_regression  # which takes a while to load

    fitted = isotonic_regression(np.bincount(inverse, right[order]) / counts, weights=counts)
    starts = fitted.blocks[:-1]
    # One knot a block, at its mean: linear in between, so that it is a step only where the data say so.
    centre = np.add.reduceat(where * counts, starts) / np.add.reduceat(counts, starts)
    return Calibrated(used, weights, np.stack([centre, fitted.x[starts]]))
