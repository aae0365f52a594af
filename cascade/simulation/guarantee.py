"""Thresholds with a finite-sample promise about accuracy.

With probability at least 1 − δ over the questions that certify them, the thresholds lose at most ε accuracy
against the chain's last model on questions like those: a sequence of policies is tested in an order fixed on
other questions (Learn then Test, Angelopoulos et al. 2021; Pareto Testing, Laufer-Goldenshluger et al. 2023),
each at level δ, until the first that fails. What this is not for: other distributions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from scipy import stats
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp

from cascade.errors import CascadeError
from cascade.simulation.frontier import Frontier, Point
from cascade.simulation.policy import ThresholdPolicy
from cascade.simulation.scores import ChainScores
from cascade.simulation.simulator import play

BOUNDS = ("auto", "betting", "binomial")
# How many policies of a frontier are put in order and tested.
SEQUENCE = 40


def binomial_p_value(loss: np.ndarray, epsilon: float) -> np.ndarray:
    """p-value of "the loss is more than ε", from the questions that only the last model got right.

    Their number is binomial, and their share is at least the loss: what the cascade alone got right is given
    away. Exact, and conservative by as much.

    Args:
        loss: ``[policies, questions]``: last model right minus policy right, in {−1, 0, 1}.
        epsilon: ε, in (0, 1).

    Returns:
        ``[policies]``.
    """
    return np.asarray(stats.binom.cdf((loss > 0).sum(axis=1), loss.shape[1], epsilon))


def betting_p_value(loss: np.ndarray, epsilon: float, differ: np.ndarray) -> np.ndarray:
    """p-value of "the loss is more than ε", by betting against it (Waudby-Smith and Ramdas 2024).

    A gambler stakes b on every question that the loss is at most ε: his capital is multiplied by
    1 + b (ε − loss). If the loss is more than ε his expected capital never grows, so that it reaches 1/p with
    probability at most p (Markov). He divides his money between four stakes around ε / (share of questions
    where the two models differ), which is Kelly's for a policy that loses nothing. Valid at any size, whatever
    the stakes; uses what the cascade alone got right, as the binomial bound cannot.

    Args:
        loss: ``[policies, questions]`` in {−1, 0, 1}.
        epsilon: ε, in (0, 1).
        differ: ``[policies]``: the share of questions with a loss other than 0, on *other* questions.

    Returns:
        ``[policies]``.
    """
    shares = np.maximum(differ, 1 / loss.shape[1])
    stakes = np.minimum(epsilon / shares[:, None] * np.array([0.25, 0.5, 1, 2]), 0.99 / (1 - epsilon))
    counts = np.stack([(loss == value).sum(axis=1) for value in (-1, 0, 1)], axis=1)
    growth = np.log1p(stakes[..., None] * (epsilon - np.array([-1, 0, 1])))
    capital = np.exp(logsumexp((growth * counts[:, None, :]).sum(axis=2), axis=1) - np.log(stakes.shape[1]))
    return np.asarray(1 / np.maximum(capital, 1))


def choose_bounds(bound: str, before: np.ndarray, epsilon: float) -> np.ndarray:
    """Which of the two bounds each policy is tested by, ``[policies]``, str.

    *auto* takes the one with the smaller p-value on the questions that chose the policies; these are not the
    ones that certify it, so that the promise stands.
    """
    if bound != "auto":
        return np.full(len(before), bound)
    better = betting_p_value(before, epsilon, (before != 0).mean(axis=1)) < binomial_p_value(before, epsilon)
    return np.where(better, "betting", "binomial")


def p_values(bounds: np.ndarray, loss: np.ndarray, epsilon: float, differ: np.ndarray) -> np.ndarray:
    """Each policy's p-value by its own bound, ``[policies]``."""
    return np.where(bounds == "binomial", binomial_p_value(loss, epsilon), betting_p_value(loss, epsilon, differ))


