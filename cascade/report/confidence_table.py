"""Confidences in a terminal: how well each tells right from wrong, and what it took."""

from __future__ import annotations

import math

import pyarrow as pa

from cascade.report.table import Column, Table
from cascade.report.tables import print_table, wide_console
from cascade.scores.schema import CONFIDENCES
from cascade.statistics.metrics import auroc


def print_confidences(table: pa.Table) -> None:
    """Prints how well each confidence tells right from wrong, and what it took beyond the answer."""
    console = wide_console()
    correct = table["correct"].to_numpy().astype(bool)
    heads = ("AUROC", "mean", "readable", "prompts", "tokens read", "tokens written", "seconds")
    rows: list[list[str]] = []
    for column in ("p_t", "p_ik", *(f"confidence_{name}" for name in CONFIDENCES)):
        if column not in table.column_names or (column == "p_ik" and table[column].null_count):
            continue
        there = table[column].is_valid().to_numpy()
        values = table[column].drop_null().to_numpy()
        area = auroc(values, correct[there]) if len(values) else float("nan")
        cells = ["–" if math.isnan(area) else f"{area:.3f}", f"{values.mean():.3f}" if len(values) else "–"]
        cells.append(f"{len(values):,}")
        for extra in ("prompts", "prompt_tokens", "completion_tokens", "seconds"):
            name = f"{column}_{extra}"
            mean = table[name].to_numpy().mean() if name in table.column_names and column != "p_t" else 0.0
            cells.append(f"{mean:.3g}" if mean else "–")
        rows.append([column.removeprefix("confidence_"), *cells])
    title = f"{len(correct):,} questions, {correct.mean():.1%} right"
    print_table(Table.of("confidences", title, ["confidence", *map(Column, heads)], rows), console)
    console.print("AUROC of the answer's being right. The last four: beyond the answer's own pass, a question.")
