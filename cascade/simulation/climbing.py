"""How far a ladder can be climbed on some questions, and what other numbers of questions would buy.

From counts alone (`cascade.policies.tuning.Tally`). Which ladder it is, and who certifies, is
`cascade.simulation.guarantee`'s.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from cascade.policies.tuning import SLACK, Tally
from cascade.statistics.tango import critical_value, score

# From so many questions on the critical value hardly moves.
SETTLED = 10_000_000


@dataclass(frozen=True)
class Certified:
    """How far a ladder was climbed.

    Attributes:
        questions: That certified.
        passed: Rungs that passed, one after another from the first.
        rung: The cheapest of them, or ``None`` where none is cheaper than the last model.
        score, critical: Its test statistic, and what it had to reach; NaN without a rung.
        loss, cost: Accuracy lost, and cost as a share of the last model's, on these questions; 0 and 1 without a rung.
    """

    questions: int
    passed: int
    rung: int | None
    score: float
    critical: float
    loss: float
    cost: float


def certify(tally: Tally, epsilon: float, delta: float) -> Certified:
    """The cheapest rung of a ladder that is promised to lose at most ε.

    Args:
        tally: Of the certifying questions.
        epsilon: ε.
        delta: Level of the whole ladder.
    """
    scores = score(tally.gains, tally.losses, tally.questions, -epsilon)
    critical = critical_value(tally.questions, epsilon, delta)
    return _climbed(tally, scores, critical)


def _climbed(tally: Tally, scores: np.ndarray, critical: float) -> Certified:
    failed = scores < critical
    passed = int(failed.argmax()) if failed.any() else len(scores)
    nothing = Certified(tally.questions, passed, None, float("nan"), float("nan"), 0.0, 1.0)
    shares = tally.cost[:passed] / tally.last_cost
    if not passed or shares.min() >= 1 - SLACK:
        return nothing
    # Of equally cheap rungs the strictest.
    rung = int(shares.argmin())
    loss = float(tally.losses[rung] - tally.gains[rung]) / tally.questions
    return replace(
        nothing, rung=rung, score=float(scores[rung]), critical=critical, loss=loss, cost=float(shares[rung])
    )


def _critical(questions: int, epsilon: float, delta: float) -> float:
    return critical_value(min(questions, SETTLED), epsilon, delta)


@lru_cache(maxsize=64)
def fewest_questions(epsilon: float, delta: float) -> int:
    """The fewest questions that certify a policy that gains and loses nothing against the last model.

    At least so many that a policy that loses just ε, and gains nothing, loses none of them with probability δ or less.
    A policy that gains may be certified on fewer, and one that loses takes more.
    """

    def certifies(n: int) -> bool:
        return float(score(0, 0, n, -epsilon)) >= _critical(n, epsilon, delta)

    low = max(1, int(np.ceil(np.log(delta) / np.log1p(-epsilon))))
    if certifies(low):
        return low
    step = 1
    while not certifies(low + step):
        low, step = low + step, 2 * step
    high = low + step
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if certifies(middle) else (middle, high)
    return high


def foreseen(tally: Tally, questions: int, epsilon: float, delta: float) -> Certified:
    """About what so many questions would certify if gains, losses and costs keep their shares."""
    times = questions / tally.questions
    scores = score(tally.gains * times, tally.losses * times, questions, -epsilon)
    return _climbed(tally, scores, _critical(questions, epsilon, delta))


def questions_needed(tally: Tally, epsilon: float, delta: float) -> float:
    """About how many questions would certify something cheaper than the last model, where these do not.

    Gains, losses and costs keep their shares, and the rungs their order. All rungs up to the first that is cheaper have
    to pass. Their scores grow with the root of the number of questions: it is infinite just where one of them loses ε
    or more, or where none is cheaper.
    """
    cheaper = tally.cost / tally.last_cost < 1 - SLACK
    if not cheaper.any():
        return float("inf")
    climbed = slice(int(cheaper.argmax()) + 1)
    gains, losses, n = tally.gains[climbed], tally.losses[climbed], tally.questions
    if (losses - gains).max() >= epsilon * n - SLACK:
        return float("inf")
    weakest = float(score(gains, losses, n, -epsilon).min())
    needed = n + 1
    while weakest * np.sqrt(needed / n) < (critical := _critical(needed, epsilon, delta)):
        needed = max(needed + 1, int(np.ceil(n * (critical / weakest) ** 2)))
    return float(needed)
