"""Thresholds with a finite-sample promise about accuracy.

With probability at least 1 − δ over the questions that certify them, the thresholds lose at most ε accuracy
against the chain's last model on questions like those: a sequence of policies is tested in an order fixed on
other questions (Learn then Test, Angelopoulos et al. 2021; Pareto Testing, Laufer-Goldenshluger et al. 2023),
each at level δ, until the first that fails. What this is not for: other distributions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats
from scipy.special import logsumexp

from cascade.errors import CascadeError
from cascade.policies.base import LivePolicy
from cascade.policies.file import policy_json
from cascade.policies.ledgers import PassCosts
from cascade.policies.thresholds import ThresholdPolicy
from cascade.policies.tuning import Point
from cascade.scores.arrays import ChainScores
from cascade.simulation.frontier import Frontier
from cascade.simulation.simulator import play, spent

BOUNDS = ("auto", "betting", "binomial")
# How many policies of a frontier are put in order and tested.
SEQUENCE = 40
# Of how many candidates that sequence is made.
CONSIDERED = 400


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


def choose_bounds(bound: str, before: np.ndarray, epsilon: float, differ: np.ndarray) -> np.ndarray:
    """Which of the two bounds each policy is tested by, ``[policies]``, str.

    *auto* takes the one with the smaller p-value on the questions that chose the policies; these are not the
    ones that certify it, so that the promise stands.
    """
    if bound != "auto":
        return np.full(len(before), bound)
    better = betting_p_value(before, epsilon, differ) < binomial_p_value(before, epsilon)
    return np.where(better, "betting", "binomial")


def p_values(bounds: np.ndarray, counts: np.ndarray, epsilon: float, differ: np.ndarray) -> np.ndarray:
    """Each policy's p-value by its own bound, ``[policies]``."""
    return np.where(bounds == "binomial", binomial_p_value(counts, epsilon), betting_p_value(counts, epsilon, differ))


@dataclass(frozen=True)
class Guarantee:
    """What could be promised.

    Attributes:
        epsilon, delta, bound: What was asked.
        certified_on: Questions that certified.
        tested: Policies tested before the first failure, and that one.
        point: The cheapest policy that holds the promise, with its figures on the questions that *chose* it; the
            last model alone where none does.
        cost: Its cost on the certifying questions, a share of the last model's.
        loss: Its mean loss on them, a share.
        p_value: Its p-value; NaN for the last model alone, which needs none.
        questions_needed: Where none holds it: about how many certifying questions would do for the first policy
            tested, if it goes on losing as it did on them; infinite where it lost ε or more.
    """

    epsilon: float
    delta: float
    bound: str
    certified_on: int
    tested: int
    point: Point[LivePolicy]
    cost: float
    loss: float
    p_value: float
    questions_needed: float

    @property
    def holds(self) -> bool:
        """Whether some cascade cheaper than the last model could be promised."""
        return not np.isnan(self.p_value)

    @property
    def statement(self) -> str:
        """In a sentence."""
        points = f"{100 * self.epsilon:g} point{'s' * (self.epsilon != 0.01)}"
        promise = f"at most {points} below the last model, with probability ≥ {1 - self.delta:g}"
        if self.holds:
            return (
                f"Promised: {promise} over {self.certified_on:,} certifying questions (p = {self.p_value:.3g}), at "
                f"{100 * self.cost:.1f} % of its cost there."
            )
        needed = (
            "no number of questions would do, as even the most promising thresholds lost that much"
            if np.isinf(self.questions_needed)
            else f"about {self.questions_needed:,.0f} would do if losses stay as they are"
        )
        if not self.tested:
            needed = "nothing found is cheaper than the last model"
        return f"No thresholds can be promised to lie {promise}: {self.certified_on:,} certifying questions, {needed}."

    def to_json(self, names: Sequence[str], normalize: bool) -> dict[str, object]:
        """Plain values, the promised policy as it can be run; see `policy_json`."""
        found = {name: getattr(self, name) for name in ("epsilon", "delta", "bound", "certified_on", "tested")}
        found |= {name: getattr(self, name) for name in ("cost", "loss", "p_value", "questions_needed")}
        found |= {"holds": self.holds, "statement": self.statement}
        return found | {"policy": policy_json(self.point.policy, names, normalize) if self.holds else None}


def losses(chain: ChainScores, points: Sequence[Point[LivePolicy]]) -> np.ndarray:
    """``[policies, questions]``, int8: last model right minus policy right."""
    last = chain.models[-1].correct.astype(np.int8)
    return np.stack([last - play(chain, p.policy).correct.astype(np.int8) for p in points])


