"""Wide tables: one row a question, columns a model. RouterBench's is one, and is recognised by its own names.

A model's columns are named `correct_MODEL`, `p_t_MODEL` and so on, or `MODEL|correct`, `MODEL.p_t`, with any of the
schema's names. A column of nothing but 0 and 1 that is named by the model alone says whether its answer is right.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cascade.errors import CascadeError
from cascade.scores.readers.base import LogFormat
from cascade.scores.readers.plain import read_csv, read_json_lines
from cascade.scores.schema import COLUMNS, CONFIDENCE_COLUMNS

_OF_QUESTIONS = ("question_id", "task", "subject", "split", "answer", "popularity")
_NAMES = sorted({c.name for c in (*COLUMNS, *CONFIDENCE_COLUMNS)} - {"model", *_OF_QUESTIONS}, key=len, reverse=True)
_FIELD = "|".join(map(re.escape, _NAMES))
_FIRST = re.compile(rf"(?P<field>{_FIELD})(?:__|[_.|:/])(?P<model>.+)")
_LAST = re.compile(rf"(?P<model>.+?)(?:__|[_.|:/])(?P<field>{_FIELD})")
_ENDINGS = (".csv", ".parquet", ".jsonl")
_ROUTER_BENCH = {"sample_id", "eval_name", "oracle_model_to_route_to"}
_COST, _RESPONSE = "|total_cost", "|model_response"
_READ = {".csv": read_csv, ".parquet": lambda path: pq.read_table(path), ".jsonl": read_json_lines}


def _names(path: Path) -> set[str]:
    """The columns of a file, by its first line alone."""
    if path.suffix.lower() == ".parquet":
        return set(pq.read_schema(path).names)
    if path.suffix.lower() == ".csv":
        with pa.csv.open_csv(path, parse_options=pa.csv.ParseOptions(newlines_in_values=True)) as file:
            return set(file.schema.names)
    from cascade.scores.readers.base import first_record

    return set(first_record(path))


def _read(path: Path) -> pa.Table:
    table: pa.Table = _READ[path.suffix.lower()](path)
    return table


def knows(path: Path) -> bool:
    """Whether a table has a row for each question and columns for two models or more."""
    try:
        names = _names(path)
        if "question_id" not in names or {"model", "correct"} & names:
            return False
        return bool(grouped(names)) or is_wide(_read(path))
    except (pa.ArrowException, OSError, ValueError):
        return False


def is_wide(table: pa.Table) -> bool:
    """Whether a table, wherever it comes from, is one of these."""
    names = set(table.column_names)
    if "question_id" not in names or {"model", "correct"} & names:
        return False
    once = len(pc.unique(table["question_id"])) == table.num_rows
    return once and (bool(grouped(names)) or len(_bare(table)) >= 2)


def grouped(names: set[str]) -> dict[str, dict[str, str]]:
    """Each model's columns, from the schema's names to the table's; none where there are not two models."""
    for pattern in (_FIRST, _LAST):
        found: dict[str, dict[str, str]] = {}
        for name in sorted(names):
            if match := pattern.fullmatch(name):
                found.setdefault(match["model"], {})[match["field"]] = name
        labelled = {model: columns for model, columns in found.items() if "correct" in columns}
        if len(labelled) >= 2:
            return labelled
    return {}


def _bare(table: pa.Table) -> dict[str, dict[str, str]]:
    """Models whose own column says whether they are right, with what else is said of them."""
    taken = {c.name for c in (*COLUMNS, *CONFIDENCE_COLUMNS)}
    models = [name for name in table.column_names if name not in taken and _says_right(table[name])]
    others = [name for name in table.column_names if name not in taken and name not in models]
    found = {model: {"correct": model} for model in models}
    for name in others:
        for pattern in (_FIRST, _LAST):
            match = pattern.fullmatch(name)
            if match and match["model"] in found:
                found[match["model"]][match["field"]] = name
    return found


def _says_right(values: pa.ChunkedArray) -> bool:
    texts = (
        values.cast(pa.string()) if not pa.types.is_boolean(values.type) else values.cast(pa.int8()).cast(pa.string())
    )
    said = {str(value).strip().lower() for value in pc.unique(texts).to_pylist()}
    return bool(said) and said <= {"0", "1", "0.0", "1.0", "true", "false"}


def read(path: Path) -> pa.Table:
    """The table with a row for each question and model."""
    return long_table(_read(path), str(path))


def long_table(table: pa.Table, source: str) -> pa.Table:
    """A wide table with a row for each question and model.

    Raises:
        CascadeError: If a question stands in two rows.
    """
    if len(pc.unique(table["question_id"])) != table.num_rows:
        raise CascadeError(f"Expected one row a question in {source}, as its columns are models, but some have several")
    shared = [name for name in _OF_QUESTIONS if name in table.column_names]
    return _stacked(table, shared, grouped(set(table.column_names)) or _bare(table))


def _stacked(table: pa.Table, shared: list[str], models: Mapping[str, Mapping[str, str]]) -> pa.Table:
    pieces = []
    for model, columns in models.items():
        piece = {name: table[name] for name in shared} | {"model": pa.array([model] * table.num_rows)}
        pieces.append(pa.table(piece | {ours: table[theirs] for ours, theirs in columns.items()}))
    return pa.concat_tables(pieces, promote_options="permissive")


def knows_router_bench(path: Path) -> bool:
    """Whether a table is one of RouterBench's."""
    try:
        return _names(path) >= _ROUTER_BENCH
    except (pa.ArrowException, OSError, ValueError):
        return False


def read_router_bench(path: Path) -> pa.Table:
    """RouterBench's table: a score in [0, 1], a response and dollars for each model.

    An answer with a score of 1 is right; those of open-ended tasks in between are not.
    """
    table = _read(path)
    models = [name.removesuffix(_COST) for name in table.column_names if name.endswith(_COST)]
    if lacking := [model for model in models if model not in table.column_names]:
        raise CascadeError(f"Expected a column {lacking[0]!r} with the model's scores in {path}, but there is none")
    asked = pa.table({"question_id": table["sample_id"], "task": table["eval_name"]})
    for model in models:
        right = pc.greater_equal(table[model].cast(pa.float64()), 1.0)
        asked = asked.append_column(f"{model}|correct", right).append_column(f"{model}{_COST}", table[model + _COST])
    pairs = {model: {"correct": f"{model}|correct", "cost_usd": model + _COST} for model in models}
    return _stacked(asked, ["question_id", "task"], pairs)


WIDE = LogFormat("a table with a row for each question and columns for each model", _ENDINGS, read, knows)
ROUTER_BENCH = LogFormat(
    "a table of RouterBench",
    _ENDINGS,
    read_router_bench,
    knows_router_bench,
    "RouterBench records no probabilities: its models can only be the last of a chain, or be read for by another",
)
