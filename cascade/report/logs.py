"""A description in words of score tables: what they hold, and what can be simulated from them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from cascade.policies.ledgers import available_units
from cascade.scores.arrays import ChainScores, model_scores
from cascade.scores.columns import CONFIDENCES


def print_logs(files: Sequence[Path], table: pa.Table, labelled: bool) -> None:
    """Prints what score tables hold: rows, columns, and for each model its confidences and costs.

    Args:
        files: Where they were read from.
        table: All of them as one.
        labelled: Whether they say which answers are right.
    """
    print(f"{', '.join(map(str, files))}: {table.num_rows:,} rows, columns {', '.join(table.column_names)}")
    if not labelled:
        print("no column correct: good for --evaluate-on as unlabelled logs, not to choose thresholds on")
    for name in sorted(set(table["model"].to_pylist())):
        rows = table.filter(pc.equal(table["model"], name))
        model = model_scores(name, rows, labelled=labelled)
        has = [column for column in CONFIDENCES if column in model.signals.known]
        one = ChainScores(tuple(rows["question_id"].to_pylist()), (model,), labelled=labelled)
        units = ", ".join(available_units(one))
        if units == "calls":
            units += " of the last model alone; parameters, prompt_tokens and completion_tokens, or seconds allow more"
        confidences = ", ".join(has) or "none, so that it can only be the last of a chain"
        print(f"  {name}: {len(one):,} questions; confidences: {confidences}; costs in {units}")
