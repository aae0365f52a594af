"""A study as tables: the ledgers, the policies and the frontier, the confidences, and how they do elsewhere.

Everything here is of questions that did not choose what it is about, unless it says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite

from rich.console import Console
from rich.text import Text

from cascade.policies.base import Policy
from cascade.policies.ledgers import LEDGERS, UNITS
from cascade.report.names import short_names
from cascade.report.recommendation import recommendation
from cascade.report.table import (
    Column,
    Table,
    count,
    decimals,
    percent,
    percent_interval,
    points,
    points_interval,
)
from cascade.report.tables import SAVED, print_table, wide_console
from cascade.simulation.evaluation import Evaluation
from cascade.simulation.study import LayerPoint, Measured, Study
from cascade.statistics.significance import Interval


def ledgers_table(study: Study) -> Table:
    """The chosen policy in the three ledgers, in every unit."""
    saved = study.evaluations[0].saved
    return Table.of(
        "ledgers",
        f"Share saved of {study.names[-1]} alone",
        ["unit", *SAVED],
        [[f"{unit}: {UNITS[unit]}", *(saved[unit][ledger] for ledger in LEDGERS)] for unit in saved],
        f"On {study.reported_on:,} questions that did not choose the thresholds{_folds(study)}. "
        f"Negative: it costs more.",
    )


def policies_table(study: Study) -> Table:
    """The best of each kind for the goal, and each model alone."""
    short = short_names(study.names)
    names = [short[name] for name in study.names]
    rows: list[list[object]] = [
        [
            m.policy.name + _mark(study, m),
            m.reported.accuracy,
            m.reported.difference,
            m.reported.cost_ratio,
            m.policy.describe(names),
            m.ibc_lift,
            *m.chosen,
        ]
        for m in study.policies
        if m is study.chosen or _in_words(m, names) != _in_words(study.chosen, names)  # once is enough
    ]
    rows += [
        [f"{short[name]} alone", _exact(right), None, _exact(cost), "", None, None, None]
        for name, right, cost in study.singles
    ]
    return Table.of(
        "policies",
        "Policies: the best of each kind for the goal",
        [
            "policy",
            Column("accuracy", percent_interval, True),
            Column("difference, points", points_interval, True),
            Column("cost", percent_interval, True),
            "models and thresholds",
            Column("IBC lift", "{:+.1%}".format),
            Column("accuracy where chosen", percent),
            Column("cost where chosen", percent),
        ],
        rows,
        f"Cost as a share of {names[-1]} alone, {study.goal.ledger}, {study.unit}; intervals of 95 %, of the "
        f"difference by Tango's score test, else by resampling questions. {_promises(study)}The oracle knows "
        f"beforehand who is right, and cannot be run.",
    )


def _in_words(measured: Measured[Policy], names: list[str]) -> tuple[str, str]:
    return measured.policy.name, measured.policy.describe(names)


def _folds(study: Study) -> str:
    """How a promised policy is measured, which its own questions certify."""
    return "" if study.guarantee is None else ": each fifth under the policy that the other four fifths certify"


def _promises(study: Study) -> str:
    """Of what nothing is promised."""
    return "" if study.guarantee is None else "Nothing is promised of the others. "


def _mark(study: Study, measured: Measured[Policy]) -> str:
    if measured is not study.chosen:
        return ""
    return " (chosen)" if study.guarantee is None else " (promised)" if study.guarantee.holds else " (recommended)"


def _exact(value: float) -> Interval:
    return Interval(value, float("nan"), float("nan"))


def frontier_table(study: Study) -> Table:
    """The main frontier's vertices: on the questions that chose them, and on the others."""
    short = short_names(study.names)
    names = [short[name] for name in study.names]
    return Table.of(
        "frontier",
        f"The frontier of {study.main}",
        [
            "models and thresholds",
            Column("accuracy", percent_interval, True),
            Column("cost", percent_interval, True),
            Column("accuracy where chosen", percent),
            Column("cost where chosen", percent),
        ],
        [[m.policy.describe(names), m.reported.accuracy, m.reported.cost_ratio, *m.chosen] for m in study.measured],
    )


def evaluations_table(study: Study, stages: bool = True) -> Table:
    """The chosen policy on every data, labelled or not; with what each model answered, or without."""
    short = short_names(study.names)
    under = " Under each model: questions it answered, and how many of them rightly." if stages else ""
    rows = [
        [
            e.name,
            e.questions,
            None if e.intervals is None else e.intervals.accuracy,
            None if e.row is None else e.row.pd_points,
            *(e.saved.get(study.unit, {}).get(ledger) for ledger in LEDGERS),
            e.estimate.accuracy,
            e.estimate.error,
            *(_stage(e, name) for name in study.names if stages),
        ]
        for e in study.evaluations
    ]
    return Table.of(
        "evaluations",
        "The chosen policy, frozen, on every data",
        [
            "data",
            Column("questions", count),
            Column("accuracy", percent_interval, True),
            Column("PD", points),
            *SAVED,
            Column("estimate", percent),
            Column("error", points),
            *(Column(short[name]) for name in study.names if stages),
        ],
        rows,
        f"PD: accuracy minus that of {short[study.names[-1]]} alone, in points. Ledgers: share of its cost saved, "
        f"{study.unit}. Estimate: of accuracy, made without labels from calibrated confidences; error: estimate "
        f"minus accuracy, in points.{under}",
    )


