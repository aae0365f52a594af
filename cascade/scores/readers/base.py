"""What a format of logs is, and reading JSON of any origin. Which formats there are is `cascade.scores.reading`'s."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from cascade.errors import CascadeError, json_fault

# A first line longer than this is no record of a log that is known here.
_LOOKED_AT = 4_000_000


@dataclass(frozen=True)
class LogFormat:
    """A format of logs.

    Attributes:
        what: In words, for errors: ``a CSV file``.
        endings: Of its files.
        read: From a file to a table, by the schema's names or by others that ``--columns`` maps.
        knows: Tells a file of this format from others of the same ending. A general format has none, and takes all.
        remark: What its files never say, and what follows from that. Printed where they are read.
    """

    what: str
    endings: tuple[str, ...]
    read: Callable[[Path], pa.Table]
    knows: Callable[[Path], bool] | None = None
    remark: str = ""


def records(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a file of JSON lines, each with the number of its line.

    Raises:
        CascadeError: Naming a line that holds no JSON object.
    """
    with path.open(encoding="utf-8-sig") as file:
        for line, text in enumerate(file, 1):
            if text.strip():
                yield line, parsed(text, f"{path}, line {line}")


def parsed(text: str, where: str) -> dict[str, Any]:
    """A JSON object.

    Raises:
        CascadeError: If the text is none, or gives a name twice.
    """
    try:
        values = json.loads(text, object_pairs_hook=each_once)
        if not isinstance(values, dict):
            raise ValueError("it is no object")
    except RecursionError as error:
        raise CascadeError(f"Expected a JSON object in {where}, but it is nested too deep") from error
    except ValueError as error:
        raise CascadeError(f"Expected a JSON object in {where}, but {json_fault(error)}") from error
    return values


def each_once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """A JSON object of its pairs; a name that stands twice is a `ValueError`."""
    row = dict(pairs)
    if len(row) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"it has {next(name for name in names if names.count(name) > 1)!r} twice")
    return row


def first_record(path: Path) -> dict[str, Any]:
    """The first object of a file of JSON lines; empty where there is none, which is said when the file is read."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            for text in file:
                if text.strip():
                    values = json.loads(text) if len(text) < _LOOKED_AT else None
                    return values if isinstance(values, dict) else {}
    except (ValueError, RecursionError, OSError):
        pass
    return {}


def taken(record: dict[str, Any], where: str, *path: str) -> Any:
    """A value inside of a record.

    Raises:
        CascadeError: Naming the field that is missing.
    """
    value: Any = record
    for name in path:
        if not isinstance(value, dict) or name not in value:
            raise CascadeError(f"Expected {'.'.join(path)} in {where}, but there is no {name}")
        value = value[name]
    return value


def inside(record: Any, *path: str) -> Any:
    """A value inside of a record, or ``None`` where it is not there."""
    for name in path:
        record = record.get(name) if isinstance(record, dict) else None
    return record


def table_of(rows: list[dict[str, Any]], path: Path) -> pa.Table:
    """Rows as a table, without the columns that say nothing in any row.

    Raises:
        CascadeError: If there is no row.
    """
    if not rows:
        raise CascadeError(f"Expected answers in {path}, but it holds none")
    filled = [name for name in rows[0] if any(row[name] is not None for row in rows)]
    return pa.table({name: pa.array([row[name] for row in rows]) for name in filled})
