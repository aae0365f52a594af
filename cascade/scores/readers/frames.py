"""Data frames of any library as tables, by the Arrow protocol that pandas, polars, DuckDB and pyarrow speak."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from cascade.errors import CascadeError
from cascade.scores.readers.wide import is_wide, long_table


def is_frame(source: Any) -> bool:
    """Whether something is a data frame, and not a path."""
    return hasattr(source, "__arrow_c_stream__") or hasattr(source, "__dataframe__")


def frame_table(frame: Any, name: str = "the data frame") -> pa.Table:
    """A data frame as a table, one row a question and model; a wide one is turned.

    Args:
        frame: Of pandas, polars or pyarrow, or a relation of DuckDB.
        name: For errors.

    Raises:
        CascadeError: If it is none.
    """
    if isinstance(frame, pa.Table):
        table = frame
    elif hasattr(frame, "__arrow_c_stream__"):
        table = pa.table(frame)
    else:
        raise CascadeError(f"Expected a path or a data frame that speaks Arrow, but got {type(frame).__name__}")
    plain = [f.cast(pa.string()) if _odd(f.type) else f for f in table.columns]
    table = pa.table(dict(zip(table.column_names, plain, strict=True)))
    return long_table(table, name) if is_wide(table) else table


def _odd(kind: pa.DataType) -> bool:
    """Texts that are not kept as plain ones: views, large ones, and those of few different values."""
    return bool(pa.types.is_dictionary(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))
