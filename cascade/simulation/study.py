"""From score tables to a recommendation: every policy tuned on some questions and reported on others.

Composes the frontier, the guarantee, the evaluation and the area metrics. What is reported of a policy is never
of the questions that chose it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Generic, TypeVar

import numpy as np

from cascade.errors import CascadeError
from cascade.policies.base import LivePolicy, Policy
from cascade.policies.file import policy_json
from cascade.policies.ledgers import PassCosts, Prices, available_units, pass_costs
from cascade.policies.promise import Promise, Watched, watched_of
from cascade.policies.registry import POLICIES, REFERENCES
from cascade.policies.tuning import Goal, Option, OutOfReach, Point, rank
from cascade.scores.arrays import ChainScores
from cascade.simulation.evaluation import Curve, Evaluation, Recalibrated, curves, evaluate, recalibrate
from cascade.simulation.frontier import Frontier, choose, frontier
from cascade.simulation.guarantee import Guarantee, certification, guarantee
from cascade.simulation.simulator import play, spent
from cascade.simulation.tuning import StudyTuner, limit_for
from cascade.statistics.curves import aiq, ibc_lift
from cascade.statistics.metrics import auroc
from cascade.statistics.significance import Interval, PairedBootstrap, paired_bootstrap

# Replicates for the points of the frontier, of which there are many; the chosen policies get the full number.
REPLICATES = 500
# The first of the evaluations.
REPORTED = "reported questions"
# Fewer questions than this say nothing about a threshold.
FEWEST = 10


P = TypeVar("P", bound=Policy)
P_co = TypeVar("P_co", bound=Policy, covariant=True)


@dataclass(frozen=True)
class Measured(Generic[P_co]):
    """A policy as it was chosen, and as it is on other questions.

    Attributes:
        policy: The policy.
        chosen: Accuracy and cost share on the questions that chose it.
        reported: Paired bootstrap on the others, against the last model alone.
        ibc_lift: AutoMix's figure on the others, between the first model alone and the last; a share.
    """

    policy: P_co
    chosen: tuple[float, float]
    reported: PairedBootstrap
    ibc_lift: float

    def to_json(self, names: Sequence[str], normalize: bool) -> dict[str, object]:
        """Plain values; ``names`` are the chain's models, ``normalize`` says which P(T) it is."""
        return {
            "policy": self.policy.name,
            "thresholds": self.policy.describe(names),
            "to_run": policy_json(self.policy, names, normalize),
            "chosen": {"accuracy": self.chosen[0], "cost": self.chosen[1]},
            "reported": self.reported.to_json(),
            "ibc_lift": self.ibc_lift,
        }


@dataclass(frozen=True)
class LayerPoint:
    """One choice of the probes' layers. To reject at an early layer costs less, and the probe there is less sure.

    Attributes:
        share: How far up the models the probes read, ℓ/L, about the same for all.
        layers: For each model but the last, its probe's layer.
        auroc: For each of them, of P(IK) on the reported questions.
        measured: The best thresholds on P(IK) and P(T) for the goal, in the early-exit ledger.
    """

    share: float
    layers: tuple[int, ...]
    auroc: tuple[float, ...]
    measured: Measured[LivePolicy]