def _stage(evaluation: Evaluation, model: str) -> str | None:
    for stage in evaluation.stages:
        if stage.model == model:
            right = "" if stage.right is None else f", {stage.right:,} right"
            return f"{stage.answered:,}{right}"
    return None


def shifts_table(study: Study) -> Table:
    """How far each confidence has moved from the questions that certified the policy, or chose it."""
    short = short_names(study.names)
    rows = [
        [e.name, short[s.model], s.confidence, s.distance, s.p, "moved" if s.moved else ""]
        for e in study.evaluations
        for s in e.shifts
    ]
    return Table.of(
        "shifts",
        "How far confidences have moved from the questions that the policy rests on",
        ["data", "model", "confidence", Column("distance", decimals), Column("p", "{:.2g}".format), "warning"],
        rows,
        "Kolmogorov-Smirnov: the largest distance of the two distribution functions, and its two-sided p.",
    )


def confidences_table(study: Study) -> Table:
    """How well each confidence tells right from wrong, and how well it says when to ask the last model."""
    short = short_names(study.names)
    curves = {(c.model, c.confidence): c for c in study.curves}
    rows = []
    for q in study.evaluations[0].qualities:
        c = curves.get((q.model, q.confidence))
        areas = [None] * 5 if c is None else [c.deferral_auc, c.apgr, c.cpt50, c.cpt80, c.prr]
        rows.append([short[q.model], q.confidence, q.auroc, q.ece, q.ece_mass, q.brier, *areas])
    numbers = ("AUROC", "ECE", "ECE, equal mass", "Brier", "deferral AUC", "APGR")
    return Table.of(
        "confidences",
        "How good each confidence is",
        [
            "model",
            "confidence",
            *(Column(name, decimals) for name in numbers),
            Column("CPT(50%)", percent),
            Column("CPT(80%)", percent),
            Column("PRR", decimals),
        ],
        rows,
        "AUROC, ECE and Brier: of the model's own being right. The others: as a reason to ask "
        f"{short[study.names[-1]]} instead, all thresholds at once (the last section says what they are).",
    )


def recalibrated_table(study: Study) -> Table:
    """P(T) before and after calibration."""
    short = short_names(study.names)
    return Table.of(
        "calibration",
        "P(T) before and after calibration on the questions that choose",
        [
            "model",
            *(Column(f"{what} {when}", decimals) for what in ("ECE", "Brier") for when in ("before", "after")),
        ],
        [[short[r.model], r.ece_before, r.ece_after, r.brier_before, r.brier_after] for r in study.recalibrated],
    )


def subjects_table(study: Study) -> Table:
    """Figures for each subject, where the scores name subjects."""
    last = short_names(study.names)[study.names[-1]]
    return Table.of(
        "subjects",
        "By subject",
        [
            "subject",
            "data",
            Column("questions", count),
            Column("accuracy", percent),
            Column(f"{last} alone", percent),
            Column("PD", points),
            Column("cost", percent),
        ],
        [
            [s.name, e.name, s.questions, s.accuracy, s.last, 100 * (s.accuracy - s.last), s.cost]
            for e in study.evaluations
            for s in e.subjects
        ],
        "One subject has few questions: differences of a point or two are chance.",
    )


def layers_table(study: Study, layers: Sequence[LayerPoint]) -> Table:
    """The goal's best policy for probes at each depth."""
    short = short_names(study.names)
    return Table.of(
        "layers",
        "How far up the probes read",
        [
            Column("ℓ/L", percent),
            Column("layers"),
            Column("AUROC of P(IK)"),
            Column("accuracy", percent_interval, True),
            Column("early-exit cost", percent_interval, True),
            "models and thresholds",
        ],
        [
            [
                layer.share,
                ", ".join(map(str, layer.layers)),
                ", ".join(decimals(a) if isfinite(a) else "–" for a in layer.auroc),
                layer.measured.reported.accuracy,
                layer.measured.reported.cost_ratio,
                layer.measured.policy.describe([short[name] for name in study.names]),
            ]
            for layer in layers
        ],
        "Layers and AUROC: of each model but the last, smallest first.",
    )


def study_tables(study: Study, layers: Sequence[LayerPoint] = ()) -> list[Table]:
    """Every table that the study allows."""
    made = [
        ledgers_table(study),
        policies_table(study),
        frontier_table(study),
        confidences_table(study),
        recalibrated_table(study),
        evaluations_table(study),
        shifts_table(study),
        subjects_table(study),
        layers_table(study, layers),
    ]
    return [table for table in made if table.rows]


def print_study(study: Study, console: Console | None = None) -> None:
    """Prints the recommendation, the ledgers, the policies and how the chosen one does on other data."""
    console = console or wide_console()
    said = recommendation(study)
    console.print("Recommendation", style="bold")
    for line in (*said.sentences, said.non_inferiority, said.outlook):
        if line:
            console.print(Text(line))
    for line in said.elsewhere:
        console.print(Text(line))
    for warning in said.warnings:
        console.print(Text(warning, style="yellow"))
    console.print()
    tables = (
        ledgers_table(study),
        policies_table(study).without("IBC lift", "accuracy where chosen", "cost where chosen"),
        evaluations_table(study, stages=False),
    )
    for table in tables:
        if table.rows:
            print_table(table, console)
            console.print()
