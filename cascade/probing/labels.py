"""What a probe is to predict, read from any table with a column of verdicts or shares."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cascade.errors import CascadeError


def read_label_file(path: Path) -> pa.Table:
    """A Parquet file of labels, as it is.

    Raises:
        CascadeError: If it cannot be read.
    """
    try:
        return pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise CascadeError(f"Expected `labels` to be a Parquet file, but {path}: {error}") from error


def read_labels(table: pa.Table, ids: Sequence[str], column: str, path: str) -> tuple[np.ndarray, str]:
    """What a probe is to predict, from ``question_id``, a column, and ``model`` where there is one.

    Args:
        table: A score table, or a table of several answers a question (repeated ids), or of shares.
        ids: The questions wanted; others in the table are left out.
        column: The column.
        path: Names the table in errors.

    Returns:
        Labels ``[len(ids)]`` in [0, 1], float64, the mean where an id repeats; and what they mean, in words.

    Raises:
        CascadeError: If a column or a question is missing, a label lies outside [0, 1], or several models are in it.
    """
    if missing := {"question_id", column} - set(table.column_names):
        raise CascadeError(f"Expected {path} to have columns question_id and {column}, but {sorted(missing)} missing")
    models = set(table["model"].to_pylist()) if "model" in table.column_names else {"the model"}
    if len(models) != 1:
        raise CascadeError(f"Expected labels of one model in {path}, but got {', '.join(map(str, sorted(models)))}")
    try:
        numbers = table[column].cast(pa.float64())
    except pa.ArrowException as error:
        raise CascadeError(f"Expected {column} in {path} to be numbers, but got {table[column].type}") from error
    answers = pa.table({"id": table["question_id"].cast(pa.string()), "label": numbers})
    grouped = answers.group_by("id").aggregate([("label", "mean")])
    means = dict(zip(grouped["id"].to_pylist(), grouped["label_mean"].to_pylist(), strict=True))
    if absent := [i for i in ids if means.get(i) is None]:
        raise CascadeError(f"Expected labels of all questions in {path}, but {len(absent)} have none, as {absent[0]!r}")
    labels = np.array([means[i] for i in ids])
    if (outside := np.flatnonzero(~((labels >= 0) & (labels <= 1)))).size:
        raise CascadeError(f"Expected {column} in {path} to be in [0, 1], but question {ids[outside[0]]!r} is not")
    model = next(iter(models))
    if bool(((labels > 0) & (labels < 1)).any()):
        return labels, f"an answer of {model} is correct, learnt from the share of right answers"
    return labels, f"the answer of {model} is correct"