def guarantee(
    chosen_on: ChainScores,
    certify_on: ChainScores,
    found: Frontier,
    costs: PassCosts,
    epsilon: float = 0.01,
    delta: float = 0.1,
    bound: str = "auto",
) -> Guarantee:
    """The cheapest thresholds that are promised to lose at most ε accuracy.

    Args:
        chosen_on: The questions that ``found`` was found on; they order the tests.
        certify_on: Others, of the same distribution.
        found: The frontier.
        costs: Of the certifying questions.
        epsilon: Accuracy that may be lost, a share.
        delta: Probability with which the promise may fail.
        bound: *betting*, *binomial*, or *auto*: for each policy the one that did better where it was chosen.

    Raises:
        CascadeError: If ε, δ or the bound are not what they have to be.
    """
    for name, value in (("epsilon", epsilon), ("delta", delta)):
        if not 0 < value < 1:
            raise CascadeError(f"Expected `{name}` to be between 0 and 1, but got {value:g}")
    if bound not in BOUNDS:
        raise CascadeError(f"Expected `bound` to be one of {', '.join(BOUNDS)}, but got {bound!r}")
    if not (chosen_on.labelled and certify_on.labelled):
        raise CascadeError("Expected scores with labels to certify thresholds on, but these have none")
    cheaper = [p for p in found.candidates if p.cost < 1]
    last = ThresholdPolicy.alone(len(chosen_on.models) - 1)
    alone = Point[LivePolicy](last, float(chosen_on.models[-1].correct.mean()), 1.0)
    nothing = Guarantee(epsilon, delta, bound, len(certify_on), 0, alone, 1.0, 0.0, float("nan"), float("inf"))
    if not cheaper:
        return nothing
    # There may be as many candidates as questions; what lies between two of these is hardly another policy.
    cheaper = [cheaper[i] for i in np.unique(np.linspace(0, len(cheaper) - 1, CONSIDERED).astype(int))]
    before = count(losses(chosen_on, cheaper))
    differ = 1 - before[:, 1] / len(chosen_on)
    # From the most promising to the cheapest: a policy is tested only if it is cheaper than all tested before.
    bounds = choose_bounds(bound, before, epsilon, differ)
    promise = p_values(bounds, before, epsilon, differ)
    sequence: list[int] = []
    for place in np.lexsort((np.array([p.cost for p in cheaper]), promise)):
        if not sequence or cheaper[place].cost < cheaper[sequence[-1]].cost:
            sequence.append(int(place))
    sequence = [sequence[i] for i in np.unique(np.linspace(0, len(sequence) - 1, SEQUENCE).astype(int))]
    there = count(losses(certify_on, [cheaper[i] for i in sequence]))
    p = p_values(bounds[sequence], there, epsilon, differ[sequence])
    failed = p > delta
    passed = int(failed.argmax()) if failed.any() else len(sequence)
    if not passed:
        first = sequence[:1]
        needed = questions_needed(bounds[first], there[:1], epsilon, delta, differ[first])
        return replace(nothing, tested=1, questions_needed=needed)
    policy = cheaper[sequence[passed - 1]]
    spent_there = spent(certify_on, policy.policy, policy.policy.route(certify_on), costs, found.ledger)
    return Guarantee(
        epsilon=epsilon,
        delta=delta,
        bound=bound,
        certified_on=len(certify_on),
        tested=min(passed + 1, len(sequence)),
        point=policy,
        cost=float(spent_there.sum() / costs.whole[-1].sum()),
        loss=float(there[passed - 1] @ [-1, 0, 1] / len(certify_on)),
        p_value=float(p[passed - 1]),
        questions_needed=len(certify_on),
    )


def questions_needed(
    bounds: np.ndarray, counts: np.ndarray, epsilon: float, delta: float, differ: np.ndarray, most: int = 10_000
) -> float:
    """About how many questions bring a policy's p-value to δ, if its losses keep their shares.

    Args:
        bounds: ``[1]``, the policy's bound.
        counts: ``[1, 3]``, its losses on the questions that there are.
        epsilon: ε.
        delta: δ.
        differ: ``[1]``, as in `betting_p_value`.
        most: Times as many questions are tried.

    Returns:
        More than there are, or infinity.
    """
    if float(counts[0] @ [-1, 0, 1]) >= epsilon * counts.sum():
        return float("inf")
    times = np.geomspace(1, most, 1000)[1:]
    tried = [np.repeat(one, len(times), axis=0) for one in (bounds, counts, differ)]
    reached = p_values(tried[0], tried[1] * times[:, None], epsilon, tried[2]) <= delta
    return float(np.ceil(counts.sum() * times[reached.argmax()])) if reached.any() else float("inf")
