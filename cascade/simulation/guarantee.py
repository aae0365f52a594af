"""Policies with a finite-sample promise about accuracy.

With probability at least 1 − δ over the questions that certify it, the promised policy loses at most ε accuracy
against the chain's last model on questions like those. The policies of a ladder (`cascade.policies.ladders`) are tested
from "keep almost nothing" on, each at the whole level δ, until the first that fails (Learn then Test, Angelopoulos et
al. 2021). The test of each is Tango's of a paired difference, at the critical value that makes it exact
(`cascade.statistics.tango`). No label of the certifying questions has a say in which ladder that is, or in its order.
What this is not for: other distributions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, lru_cache

import numpy as np
from scipy.special import expit, ndtri

from cascade.errors import CascadeError
from cascade.policies.base import LivePolicy
from cascade.policies.calibration import logits
from cascade.policies.file import policy_json
from cascade.policies.folds import Folds
from cascade.policies.ledgers import PassCosts
from cascade.policies.registry import POLICIES
from cascade.policies.thresholds import ThresholdPolicy
from cascade.policies.tuning import SLACK, Goal, Ladder, Point, Tally
from cascade.scores.arrays import ChainScores, ModelScores
from cascade.simulation.tuning import StudyTuner
from cascade.statistics.tango import critical_value, score

# Parts of the certifying questions, each measured under what the others certify.
FOLDS = 5
# Questions whose signals say which ladder to climb.
LOOKED_AT = 20_000
# Of how many questions a model's confidence is believed to be its probability of being right.
BELIEVED = 100
# How many times as many questions are thought of, where none would do.
MOST_TIMES = 10_000


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


@lru_cache(maxsize=64)
def fewest_questions(epsilon: float, delta: float) -> int:
    """The fewest questions that can certify a loss below ε: those of a policy that gains and loses nothing.

    At least so many that a policy that loses just ε, and gains nothing, loses none of them with probability δ or less.
    """
    n = max(1, int(np.ceil(np.log(delta) / np.log1p(-epsilon))))
    while float(score(0, 0, n, -epsilon)) < critical_value(n, epsilon, delta):
        n += 1
    return n


def foreseen(tally: Tally, questions: float, epsilon: float, delta: float) -> Certified:
    """About what so many questions would certify if gains, losses and costs keep their shares.

    With the normal quantile in the place of the exact critical value.
    """
    times = questions / max(tally.questions, 1)
    if questions < fewest_questions(epsilon, delta):
        return Certified(int(questions), 0, None, float("nan"), float("nan"), 0.0, 1.0)
    scores = score(tally.gains * times, tally.losses * times, questions, -epsilon)
    return _climbed(tally, scores, float(ndtri(1 - delta)))


def believed(chain: ChainScores) -> ChainScores:
    """A chain whose models are right with the probability that their confidence says, in the place of labels.

    That is P(T), or else P(IK) or a reader's. With labels it is calibrated: a logistic fit of two parameters that
    starts from the confidence itself, and is held to it by as much as `BELIEVED` questions would say. A model without
    a confidence, as the last may be, is taken to be right always.
    """

    def of(model: ModelScores) -> ModelScores:
        known = model.signals
        p = next((p for p in (known.p_t, known.p_ik, known.p_ik_reader) if p is not None), None)
        if p is None:
            return replace(model, correct=np.ones(len(chain)))
        odds = np.nan_to_num(logits(p))
        weights = _shrunk(odds, model.correct.astype(float)) if chain.labelled else np.array([0.0, 1.0])
        return replace(model, correct=expit(weights[0] + weights[1] * odds))

    return replace(chain, models=tuple(map(of, chain.models)))


def _shrunk(odds: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Intercept and slope of a logistic fit with a normal prior around 0 and 1, by Newton's method, ``[2]``."""
    design = np.column_stack([np.ones(len(odds)), odds])
    plain = expit(odds)
    prior = BELIEVED * np.diag(np.maximum((design**2 * (plain * (1 - plain))[:, None]).mean(axis=0), 1e-6))
    weights, start = np.array([0.0, 1.0]), np.array([0.0, 1.0])
    for _ in range(30):
        p = expit(design @ weights)
        gradient = design.T @ (p - right) + prior @ (weights - start)
        step = np.linalg.solve((design * (p * (1 - p))[:, None]).T @ design + prior, gradient)
        # Steps of at most 1: far from the prior Newton's may overshoot.
        weights = weights - step / max(1.0, float(np.abs(step).max()))
        if np.abs(step).max() < 1e-9:
            break
    return weights


