"""Langfuse: an export of observations, with the export of scores beside it.

Of each generation the model, dollars, tokens and seconds are read. A question is what several models were asked: its
`metadata.question_id`, or else its input. A score says whether an answer is right, by one of the names in `RIGHT`. P(T)
is a score named `p_t` or `confidence`, or `metadata.p_t`, as Langfuse records no log-probabilities.

Scores lie in the folder `scores/` beside that of the observations, as scheduled exports have it, or in a file
`scores.jsonl` (`.json`, `.csv`) beside the file.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from cascade.errors import CascadeError, json_fault
from cascade.scores.readers.base import LogFormat, first_record, inside, records, table_of
from cascade.scores.row import score_row

RIGHT = ("correct", "correctness", "accuracy", "exact_match")
CONFIDENCE = ("p_t", "confidence")
_ENDINGS = (".jsonl", ".json", ".csv")
_HEAD = 65536
# Scheduled exports name their fields with underscores, and those from the page or the API in camel case.
_FIELDS = {
    "trace_id": ("trace_id", "traceId"),
    "model": ("provided_model_name", "providedModelName", "model"),
    "dollars": ("total_cost", "totalCost", "calculatedTotalCost"),
    "usage": ("usage_details", "usageDetails"),
    "start": ("start_time", "startTime"),
    "end": ("end_time", "endTime"),
    "observation_id": ("observation_id", "observationId"),
}


def knows(path: Path) -> bool:
    """Whether a file is an export of observations."""
    if path.suffix == ".jsonl":
        names = set(first_record(path))
    else:
        with path.open("rb") as file:
            head = file.read(_HEAD).decode(errors="replace")
        first = head.splitlines()[0] if path.suffix == ".csv" and head else ""
        names = set(next(csv.reader([first]), [])) if first else {n for n in _all_names() if f'"{n}"' in head}
        if path.suffix == ".json" and not head.lstrip().startswith("["):
            return False
    return "type" in names and all(set(_FIELDS[field]) & set(names) for field in ("trace_id", "model", "start"))


def _all_names() -> set[str]:
    return {"type", *(name for names in _FIELDS.values() for name in names)}


def read(path: Path) -> pa.Table:
    """The generations as rows.

    Raises:
        CascadeError: If no score says which of them are right, or one has none.
    """
    generations = [row for row in _objects(path) if str(row.get("type")).upper() == "GENERATION" and _of(row, "model")]
    scores = _scores(path)
    return table_of([_row(row, scores, path) for row in generations], path)


def _row(row: dict[str, Any], scores: dict[tuple[str, str], float], path: Path) -> dict[str, Any]:
    metadata, usage = _loaded(row.get("metadata")), _loaded(_of(row, "usage"))
    said = {
        name: value
        for key in (_of(row, "trace_id"), row.get("id"))  # a score of the observation itself counts before its trace's
        for (whose, name), value in scores.items()
        if whose == key
    }
    right = next((said[name] for name in RIGHT if name in said), None)
    if right is None:
        raise CascadeError(
            f"Expected a score named {', '.join(RIGHT)} of {row.get('id')!r} beside {path}, but there is none"
        )
    asked = row.get("input") or ""
    text = asked if isinstance(asked, str) else json.dumps(asked, sort_keys=True)
    name = inside(metadata, "question_id") or hashlib.sha256(text.encode()).hexdigest()[:16]
    sure = next((said[name] for name in CONFIDENCE if name in said), inside(metadata, "p_t"))
    dollars, seconds = _of(row, "dollars"), _seconds(row)
    return score_row(
        str(name),
        str(_of(row, "model")),
        right >= 1,
        p_t=None if sure is None else float(sure),
        prediction=None if row.get("output") is None else str(row["output"]),
        prompt_tokens=inside(usage, "input"),
        completion_tokens=inside(usage, "output"),
        seconds=seconds,
        cost_usd=None if dollars in (None, "") else float(dollars),
    )


def _of(row: dict[str, Any], field: str) -> Any:
    return next((row[name] for name in _FIELDS[field] if row.get(name) not in (None, "")), None)


def _seconds(row: dict[str, Any]) -> float | None:
    """From start to end. The export's own latency is in seconds or milliseconds, by the age of the integration."""
    times = _of(row, "start"), _of(row, "end")
    if None in times:
        return None
    start, end = (datetime.fromisoformat(str(time)) for time in times)
    return (end - start).total_seconds()


def _loaded(value: Any) -> Any:
    """An object, which in CSV is a text of JSON."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        return None


def _objects(path: Path) -> Iterator[dict[str, Any]]:
    if path.suffix == ".jsonl":
        yield from (row for _, row in records(path))
    elif path.suffix == ".csv":
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield from csv.DictReader(file, strict=True)
    else:
        try:
            rows = json.loads(path.read_text(encoding="utf-8-sig"))
        except (ValueError, RecursionError) as error:
            why = json_fault(error) if isinstance(error, ValueError) else "it is nested too deep"
            raise CascadeError(f"Expected JSON in {path}, but {why}") from error
        yield from (row for row in rows if isinstance(row, dict))


def _scores(path: Path) -> dict[tuple[str, str], float]:
    """Values by what they are of (an observation, or a whole trace) and by name."""
    folder = path.parent.parent / "scores"
    files = sorted(folder.iterdir()) if folder.is_dir() else [path.parent / f"scores{ending}" for ending in _ENDINGS]
    found = {}
    for file in files:
        if file.suffix in _ENDINGS and file.is_file():
            for row in _objects(file):
                whose = _of(row, "observation_id") or _of(row, "trace_id")
                if whose and row.get("value") not in (None, ""):
                    found[str(whose), str(row.get("name"))] = float(row["value"])
    if not found:
        raise CascadeError(f"Expected the scores of {path} in scores/ or scores.jsonl beside it, but there are none")
    return found


FORMAT = LogFormat("observations of Langfuse", _ENDINGS, read, knows)
