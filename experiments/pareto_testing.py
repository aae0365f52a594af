"""The promise that the ladders replaced, kept to be compared with: Pareto Testing on halves.

The frontier of one half is put in order there and tested on the other half, each policy at level δ, until the first
that fails (Learn then Test, Angelopoulos et al. 2021; Pareto Testing, Laufer-Goldenshluger et al. 2023), by the better
of two bounds where it was chosen: betting on the losses (Waudby-Smith and Ramdas 2024), or a binomial of the questions
that only the last model got right.
"""

from __future__ import annotations

import numpy as np
from scipy import stats
from scipy.special import logsumexp

from cascade.policies.base import LivePolicy
from cascade.policies.ledgers import pass_costs
from cascade.scores.arrays import ChainScores
from cascade.simulation.frontier import frontier
from cascade.simulation.simulator import play

# How many policies of a frontier are put in order and tested, and of how many candidates that sequence is made.
SEQUENCE, CONSIDERED = 40, 400


def binomial_p_value(counts: np.ndarray, epsilon: float) -> np.ndarray:
    """p-value of "the loss is more than ε", from the questions that only the last model got right.

    Their number is binomial, and their share is at least the loss: what the cascade alone got right is given
    away. Exact, and conservative by as much.

    Args:
        counts: ``[policies, 3]``: questions with a loss of −1, 0 and 1 (see `count`).
        epsilon: ε, in (0, 1).

    Returns:
        ``[policies]``.
    """
    return np.asarray(stats.binom.cdf(np.round(counts[:, 2]), np.round(counts.sum(axis=1)), epsilon))


def betting_p_value(counts: np.ndarray, epsilon: float, differ: np.ndarray) -> np.ndarray:
    """p-value of "the loss is more than ε", by betting against it (Waudby-Smith and Ramdas 2024).

    A gambler stakes b on every question that the loss is at most ε: his capital is multiplied by
    1 + b (ε − loss). If the loss is more than ε his expected capital never grows, so that it reaches 1/p with
    probability at most p (Markov). He divides his money between four stakes around ε / (share of questions
    where the two models differ), which is Kelly's for a policy that loses nothing. Valid at any size, whatever
    the stakes; uses what the cascade alone got right, as the binomial bound cannot.

    Args:
        counts: ``[policies, 3]``, as in `binomial_p_value`.
        epsilon: ε, in (0, 1).
        differ: ``[policies]``: the share of questions with a loss other than 0, on *other* questions.

    Returns:
        ``[policies]``.
    """
    shares = np.maximum(differ, 1 / counts.sum(axis=1))
    stakes = np.minimum(epsilon / shares[:, None] * np.array([0.25, 0.5, 1, 2]), 0.99 / (1 - epsilon))
    growth = np.log1p(stakes[..., None] * (epsilon - np.array([-1, 0, 1])))
    capital = logsumexp((growth * counts[:, None, :]).sum(axis=2), axis=1) - np.log(stakes.shape[1])
    return np.asarray(np.exp(-np.maximum(capital, 0)))


def count(loss: np.ndarray) -> np.ndarray:
    """Questions with a loss of −1, 0 and 1, ``[policies, 3]``, from `losses`."""
    return np.stack([(loss == value).sum(axis=1) for value in (-1, 0, 1)], axis=1)


def losses(chain: ChainScores, policies: list[LivePolicy]) -> np.ndarray:
    """``[policies, questions]``, int8: last model right minus policy right."""
    last = chain.models[-1].correct.astype(np.int8)
    return np.stack([last - play(chain, policy).correct.astype(np.int8) for policy in policies])


def pareto_testing(
    choose_on: ChainScores, certify_on: ChainScores, ledger: str, epsilon: float, delta: float
) -> LivePolicy | None:
    """The cheapest policy on P(T) that is promised to lose at most ε, or ``None``.

    Args:
        choose_on: The questions whose frontier is put in order.
        certify_on: Others.
        ledger: In which a policy is cheap.
        epsilon: ε of the promise.
        delta: δ.
    """
    found = frontier(choose_on, pass_costs(choose_on), ledger, "P(T)")
    cheaper = [point for point in found.candidates if point.cost < 1]
    if not cheaper:
        return None
    cheaper = [cheaper[i] for i in np.unique(np.linspace(0, len(cheaper) - 1, CONSIDERED).astype(int))]
    before = count(losses(choose_on, [point.policy for point in cheaper]))
    differ = 1 - before[:, 1] / len(choose_on)
    both = binomial_p_value(before, epsilon), betting_p_value(before, epsilon, differ)
    by_betting, promise = both[1] < both[0], np.minimum(*both)
    # From the most promising to the cheapest: a policy is tested only if it is cheaper than all tested before.
    sequence: list[int] = []
    for place in np.lexsort((np.array([point.cost for point in cheaper]), promise)):
        if not sequence or cheaper[place].cost < cheaper[sequence[-1]].cost:
            sequence.append(int(place))
    sequence = [sequence[i] for i in np.unique(np.linspace(0, len(sequence) - 1, SEQUENCE).astype(int))]
    there = count(losses(certify_on, [cheaper[i].policy for i in sequence]))
    own = betting_p_value(there, epsilon, differ[sequence])
    failed = np.where(by_betting[sequence], own, binomial_p_value(there, epsilon)) > delta
    passed = int(failed.argmax()) if failed.any() else len(sequence)
    return cheaper[sequence[passed - 1]].policy if passed else None