@dataclass(frozen=True)
class Certification:
    """A ladder, and what the certifying questions say of it.

    Attributes:
        chain: The certifying questions.
        costs: Of their passes.
        goal: ε, δ, and the ledger in which a policy is cheap.
        ladder: Chosen without their labels; ``None`` where there is none.
        tried: How many ladders it was chosen from.
    """

    chain: ChainScores
    costs: PassCosts
    goal: Goal
    ladder: Ladder[LivePolicy] | None
    tried: int

    @cached_property
    def tally(self) -> Tally:
        """Of all certifying questions."""
        assert self.ladder is not None
        return self.ladder.tally(self.chain, self.costs, self.goal.ledger)

    @cached_property
    def found(self) -> Certified | None:
        """What is certified; ``None`` where there is no ladder."""
        return None if self.ladder is None else certify(self.tally, self.goal.loss, self.goal.delta)

    def policy(self, found: Certified | None) -> LivePolicy:
        """The policy of a rung, or the last model alone."""
        if self.ladder is None or found is None or found.rung is None:
            return ThresholdPolicy.alone(len(self.chain.models) - 1)
        return self.ladder.policy(found.rung)

    def out_of_fold(self) -> Folds:
        """For each fifth of the certifying questions the policy that the other four fifths certify.

        What this measures is what certifying in this way does to questions that did not certify.
        """
        order = sorted(range(len(self.chain)), key=lambda i: _digest(self.chain.question_ids[i]))
        fold = np.empty(len(order), dtype=np.int64)
        fold[order] = np.arange(len(order)) % min(FOLDS, len(order))
        policies: list[LivePolicy] = []
        for part in range(int(fold.max()) + 1):
            rows = np.flatnonzero(fold == part)
            found = None
            if self.ladder is not None and len(rows) < len(fold):
                own = self.ladder.tally(self.chain.take(rows), self.costs.take(rows), self.goal.ledger)
                found = certify(self.tally.without(own), self.goal.loss, self.goal.delta)
            policies.append(self.policy(found))
        return Folds(tuple(policies), dict(zip(self.chain.question_ids, fold.tolist(), strict=True)))


def _digest(question_id: str) -> bytes:
    return hashlib.sha256(f"certify {question_id}".encode()).digest()


def certification(
    chain: ChainScores, costs: PassCosts, goal: Goal, learn_on: ChainScores | None, learn_costs: PassCosts | None
) -> Certification:
    """Chooses the ladder to climb, without a label of the questions that certify.

    Where confidences of the certifying questions choose it, δ grows by at most the probability that another draw of
    them would have chosen another ladder.

    Of all ladders that the policies offer, the one that is foreseen to save most: by the models' own confidences as
    probabilities of being right, on the questions apart or, where there are none, on those that certify. Questions
    apart have their say by their labels, too, with as much weight.

    Args:
        chain: The questions that certify, with labels.
        costs: Of their passes, in the goal's unit.
        goal: ε, δ and the ledger.
        learn_on: Labelled questions that are not among them. Policies that have to be fitted are offered only with
            these.
        learn_costs: Of their passes.

    Raises:
        CascadeError: If the scores have no labels.
    """
    if not chain.labelled:
        raise CascadeError("Expected scores with labels to certify thresholds on, but these have none")
    if learn_on is None or learn_costs is None:
        hidden = tuple(replace(m, correct=np.zeros(len(chain), dtype=bool)) for m in chain.models)
        learn_on, learn_costs = replace(chain, models=hidden, labelled=False), costs
    tuner = StudyTuner(learn_on, learn_costs, goal)
    ladders = [ladder for kind in POLICIES for ladder in kind.ladders(tuner)]
    if len(ladders) < 2:
        return Certification(chain, costs, goal, ladders[0] if ladders else None, len(ladders))
    looked_at = np.unique(np.linspace(0, len(learn_on) - 1, LOOKED_AT).astype(int))
    some, some_costs = learn_on.take(looked_at), learn_costs.take(looked_at)
    guesses = [believed(some), some] if some.labelled else [believed(some)]
    tallies = [[ladder.tally(guess, some_costs, goal.ledger) for guess in guesses] for ladder in ladders]
    # Where so many questions are not foreseen to save anything on any ladder, more of them tell which comes first.
    for times in (1, 4, 16, 64):
        questions = times * len(chain)
        cost = [np.mean([foreseen(tally, questions, goal.loss, goal.delta).cost for tally in own]) for own in tallies]
        if min(cost) < 1 - SLACK:
            break
    return Certification(chain, costs, goal, ladders[int(np.argmin(cost))], len(ladders))


@dataclass(frozen=True)
class Foreseen:
    """What another number of questions would about buy: the share of the last model's cost saved."""

    questions: int
    saved: float


