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
from functools import cached_property

import numpy as np
from scipy.special import expit

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
from cascade.simulation.climbing import Certified, certify, foreseen, questions_needed
from cascade.simulation.tuning import StudyTuner
from cascade.statistics.significance import in_points

# Parts of the certifying questions, each measured under what the others certify.
FOLDS = 5
# Questions whose signals say which ladder to climb.
LOOKED_AT = 20_000
# Of how many questions a model's confidence is believed to be its probability of being right.
BELIEVED = 100


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
        apart: Whether questions apart chose it.
    """

    chain: ChainScores
    costs: PassCosts
    goal: Goal
    ladder: Ladder[LivePolicy] | None
    tried: int
    apart: bool

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
    apart = learn_on is not None and learn_costs is not None
    if learn_on is None or learn_costs is None:
        hidden = tuple(replace(m, correct=np.zeros(len(chain), dtype=bool)) for m in chain.models)
        learn_on, learn_costs = replace(chain, models=hidden, labelled=False), costs
    tuner = StudyTuner(learn_on, learn_costs, goal)
    ladders = [ladder for kind in POLICIES for ladder in kind.ladders(tuner)]
    if len(ladders) < 2:
        return Certification(chain, costs, goal, ladders[0] if ladders else None, len(ladders), apart)
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
    return Certification(chain, costs, goal, ladders[int(np.argmin(cost))], len(ladders), apart)


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
        ladder: What is asked on the ladder, and of which models; empty where no policy offers one.
        ladders: How many it was chosen from.
        apart: Whether questions apart chose it, and not the confidences of those that certify.
        rungs: How many it has.
        cheaper: How many of these cost less than the last model.
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
    apart: bool
    rungs: int
    cheaper: int
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
        """In a few sentences."""
        lost, questions = in_points(self.epsilon), f"{self.certified_on:,} questions"
        promise = f"at most {lost} of accuracy below the last model, with probability {1 - self.delta:.15g} or more"
        if self.holds:
            loss = f"{abs(100 * self.loss):.2f}"
            lies = f"lies {loss} points {'above' if self.loss < 0 else 'below'}" if float(loss) else "is right as often"
            given = (
                f" The probability takes it as given that their confidences, and no answer, chose one of "
                f"{self.ladders} ladders of thresholds."
            )
            return (
                f"Promised on questions like these: {promise}. {questions} certify it; on these it {lies} and costs "
                f"{100 * self.point.cost:.1f} % as much.{given if self.ladders > 1 and not self.apart else ''}"
            )
        kept = "if gains and losses keep their shares"
        why = (
            f"on the ladder of thresholds ({self.ladder}) nothing costs less"
            if not self.cheaper
            else f"on the ladder of thresholds ({self.ladder}) {lost} or more is lost on these {questions} by the "
            f"time that anything is saved, and no number of them would do {kept}"
            if np.isinf(self.questions_needed)
            else f"{questions} are too few, and about {self.questions_needed:,.0f} would do {kept}"
        )
        return f"Nothing cheaper can be promised to lie {promise}: {why}."

    @property
    def outlook(self) -> str:
        """What other numbers of questions would buy, in a sentence; empty where there is no ladder."""
        if not self.foreseen:
            return ""
        if not any(one.saved > 0 for one in self.foreseen):
            counts = " nor ".join(f"{one.questions:,}" for one in self.foreseen)
            return f"If gains and losses keep their shares, neither {counts} questions would certify anything cheaper."
        parts = [
            f"{one.questions:,} questions would "
            + (f"save about {100 * one.saved:.1f} %" if one.saved > 0 else "certify nothing cheaper")
            for one in self.foreseen
        ]
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
    goal, chain, found, ladder = made.goal, made.chain, made.found, made.ladder
    last = float(chain.models[-1].correct.mean())
    held = found is not None and found.rung is not None
    point = Point(made.policy(found), last - (found.loss if found else 0.0), found.cost if found else 1.0)
    return Guarantee(
        epsilon=goal.loss,
        delta=goal.delta,
        certified_on=len(chain),
        ladder="" if ladder is None else f"{ladder.name}, {' → '.join(_names(made))}",
        ladders=made.tried,
        apart=made.apart,
        rungs=0 if ladder is None else len(ladder),
        cheaper=0 if ladder is None else int((made.tally.cost / made.tally.last_cost < 1 - SLACK).sum()),
        passed=0 if found is None else found.passed,
        point=point,
        last_accuracy=last,
        score=float("nan") if found is None else found.score,
        critical=float("nan") if found is None else found.critical,
        foreseen=() if ladder is None else tuple(_outlook(made)),
        questions_needed=(
            float("nan")
            if held
            else float("inf")
            if ladder is None
            else questions_needed(made.tally, goal.loss, goal.delta)
        ),
    )


def _names(made: Certification) -> list[str]:
    """The models of the ladder's sub-chain."""
    assert made.ladder is not None
    return [made.chain.names[place] for place in made.ladder.policy(0).places]


def _outlook(made: Certification) -> Iterator[Foreseen]:
    for questions in (max(1, len(made.chain) // 2), 2 * len(made.chain)):
        there = foreseen(made.tally, questions, made.goal.loss, made.goal.delta)
        yield Foreseen(questions, 1 - there.cost)