@dataclass(frozen=True)
class Study:
    """All that was found.

    Attributes:
        names: The chain.
        goal, limit: What was asked; the limit as it was applied.
        chosen_on, reported_on: How many questions.
        reported: The scores of the latter.
        notes: What the scores do not allow, a line each.
        frontiers: Each set of signals that the scores allow, on the questions that choose.
        main: The signals whose frontier is measured on the others.
        measured: The main frontier's vertices, on both.
        policies: The best of each kind for the goal, then random mixing and the oracle.
        unpromised: The best of those that can be run, judged by the questions that choose.
        chosen: What is recommended: the promised policy where that is what was asked for, measured out of fold, and
            else the unpromised one.
        singles: Accuracy and cost of each model alone, on the reported questions.
        aiq: RouterBench's figure of the main frontier on the reported questions, in accuracy.
        curves, recalibrated: See there.
        guarantee: Of the chosen policy; ``None`` where a limit or another objective was given.
        evaluations: The chosen policy on the reported questions, and on any other data.
    """

    names: tuple[str, ...]
    goal: Goal
    limit: float
    chosen_on: int
    reported_on: int
    reported: ChainScores
    notes: tuple[str, ...]
    frontiers: Mapping[str, Frontier]
    main: str
    measured: tuple[Measured[LivePolicy], ...]
    policies: tuple[Measured[Policy], ...]
    unpromised: Measured[LivePolicy]
    chosen: Measured[LivePolicy]
    singles: tuple[tuple[str, float, float], ...]
    aiq: float
    curves: tuple[Curve, ...]
    recalibrated: tuple[Recalibrated, ...]
    guarantee: Guarantee | None
    evaluations: tuple[Evaluation, ...]

    @property
    def unit(self) -> str:
        """In which cost was counted."""
        return str(self.goal.unit)

    @property
    def normalized(self) -> bool:
        """Whether P(T) is that over the options' mass."""
        return self.reported.normalized

    @property
    def watched(self) -> Watched:
        """By what the chosen policy is watched where it runs: its promise, if it has one, and its signals."""
        found = self.guarantee
        promise = (
            Promise(found.epsilon, found.delta, found.certified_on, found.point.accuracy, found.last_accuracy)
            if found is not None and found.holds
            else None
        )
        return watched_of(self.chosen.policy, self.reported, promise)

    def to_json(self) -> dict[str, object]:
        """Plain values."""
        how = self.names, self.normalized
        return {
            "chain": list(self.names),
            "goal": asdict(self.goal) | {"limit": self.limit},
            "chosen_on": self.chosen_on,
            "reported_on": self.reported_on,
            "notes": list(self.notes),
            "chosen": self.chosen.to_json(*how) | {"watched": self.watched.to_json()},
            "unpromised": self.unpromised.to_json(*how),
            "policies": [m.to_json(*how) for m in self.policies],
            "frontier": {"signals": self.main, "points": [m.to_json(*how) for m in self.measured]},
            "singles": [{"model": m, "accuracy": a, "cost": c} for m, a, c in self.singles],
            "aiq": self.aiq,
            "curves": [asdict(c) for c in self.curves],
            "recalibrated": [asdict(r) for r in self.recalibrated],
            "guarantee": None if self.guarantee is None else self.guarantee.to_json(*how),
            "evaluations": [e.to_json() for e in self.evaluations],
        }


def measure(
    chain: ChainScores,
    point: Point[P],
    costs: PassCosts,
    ledger: str,
    replicates: int = 2000,
    out_of_fold: Policy | None = None,
) -> Measured[P]:
    """A chosen point on questions that did not choose it; where these did, ``out_of_fold`` stands in for it."""
    policy = out_of_fold or point.policy
    played, last = play(chain, policy), chain.models[-1].correct
    cost = spent(chain, policy, played.outcome, costs, ledger)
    found = paired_bootstrap(played.correct, last, cost, costs.whole[-1], replicates)
    if (played.who == len(chain.models) - 1).all():
        found = replace(found, difference=Interval(0.0, 0.0, 0.0))  # one model beside itself
    first = float(chain.models[0].correct.mean()), float(costs.whole[0].sum() / costs.whole[-1].sum())
    lift = ibc_lift(found.accuracy.estimate, found.cost_ratio.estimate, *first, float(last.mean()), 1.0)
    return Measured(point.policy, (point.accuracy, point.cost), found, lift)


