"""What a cascade costs, in three ledgers that are always shown side by side.

*answered-only* is the paper's (eq. 6, Table 8): a question is charged to the model that answered it, and the
passes of the models that passed it on are free. *full-path* charges a whole pass to every model that was
tried. *early-exit* charges a model whose P(IK) probe at layer ℓ of L rejected the question ℓ/L of a pass.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cascade.simulation.policy import Outcome

LEDGERS = ("answered-only", "full-path", "early-exit")


def pass_flops(parameters: int) -> float:
    """FLOPs of a forward pass for one token, C ≈ 2N (eq. 5)."""
    return 2.0 * parameters


def charged_passes(outcome: np.ndarray, exit_shares: Sequence[float], ledger: str) -> np.ndarray:
    """How many passes each model is charged for each question.

    Args:
        outcome: ``[models, questions]`` of `Outcome`.
        exit_shares: For each model ℓ/L, the share of a pass after which its probe can reject.
        ledger: One of `LEDGERS`.

    Returns:
        ``[models, questions]``, float64, in [0, 1].
    """
    if ledger == "answered-only":
        return np.where(outcome == Outcome.ANSWERED, 1.0, 0.0)
    charged = np.where(outcome == Outcome.NOT_ASKED, 0.0, 1.0)
    if ledger == "early-exit":
        shares = np.broadcast_to(np.asarray(exit_shares, dtype=float)[:, None], outcome.shape)
        charged = np.where(outcome == Outcome.REJECTED_BY_P_IK, shares, charged)
    elif ledger != "full-path":
        raise ValueError(f"Expected `ledger` to be one of {', '.join(LEDGERS)}, but got {ledger!r}")
    return charged


def reduced_cost(outcome: np.ndarray, prices: np.ndarray, exit_shares: Sequence[float], ledger: str) -> float:
    """Share of the last model's cost that a cascade saves; negative where it costs more.

    Args:
        outcome: ``[models, questions]`` of `Outcome`.
        prices: What a whole pass costs, ``[models]`` or ``[models, questions]``: FLOPs (eq. 5), seconds, dollars.
        exit_shares: See `charged_passes`.
        ledger: One of `LEDGERS`.
    """
    prices = np.asarray(prices, dtype=float)
    per_question = np.broadcast_to(prices if prices.ndim == 2 else prices[:, None], outcome.shape)
    cost = float((charged_passes(outcome, exit_shares, ledger) * per_question).sum())
    return 1 - cost / float(per_question[-1].sum())
