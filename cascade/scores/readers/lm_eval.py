"""lm-evaluation-harness: `samples_TASK_DATE.jsonl`, with `results_DATE.json` beside it.

`lm_eval --log_samples --output_path OUT` writes one folder a model. Model and parameters stand in the results; without
them the folder's name is the model's.

P(T) of a multiple-choice task is the probability of the letter that is chosen, from the log-likelihoods of the letters.
Where the options are longer texts, the probability of a first token is not in the log. P(T) is then the option's share
among the options. A task that generates text logs no probabilities.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from cascade.errors import CascadeError, json_fault
from cascade.scores.readers.base import LogFormat, first_record, inside, records, table_of, taken
from cascade.scores.row import score_row

_NAME = re.compile(r"samples_(?P<task>.+?)(?:_(?P<date>\d{4}-\d\d-\d\dT[\d.:-]+))?$")
# What says whether an answer is right, the first of these that a task has.
_METRICS = ("acc", "exact_match", "em", "contains", "pass@1", "acc_norm")
# What `cascade export` says beside what the harness does.
_TOLD = ("p_t", "p_t_normalized", "p_ik", "prompt_tokens", "completion_tokens", "seconds", "cost_usd")
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def knows(path: Path) -> bool:
    """Whether a file's first line is a sample of the harness."""
    return {"doc_id", "filtered_resps", "target"} <= first_record(path).keys()


def read(path: Path) -> pa.Table:
    """The samples of one model on one task.

    Of a task with several filters, the first one's samples are read, and stderr is told which are not.
    """
    named = _NAME.match(path.stem)
    task = named["task"] if named else path.stem
    about = _about(path, named["date"] if named else None)
    rows, wanted, others = [], None, set()
    for line, sample in records(path):
        where = f"{path}, line {line}"
        wanted = sample.get("filter") if wanted is None else wanted
        if sample.get("filter") != wanted:
            others.add(str(sample.get("filter")))
            continue
        row = partial(score_row, f"{task}/{taken(sample, where, 'doc_id')}", correct=_correct(sample, where), task=task)
        rows.append(row(**about, **_answer(sample, where)))
    if others:
        left = ", ".join(sorted(others))
        print(f"{path}: samples of the filter {wanted} are read, those of {left} are not", file=sys.stderr)
    return table_of(rows, path)


def _about(path: Path, date: str | None) -> dict[str, Any]:
    """Model and parameters, by the results of the same date, or the only ones beside."""
    beside = sorted(path.parent.glob("results*.json"))
    file = next((f for f in beside if date and f.stem == f"results_{date}"), beside[-1] if beside else None)
    if file is None:
        return {"model": path.parent.resolve().name}
    try:
        results = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        why = json_fault(error) if isinstance(error, ValueError) else "it is nested too deep"
        raise CascadeError(f"Expected JSON in {file}, but {why}") from error
    name = inside(results, "model_name") or path.parent.resolve().name
    parameters = inside(results, "config", "model_num_parameters")
    # A model that was loaded from a folder is named by the folder, and not by the way to it.
    name = Path(name).name if Path(name).is_absolute() else name
    return {"model": name, "parameters": parameters if isinstance(parameters, int) and parameters > 0 else None}


def _correct(sample: dict[str, Any], where: str) -> bool:
    metric = next((name for name in (*_METRICS, *sample.get("metrics", ())) if name in sample), None)
    if metric is None or not isinstance(sample[metric], int | float):
        raise CascadeError(f"Expected a metric of {', '.join(_METRICS)} in {where}, but there is none")
    return float(sample[metric]) >= 1


def _answer(sample: dict[str, Any], where: str) -> dict[str, Any]:
    replies, target = taken(sample, where, "filtered_resps"), sample["target"]
    if not replies or not isinstance(replies, list):
        raise CascadeError(f"Expected a list of filtered_resps in {where}, but got {str(replies)[:80]}")
    if not all(isinstance(reply, list) and len(reply) == 2 for reply in replies):
        told = {name: sample.get(name) for name in _TOLD}
        return {"prediction": str(replies[0]).strip(), "answer": str(target).strip(), **told}
    try:
        likelihoods = [float(reply[0]) for reply in replies]
    except (TypeError, ValueError) as error:
        raise CascadeError(f"Expected log-likelihoods in filtered_resps of {where}, but {error}") from error
    if not all(value <= 1e-3 for value in likelihoods):
        raise CascadeError(f"Expected log-likelihoods of at most 0 in {where}, but got {max(likelihoods):g}")
    options = _options(sample, len(replies))
    best, right = max(range(len(replies)), key=likelihoods.__getitem__), _right(target, options, len(replies))
    mass = sum(map(math.exp, likelihoods))
    shares = [math.exp(value - likelihoods[best]) for value in likelihoods]
    whole, said = sum(shares), {}
    if all(len(option) <= 1 for option in options):
        said = {"p_t": min(math.exp(likelihoods[best]), 1.0), "option_mass": min(mass, 1.0)}
    normalized = 1 / whole
    found = {"p_t": normalized, **said, "p_t_normalized": normalized, "prediction": _LETTERS[best : best + 1] or None}
    if right is not None:
        found |= {"p_right": shares[right] / whole, "answer": _LETTERS[right : right + 1] or None}
    return found


def _options(sample: dict[str, Any], count: int) -> Sequence[str]:
    """The continuations whose likelihoods were asked; unknown ones are taken for texts."""
    arguments = sample.get("arguments")
    asked = list(arguments.values()) if isinstance(arguments, dict) else arguments
    options = [a.get("arg_1") if isinstance(a, dict) else a[1] for a in asked or [] if isinstance(a, dict | list) and a]
    known = len(options) >= count and all(isinstance(option, str) for option in options[:count])
    return [str(option).strip() for option in options[:count]] if known else ["text"] * count


def _right(target: Any, options: Sequence[str], count: int) -> int | None:
    """The place of the right option, which is a number, or a text of one of them."""
    text = str(target).strip()
    if text in options:
        return list(options).index(text)
    return int(text) if text.isdecimal() and int(text) < count else None


FORMAT = LogFormat("samples of lm-evaluation-harness", (".jsonl",), read, knows)
