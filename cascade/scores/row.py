"""The one function that makes a row of the score table, and the one that writes some columns of a table anew."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from cascade.errors import CascadeError
from cascade.scores.schema import SCHEMA


def score_row(question_id: str, model: str, correct: bool, **columns: Any) -> dict[str, Any]:
    """A row with every column of the schema; null where nothing is said.

    Args:
        question_id: Which question.
        model: Which model answered it.
        correct: Whether the answer is right.
        columns: More of it, by the schema's names: of the question (``task``, ``subject``, ``answer``, …), the model
            (``parameters``, ``num_layers``, …), the first token (``p_t``, …) and the usage (``prompt_tokens``, …).

    Raises:
        CascadeError: Naming a column that the schema has not.
    """
    if unknown := sorted(set(columns) - set(SCHEMA.names)):
        raise CascadeError(f"Expected columns of the score table's schema, but got {', '.join(unknown)}")
    known = {"question_id": question_id, "model": model, "correct": correct, **columns}
    return {name: known.get(name) for name in SCHEMA.names}


def with_columns(table: pa.Table, columns: Mapping[str, pa.Array]) -> pa.Table:
    """A score table with some columns anew, in the schema's order; columns beyond the schema come last."""
    held = {name: table[name] for name in table.column_names} | dict(columns)
    order = [*(name for name in SCHEMA.names if name in held), *(name for name in held if name not in SCHEMA.names)]
    return pa.table({name: held[name] for name in order})
