"""Logs as score tables: which formats there are, and reading a file of any of them.

A new format is a file of its own with a function from a path to a table, and an entry in `FORMATS`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from cascade.errors import CascadeError, json_fault
from cascade.scores.readers.journal import is_journal, journal_in, read_journal
from cascade.scores.schema import COLUMNS, CONFIDENCE_COLUMNS, join_scores


@dataclass(frozen=True)
class LogFormat:
    """A format of logs.

    Attributes:
        what: In words, for errors: ``a CSV file``.
        endings: Of its files.
        read: From a file to a table, by the schema's names or by others that ``--columns`` maps.
        knows: Tells a file of this format from others of the same ending. A general format has none, and takes all.
    """

    what: str
    endings: tuple[str, ...]
    read: Callable[[Path], pa.Table]
    knows: Callable[[Path], bool] | None = None


def read_table(path: Path) -> pa.Table:
    """Reads a file of one of `FORMATS`, told apart by its ending and, where formats share one, by its content.

    Cells of CSV stay the text that they are, so that ``007`` is not 7; `validate_scores` reads the numbers.

    Raises:
        CascadeError: If there is no such file, its ending is another, it does not hold what it ends in, or a column
            stands twice.
    """
    if not path.exists():
        raise CascadeError(f"Expected a score table at {path}, but there is no such file")
    path = journal_in(path) if path.is_dir() else path
    ending = path.suffix.lower()
    if ending not in (known := endings()):
        raise CascadeError(f"Expected {path} to end in {', '.join(known)}, but it does not")
    format = _claiming(path) or next(f for f in FORMATS.values() if ending in f.endings and f.knows is None)
    try:
        table: pa.Table = format.read(path)
    except CascadeError:
        raise
    except (pa.ArrowException, OSError, ValueError) as error:
        raise CascadeError(f"Expected {path} to be {format.what}, but {str(error).splitlines()[0][:200]}") from error
    _check_unique(table.column_names, path)
    return table


def is_claimed(path: Path) -> bool:
    """Whether a file is of a format that knows its own files."""
    return path.is_file() and _claiming(path) is not None


def _claiming(path: Path) -> LogFormat | None:
    """The last entry that knows a file, where one does."""
    asked = [f for f in reversed(FORMATS.values()) if f.knows is not None and path.suffix.lower() in f.endings]
    return next((f for f in asked if f.knows is not None and f.knows(path)), None)


def endings() -> tuple[str, ...]:
    """Of all formats' files."""
    return tuple(dict.fromkeys(ending for format in FORMATS.values() for ending in format.endings))


def _check_unique(names: Sequence[str], path: Path) -> None:
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise CascadeError(f"Expected {path} to have each column once, but got {', '.join(repeated)[:200]} twice")


def _read_csv(path: Path) -> pa.Table:
    with pyarrow.csv.open_csv(path) as file:
        names = file.schema.names
    _check_unique(names, path)
    as_text = pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()))
    table = pyarrow.csv.read_csv(path, convert_options=as_text)
    # A column with no word in it says nothing of any question.
    empty = [name for name in names if pc.all(pc.equal(table[name], "")).as_py()]
    for name in empty:
        table = table.set_column(names.index(name), name, pa.nulls(table.num_rows))
    return table


def _read_json_lines(path: Path) -> pa.Table:
    """Line by line and not by pyarrow, which takes texts for dates and dies of a value that is nested too deep."""
    columns: dict[str, list[object]] = {}
    rows = 0
    with path.open(encoding="utf-8-sig") as file:
        for line, text in enumerate(file, 1):
            if not text.strip():
                continue
            try:
                row = json.loads(text, object_pairs_hook=_each_once)
                if not isinstance(row, dict):
                    raise ValueError("it is no object")
                for name, value in row.items():
                    name.encode()  # half a character, which JSON can say, is no column's name
                    cells = columns.setdefault(name, [])
                    cells.extend([None] * (rows - len(cells)))
                    cells.append(json.dumps(value) if isinstance(value, dict | list) else value)
            except RecursionError as error:
                raise CascadeError(
                    f"Expected a JSON object in {path}, line {line}, but it is nested too deep"
                ) from error
            except ValueError as error:
                raise CascadeError(f"Expected a JSON object in {path}, line {line}, but {json_fault(error)}") from error
            rows += 1
    arrays: dict[str, pa.Array] = {}
    known = {column.name for column in (*COLUMNS, *CONFIDENCE_COLUMNS)}
    for name, cells in columns.items():
        cells.extend([None] * (rows - len(cells)))
        try:
            arrays[name] = pa.array(cells)
        except (pa.ArrowException, ValueError, OverflowError) as error:
            if name in known:
                raise CascadeError(
                    f"Expected {name} in {path} to be all texts or all numbers, but {str(error).splitlines()[0][:200]}"
                ) from error
            # Not one type: somebody else's, and read only if it is mapped.
            arrays[name] = pa.array([None if cell is None else json.dumps(cell) for cell in cells])
    return pa.table(arrays)


def _each_once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    row = dict(pairs)
    if len(row) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"it has {next(name for name in names if names.count(name) > 1)!r} twice")
    return row


FORMATS: dict[str, LogFormat] = {
    "parquet": LogFormat("a Parquet file", (".parquet",), lambda path: pq.read_table(path)),
    "csv": LogFormat("a CSV file", (".csv",), _read_csv),
    "journal": LogFormat("a journal of shadow mode", (".jsonl",), read_journal, is_journal),
    "json lines": LogFormat("JSON lines", (".jsonl", ".ndjson"), _read_json_lines),
}
"""By name. What another tool logs is one entry more."""


def read_scores(
    paths: Iterable[str | Path], columns: Mapping[str, str] | None = None, labelled: bool = True
) -> pa.Table:
    """Reads and validates score tables; several files become one table.

    Args:
        paths: Parquet, CSV or JSON lines.
        columns: From the schema's names to the files', where they differ.
        labelled: See `validate_scores`.

    Raises:
        CascadeError: If a file is missing, cannot be read, or fails `validate_scores`.
    """
    return join_scores([(str(path), read_table(Path(path))) for path in paths], columns, labelled)