def study(
    choose_on: ChainScores,
    report_on: ChainScores,
    goal: Goal,
    prices: Prices | None = None,
    others: Mapping[str, ChainScores] | None = None,
    seed: int = 0,
    certify_on: ChainScores | None = None,
) -> Study:
    """Tunes every policy on some questions and reports them on others, and certifies the one that it recommends.

    Args:
        choose_on: The questions that choose.
        report_on: Others of the same kind.
        goal: What is wanted.
        prices: For dollars.
        others: More data, by name, to evaluate the chosen policy on; may lack labels.
        seed: Of random mixing.
        certify_on: The questions that certify a promised policy, those that report among them. By default just these;
            the others then may be learnt from. With more, no label is looked at but to certify.

    Raises:
        CascadeError: If the scores do not allow the goal's unit, or nothing reaches its limit.
    """
    if min(len(choose_on), len(report_on)) < FEWEST:
        raise CascadeError(
            f"Expected at least {FEWEST} questions to choose thresholds on and {FEWEST} others to report, but got "
            f"{len(choose_on)} and {len(report_on)}"
        )
    unit = goal.unit or available_units(choose_on, prices)[0]
    goal = replace(goal, unit=unit)
    costs = pass_costs(choose_on, unit, prices)
    if not costs.whole[-1].sum() > 0:
        raise CascadeError(
            f"Expected {choose_on.names[-1]!r}, the last model, to cost something in {unit}, but it is 0"
        )
    there = pass_costs(report_on, unit, prices)
    tuner = StudyTuner(choose_on, costs, goal, seed)
    if unit == "calls":
        tuner.note(
            "The scores say nothing of cost (no parameters, tokens or seconds): calls of the last model are "
            "counted, and all others are free."
        )
    options = [option for kind in POLICIES for option in kind.options(tuner)]
    frontiers = tuner.frontiers
    if not frontiers:
        raise CascadeError("Expected some model but the last to have a confidence whose cost is known, but none has")
    main = next(iter(frontiers))

    limit = limit_for(goal, choose_on)
    points: dict[str, Point[Policy]] = {}
    live = _choose_each(options, goal, limit)
    best = min(live.values(), key=lambda p: rank(p, goal, limit))
    points |= live
    points |= {option.name: option.best(goal, limit) for kind in REFERENCES for option in kind.options(tuner)}

    unpromised = measure(report_on, best, there, goal.ledger)
    policies: list[Measured[Policy]] = [
        unpromised if point.policy is best.policy else measure(report_on, point, there, goal.ledger)
        for point in points.values()
    ]
    chosen, played_as, promise, whole = unpromised, None, None, None
    if goal.promised:
        whole = report_on if certify_on is None else certify_on
        apart = (choose_on, costs) if certify_on is None else (None, None)
        made = certification(whole, pass_costs(whole, unit, prices), goal, *apart)
        promise = guarantee(made)
        played_as = made.out_of_fold() if promise.holds else None
        chosen = measure(report_on, promise.point, there, goal.ledger, out_of_fold=played_as)
        policies.insert(0, chosen)
    measured = tuple(measure(report_on, p, there, goal.ledger, REPLICATES) for p in frontiers[main].vertices)
    data = {REPORTED: report_on} | dict(others or {})
    share = there.whole.sum(axis=1) / there.whole[-1].sum()
    return Study(
        names=choose_on.names,
        goal=goal,
        limit=limit,
        chosen_on=len(choose_on),
        reported_on=len(report_on),
        reported=report_on,
        notes=tuple(tuner.notes),
        frontiers=frontiers,
        main=main,
        measured=measured,
        policies=tuple(policies),
        unpromised=unpromised,
        chosen=chosen,
        singles=tuple(
            (m.name, float(m.correct.mean()), float(cost)) for m, cost in zip(report_on.models, share, strict=True)
        ),
        aiq=_aiq(measured),
        curves=curves(report_on),
        recalibrated=recalibrate(choose_on, report_on),
        guarantee=promise,
        evaluations=tuple(
            evaluate(
                name,
                chain,
                chosen.policy,
                choose_on,
                goal.ledger,
                unit,
                goal.margin,
                prices,
                played_as if chain is report_on else None,
                None if chain is report_on else whole or choose_on,
            )
            for name, chain in data.items()
        ),
    )


def _choose_each(options: Sequence[Option[LivePolicy]], goal: Goal, limit: float) -> dict[str, Point[LivePolicy]]:
    """By name the best point of each option that keeps the limit.

    Raises:
        OutOfReach: If nothing keeps it. The error is that of the option that comes nearest.
    """
    points: dict[str, Point[LivePolicy]] = {}
    missed: list[OutOfReach] = []
    for option in options:
        try:
            points[option.name] = option.best(goal, limit)
        except OutOfReach as error:
            missed.append(error)
    if missed and all(rank(point, goal, limit)[0] for point in points.values()):
        raise max(missed, key=lambda error: error.nearest)
    return points


def layer_point(
    choose_on: ChainScores,
    report_on: ChainScores,
    goal: Goal,
    layers: Sequence[int],
    share: float,
    prices: Prices | None = None,
) -> LayerPoint:
    """The best thresholds on P(IK) and P(T) for a goal in the early-exit ledger, for probes at given layers."""
    unit = goal.unit or available_units(choose_on, prices)[0]
    costs, there = pass_costs(choose_on, unit, prices), pass_costs(report_on, unit, prices)
    found = frontier(choose_on, costs, "early-exit", "P(IK) + P(T)")
    point = choose(found, goal.objective, limit_for(goal, choose_on))
    right = tuple(auroc(p_ik, m.correct) for m in report_on.models[:-1] if (p_ik := m.signals.p_ik) is not None)
    return LayerPoint(share, tuple(layers), right, measure(report_on, point, there, "early-exit"))


def _aiq(measured: Sequence[Measured[LivePolicy]]) -> float:
    cost = np.array([m.reported.cost_ratio.estimate for m in measured])
    right = np.array([m.reported.accuracy.estimate for m in measured])
    return aiq(cost, right) if len(measured) > 1 and np.ptp(cost) > 0 else float("nan")
