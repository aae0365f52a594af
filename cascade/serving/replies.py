"""Replies as dictionaries: OpenAI's shapes, and what the cascade did in the field ``cascade``.

Costs are `cascade.runtime.costs`'. Nothing here is NaN: `to_json` writes null in its place.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import quote

from cascade.engines.base import Reply, TokenLogprob
from cascade.policies.base import LivePolicy
from cascade.policies.outcome import Outcome
from cascade.runtime.costs import last_model_alone, measured_seconds, reading, step_costs
from cascade.runtime.engine import Answer, Cascade, Step
from cascade.serving.errors import ApiError, unavailable, wrong
from cascade.strict_json import finite

# OpenAI's word for a logarithm that is none.
_NO_CHANCE = -9999.0
_SAFE_IN_HEADERS = "/:@+ ._-"

Costs = dict[str, dict[str, float]]
"""Unit to ledger to what a question, or a stage of it, cost."""


def to_json(value: object) -> bytes:
    """JSON that every reader takes."""
    text = json.dumps(finite(value), allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    return text.encode("utf-8", "replace")


@dataclass(frozen=True)
class Told:
    """An answer, and all that a reply says of it.

    Attributes:
        answer: The answer.
        costs: Of each step.
        total: Of all, readers included.
        queued_seconds: Time spent waiting for stages.
    """

    answer: Answer
    costs: tuple[Costs, ...]
    total: Costs
    queued_seconds: float

    @classmethod
    def many(cls, cascade: Cascade, answers: Sequence[Answer], queued_seconds: Sequence[float]) -> list[Told]:
        """Counts what answers cost; together, since a step by itself takes as long as hundreds."""
        steps = [step for answer in answers for step in answer.steps]
        asks = [cascade.asks(answer.policy, step.place) for answer in answers for step in answer.steps]
        arrays = step_costs(cascade, steps, asks)
        read = {unit: reading(cascade, answers, unit) for unit in arrays}
        found, start = [], 0
        for i, (answer, queued) in enumerate(zip(answers, queued_seconds, strict=True)):
            end = start + len(answer.steps)
            costs = tuple(
                {unit: {ledger: float(values[at]) for ledger, values in of.items()} for unit, of in arrays.items()}
                for at in range(start, end)
            )
            total = {
                unit: {ledger: float(values[start:end].sum() + read[unit][i]) for ledger, values in of.items()}
                for unit, of in arrays.items()
            }
            found.append(cls(answer, costs, total, queued))
            start = end
        return found

    @property
    def tokens(self) -> tuple[int, int]:
        """Read and written, by every model that was tried."""
        replies = [step.reply for step in self.answer.steps if step.reply is not None]
        return sum(r.prompt_tokens for r in replies), sum(r.completion_tokens for r in replies)


def outcome_name(step: Step) -> str:
    """What became of a question at a stage, in a word."""
    return "failed" if step.outcome == Outcome.NOT_ASKED else step.outcome.name.lower()


def stage_field(step: Step, policy: LivePolicy, costs: Costs) -> dict[str, Any]:
    """One of ``cascade.stages``."""
    reply, limits = step.reply, policy.limits(step.place)
    return {
        "model": step.model,
        "place": step.place,
        "outcome": outcome_name(step),
        "p_ik": step.p_ik,
        "p_t": step.p_t,
        "p_ik_reader": step.p_ik_reader,
        "thresholds": None if limits is None else asdict(limits),
        "prompt_tokens": 0 if reply is None else reply.prompt_tokens,
        "completion_tokens": 0 if reply is None else reply.completion_tokens,
        "seconds": 0.0 if reply is None else reply.seconds,
        "failure": step.failure or None,
        "best_effort": step.best_effort,
        "cost": costs,
    }


def live_stage_field(cascade: Cascade, step: Step, policy: LivePolicy) -> dict[str, Any]:
    """`stage_field` of a question that is still on its way."""
    arrays = step_costs(cascade, [step], [cascade.asks(policy, step.place)])
    costs = {unit: {ledger: float(v[0]) for ledger, v in found.items()} for unit, found in arrays.items()}
    return stage_field(step, policy, costs)


def cascade_field(cascade: Cascade, told: Told, notes: Sequence[str] = ()) -> dict[str, Any]:
    """The field ``cascade`` of one question."""
    answer, alone = told.answer, last_model_alone(cascade)
    stages = [stage_field(s, answer.policy, c) for s, c in zip(answer.steps, told.costs, strict=True)]
    said = list(notes)
    if any(step.failure for step in answer.steps):
        failed = ", ".join(step.model for step in answer.steps if step.failure)
        said.append(f"failed: {failed}")
    if answer.steps[-1].best_effort:
        said.append(f"best effort: {answer.model} answers although its confidence was too low")
    return {
        "name": cascade.name,
        "answered_by": answer.model,
        "stages": stages,
        "usage": usage_of_all([told]),
        "cost": told.total,
        "last_model_alone": None if alone is None else {"flops": alone},
        "seconds": measured_seconds(answer),
        "queued_seconds": told.queued_seconds,
        "notes": said,
    }


def cascade_fields(cascade: Cascade, told: Sequence[Told], notes: Sequence[str] = ()) -> dict[str, Any]:
    """The field ``cascade`` of a reply: of its question, or sums and one entry each where there are several."""
    if len(told) == 1:
        return cascade_field(cascade, told[0], notes)
    each = [cascade_field(cascade, one, notes) for one in told]
    alone = last_model_alone(cascade)
    return {
        "name": cascade.name,
        "usage": usage_of_all(told),
        "cost": total_costs(told),
        "last_model_alone": None if alone is None else {"flops": alone * len(told)},
        "seconds": sum(one["seconds"] for one in each),
        "queued_seconds": max(one["queued_seconds"] for one in each),
        "notes": list(notes),
        "questions": each,
    }


def total_costs(told: Sequence[Told]) -> Costs:
    """What several questions cost."""
    units = told[0].total
    return {unit: {ledger: sum(t.total[unit][ledger] for t in told) for ledger in units[unit]} for unit in units}


def headers(told: Sequence[Told]) -> dict[str, str]:
    """Who answered, who was tried, and the FLOPs by ledger; of several questions the models of all, and sums."""
    answered = dict.fromkeys(t.answer.model for t in told if t.answer.model is not None)
    tried = dict.fromkeys(step.model for t in told for step in t.answer.steps)
    found = {
        "x-cascade-model": ", ".join(map(header_text, answered)),
        "x-cascade-stages": ", ".join(map(header_text, tried)),
    }
    flops = total_costs(told).get("flops", {})
    return found | {f"x-cascade-cost-flops-{ledger}": f"{value:.0f}" for ledger, value in flops.items()}


def header_text(name: str) -> str:
    """A model's name as a header can hold it."""
    return quote(name, safe=_SAFE_IN_HEADERS)


