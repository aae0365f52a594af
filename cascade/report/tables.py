"""The simulator's report as tables in the form of the paper's: fixed thresholds, every sub-chain."""

from __future__ import annotations

import os
import sys
from dataclasses import replace

from rich.console import Console

from cascade.policies.ledgers import LEDGERS, UNITS
from cascade.report.names import chain_label, short_names
from cascade.report.table import Column, Table, count, decimals, percent, points
from cascade.simulation.simulator import Report, Row

SAVED = tuple(Column(ledger, percent) for ledger in LEDGERS)


def _relative(value: float) -> str:
    return f"{value:+.2f}%"


def _cost(row: Row, unit: str) -> list[float | None]:
    saved = row.saved.get(unit)
    return [None if saved is None or len(row.models) == 1 else saved[ledger] for ledger in LEDGERS]


def _drop(row: Row, value: float) -> float | None:
    return None if len(row.models) == 1 else value


def _accuracy(report: Report, short: dict[str, str]) -> Table:
    hallucination = any(row.hallucination is not None for row in (*report.singles, *report.chains))
    rows = [
        [
            chain_label(row.models, short),
            row.accuracy,
            *([row.hallucination] if hallucination else []),
            _drop(row, row.pd_points),
            _drop(row, row.pd_relative),
            *_cost(row, report.unit),
        ]
        for row in (*report.singles, *report.chains)
    ]
    return Table.of(
        "accuracy",
        "Accuracy and reduced cost (Tables 1 and 3)",
        [
            "LLM(s)",
            Column("Acc.", percent),
            *([Column("Halluc.", percent)] if hallucination else []),
            Column("pd_points", points),
            Column("pd_relative", _relative),
            *SAVED,
        ],
        rows,
        f"Ledgers: share saved of the cost of the chain's last model alone, in {UNITS[report.unit]}. answered-only "
        "charges the model that answered (the paper's eq. 6), full-path every model tried, early-exit ℓ/L of the "
        "prefill where the P(IK) probe at layer ℓ of L rejected, the prefill and the first token where P(T) did. "
        "Negative: it costs more."
        + (" Halluc.: the share of all questions answered wrongly; abstentions are neither." if hallucination else ""),
    )


def _units(report: Report, short: dict[str, str]) -> Table | None:
    units = [unit for unit in report.units if unit != report.unit]
    if not units:
        return None
    return Table.of(
        "units",
        "Reduced cost in other units (Table 1, Time; Table 13)",
        ["LLM(s)", "unit", *SAVED],
        [[chain_label(row.models, short), unit, *_cost(row, unit)] for row in report.chains for unit in units],
        "; ".join(f"{unit}: {UNITS[unit]}" for unit in units) + ".",
    )


def _macro(report: Report, short: dict[str, str]) -> Table | None:
    if report.singles[-1].macro is None:
        return None
    return Table.of(
        "macro",
        "Macro precision, recall and F1 (Table 2)",
        ["LLM(s)", *(Column(name, "{:.4f}".format) for name in ("P", "R", "F1"))],
        [
            [chain_label(row.models, short), *row.macro]
            for row in (*report.singles, *report.chains)
            if row.macro is not None
        ],
    )


def _ablation(report: Report, short: dict[str, str]) -> Table | None:
    if not report.without_p_ik:
        return None
    return Table.of(
        "without-p-ik",
        "With and without P(IK) (Table 5)",
        ["LLM(s)", "setting", Column("Acc.", percent), Column("pd_points", points), *SAVED],
        [
            [chain_label(row.models, short), setting, row.accuracy, row.pd_points, *_cost(row, report.unit)]
            for pair in zip(report.chains, report.without_p_ik, strict=True)
            for setting, row in zip(("w/ P(IK)", "w/o P(IK)"), pair, strict=True)
        ],
        f"Ledgers in {UNITS[report.unit]}.",
    )


def _stages(report: Report, short: dict[str, str]) -> Table:
    names = [row.models[0] for row in report.singles]
    rows: list[list[str | None]] = []
    for row in report.chains:
        places = {model: i for i, model in enumerate(row.models)}
        cells = [
            f"{count(row.answered[places[name]])} of {count(row.tried[places[name]])}" if name in places else None
            for name in names
        ]
        rows.append([chain_label(row.models, short), *cells])
    return Table.of(
        "stages",
        "Questions answered at each stage, of those it was asked (Table 8)",
        ["LLM(s)", *(Column(short[name]) for name in names)],
        rows,
    )


def _significance(report: Report, short: dict[str, str]) -> Table:
    return Table.of(
        "mcnemar",
        "McNemar's test against the chain's last model (Table 9)",
        ["Comparison", *map(Column, ("only one right", "p exact", "χ² (p)", "χ² corrected (p)"))],
        [
            [
                f"{chain_label(row.models, short)} vs. {short[row.models[-1]]}",
                f"{test.only_first}, {test.only_second}",
                f"{test.p_exact:.4g}",
                f"{test.chi2:.2f} ({test.p_chi2:.4g})",
                f"{test.chi2_corrected:.2f} ({test.p_chi2_corrected:.4g})",
            ]
            for row in report.chains
            if (test := row.mcnemar)
        ],
        "A large p says that a difference was not shown, not that there is none.",
    )


def _confidence(report: Report, short: dict[str, str]) -> Table:
    heads = [Column(name, percent) for name in ("Accuracy", "F1", "AUROC")]
    return Table.of(
        "confidences-at-thresholds",
        "Confidences as predictors of the model's own correctness (Table 14)",
        ["Model", "confidence", *heads, Column("mean", decimals)],
        [[short[c.model], c.confidence, c.accuracy, c.f1, c.auroc, c.mean] for c in report.confidences],
        f"Accuracy and F1 at {asked_thresholds(report)}.",
    )


def asked_thresholds(report: Report) -> str:
    """The fixed thresholds of those confidences that the scores have."""
    found = {c.confidence for c in report.confidences}
    words = {"p_t": "P(T)", "p_ik": "P(IK)"}
    return str(replace(report.thresholds, **{name: None for name, word in words.items() if word not in found}))


def report_tables(report: Report) -> list[Table]:
    """Every table that the scores allow."""
    short = short_names([row.models[0] for row in report.singles])
    makers = (_accuracy, _units, _macro, _ablation, _stages, _significance, _confidence)
    return [table for make in makers if (table := make(report, short)) is not None and table.rows]


def wide_console(piped: int = 120) -> Console:
    """A console as wide as the terminal.

    Args:
        piped: Columns where output is piped, which has no width of its own; most tables need about 120.
    """
    asked = os.environ.get("COLUMNS", "").isdecimal()
    return Console(width=None if sys.stdout.isatty() or asked else piped)


def print_table(table: Table, console: Console) -> None:
    """Prints a table in as many parts as the console's width asks for."""
    for part in table.to_lines(console.width):
        console.print(part)


def print_report(report: Report, console: Console | None = None) -> None:
    """Prints every table that the scores allow."""
    console = console or wide_console()
    models = [row.models[0] for row in report.singles]
    console.print(f"{report.questions:,} questions, {' → '.join(models)}", style="bold", highlight=False, markup=False)
    for table in report_tables(report):
        print_table(table, console)
        console.print()