@dataclass(frozen=True)
class Guarantee:
    """What could be promised.

    Attributes:
        epsilon, delta, bound: What was asked.
        certified_on: Questions that certified.
        tested: Policies tested before the first failure, and that one.
        point: The cheapest policy that holds the promise, with its figures on the questions that *chose* it; the
            last model alone where none does.
        loss: Its mean loss on the certifying questions, a share.
        p_value: Its p-value; NaN for the last model alone, which needs none.
        questions_needed: Where none holds it: about how many certifying questions would do for the most
            promising one, if its losses stay as they are; infinite where it loses ε or more.
    """

    epsilon: float
    delta: float
    bound: str
    certified_on: int
    tested: int
    point: Point
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
                f"{100 * self.point.cost:.1f} % of its cost."
            )
        needed = (
            "no number of questions would do: the most promising thresholds lose that much themselves"
            if np.isinf(self.questions_needed)
            else f"about {self.questions_needed:,.0f} would do if losses stay as they are"
        )
        return f"No thresholds can be promised to lie {promise}: {self.certified_on:,} certifying questions, {needed}."

    def to_json(self) -> dict[str, object]:
        """Plain values."""
        found = asdict(self) | {"holds": self.holds, "statement": self.statement}
        return found | {"point": {"accuracy": self.point.accuracy, "cost": self.point.cost}}


def losses(chain: ChainScores, points: Sequence[Point]) -> np.ndarray:
    """``[policies, questions]``, int8: last model right minus policy right."""
    last = chain.models[-1].correct.astype(np.int8)
    return np.stack([last - play(chain, p.policy).correct.astype(np.int8) for p in points])


def guarantee(
    chosen_on: ChainScores,
    certify_on: ChainScores,
    found: Frontier,
    epsilon: float = 0.01,
    delta: float = 0.1,
    bound: str = "auto",
) -> Guarantee:
    """The cheapest thresholds that are promised to lose at most ε accuracy.

    Args:
        chosen_on: The questions that ``found`` was found on; they order the tests.
        certify_on: Others, of the same distribution.
        found: The frontier.
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
    last = _last_alone(chosen_on)
    if not cheaper:
        return Guarantee(epsilon, delta, bound, len(certify_on), 0, last, 0.0, float("nan"), float("inf"))
    before = losses(chosen_on, cheaper)
    differ = (before != 0).mean(axis=1)
    # From the most promising to the cheapest: a policy is tested only if it is cheaper than all tested before.
    bounds = choose_bounds(bound, before, epsilon)
    promise = p_values(bounds, before, epsilon, differ)
    sequence: list[int] = []
    for place in np.lexsort((np.array([p.cost for p in cheaper]), promise)):
        if not sequence or cheaper[place].cost < cheaper[sequence[-1]].cost:
            sequence.append(int(place))
    sequence = [sequence[i] for i in np.unique(np.linspace(0, len(sequence) - 1, SEQUENCE).astype(int))]
    loss = losses(certify_on, [cheaper[i] for i in sequence])
    p = p_values(bounds[sequence], loss, epsilon, differ[sequence])
    failed = p > delta
    passed = int(failed.argmax()) if failed.any() else len(sequence)
    if passed:
        return Guarantee(
            epsilon=epsilon,
            delta=delta,
            bound=bound,
            certified_on=len(certify_on),
            tested=min(passed + 1, len(sequence)),
            point=cheaper[sequence[passed - 1]],
            loss=float(loss[passed - 1].mean()),
            p_value=float(p[passed - 1]),
            questions_needed=len(certify_on),
        )
    needed = min(questions_needed(row, epsilon, delta) for row in before[sequence])
    return Guarantee(epsilon, delta, bound, len(certify_on), 1, last, 0.0, float("nan"), needed)


def _last_alone(chain: ChainScores) -> Point:
    policy = ThresholdPolicy((len(chain.models) - 1,), ())
    return Point(policy, float(chain.models[-1].correct.mean()), 1.0)


def questions_needed(loss: np.ndarray, epsilon: float, delta: float) -> float:
    """About how many questions let a gambler with the best fixed stake reach 1/δ: log(1/δ) over his growth rate.

    Args:
        loss: ``[questions]`` in {−1, 0, 1}, taken for the distribution.
        epsilon: ε.
        delta: δ.
    """
    shares = np.array([(loss == value).mean() for value in (-1, 0, 1)])
    gain = epsilon - np.array([-1.0, 0.0, 1.0])
    if shares @ gain <= 1e-12:
        return float("inf")
    most = 1 / (1 - epsilon)
    best = minimize_scalar(lambda b: -float(shares @ np.log1p(b * gain)), bounds=(0, 0.999 * most), method="bounded")
    return float(np.ceil(np.log(1 / delta) / -best.fun))