def usage(told: Sequence[Told]) -> dict[str, int]:
    """Tokens of the models that answered, as the standard counts them."""
    replies = [one.answer.reply for one in told]
    return _usage(sum(r.prompt_tokens for r in replies), sum(r.completion_tokens for r in replies))


def usage_of_all(told: Sequence[Told]) -> dict[str, int]:
    """Tokens of every model that was tried."""
    return _usage(*(sum(t.tokens[i] for t in told) for i in (0, 1)))


def _usage(read: int, written: int) -> dict[str, int]:
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}


def failed(cascade: Cascade, told: Told, notes: Sequence[str], param: str) -> ApiError:
    """The error of a question that got no answer; ``param`` is the field that held its prompt."""
    answer = told.answer
    if answer.bad_prompt:
        too_long = "tokens for" in answer.failure
        return wrong(answer.failure, param, "context_length_exceeded" if too_long else None)
    more = {"cascade": cascade_field(cascade, told, notes)}
    return unavailable(f"No answer: {answer.failure}", "last_stage_failed", more)


def chat_logprobs(reply: Reply, alternatives: int) -> dict[str, Any]:
    """Of every token that the answering model generated, the "Answer:" of the format and the end included."""
    content = [
        _chat_token(one.token, one.logprob)
        | {"top_logprobs": [_chat_token(token, value) for token, value in one.top[:alternatives]]}
        for one in reply.tokens
    ]
    return {"content": content, "refusal": None}


def _chat_token(token: str, logprob: float) -> dict[str, Any]:
    return {"token": token, "logprob": _finite(logprob), "bytes": list(token.encode("utf-8", "replace"))}


def completion_logprobs(reply: Reply, alternatives: int, start: int) -> dict[str, Any]:
    """As the older format has them; offsets are counted from the beginning of the prompt, ``start`` its length."""
    offsets, at = [], start
    for one in reply.tokens:
        offsets.append(at)
        at += len(one.token)
    return {
        "tokens": [one.token for one in reply.tokens],
        "token_logprobs": [_finite(one.logprob) for one in reply.tokens],
        "top_logprobs": [_best(one, alternatives) for one in reply.tokens] if alternatives else None,
        "text_offset": offsets,
    }


def _best(one: TokenLogprob, alternatives: int) -> Mapping[str, float]:
    """By text: of two tokens that read alike the more probable one."""
    found: dict[str, float] = {}
    for token, logprob in one.top[:alternatives]:
        found.setdefault(token, _finite(logprob))
    return found


def _finite(logprob: float) -> float:
    return logprob if math.isfinite(logprob) else _NO_CHANCE
