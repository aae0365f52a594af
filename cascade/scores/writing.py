"""Tables of scores or answers as files of other tools: CSV, Parquet, JSON lines, samples of lm-evaluation-harness."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from cascade.errors import CascadeError
from cascade.scores.schema import parquet_bytes
from cascade.strict_json import finite, strict_json
from probes.files import file_name, write_atomically

ENDINGS = (".csv", ".parquet", ".jsonl")
_TOLD = ("p_t", "p_t_normalized", "p_ik", "prompt_tokens", "completion_tokens", "seconds", "cost_usd")


def write_table(table: pa.Table, out: Path) -> None:
    """Writes a table as it is, whole or not at all, by the ending of its file.

    Columns with nothing in them are left out. Nothing else is changed: a text that a spreadsheet would run as a formula
    stays one.

    Raises:
        CascadeError: If the ending is none of `ENDINGS`.
    """
    filled = table.select([name for name in table.column_names if table[name].null_count < table.num_rows])
    if out.suffix == ".csv":
        text = io.BytesIO()
        pyarrow.csv.write_csv(filled, text)
        data = text.getvalue()
    elif out.suffix == ".parquet":
        data = parquet_bytes(filled)
    elif out.suffix == ".jsonl":
        data = _lines(filled.to_pylist())
    else:
        raise CascadeError(f"Expected `out` to end in {', '.join(ENDINGS)}, or to be a folder, but got {out}")
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, data)


def write_samples(table: pa.Table, folder: Path) -> list[Path]:
    """Writes a score table as lm-evaluation-harness does: a folder a model, with samples of each task and results.

    A table does not know the likelihood of every option, so the samples are like those of a task whose answer is a
    text: the answer in `filtered_resps`, whether it is right in `acc`. P(T) and P(IK) are fields of their own. `doc_id`
    is the question's place among all, in the order of their ids.

    Returns:
        The files of samples.

    Raises:
        CascadeError: If two models would have one folder.
    """
    place = {name: i for i, name in enumerate(sorted(set(table["question_id"].to_pylist())))}
    written: list[Path] = []
    for model in sorted(set(table["model"].to_pylist())):
        rows = table.filter(pc.equal(table["model"], model)).to_pylist()
        own = folder / file_name(model)
        if any(path.parent == own for path in written):
            raise CascadeError(f"Expected models of different names, but {model!r} and another are both {own.name}")
        own.mkdir(parents=True, exist_ok=True)
        tasks: dict[str, list[dict[str, Any]]] = {}
        for row in sorted(rows, key=lambda row: str(row["question_id"])):
            tasks.setdefault(row.get("task") or "cascade", []).append(row)
        for task, asked in tasks.items():
            path = own / f"samples_{file_name(task)}.jsonl"
            write_atomically(path, _lines([_sample(row, place[row["question_id"]]) for row in asked]))
            written.append(path)
        write_atomically(own / "results.json", strict_json(_results(model, tasks)).encode())
    return written


def _sample(row: dict[str, Any], place: int) -> dict[str, Any]:
    doc = {name: row[name] for name in ("question_id", "subject", "split") if row.get(name) is not None}
    told = {name: row[name] for name in _TOLD if row.get(name) is not None}
    said = row.get("prediction") or ""
    answers = {"target": row.get("answer") or "", "resps": [[said]], "filtered_resps": [said], "filter": "none"}
    return {"doc_id": place, "doc": doc, **answers, "metrics": ["acc"], "acc": float(row["correct"]), **told}


def _results(model: str, tasks: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    counts = {task: len(rows) for task, rows in tasks.items()}
    accuracy = {task: math.fsum(row["correct"] for row in rows) / len(rows) for task, rows in tasks.items()}
    parameters = next(iter(tasks.values()))[0].get("parameters")
    return {
        "results": {task: {"alias": task, "acc,none": value} for task, value in accuracy.items()},
        "n-samples": {task: {"original": count, "effective": count} for task, count in counts.items()},
        "config": {"model": "cascade", "model_num_parameters": parameters},
        "model_name": model,
    }


def _lines(rows: list[dict[str, Any]]) -> bytes:
    texts = (json.dumps(finite(row), allow_nan=False, ensure_ascii=False) for row in rows)
    return "".join(f"{text}\n" for text in texts).encode()
