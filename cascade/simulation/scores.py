"""The score table: one row for each question and model, in Parquet. Ours or anybody's.

The schema and its validator. Everything the simulator knows comes from these columns; how they were made is
not known here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
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
    Column("p_t", pa.float64(), True, "P(T): probability of the first answer token (eq. 1)", 0, 1),
    Column("p_t_normalized", pa.float64(), False, "P(T) over the options' mass only", 0, 1),
    Column("option_mass", pa.float64(), False, "probability mass on all the options", 0, 1),
    Column("p_ik", pa.float64(), False, "P(IK) by a probe; null where there is no probe", 0, 1),
    Column("task", pa.string(), False, "name of the benchmark"),
    Column("subject", pa.string(), False, "subject of the question"),
    Column("split", pa.string(), False, "train, validation or test, of the probe"),
    Column("answer", pa.string(), False, "the right answer (letter); for macro precision, recall, F1"),
    Column("prediction", pa.string(), False, "the model's answer"),
    Column("popularity", pa.int64(), False, "how often the entity is looked up", 0),
    Column("prompt_tokens", pa.int64(), False, "tokens of the prompt", 0),
    Column("completion_tokens", pa.int64(), False, "tokens generated", 0),
    Column("seconds", pa.float64(), False, "measured time of the question, seconds", 0),
    Column("parameters", pa.int64(), False, "N of eq. 5: parameters of the model", 1, per_model=True),
    Column("num_layers", pa.int64(), False, "decoder blocks of the model", 1, per_model=True),
    Column("probe_layer", pa.int64(), False, "layer the probe reads; null where there is no probe", 0, per_model=True),
)
SCHEMA = pa.schema([(c.name, c.type) for c in COLUMNS])


def validate_scores(table: pa.Table, source: str) -> pa.Table:
    """Checks a score table against the schema and casts it to the schema's types.

    Args:
        table: Any columns beyond the schema's are dropped.
        source: Names the table in errors.

    Returns:
        The table with the schema's columns that it has, in the schema's order.

    Raises:
        CascadeError: Naming the column, and the row (from 0) where one is wrong.
    """
    required = [c.name for c in COLUMNS if c.required]
    if missing := [name for name in required if name not in table.column_names]:
        raise CascadeError(f"Expected {source} to have columns {', '.join(required)}, but {', '.join(missing)} missing")
    if table.num_rows == 0:
        raise CascadeError(f"Expected {source} to have rows, but it is empty")
    columns: dict[str, pa.ChunkedArray] = {}
    for column in COLUMNS:
        if column.name in table.column_names:
            columns[column.name] = _checked_column(table[column.name], column, source)
    checked = pa.table(columns)
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
        if column.type == pa.bool_() and not pa.types.is_boolean(values.type):
            numbers = values.cast(pa.float64())
            if not pc.all(pc.is_in(numbers.drop_null(), pa.array([0.0, 1.0]))).as_py():
                raise CascadeError(
                    f"Expected {column.name} in {source} to be true or false, 0 or 1, but got other numbers"
                )
            values = numbers
        cast = values.cast(column.type)
    except pa.ArrowException as error:
        raise CascadeError(f"Expected {column.name} in {source} to be {column.type}, but got {values.type}") from error
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
        raise CascadeError(
            f"Expected {column.name} in {source} to be {limits}, but row {int(places[first])} is {numbers[first]:g}"
        )
    return cast


def read_scores(paths: Iterable[str | Path]) -> pa.Table:
    """Reads and validates score tables; several files become one table.

    Raises:
        CascadeError: If a file is missing, is no Parquet, or fails `validate_scores`.
    """
    tables = []
    for path in paths:
        if not Path(path).exists():
            raise CascadeError(f"Expected a score table at {path}, but there is no such file")
        try:
            table = pq.read_table(path)
        except (pa.ArrowException, OSError) as error:
            raise CascadeError(f"Expected {path} to be a Parquet file, but {error}") from error
        tables.append(validate_scores(table, str(path)))
    if not tables:
        raise CascadeError("Expected at least one score table, but got none")
    if len(tables) == 1:
        return tables[0]
    return validate_scores(pa.concat_tables(tables, promote_options="default"), "the score tables together")


def write_scores(table: pa.Table, model: str, path: Path) -> None:
    """Writes one model's rows of a score table as Parquet, whole or not at all."""
    sink = pa.BufferOutputStream()
    pq.write_table(table.filter(pc.equal(table["model"], model)), sink, compression="zstd")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, sink.getvalue().to_pybytes())


