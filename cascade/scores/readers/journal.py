"""The journal of a server in shadow mode (`cascade.serving.shadow`): what every model said of one's own traffic.

Nobody knows what is right there. A row is right where its model said what the last one did. A model that disagrees with
the last where that is right is wrong, so that the accuracy lost against the last model is at most the share of answers
that disagree: what is promised of the one holds for the other.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa

from cascade.errors import CascadeError, json_fault

MARK = "cascade-journal"
"""The first key of every line."""

_READ = 256


def is_journal(path: Path) -> bool:
    """Whether a file is a journal of shadow mode."""
    try:
        with path.open("rb") as file:
            return file.read(_READ).lstrip().startswith(b'{"' + MARK.encode() + b'"')
    except OSError:
        return False


def journal_in(folder: Path) -> Path:
    """The one journal in a folder.

    Raises:
        CascadeError: If there is none, or there are several: their questions are of different forms, and each form has
            thresholds of its own.
    """
    found = [path for path in sorted(folder.glob("*.jsonl")) if is_journal(path)]
    if len(found) == 1:
        return found[0]
    if not found:
        raise CascadeError(f"Expected {folder} to hold the journal of a server in shadow mode, but there is none")
    names = ", ".join(str(path) for path in found)
    raise CascadeError(f"Expected one form of questions, each of which has thresholds of its own, but got {names}")


def read_journal(path: Path) -> pa.Table:
    """A score table with a row for each question and model.

    A confidence that a model did not show counts as 0 where it showed others: the live cascade does not keep such an
    answer either.

    Raises:
        CascadeError: If a line is none of a journal, or the models are not the same in all of them.
    """
    rows: list[dict[str, Any]] = []
    chains: dict[tuple[str, ...], int] = {}
    text = path.read_bytes()
    for number, line in enumerate(text[: text.rfind(b"\n") + 1].splitlines(), 1):  # a last line may be half written
        try:
            entry = json.loads(line)
            id, models = str(entry["question_id"]), entry["models"]
            rows += [{"question_id": id, "task": entry[MARK], **model} for model in models]
            chain = tuple(str(model["model"]) for model in models)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            fault = json_fault(error) if isinstance(error, json.JSONDecodeError) else repr(error)
            raise CascadeError(f"Expected a line of a journal in {path}, line {number}, but {fault}") from error
        chains.setdefault(chain, number)
    if len(chains) > 1:
        shown = "; ".join(f"{' → '.join(chain)} from line {number} on" for chain, number in chains.items())
        raise CascadeError(f"Expected one chain in {path}, but got {shown}; take each to a file of its own")
    for name in [name for name in {key: None for row in rows for key in row} if name.startswith(("p_", "confidence_"))]:
        for model in {row["model"] for row in rows}:
            mine = [row for row in rows if row["model"] == model]
            if any(row.get(name) is not None for row in mine):
                for row in mine:
                    row[name] = 0.0 if row.get(name) is None else row[name]
    return pa.Table.from_pylist(rows)
