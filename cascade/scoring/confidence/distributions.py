"""Confidences that the answer's own pass gives: they cost nothing more."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from cascade.errors import CascadeError


def sequence_likelihood(logprobs: Sequence[float]) -> float:
    """Length-normalised likelihood of an answer, exp(1/T · Σ log p_t): the mean token log-probability, in [0, 1].

    Malinin & Gales, *Uncertainty Estimation in Autoregressive Structured Prediction* (2021). Costs nothing more than
    the answer. exp is monotone: thresholds on it are thresholds on the mean log-probability.

    Args:
        logprobs: Natural log-probability of each generated token, at least one.

    Raises:
        CascadeError: If there is none, or one is above 0.
    """
    values = np.asarray(logprobs, dtype=float)
    if values.size == 0 or not (values <= 1e-6).all():
        raise CascadeError(f"Expected `logprobs` to be numbers of at most 0, at least one, but got {list(logprobs)}")
    return float(np.exp(np.minimum(values, 0).mean()))


def least_likely_token(logprobs: Sequence[float]) -> float:
    """The smallest probability of a generated token, min exp(log p_t), in [0, 1]: one doubtful word is enough.

    Manakul et al., *SelfCheckGPT* (2023), "Max(−log p)". Costs nothing more than the answer.

    Args:
        logprobs: As of `sequence_likelihood`.
    """
    sequence_likelihood(logprobs)  # which checks them
    return float(np.exp(min(0.0, *logprobs)))


def first_token(logprobs: Sequence[float]) -> float:
    """The probability of the first generated token, whatever it is, in [0, 1].

    It is known before the rest is written. Costs nothing more than the answer.

    Args:
        logprobs: As of `sequence_likelihood`.
    """
    sequence_likelihood(logprobs)
    return float(np.exp(min(0.0, logprobs[0])))


OF_TOKENS: dict[str, Callable[[Sequence[float]], float]] = {
    "likelihood": sequence_likelihood,
    "minimum": least_likely_token,
    "first_token": first_token,
}
"""The confidences that are made of an answer's token log-probabilities alone, by the end of their column's name."""


def option_certainty(probabilities: Sequence[float]) -> float:
    """Entropy of the options turned round: 1 − H(p) / log k, p shared out over the k options; in [0, 1].

    1 where one option has everything, 0 where all are alike. Predictive entropy as in Malinin & Gales (2021), on the
    options of a multiple-choice question as in Kadavath et al., *Language Models (Mostly) Know What They Know* (2022).
    Costs nothing more than the answer.

    Args:
        probabilities: Of two or more options; they need not sum to 1.
    """
    p = _shares(probabilities)
    held = p[p > 0]
    return float(np.clip(1 + (held * np.log(held)).sum() / np.log(len(p)), 0, 1))


def margin(probabilities: Sequence[float]) -> float:
    """How far the most probable option is ahead of the next, p₁ − p₂, p shared out over the options; in [0, 1].

    Scheffer, Decomain & Wrobel, *Active Hidden Markov Models for Information Extraction* (2001). Costs nothing more
    than the answer.

    Args:
        probabilities: Of two or more options; they need not sum to 1.
    """
    second, first = np.sort(_shares(probabilities))[-2:]
    return float(first - second)


def _shares(probabilities: Sequence[float]) -> np.ndarray:
    values = np.asarray(probabilities, dtype=float)
    if values.ndim != 1 or len(values) < 2 or not ((values >= 0) & np.isfinite(values)).all() or not values.sum() > 0:
        raise CascadeError(
            f"Expected `probabilities` of two or more options, at least 0 and not all 0, but got {list(probabilities)}"
        )
    return np.asarray(values / values.sum())
