"""LLMRouterBench: one JSON file a model and benchmark, at `bench/DATASET/SPLIT/MODEL/DATE.json`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa

from cascade.errors import CascadeError, json_fault
from cascade.scores.readers.base import LogFormat, table_of, taken
from cascade.scores.row import score_row

_FIELDS = ('"records"', '"performance"', '"counts"')
_HEAD = 4096


def knows(path: Path) -> bool:
    """Whether a JSON file begins as a result of the benchmark does."""
    with path.open("rb") as file:
        head = file.read(_HEAD).decode(errors="replace")
    return head.lstrip().startswith("{") and all(field in head for field in _FIELDS)


def read(path: Path) -> pa.Table:
    """One model's records. The model, and where the file lies in its place the benchmark, are named by the folders."""
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        why = json_fault(error) if isinstance(error, ValueError) else "it is nested too deep"
        raise CascadeError(f"Expected JSON in {path}, but {why}") from error
    folders = path.resolve().parts
    split, model = (*folders[-3:-1],)
    dataset = folders[-4] if len(folders) > 3 else split
    name = result.get("model_name") or model
    task = result.get("dataset_name") or dataset
    return table_of([_row(record, name, task, path, i) for i, record in enumerate(result["records"])], path)


def _row(record: dict[str, Any], model: str, task: str, path: Path, place: int) -> dict[str, Any]:
    where = f"record {place} of {path}"
    score, answer, prediction = taken(record, where, "score"), record.get("ground_truth"), record.get("prediction")
    return score_row(
        f"{task}/{taken(record, where, 'index')}",
        model,
        float(score) >= 1,
        task=task,
        answer=None if answer is None else str(answer),
        prediction=None if prediction is None else str(prediction),
        prompt_tokens=record.get("prompt_tokens"),
        completion_tokens=record.get("completion_tokens"),
        # Models that were run on the benchmark's own machines have no price, and 0 is none.
        cost_usd=record.get("cost") or None,
    )


FORMAT = LogFormat(
    "results of LLMRouterBench",
    (".json",),
    read,
    knows,
    "LLMRouterBench records no probabilities: its models can only be the last of a chain, or be read for by another",
)
