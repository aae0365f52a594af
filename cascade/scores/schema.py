"""The score table: one row for each question and model. Ours or anybody's.

The schema, and what a table has to be to follow it. Everything the simulator knows comes from these columns; how they
were made, and what files they were read from, is not known here. `docs/score-table.md` explains them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from cascade.errors import CascadeError
from probes.files import write_atomically


@dataclass(frozen=True)
class Column:
    """One column of the schema: its type, whether every table has it, its range, what it means."""

    name: str
    type: pa.DataType
    required: bool
    meaning: str
    low: float | None = None
    high: float | None = None
    per_model: bool = False


COLUMNS = (
    Column("question_id", pa.string(), True, "unique within a model; tables are joined by it"),
    Column("model", pa.string(), True, "the model that answered"),
    Column("correct", pa.bool_(), True, "whether the model's answer is right"),
    Column("attempted", pa.bool_(), False, "false where the model declined to answer: wrong, and no hallucination"),
    Column("p_t", pa.float64(), False, "P(T): probability of the first answer token (eq. 1); may be null", 0, 1),
    Column("p_t_normalized", pa.float64(), False, "P(T) over the options' mass only", 0, 1),
    Column("option_mass", pa.float64(), False, "probability mass on all the options", 0, 1),
    Column("p_right", pa.float64(), False, "probability of the right option, over the options' mass only", 0, 1),
    Column("p_t_prompts", pa.int64(), False, "prompts that p_t took beyond the answer's own", 0),
    Column("p_t_prompt_tokens", pa.int64(), False, "their tokens", 0),
    Column("p_t_completion_tokens", pa.int64(), False, "tokens generated after them", 0),
    Column("p_t_seconds", pa.float64(), False, "measured time of them, seconds", 0),
    Column("p_t_needs_answer", pa.bool_(), False, "whether p_t is known only after the whole answer", per_model=True),
    Column("p_ik", pa.float64(), False, "P(IK) by a probe on this model's own states; null where there is none", 0, 1),
    Column("p_ik_reader", pa.float64(), False, "P(IK) of this model, read from another model's states", 0, 1),
    Column("task", pa.string(), False, "name of the benchmark"),
    Column("subject", pa.string(), False, "subject of the question"),
    Column("split", pa.string(), False, "train, validation or test, of the probe"),
    Column("answer", pa.string(), False, "the right answer (letter); for macro precision, recall, F1"),
    Column("prediction", pa.string(), False, "the model's answer"),
    Column("popularity", pa.int64(), False, "how often the entity is looked up", 0),
    Column("prompt_tokens", pa.int64(), False, "tokens of the prompt", 0),
    Column("completion_tokens", pa.int64(), False, "tokens generated, the first one included", 0),
    Column("seconds", pa.float64(), False, "measured time of the question, seconds", 0),
    Column("prefill_seconds", pa.float64(), False, "the part of it up to the first token, seconds", 0),
    Column("cost_usd", pa.float64(), False, "what the question cost, US dollars, as it was logged", 0),
    Column("parameters", pa.int64(), False, "N of eq. 5: parameters of the model", 1, per_model=True),
    Column("num_layers", pa.int64(), False, "decoder blocks of the model (n_layer of eq. 2)", 1, per_model=True),
    Column("hidden_size", pa.int64(), False, "width of the residual stream (d_model of eq. 2)", 1, per_model=True),
    Column("probe_layer", pa.int64(), False, "layer the probe reads; null where there is no probe", 0, per_model=True),
    Column("probe_parameters", pa.int64(), False, "parameters of the probe", 0, per_model=True),
    Column("reader", pa.string(), False, "the model whose states p_ik_reader was read from", per_model=True),
    Column("reader_parameters", pa.int64(), False, "parameters of the reader", 1, per_model=True),
)

# Confidences beside P(T) (`cascade.scoring.confidence`), by the end of their column's name, and whether each is about
# an answer that has to be there first.
CONFIDENCES = {
    "likelihood": True,
    "minimum": True,
    "first_token": False,
    "entropy": False,
    "margin": False,
    "verbalized": True,
    "p_true": True,
    "do_you_know": False,
    "self_consistency": True,
    "semantic_entropy": False,
}
# What one took beyond the answer's own pass; the same columns of p_t say it of whatever is used as P(T).
EXTRA = (
    Column("prompts", pa.int64(), False, "prompts beyond the answer's own", 0),
    Column("prompt_tokens", pa.int64(), False, "their tokens", 0),
    Column("completion_tokens", pa.int64(), False, "tokens generated after them", 0),
    Column("seconds", pa.float64(), False, "measured time of them, seconds", 0),
)
CONFIDENCE_COLUMNS = tuple(
    column
    for name in CONFIDENCES
    for column in (
        Column(f"confidence_{name}", pa.float64(), False, "see `cascade.scoring.confidence`", 0, 1),
        *(replace(extra, name=f"confidence_{name}_{extra.name}") for extra in EXTRA),
    )
)
# What stands in cells of CSV for a number that is not known; of a text, it is the text.
_NO_NUMBER = pyarrow.csv.ConvertOptions().null_values
SCHEMA = pa.schema([(c.name, c.type) for c in COLUMNS])


def validate_scores(table: pa.Table, source: str, labelled: bool = True) -> pa.Table:
    """Checks a score table against the schema and casts it to the schema's types.

    Args:
        table: Any columns beyond the schema's are dropped.
        source: Names the table in errors.
        labelled: Whether `correct` is required. Logs of a cascade at work have none.

    Returns:
        The table with the schema's columns that it has, in the schema's order.

    Raises:
        CascadeError: Naming the column, and the row (from 0) where one is wrong.
    """
    required = [c.name for c in COLUMNS if c.required and (labelled or c.name != "correct")]
    if missing := [name for name in required if name not in table.column_names]:
        raise CascadeError(
            f"Expected {source} to have columns {', '.join(required)}, but {', '.join(missing)} missing "
            f"(it has {', '.join(table.column_names) or 'none'})"
        )
    if table.num_rows == 0:
        raise CascadeError(f"Expected {source} to have rows, but it is empty")
    columns: dict[str, pa.ChunkedArray] = {}
    for column in (*COLUMNS, *CONFIDENCE_COLUMNS):
        if column.name in table.column_names and (labelled or column.name != "correct"):
            columns[column.name] = _checked_column(table[column.name], column, source)
    checked = pa.table(columns)
    if {"correct", "attempted"} <= columns.keys():
        odd = pc.and_(checked["correct"], pc.invert(checked["attempted"])).fill_null(False)
        if pc.any(odd).as_py():
            row = pc.index(odd, True).as_py()
            raise CascadeError(
                f"Expected attempted in {source} to be true where correct is, but row {row} is right and not attempted"
            )
    for model in sorted(set(checked["model"].to_pylist())):
        rows = checked.filter(pc.equal(checked["model"], model))
        ids = rows["question_id"]
        if len(pc.unique(ids)) != len(ids):
            counts = pc.value_counts(ids)
            repeated = next(c["values"].as_py() for c in counts if c["counts"].as_py() > 1)
            raise CascadeError(f"Expected unique question_id in {source}, but {repeated!r} repeats for model {model!r}")
        for column in COLUMNS:
            if column.per_model and column.name in columns and len(pc.unique(rows[column.name])) > 1:
                raise CascadeError(
                    f"Expected {column.name} in {source} to be one value for model {model!r}, but it varies"
                )
    return checked


def _checked_column(values: pa.ChunkedArray, column: Column, source: str) -> pa.ChunkedArray:
    try:
        if _is_text(values.type) and column.type != pa.string():
            values = _read_numbers(values, column.type)
        if column.type == pa.bool_() and not pa.types.is_boolean(values.type):
            numbers = values.cast(pa.float64())
            if not pc.all(pc.is_in(numbers.drop_null(), pa.array([0.0, 1.0]))).as_py():
                raise CascadeError(
                    f"Expected {column.name} in {source} to be true or false, 0 or 1, but got other numbers"
                )
            values = numbers
        cast = values.cast(column.type)
    except pa.ArrowException as error:
        takes = "true or false, 1 or 0" if column.type == pa.bool_() else str(column.type)
        got = _odd_text(values, column.type) if _is_text(values.type) else str(values.type)
        raise CascadeError(f"Expected {column.name} in {source} to be {takes}, but got {got}") from error
    if column.required and cast.null_count:
        row = int(np.flatnonzero(cast.is_null().to_numpy())[0])
        raise CascadeError(f"Expected {column.name} in {source} to be filled, but row {row} is null")
    if column.low is None:
        return cast
    numbers = cast.drop_null().cast(pa.float64()).to_numpy()
    places = np.flatnonzero(cast.is_valid().to_numpy())
    high = np.inf if column.high is None else column.high
    bad = ~((numbers >= column.low) & (numbers <= high) & np.isfinite(numbers))
    if bad.any():
        first = int(np.flatnonzero(bad)[0])
        limits = f"≥ {column.low:g}" if column.high is None else f"in [{column.low:g}, {column.high:g}]"
        logs = column.low == 0 and column.high == 1 and bool((numbers <= 0).all())
        hint = "; these may be log-probabilities: did you mean their exp?" if logs else ""
        raise CascadeError(
            f"Expected {column.name} in {source} to be {limits}, but row {int(places[first])} is {numbers[first]:g}"
            f"{hint}"
        )
    return cast


def _odd_text(texts: pa.ChunkedArray, kind: pa.DataType) -> str:
    """The first cell that cannot be read, with its row and a hint where it says yes or no."""
    for row, text in enumerate(texts.to_pylist()):
        try:
            _read_numbers(pa.chunked_array([[text]], texts.type), kind)
        except pa.ArrowException:
            meant = kind == pa.bool_() and text.strip().lower() in ("yes", "no", "y", "n", "t", "f")
            hint = "; did you mean true and false?" if meant else ""
            return f"{text[:40]!r} in row {row}{hint}"
    return str(texts.type)


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _read_numbers(texts: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    """Numbers, true and false from cells of text; null where nothing is said, in any of the usual ways."""
    words = pc.utf8_trim_whitespace(texts)
    words = pc.if_else(pc.is_in(words, pa.array(_NO_NUMBER)), pa.scalar(None, words.type), words)
    if kind == pa.bool_():
        words = pc.utf8_lower(words)
        words = pc.replace_substring_regex(words, "^true$", "1")
        return pc.replace_substring_regex(words, "^false$", "0").cast(pa.float64())
    try:
        return words.cast(kind)
    except pa.ArrowInvalid:
        return words.cast(pa.float64())  # whole numbers as 7.0, which a column with gaps is often written as


def rename_columns(table: pa.Table, columns: Mapping[str, str], source: str) -> pa.Table:
    """A table whose columns have the schema's names.

    Args:
        table: As it was read.
        columns: From the schema's name to the table's.
        source: Names the table in errors.

    Raises:
        CascadeError: If a name is not in the schema, the table lacks a column, or the new name is taken.
    """
    known = {c.name for c in COLUMNS}
    for name, theirs in columns.items():
        if name not in known:
            raise CascadeError(f"Expected `columns` to map columns of the schema, but {name!r} is not one of them")
        if theirs not in table.column_names:
            raise CascadeError(f"Expected {source} to have a column {theirs!r} for {name}, but it has not")
    table, columns = _with_costs(table, columns)
    theirs_to_ours = {theirs: name for name, theirs in columns.items()}
    keep = [name for name in table.column_names if name not in columns or name in theirs_to_ours]
    return table.select(keep).rename_columns([theirs_to_ours.get(name, name) for name in keep])


def other_confidence(columns: Mapping[str, str]) -> str | None:
    """The column of `CONFIDENCES` that stands in P(T)'s place by a mapping, or ``None`` where none does."""
    theirs = columns.get("p_t", "")
    return theirs if theirs in {f"confidence_{name}" for name in CONFIDENCES} else None


