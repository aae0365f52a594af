"""Logs as score tables: which formats there are, and reading a file of any of them.

A new format is a file of its own with a function from a path to a table, and an entry in `FORMATS`. Another package
adds one by an entry point of the group `cascade.log_formats`, whose object is a `LogFormat`.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pyarrow as pa

from cascade.errors import CascadeError
from cascade.scores.readers import every_eval_ever, inspect_eval, langfuse, llm_router_bench, lm_eval, openai_batch
from cascade.scores.readers.base import LogFormat
from cascade.scores.readers.frames import frame_table, is_frame
from cascade.scores.readers.journal import is_journal, journal_in, read_journal
from cascade.scores.readers.plain import CSV, JSON_LINES, PARQUET, check_unique
from cascade.scores.readers.wide import ROUTER_BENCH, WIDE
from cascade.scores.schema import join_scores

GROUP = "cascade.log_formats"

FORMATS: dict[str, LogFormat] = {
    "parquet": PARQUET,
    "csv": CSV,
    "json lines": JSON_LINES,
    "wide": WIDE,
    "RouterBench": ROUTER_BENCH,
    "LLMRouterBench": llm_router_bench.FORMAT,
    "Langfuse": langfuse.FORMAT,
    "OpenAI batch": openai_batch.FORMAT,
    "Every Eval Ever": every_eval_ever.FORMAT,
    "Inspect": inspect_eval.FORMAT,
    "lm-evaluation-harness": lm_eval.FORMAT,
    "journal": LogFormat("a journal of shadow mode", (".jsonl",), read_journal, is_journal),
}
"""By name. What another tool logs is one entry more."""


@functools.cache
def _installed() -> dict[str, LogFormat]:
    """The formats that other packages add.

    Raises:
        CascadeError: If one cannot be loaded, or is no `LogFormat`.
    """
    found = {}
    for entry in entry_points(group=GROUP):
        try:
            format = entry.load()
        except Exception as error:  # another package's code: anything may be wrong with it
            raise CascadeError(
                f"Expected the log format {entry.name!r} ({entry.value}) to load, but {error}"
            ) from error
        if not isinstance(format, LogFormat):
            raise CascadeError(
                f"Expected the log format {entry.name!r} ({entry.value}) to be a LogFormat, but got "
                f"{type(format).__name__}"
            )
        found[entry.name] = format
    return found


def _formats() -> list[LogFormat]:
    return [*FORMATS.values(), *_installed().values()]


def read_table(source: Any) -> pa.Table:
    """Reads a file of one of `FORMATS`, told apart by its ending and, where formats share one, by its content.

    Cells of CSV stay the text that they are, so that ``007`` is not 7; `validate_scores` reads the numbers.

    Args:
        source: A file; a folder, of which every log that is known is read; or a data frame.

    Raises:
        CascadeError: If there is no such file, its ending is another, it does not hold what it ends in, or a column
            stands twice.
    """
    if is_frame(source):
        return frame_table(source)
    path = Path(source)
    if path.is_dir() and any(is_journal(file) for file in path.glob("*.jsonl")):
        path = journal_in(path)
    if path.is_dir():
        return pa.concat_tables([_loose(read_table(file)) for file in log_files(path)], promote_options="permissive")
    if not path.exists():
        raise CascadeError(f"Expected a score table at {path}, but there is no such file")
    ending = path.suffix.lower()
    if ending not in (known := endings()):
        raise CascadeError(f"Expected {path} to end in {', '.join(known)}, but it does not")
    general = (f for f in _formats() if ending in f.endings and f.knows is None)
    format = _claiming(path) or next(general, None)
    if format is None:
        named = ", ".join(name for name, f in (FORMATS | _installed()).items() if ending in f.endings)
        raise CascadeError(f"Expected {path} to be a log of {named}, but it is of none of these")
    try:
        table: pa.Table = format.read(path)
    except CascadeError:
        raise
    except (pa.ArrowException, OSError, ValueError) as error:
        raise CascadeError(f"Expected {path} to be {format.what}, but {str(error).splitlines()[0][:200]}") from error
    check_unique(table.column_names, path)
    return table


def log_files(folder: Path) -> list[Path]:
    """The logs in a folder and below it, in order: those of other tools, or where there are none, score tables.

    Raises:
        CascadeError: If there is none.
    """
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in endings() and p.is_file())
    claimed = [file for file in files if is_claimed(file)]
    general = {ending for f in _formats() if f.knows is None for ending in f.endings}
    found = claimed or [file for file in files if file.parent == folder and file.suffix.lower() in general]
    if not found:
        raise CascadeError(f"Expected {folder} to hold score tables ({', '.join(endings())}), but there is none")
    return found


def _loose(table: pa.Table) -> pa.Table:
    """A table whose columns join those of the same name in others, be they numbers or texts of numbers."""
    texts = [name for name in table.column_names if pa.types.is_null(table[name].type)]
    return table.drop_columns(texts)


def is_claimed(path: Path) -> bool:
    """Whether a file is of a format that knows its own files."""
    return path.is_file() and _claiming(path) is not None


def remarks(sources: Iterable[Any]) -> list[str]:
    """What the formats of some logs never say, each once."""
    paths = [Path(source) for source in sources if not is_frame(source)]
    files = [file for path in paths for file in (log_files(path) if path.is_dir() else [path]) if file.is_file()]
    known = (_claiming(file) for file in files)
    return list(dict.fromkeys(format.remark for format in known if format is not None and format.remark))


def _claiming(path: Path) -> LogFormat | None:
    """The last entry that knows a file, where one does."""
    asked = [f for f in reversed(_formats()) if f.knows is not None and path.suffix.lower() in f.endings]
    return next((f for f in asked if f.knows is not None and f.knows(path)), None)


def endings() -> tuple[str, ...]:
    """Of all formats' files."""
    return tuple(dict.fromkeys(ending for format in _formats() for ending in format.endings))


def named(source: Any) -> str:
    """What errors call a log: its path, or that it is a data frame."""
    return f"the {type(source).__name__}" if is_frame(source) else str(source)


def read_scores(sources: Iterable[Any], columns: Mapping[str, str] | None = None, labelled: bool = True) -> pa.Table:
    """Reads and validates score tables; several become one table.

    Args:
        sources: Files of any of `FORMATS`, folders of them, data frames.
        columns: From the schema's names to the files', where they differ.
        labelled: See `validate_scores`.

    Raises:
        CascadeError: If a file is missing, cannot be read, or fails `validate_scores`.
    """
    return join_scores([(named(source), read_table(source)) for source in sources], columns, labelled)
