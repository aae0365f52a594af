"""How a chosen policy does on other questions. The policy stays as it was chosen; nothing is tuned here.

The questions may be of another kind than those that chose the policy. With labels, accuracy and cost are measured.
Without, accuracy is estimated from calibrated confidences. Both say how far the confidences have moved.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from scipy import stats

from cascade.errors import CascadeError
from cascade.policies.base import Policy
from cascade.policies.calibration import SIGNALS, Calibrated, calibrate_model
from cascade.policies.ledgers import PassCosts, Prices
from cascade.policies.outcome import Outcome
from cascade.scores.arrays import ChainScores
from cascade.simulation.simulator import Played, Row, all_costs, play, saved_shares, simulate, spent
from cascade.statistics.curves import apgr, cpt, deferral_auc, deferral_curve, prr
from cascade.statistics.metrics import auroc, brier, ece
from cascade.statistics.significance import NonInferiority, PairedBootstrap, non_inferiority, paired_bootstrap

# As the report calls each confidence.
COLUMN_OF = {"P(IK)": "p_ik", "P(IK) by reader": "p_ik_reader", "P(T)": "p_t"}
# A Kolmogorov-Smirnov distance from which on one confidence is marked as moved.
SHIFTED = 0.1
# Level of the test of all confidences together.
LEVEL = 0.01


@dataclass(frozen=True)
class Stage:
    """What one model did: questions it was asked, answered, and answered rightly (``None`` without labels)."""

    model: str
    asked: int
    answered: int
    right: int | None


@dataclass(frozen=True)
class Shift:
    """How far a confidence has moved from the questions that chose the thresholds (Kolmogorov-Smirnov).

    Attributes:
        model, confidence: Whose, and which.
        distance: The largest distance of the two distribution functions.
        p: Two-sided p-value.
    """

    model: str
    confidence: str
    distance: float
    p: float

    @property
    def moved(self) -> bool:
        """Whether the distance is large, and not by chance."""
        return self.distance >= SHIFTED and self.p < 0.01


@dataclass(frozen=True)
class Difference:
    """Whether questions look otherwise than those that certified or chose the policy, by all confidences together.

    The smallest of the Kolmogorov-Smirnov p-values, times their number (Bonferroni): where the questions are of one
    kind it is below the level at most so often, however the confidences depend on each other.

    Attributes:
        largest: The confidence with the smallest p-value; of these, with the largest distance.
        compared: How many confidences.
        p: Of the test.
    """

    largest: Shift
    compared: int
    p: float

    @property
    def shown(self) -> bool:
        """Whether there is a difference. That none is shown does not show that there is none."""
        return self.p < LEVEL


def difference(shifts: Sequence[Shift]) -> Difference | None:
    """The test of all confidences together; ``None`` where there is none to compare."""
    if not shifts:
        return None
    largest = min(shifts, key=lambda shift: (shift.p, -shift.distance))
    return Difference(largest, len(shifts), min(1.0, len(shifts) * largest.p))


@dataclass(frozen=True)
class Quality:
    """One model's confidence as a probability of its being right."""

    model: str
    confidence: str
    auroc: float
    ece: float
    ece_mass: float
    brier: float


@dataclass(frozen=True)
class Curve:
    """What one confidence of a model is worth as a reason to ask the last model instead, on the reported questions.

    A chain of two: this model and the last.

    Attributes:
        model, confidence: Whose, and which.
        deferral_auc: Area under accuracy by the share deferred.
        apgr: RouteLLM's; NaN where the last model is not better.
        cpt50, cpt80: Share deferred that recovers half, or four fifths, of the gap.
        prr: LM-Polygraph's, of the model's own answers.
    """

    model: str
    confidence: str
    deferral_auc: float
    apgr: float
    cpt50: float
    cpt80: float
    prr: float


@dataclass(frozen=True)
class Recalibrated:
    """P(T) of one model on the reported questions, before and after calibration on the questions that choose."""

    model: str
    ece_before: float
    ece_after: float
    brier_before: float
    brier_after: float


@dataclass(frozen=True)
class Estimate:
    """Accuracy without labels: the mean calibrated probability that the answering model is right.

    Attributes:
        accuracy: The estimate.
        actual: The accuracy, where there are labels.
    """

    accuracy: float
    actual: float | None

    @property
    def error(self) -> float | None:
        """Estimate minus accuracy, in points."""
        return None if self.actual is None else 100 * (self.accuracy - self.actual)


