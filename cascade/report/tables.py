"""The simulator's report as tables in the form of the paper's, for a terminal."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from cascade.report.names import chain_label, short_names
from cascade.simulation.ledgers import LEDGERS, UNITS
from cascade.simulation.simulator import Report, Row

NONE = "–"


def _percent(value: float | None, signed: bool = False) -> str:
    return NONE if value is None else f"{100 * value:{'+' if signed else ''}.2f}%"


def _cost(row: Row, unit: str = "flops") -> list[str]:
    saved = row.saved.get(unit)
    return [_percent(None if saved is None or len(row.models) == 1 else saved[ledger]) for ledger in LEDGERS]


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], caption: str | None = None) -> Table:
    table = Table(title=title, caption=caption, title_justify="left", caption_justify="left")
    for i, name in enumerate(columns):
        table.add_column(name, justify="left" if i == 0 else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return table


def _accuracy(report: Report, short: dict[str, str]) -> Table:
    rows = [
        [
            chain_label(row.models, short),
            _percent(row.accuracy),
            NONE if len(row.models) == 1 else f"{row.pd_points:+.2f}",
            NONE if len(row.models) == 1 else f"{row.pd_relative:+.2f}%",
            *_cost(row),
        ]
        for row in (*report.singles, *report.chains)
    ]
    return _table(
        "Accuracy and reduced compute (Tables 1 and 3)",
        ["LLM(s)", "Acc.", "pd_points", "pd_relative", *LEDGERS],
        rows,
        "Ledgers: share saved of the FLOPs (2N a pass, eq. 5) of the chain's last model alone.\n"
        "answered-only charges the model that answered (the paper's eq. 6), full-path every\n"
        "model tried, early-exit ℓ/L of a pass where the P(IK) probe at layer ℓ of L rejected.\n"
        "Negative: it costs more.",
    )


def _units(report: Report, short: dict[str, str]) -> Table | None:
    units = [unit for unit in report.units if unit != "flops"]
    if not units:
        return None
    rows = [[chain_label(row.models, short), unit, *_cost(row, unit)] for row in report.chains for unit in units]
    return _table(
        "Reduced cost in other units (Table 1, Time; Table 13)",
        ["LLM(s)", "unit", *LEDGERS],
        rows,
        "; ".join(f"{unit}: {UNITS[unit]}" for unit in units) + ".",
    )


def _macro(report: Report, short: dict[str, str]) -> Table | None:
    if report.singles[-1].macro is None:
        return None
    rows = [
        [chain_label(row.models, short), *(f"{value:.4f}" for value in row.macro)]
        for row in (*report.singles, *report.chains)
        if row.macro is not None
    ]
    return _table("Macro precision, recall and F1 (Table 2)", ["LLM(s)", "P", "R", "F1"], rows)


def _ablation(report: Report, short: dict[str, str]) -> Table | None:
    if not report.without_p_ik:
        return None
    rows = [
        [
            chain_label(row.models, short),
            setting,
            _percent(row.accuracy),
            f"{row.pd_points:+.2f}",
            *_cost(row),
        ]
        for pair in zip(report.chains, report.without_p_ik, strict=True)
        for setting, row in zip(("w/ P(IK)", "w/o P(IK)"), pair, strict=True)
    ]
    return _table("With and without P(IK) (Table 5)", ["LLM(s)", "setting", "Acc.", "pd_points", *LEDGERS], rows)


def _stages(report: Report, short: dict[str, str]) -> Table:
    names = [row.models[0] for row in report.singles]
    rows = []
    for row in report.chains:
        places = {model: i for i, model in enumerate(row.models)}
        cells = [
            f"{row.answered[places[name]]:,} of {row.tried[places[name]]:,}" if name in places else NONE
            for name in names
        ]
        rows.append([chain_label(row.models, short), *cells])
    return _table(
        "Questions answered at each stage, of those it was asked (Table 8)",
        ["LLM(s)", *(short[name] for name in names)],
        rows,
    )


def _significance(report: Report, short: dict[str, str]) -> Table:
    rows = [
        [
            f"{chain_label(row.models, short)} vs. {short[row.models[-1]]}",
            f"{test.only_first}, {test.only_second}",
            f"{test.p_exact:.4g}",
            f"{test.chi2:.2f} ({test.p_chi2:.4g})",
            f"{test.chi2_corrected:.2f} ({test.p_chi2_corrected:.4g})",
        ]
        for row in report.chains
        if (test := row.mcnemar)
    ]
    return _table(
        "McNemar's test against the chain's last model (Table 9)",
        ["Comparison", "only one right", "p exact", "χ² (p)", "χ² corrected (p)"],
        rows,
        "A large p says that a difference was not shown, not that there is none.",
    )


def _confidence(report: Report, short: dict[str, str]) -> Table:
    rows = [
        [short[c.model], c.confidence, _percent(c.accuracy), _percent(c.f1), _percent(c.auroc), f"{c.mean:.3f}"]
        for c in report.confidences
    ]
    limits = report.thresholds
    asked = f"P(T) ≥ {limits.p_t:g}" + ("" if limits.p_ik is None else f", P(IK) ≥ {limits.p_ik:g}")
    return _table(
        "Confidences as predictors of the model's own correctness (Table 14)",
        ["Model", "confidence", "Accuracy", "F1", "AUROC", "mean"],
        rows,
        f"Accuracy and F1 at {asked}.",
    )


def print_report(report: Report, console: Console | None = None) -> None:
    """Prints every table that the scores allow."""
    # Piped output has no width of its own; these tables need about 100 columns.
    console = console or Console(width=None if sys.stdout.isatty() else 120)
    models = [row.models[0] for row in report.singles]
    short = short_names(models)
    console.print(f"[bold]{report.questions:,} questions, {' → '.join(models)}[/bold]", highlight=False)
    tables = (_accuracy, _units, _macro, _ablation, _stages, _significance, _confidence)
    for table in (make(report, short) for make in tables):
        if table is not None:
            console.print(table)
            console.print()