def _with_costs(table: pa.Table, columns: Mapping[str, str]) -> tuple[pa.Table, Mapping[str, str]]:
    """A confidence that is to be P(T) takes with it what it cost, and whether it needs the answer."""
    theirs = other_confidence(columns)
    if theirs is None:
        return table, columns
    table = table.drop_columns([c for c in table.column_names if c.startswith("p_t_") and c != "p_t_normalized"])
    needs = pa.array([CONFIDENCES[theirs.removeprefix("confidence_")]] * table.num_rows)
    costs = {f"p_t_{extra.name}": f"{theirs}_{extra.name}" for extra in EXTRA}
    held = {ours: their for ours, their in costs.items() if their in table.column_names}
    return table.append_column("p_t_needs_answer", needs), {**held, **columns}


def join_scores(
    tables: Sequence[tuple[str, pa.Table]], columns: Mapping[str, str] | None = None, labelled: bool = True
) -> pa.Table:
    """Validates tables that were read already, and makes them one.

    Args:
        tables: Each with the name it has in errors.
        columns: From the schema's names to the tables', where they differ.
        labelled: See `validate_scores`.

    Raises:
        CascadeError: If one fails `rename_columns` or `validate_scores`, or all together do.
    """
    checked = [validate_scores(rename_columns(table, columns or {}, name), name, labelled) for name, table in tables]
    if not checked:
        raise CascadeError("Expected at least one score table, but got none")
    if len(checked) == 1:
        return checked[0]
    together = pa.concat_tables(checked, promote_options="default")
    return validate_scores(together, "the score tables together", labelled)


def write_scores(table: pa.Table, model: str, path: Path) -> None:
    """Writes one model's rows of a score table as Parquet, whole or not at all.

    Raises:
        CascadeError: If another model's table lies there. Where a file system does not tell cases apart, models that
            differ in case alone have one file, and the second would take the place of the first.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and (others := _models_in(path) - {model}):
        raise CascadeError(
            f"Expected {path} to be free for the scores of {model!r}, but it holds those of {', '.join(sorted(others))}"
        )
    write_atomically(path, parquet_bytes(table.filter(pc.equal(table["model"], model))))


def _models_in(path: Path) -> set[str]:
    """The models of a score table that was written before; none of a file that is none, which may be replaced."""
    try:
        return set(pq.read_table(path, columns=["model"])["model"].to_pylist())
    except (pa.ArrowException, OSError, KeyError):
        return set()


def parquet_bytes(table: pa.Table) -> bytes:
    """A table as a Parquet file, with checksums that reading can verify."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    data: bytes = sink.getvalue().to_pybytes()
    return data