@dataclass(frozen=True)
class Subject:
    """One subject: questions, accuracy of the policy and of the last model, cost as a share of the last model's."""

    name: str
    questions: int
    accuracy: float
    last: float
    cost: float


@dataclass(frozen=True)
class Evaluation:
    """A policy on questions that did not choose it.

    Attributes:
        name: Of the data.
        questions: How many.
        row: Accuracy, performance drop and savings; ``None`` without labels.
        saved: For each unit and ledger the share of the last model's cost saved; needs no labels.
        stages: One a model that was used.
        intervals: Paired bootstrap in the goal's ledger and unit; ``None`` without labels.
        non_inferiority: Against the last model; ``None`` without labels.
        qualities: AUROC and calibration of every confidence; empty without labels.
        shifts: Against the questions that certified the policy, or chose it where nothing is promised.
        difference: The test of them all together; ``None`` for those very questions.
        estimate: Accuracy without labels.
        subjects: Where the scores name them and there are labels.
    """

    name: str
    questions: int
    row: Row | None
    saved: dict[str, dict[str, float]]
    stages: tuple[Stage, ...]
    intervals: PairedBootstrap | None
    non_inferiority: NonInferiority | None
    qualities: tuple[Quality, ...]
    shifts: tuple[Shift, ...]
    difference: Difference | None
    estimate: Estimate
    subjects: tuple[Subject, ...]

    def to_json(self) -> dict[str, object]:
        """Plain values."""
        return asdict(self) | {
            "different": None if self.difference is None else self.difference.shown,
            "estimate_error_points": self.estimate.error,
        }


def fit_estimators(chosen_on: ChainScores, policy: Policy, there: ChainScores) -> dict[str, Calibrated | float]:
    """For each model its probability of being right, fitted on labelled questions.

    It is fitted to the confidences that the model has on both sides. A model without any has one number instead: its
    accuracy on the questions that the policy sends to it, which are harder than others.
    """
    played = play(chosen_on, policy)

    def of(place: int) -> Calibrated | float:
        model, other = chosen_on.models[place], there.models[place]
        if both := [name for name in SIGNALS if name in model.signals.known & other.signals.known]:
            return calibrate_model(model, signals=both)
        answered = played.who == place
        return float(model.correct[answered].mean() if answered.any() else model.correct.mean())

    return {name: of(place) for place, name in enumerate(chosen_on.names)}


def estimate_accuracy(chain: ChainScores, played: Played, estimators: Mapping[str, Calibrated | float]) -> Estimate:
    """Accuracy of what a policy did, without looking at labels."""
    right = np.stack(
        [
            np.full(len(chain), fitted)
            if isinstance(fitted := estimators[m.name], float)
            else fitted.predict(m.signals)
            for m in chain.models
        ]
    )
    mean = float(right[played.who, np.arange(len(chain))].mean())
    return Estimate(mean, float(played.correct.mean()) if chain.labelled else None)


def shifts(here: ChainScores, there: ChainScores) -> tuple[Shift, ...]:
    """How far every confidence of a chain lies from where it was."""
    found = []
    for ours, theirs in zip(here.models, there.models, strict=True):
        for name, column in COLUMN_OF.items():
            a, b = getattr(ours.signals, column), getattr(theirs.signals, column)
            if a is not None and b is not None:
                test = stats.ks_2samp(a, b, method="asymp")
                found.append(Shift(ours.name, name, float(test.statistic), float(test.pvalue)))
    return tuple(found)


def qualities(chain: ChainScores) -> tuple[Quality, ...]:
    """How good every confidence is as a probability of its model's being right."""
    found = []
    for model in chain.models:
        for name, column in COLUMN_OF.items():
            p = getattr(model.signals, column)
            if p is not None:
                y = model.correct.astype(float)
                scores = (auroc(p, model.correct), ece(p, y), ece(p, y, equal="mass"), brier(p, y))
                found.append(Quality(model.name, name, *scores))
    return tuple(found)


def curves(chain: ChainScores) -> tuple[Curve, ...]:
    """The area metrics of every confidence of every model but the last."""
    found, last = [], chain.models[-1].correct
    for model in chain.models[:-1]:
        for name, column in COLUMN_OF.items():
            scores = getattr(model.signals, column)
            if scores is not None:
                curve = deferral_curve(scores, model.correct, last)
                shares = cpt(curve, 0.5), cpt(curve, 0.8)
                areas = deferral_auc(curve), apgr(curve)
                found.append(Curve(model.name, name, *areas, *shares, prr(scores, model.correct.astype(float))))
    return tuple(found)