@dataclass(frozen=True)
class Guarantee:
    """What could be promised.

    Attributes:
        epsilon, delta: What was asked.
        certified_on: Questions that certified.
        ladder: What is asked on the ladder; empty where no policy offers one.
        ladders: How many it was chosen from.
        rungs: How many it has.
        passed: Rungs that passed.
        point: The promised policy; the last model alone where nothing is promised. Its accuracy and cost on the
            questions that certified it.
        last_accuracy: Of the last model there.
        score, critical: The test statistic, and what it had to reach; NaN where nothing is promised.
        foreseen: What half, and twice, as many questions would about buy.
        questions_needed: Where nothing is promised: about how many certifying questions would do, if gains and losses
            keep their shares; infinite where none would.
    """

    epsilon: float
    delta: float
    certified_on: int
    ladder: str
    ladders: int
    rungs: int
    passed: int
    point: Point[LivePolicy]
    last_accuracy: float
    score: float
    critical: float
    foreseen: tuple[Foreseen, ...]
    questions_needed: float

    @property
    def holds(self) -> bool:
        """Whether some policy cheaper than the last model is promised."""
        return not np.isnan(self.score)

    @property
    def loss(self) -> float:
        """Accuracy lost on the certifying questions, a share."""
        return self.last_accuracy - self.point.accuracy

    @property
    def statement(self) -> str:
        """In a sentence or two."""
        points = f"{100 * self.epsilon:g} point{'s' * (self.epsilon != 0.01)}"
        promise = f"at most {points} of accuracy below the last model, with probability {1 - self.delta:g} or more"
        if self.holds:
            return (
                f"Promised on questions like these: {promise}. {self.certified_on:,} questions certify it; on these it "
                f"lies {100 * self.loss:.2f} points below and costs {100 * self.point.cost:.1f} % as much."
            )
        why = (
            "no policy that was tried is cheaper than the last model"
            if not self.ladder
            else "losses as on these questions would not do on any number of them: no rung that is cheaper than the "
            "last model comes after rungs that all lose less"
            if np.isinf(self.questions_needed)
            else f"about {self.questions_needed:,.0f} would do if gains and losses keep their shares"
        )
        return f"Nothing cheaper can be promised to lie {promise}: {self.certified_on:,} questions certify, and {why}."

    @property
    def outlook(self) -> str:
        """What other numbers of questions would buy, in a sentence; empty where there is no ladder."""
        if not self.foreseen:
            return ""
        parts = [f"{one.questions:,} questions would save about {100 * one.saved:.1f} %" for one in self.foreseen]
        return f"If gains and losses keep their shares, {' and '.join(parts)}."

    def to_json(self, names: Sequence[str], normalize: bool) -> dict[str, object]:
        """Plain values, the promised policy as it can be run; see `policy_json`."""
        left_out = ("point", "foreseen")
        found = {name: value for name, value in asdict(self).items() if name not in left_out}
        found |= {"accuracy": self.point.accuracy, "cost": self.point.cost, "loss": self.loss}
        found |= {"holds": self.holds, "statement": self.statement, "outlook": self.outlook}
        found |= {"foreseen": [asdict(one) for one in self.foreseen]}
        return found | {"policy": policy_json(self.point.policy, names, normalize) if self.holds else None}


def guarantee(made: Certification) -> Guarantee:
    """What a certification allows to be promised, and what it would take to promise more."""
    goal, chain, found = made.goal, made.chain, made.found
    last = float(chain.models[-1].correct.mean())
    held = found is not None and found.rung is not None
    point = Point(made.policy(found), last - (found.loss if found else 0.0), found.cost if found else 1.0)
    return Guarantee(
        epsilon=goal.loss,
        delta=goal.delta,
        certified_on=len(chain),
        ladder="" if made.ladder is None else made.ladder.name,
        ladders=made.tried,
        rungs=0 if made.ladder is None else len(made.ladder),
        passed=0 if found is None else found.passed,
        point=point,
        last_accuracy=last,
        score=float("nan") if found is None else found.score,
        critical=float("nan") if found is None else found.critical,
        foreseen=() if made.ladder is None else tuple(_outlook(made)),
        questions_needed=float("nan") if held else questions_needed(made),
    )


def _outlook(made: Certification) -> Iterator[Foreseen]:
    for questions in (len(made.chain) // 2, 2 * len(made.chain)):
        there = foreseen(made.tally, questions, made.goal.loss, made.goal.delta)
        yield Foreseen(questions, 1 - there.cost)


def questions_needed(made: Certification) -> float:
    """About how many questions would certify something cheaper than the last model; infinite where none would.

    Gains, losses and costs keep their shares, and the rungs their order.
    """
    if made.ladder is None:
        return float("inf")
    fewest = max(len(made.chain), fewest_questions(made.goal.loss, made.goal.delta))
    for questions in np.unique(np.ceil(fewest * np.geomspace(1, MOST_TIMES, 400))):
        if foreseen(made.tally, questions, made.goal.loss, made.goal.delta).rung is not None:
            return float(questions)
    return float("inf")
