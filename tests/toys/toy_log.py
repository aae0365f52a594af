"""A log format in one file: records of a multiple-choice harness as a score table.

One JSON line a question and model, such as

    {"doc": 17, "model": "small", "logprobs": {"A": -0.2, "B": -2.1}, "target": "A", "tokens": 211}
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import pyarrow as pa

from cascade.errors import CascadeError
from cascade.scores.schema import parquet_bytes, validate_scores
from probes.files import write_atomically


def score_table(log: Path) -> pa.Table:
    """The score table of a log.

    Raises:
        CascadeError: Naming the line that lacks something.
    """
    rows = []
    for number, line in enumerate(log.read_text().splitlines(), start=1):
        record = json.loads(line)
        if lacking := {"doc", "model", "logprobs", "target"} - record.keys():
            raise CascadeError(f"Expected line {number} of {log} to have {', '.join(sorted(lacking))}, but it has not")
        letter, logprob = max(record["logprobs"].items(), key=lambda pair: pair[1])
        rows.append(
            {
                "question_id": str(record["doc"]),
                "model": record["model"],
                "correct": letter == record["target"],
                "p_t": math.exp(logprob),
                "option_mass": min(sum(map(math.exp, record["logprobs"].values())), 1.0),
                "prediction": letter,
                "answer": record["target"],
                "prompt_tokens": record.get("tokens"),
                "completion_tokens": 1,
            }
        )
    return validate_scores(pa.Table.from_pylist(rows), str(log))


def convert(log: Path, out: Path) -> None:
    """Writes the score table of a log, whole or not at all."""
    write_atomically(out, parquet_bytes(score_table(log)))
