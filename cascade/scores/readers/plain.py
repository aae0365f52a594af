"""Score tables as they are: Parquet, CSV, JSON lines, one row a question and model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from cascade.errors import CascadeError, json_fault
from cascade.scores.readers.base import LogFormat, each_once
from cascade.scores.schema import COLUMNS, CONFIDENCE_COLUMNS


def check_unique(names: Sequence[str], path: Path) -> None:
    """Raises `CascadeError` where a column stands twice."""
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise CascadeError(f"Expected {path} to have each column once, but got {', '.join(repeated)[:200]} twice")


def read_csv(path: Path) -> pa.Table:
    """A CSV file, every cell the text that it is."""
    with pyarrow.csv.open_csv(path) as file:
        names = file.schema.names
    check_unique(names, path)
    as_text = pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()))
    in_cells = pyarrow.csv.ParseOptions(newlines_in_values=True)
    table = pyarrow.csv.read_csv(path, parse_options=in_cells, convert_options=as_text)
    # A column with no word in it says nothing of any question.
    empty = [name for name in names if pc.all(pc.equal(table[name], "")).as_py()]
    for name in empty:
        table = table.set_column(names.index(name), name, pa.nulls(table.num_rows))
    return table


def read_json_lines(path: Path) -> pa.Table:
    """Line by line and not by pyarrow, which takes texts for dates and dies of a value that is nested too deep."""
    columns: dict[str, list[object]] = {}
    rows = 0
    with path.open(encoding="utf-8-sig") as file:
        for line, text in enumerate(file, 1):
            if not text.strip():
                continue
            try:
                row = json.loads(text, object_pairs_hook=each_once)
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


PARQUET = LogFormat("a Parquet file", (".parquet",), lambda path: pq.read_table(path))
CSV = LogFormat("a CSV file", (".csv",), read_csv)
JSON_LINES = LogFormat("JSON lines", (".jsonl", ".ndjson"), read_json_lines)
