"""Inspect: `.eval` and `.json` logs, read by `inspect_ai.log` itself, which is an extra of this package.

P(T) is the probability of the token that says the answer, where the model was asked for log-probabilities
(`inspect eval --logprobs`). It is the token of the letter that a scorer read, or the first one where there is no such
token. A log without them holds models that can only be the last of a chain.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from cascade.errors import CascadeError
from cascade.scores.readers.base import LogFormat, table_of
from cascade.scores.row import score_row

if TYPE_CHECKING:
    from inspect_ai.log import EvalLog, EvalSample

_RIGHT = {"C": 1.0, "I": 0.0, "P": 0.5, "N": 0.0}


def read(path: Path) -> pa.Table:
    """The samples of one evaluation. Of several epochs each is a question of its own.

    Raises:
        CascadeError: If inspect-ai is not installed, or a sample ended in an error or was not scored.
    """
    try:
        from inspect_ai.log import read_eval_log
    except ImportError as error:
        raise CascadeError(
            f"Expected inspect-ai to be installed to read {path}: pip install 'confidence-cascade[inspect]'"
        ) from error
    try:
        log = read_eval_log(str(path))
    except Exception as error:  # a zip, its JSON, its schema: anything may be wrong, and says so in its own words
        raise CascadeError(f"Expected {path} to be a log of Inspect, but {str(error).splitlines()[0][:200]}") from error
    rows = [_row(log, sample, f"sample {sample.id!r} of {path}") for sample in log.samples or []]
    late = any(row["p_t_needs_answer"] for row in rows)
    return table_of([row | {"p_t_needs_answer": late or None} for row in rows], path)


def _row(log: EvalLog, sample: EvalSample, where: str) -> dict[str, Any]:
    if sample.error is not None:
        raise CascadeError(f"Expected an answer in {where}, but it ended in an error: {sample.error.message[:120]}")
    if not sample.scores:
        raise CascadeError(f"Expected {where} to be scored, but it is not")
    score = next(iter(sample.scores.values()))
    value = _RIGHT.get(score.value, score.value) if isinstance(score.value, str) else score.value
    if isinstance(value, str | list | dict):
        raise CascadeError(f"Expected a score of one number in {where}, but got {str(value)[:80]}")
    task = log.eval.task.rpartition("/")[2]
    repeated = f"/epoch-{sample.epoch}" if (log.eval.config.epochs or 1) > 1 else ""
    usage = list(sample.model_usage.values())
    target = sample.target if isinstance(sample.target, str) else (sample.target or [""])[0]
    p_t, late = _p_t(sample, score.answer)
    return score_row(
        f"{task}/{sample.id}{repeated}",
        _model(log.eval.model, log.eval.model_args),
        float(value) >= 1,
        task=task,
        answer=target or None,
        prediction=score.answer,
        p_t=p_t,
        p_t_needs_answer=late,
        prompt_tokens=sum(used.input_tokens for used in usage) if usage else None,
        completion_tokens=sum(used.output_tokens for used in usage) if usage else None,
        seconds=sample.working_time if sample.working_time is not None else sample.total_time,
        cost_usd=_dollars(usage),
    )


def _model(name: str, arguments: dict[str, Any]) -> str:
    """The model's name; one that was loaded from a folder is named by the folder."""
    path = arguments.get("model_path")
    return Path(path).name if isinstance(path, str) else name


def _p_t(sample: EvalSample, answer: str | None) -> tuple[float | None, bool]:
    """P(T), and whether it is known only after other tokens."""
    choices = sample.output.choices
    told = choices[0].logprobs.content if choices and choices[0].logprobs else []
    if not told:
        return None, False
    said = [i for i, token in enumerate(told) if answer and token.token.strip() == answer.strip()]
    place = said[-1] if said else 0
    return min(math.exp(told[place].logprob), 1.0), place > 0


def _dollars(usage: list[Any]) -> float | None:
    costs = [float(used.total_cost) for used in usage if getattr(used, "total_cost", None) is not None]
    return sum(costs) if costs and len(costs) == len(usage) else None


FORMAT = LogFormat("a log of Inspect", (".eval",), read, lambda path: True)
