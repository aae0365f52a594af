"""Every Eval Ever: records of single questions (`instance_level_eval.schema.json`), as JSON lines.

The schema has no place for probabilities. Dollars are not in it either; tokens and time are.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa

from cascade.errors import CascadeError
from cascade.scores.readers.base import LogFormat, first_record, inside, records, table_of, taken
from cascade.scores.row import score_row


def knows(path: Path) -> bool:
    """Whether a file's first line is a record of one question."""
    return {"schema_version", "evaluation_id", "model_id", "sample_id", "evaluation"} <= first_record(path).keys()


def read(path: Path) -> pa.Table:
    """The records as rows; they may be of several models."""
    return table_of([_row(record, f"{path}, line {line}") for line, record in records(path)], path)


def _row(record: dict[str, Any], where: str) -> dict[str, Any]:
    if record.get("error"):
        raise CascadeError(f"Expected an answer in {where}, but it ended in an error: {str(record['error'])[:120]}")
    task, milliseconds = taken(record, where, "evaluation_name"), inside(record, "performance", "latency_ms")
    if milliseconds is None:
        milliseconds = inside(record, "performance", "generation_time_ms")
    first = inside(record, "performance", "time_to_first_token_ms")
    final = [a for a in record.get("answer_attribution") or [] if inside(a, "is_terminal")]
    reference, choices = inside(record, "input", "reference"), inside(record, "input", "choices")
    right = reference[0] if isinstance(reference, list) and reference else reference
    if isinstance(choices, list) and right in choices:
        right = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[choices.index(right)]  # which is what the answer is extracted as
    return score_row(
        f"{task}/{taken(record, where, 'sample_id')}",
        taken(record, where, "model_id"),
        taken(record, where, "evaluation", "is_correct"),
        task=task,
        answer=right,
        prediction=inside(final[-1], "extracted_value") if final else None,
        prompt_tokens=inside(record, "token_usage", "input_tokens"),
        completion_tokens=inside(record, "token_usage", "output_tokens"),
        seconds=None if milliseconds is None else milliseconds / 1000,
        prefill_seconds=None if first is None else first / 1000,
    )


FORMAT = LogFormat(
    "records of Every Eval Ever",
    (".jsonl",),
    read,
    knows,
    "Every Eval Ever records no probabilities: its models can only be the last of a chain, or be read for by another",
)