def recalibrate(chosen: ChainScores, reported: ChainScores) -> tuple[Recalibrated, ...]:
    """P(T) of every model that has it, before and after calibration on the questions that choose."""
    found = []
    for on, model in zip(chosen.models, reported.models, strict=True):
        before, y = model.signals.p_t, model.correct.astype(float)
        if before is not None and on.signals.p_t is not None:
            after = calibrate_model(on, signals=("p_t",)).predict(model.signals)
            found.append(Recalibrated(model.name, ece(before, y), ece(after, y), brier(before, y), brier(after, y)))
    return tuple(found)


def evaluate(
    name: str,
    chain: ChainScores,
    policy: Policy,
    chosen_on: ChainScores,
    ledger: str,
    unit: str,
    margin: float = 0.01,
    prices: Prices | None = None,
    out_of_fold: Policy | None = None,
    like: ChainScores | None = None,
) -> Evaluation:
    """How a policy does on some questions, as it was chosen.

    Args:
        name: Of the data.
        chain: The scores there, with or without labels.
        policy: As it was chosen.
        chosen_on: The questions that chose it, with labels.
        ledger: In which the intervals and subjects count cost.
        unit: The same.
        margin: Of the non-inferiority test, a share.
        prices: For dollars.
        out_of_fold: Stands in for the policy where these questions certified it.
        like: The questions that certified the policy, or chose it, to be tested against; ``None`` for these themselves.

    Raises:
        CascadeError: If the data lack a confidence that the policy decides by.
    """
    for model, wanted in zip(chosen_on.names, policy.asks(chosen_on.offers), strict=True):
        if lacking := sorted(wanted - chain.offers[model]):
            raise CascadeError(
                f"Expected {name} to have {', '.join(lacking)} for {model!r}, as the policy asks it, but it has not"
            )
    costs = all_costs(chain, prices)
    acts = out_of_fold or policy
    played = play(chain, acts)
    outcome = played.outcome
    asked = ~np.isin(outcome, (Outcome.NOT_ASKED, Outcome.PASSED_BY_READER))
    answered = outcome == Outcome.ANSWERED
    stages = tuple(
        Stage(
            model.name,
            int(asked[i].sum()),
            int(answered[i].sum()),
            int((answered[i] & played.correct).sum()) if chain.labelled else None,
        )
        for i, model in enumerate(chain.models)
        if (outcome[i] != Outcome.NOT_ASKED).any()
    )
    counted = costs.get(unit)
    cost = None if counted is None else spent(chain, acts, outcome, counted, ledger)
    row = intervals = inferior = None
    found: tuple[Subject, ...] = ()
    moved = shifts(chain, like or chosen_on)
    if chain.labelled:
        last = chain.models[-1].correct
        row = simulate(chain, acts, costs, played)
        test = row.mcnemar
        inferior = non_inferiority(test.only_first, test.only_second, len(chain), margin)
        if counted is not None and cost is not None:
            intervals = paired_bootstrap(played.correct, last, cost, counted.whole[-1])
            found = _subjects(chain, played, cost, counted)
    return Evaluation(
        name=name,
        questions=len(chain),
        row=row,
        saved=saved_shares(chain, acts, outcome, costs) if row is None else row.saved,
        stages=stages,
        intervals=intervals,
        non_inferiority=inferior,
        qualities=qualities(chain) if chain.labelled else (),
        shifts=moved,
        difference=None if like is None else difference(moved),
        estimate=estimate_accuracy(chain, played, fit_estimators(chosen_on, policy, chain)),
        subjects=found,
    )


def _subjects(chain: ChainScores, played: Played, cost: np.ndarray, counted: PassCosts) -> tuple[Subject, ...]:
    if chain.subjects is None:
        return ()
    last = chain.models[-1].correct
    found = []
    for subject in np.unique(chain.subjects.astype(str)):
        here = chain.subjects == subject
        share = _share(cost[here].sum(), counted.whole[-1][here].sum())
        accuracies = float(played.correct[here].mean()), float(last[here].mean())
        found.append(Subject(str(subject), int(here.sum()), *accuracies, share))
    return tuple(found)


def _share(part: float, whole: float) -> float:
    """NaN where the whole is nothing."""
    return float(part / whole) if whole else float("nan")