@dataclass(frozen=True)
class ModelScores:
    """One model's columns, as arrays over the same questions in the same order as every other model's.

    Attributes:
        name: The model.
        correct: ``[questions]``, bool.
        p_t: ``[questions]``, float64.
        p_ik: ``[questions]``, float64, or ``None`` where the model has no probe.
        parameters: N, or ``None`` where unknown.
        exit_share: ℓ/L: the share of a pass after which the probe can reject; 1 where unknown.
        seconds, predictions: ``[questions]`` each, or ``None`` where unknown.
    """

    name: str
    correct: np.ndarray
    p_t: np.ndarray
    p_ik: np.ndarray | None
    parameters: int | None
    exit_share: float
    seconds: np.ndarray | None = None
    predictions: np.ndarray | None = None


@dataclass(frozen=True)
class ChainScores:
    """The models of a chain, smallest first, aligned on their questions."""

    question_ids: tuple[str, ...]
    models: tuple[ModelScores, ...]
    answers: np.ndarray | None

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the models, smallest first."""
        return tuple(m.name for m in self.models)

    @property
    def fingerprint(self) -> str:
        """Hash of the questions, in order."""
        return hashlib.sha256("\n".join(self.question_ids).encode()).hexdigest()[:16]


def check_chain(chain: Sequence[str]) -> None:
    """Raises `CascadeError` unless a chain is two or more different models."""
    if len(chain) < 2 or len(set(chain)) != len(chain):
        raise CascadeError(f"Expected `chain` to be two or more different models, but got {', '.join(chain) or 'none'}")


def align(table: pa.Table, chain: Sequence[str], split: str | None = None, normalize: bool = False) -> ChainScores:
    """The models of a chain over one and the same questions.

    Args:
        table: A validated score table holding all of them.
        chain: Model names, smallest first.
        split: If given, only rows of this split.
        normalize: Read P(T) renormalised over the options (the other reading of the paper's §2.2).

    Raises:
        CascadeError: If the chain repeats a model or names one without scores, or models answered different
            questions.
    """
    check_chain(chain)
    if split is not None:
        if "split" not in table.column_names:
            raise CascadeError("Expected the score table to have a column split, but it has none")
        splits = sorted({str(name) for name in table["split"].to_pylist()})
        if split not in splits:
            raise CascadeError(f"Expected `split` to be one of {', '.join(splits)}, but got {split!r}")
        table = table.filter(pc.equal(table["split"], split))
    present = sorted(set(table["model"].to_pylist()))
    models, ids, answers = [], None, None
    for name in chain:
        if name not in present:
            raise CascadeError(f"Expected `chain` to name models with scores ({', '.join(present)}), but got {name!r}")
        rows = table.filter(pc.equal(table["model"], name)).sort_by("question_id")
        own = rows["question_id"].to_pylist()
        if ids is None:
            ids = own
        elif own != ids:
            odd = sorted(set(own) ^ set(ids))
            raise CascadeError(
                f"Expected every model to have answered the same questions, but {name!r} and {chain[0]!r} differ in "
                f"{len(odd)}, such as {odd[0]!r}"
            )
        models.append(_model_scores(name, rows, "p_t_normalized" if normalize else "p_t"))
        if answers is None:
            answers = _array(rows, "answer")
    return ChainScores(tuple(ids or ()), tuple(models), answers)


def _array(rows: pa.Table, name: str) -> np.ndarray | None:
    """A column as an array, or ``None`` if it is absent or not filled."""
    if name not in rows.column_names or rows[name].null_count:
        return None
    values: np.ndarray = rows[name].to_numpy()
    return values


def _model_scores(name: str, rows: pa.Table, p_t_column: str) -> ModelScores:
    if "p_ik" in rows.column_names and 0 < rows["p_ik"].null_count < rows.num_rows:
        raise CascadeError(f"Expected p_ik of model {name!r} to be filled in every row or in none, but some are null")

    def single(column: str) -> int | None:
        values = _array(rows, column)
        return None if values is None else int(values[0])

    parameters, depth, layer = single("parameters"), single("num_layers"), single("probe_layer")
    if depth is not None and layer is not None and layer > depth:
        raise CascadeError(f"Expected probe_layer of {name!r} to be at most its num_layers {depth}, but got {layer}")
    correct, p_t = _array(rows, "correct"), _array(rows, p_t_column)
    if p_t is None:
        raise CascadeError(f"Expected model {name!r} to have {p_t_column} in every row, but it has not")
    assert correct is not None  # a required column
    return ModelScores(
        name=name,
        correct=correct.astype(bool),
        p_t=p_t,
        p_ik=_array(rows, "p_ik"),
        parameters=parameters,
        exit_share=1.0 if depth is None or layer is None else layer / depth,
        seconds=_array(rows, "seconds"),
        predictions=_array(rows, "prediction"),
    )
