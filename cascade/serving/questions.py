"""From a request to what the cascade is asked: prompts, and the policy that decides them.

A chat's last message is the question, put in the paper's words (Table 7) unless it is in them already; a completion's
prompt is given as it stands. What the fields may hold is `cascade.serving.protocol`'s.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from cascade.engines.base import Prompt, prompt_of
from cascade.errors import CascadeError
from cascade.policies.base import NO_LIMITS, LivePolicy, Thresholds
from cascade.policies.thresholds import ThresholdPolicy
from cascade.runtime.engine import Cascade
from cascade.scores.columns import CONFIDENCES
from cascade.serving.errors import ApiError, wrong
from cascade.serving.protocol import ChatRequest, CompletionRequest, Message, StageThresholds
from cascade.serving.room import Room
from cascade.tasks.base import ANSWER_PREFIX, LETTERS, Question, parse_prompt

DEFAULT_LIMIT = 16
"""Tokens that are generated where a request does not say."""

DEFAULT_SUBJECT = "general knowledge"
A_LETTER = "a letter is read and not sampled: `temperature` is not used"


@dataclass(frozen=True)
class Asked:
    """What a request asks.

    Attributes:
        model: As the request names it.
        prompts: One or more.
        policy: By which they are decided.
        best_effort: Whether an earlier model may answer whose confidence was too low, where every later one fails.
        notes: What the reply has to say of it.
        signal: What stands in P(T)'s place; ``None`` for P(T).
    """

    model: str
    prompts: tuple[Prompt, ...]
    policy: LivePolicy
    best_effort: bool
    notes: tuple[str, ...]
    signal: str | None = None


class Asker:
    """Turns requests into questions to one cascade.

    Args:
        cascade: That is asked.
        room: What its models are too small for.
    """

    def __init__(self, cascade: Cascade, room: Room) -> None:
        self.cascade, self.room = cascade, room

    def ask(self, request: ChatRequest | CompletionRequest, id: str, extra: Mapping[str, Any] | None = None) -> Asked:
        """What a request asks.

        May take seconds where a budget is the first one, so not for the event loop.

        Raises:
            ApiError: 404 where there is no such model, 400 where the request cannot be asked.
        """
        free = self.cascade.free_text if isinstance(request, ChatRequest) and is_free(request) else None
        policy = self._policy(request, self.cascade.policy if free is None else free.policy)
        limit = request.limit or (DEFAULT_LIMIT if free is None else free.max_tokens)
        if (room := self._context) is not None and limit > room:
            raise wrong(
                f"Expected at most {room} tokens to generate, the context of the longest model, but got {limit}",
                "max_tokens",
                "context_length_exceeded",
            )
        wanted = 0 if request.alternatives is None else max(request.alternatives, 1)
        if free is not None and len(policy.places) > 1:
            wanted = max(wanted, 1)  # the signal is of the tokens' log-probabilities
        if isinstance(request, ChatRequest):
            found = [_chat_prompt(request) if free is None else _free_prompt(request)]
        else:
            found = [_completion_prompt(text, request) for text in request.prompts]
        prompts = tuple(
            replace(
                prompt,
                question_id=f"{id}-{i}" if len(found) > 1 else id,
                max_new_tokens=limit,
                top_logprobs=wanted,
                stop=request.stops,
                extra=extra or {},
                **_sampling(request, i, bool(prompt.letters)),
            )
            for i, prompt in enumerate(found)
        )
        for prompt in prompts:
            reasons = [self.room.refusal(place, prompt) for place in policy.places]
            if all(reasons):  # nobody has room for it, so that it need not wait for its turn
                field = "messages" if isinstance(request, ChatRequest) else "prompt"
                raise wrong(reasons[-1], field, "context_length_exceeded")
        notes = (A_LETTER,) if request.temperature and any(prompt.letters for prompt in prompts) else ()
        best_effort, signal = request.options.fallback == "best_effort", None if free is None else free.signal
        return Asked(request.model, prompts, policy, best_effort, notes, signal)

    @cached_property
    def _context(self) -> int | None:
        """Tokens that the longest model has room for, ``None`` where one of them does not say."""
        rooms = [model.context for model in self.cascade.models]
        known = [room for room in rooms if room is not None]
        return max(known) if len(known) == len(rooms) else None

    def _policy(self, request: ChatRequest | CompletionRequest, own: LivePolicy) -> LivePolicy:
        cascade, options = self.cascade, request.options
        if request.model != cascade.name:
            if request.model not in cascade.names:
                raise unknown_model(request.model, cascade)
            for field in ("thresholds", "budget"):
                if getattr(options, field) is not None:
                    raise wrong(
                        f"Expected `cascade.{field}` for the model {cascade.name!r} only, but got {request.model!r}, "
                        f"which answers alone",
                        f"cascade.{field}",
                    )
            return ThresholdPolicy.alone(cascade.names.index(request.model))
        if options.budget is not None and own is not cascade.policy:
            raise wrong("Expected no `cascade.budget` for free text, whose costs nobody measured", "cascade.budget")
        try:
            if options.budget is not None:
                return cascade.policy_within(options.budget)
        except CascadeError as error:
            raise wrong(str(error), "cascade.budget") from error
        if options.thresholds is None:
            return own
        policy = _with_thresholds(cascade, own, options.thresholds)
        try:
            cascade.check_policy(policy)
        except CascadeError as error:
            raise wrong(str(error), "cascade.thresholds") from error
        return policy


def _sampling(request: ChatRequest | CompletionRequest, place: int, letter: bool) -> dict[str, Any]:
    """How an answer is drawn: with a seed the same each time, without one anew."""
    if letter or not request.temperature:
        return {}
    seed = secrets.randbits(31) if request.seed is None else request.seed
    top_p = 1.0 if request.top_p is None else request.top_p
    return {"temperature": request.temperature, "top_p": top_p, "seed": seed, "draws": str(place)}


def unknown_model(name: str, cascade: Cascade) -> ApiError:
    """404: there is no such model."""
    known = ", ".join((cascade.name, *cascade.names))
    message = f"Expected `model` to be one of {known}, but got {name[:60]!r}"
    return ApiError(404, message, "model", "model_not_found")


def _with_thresholds(
    cascade: Cascade, own: LivePolicy, asked: StageThresholds | list[StageThresholds]
) -> ThresholdPolicy:
    """A policy's own stages with a request's thresholds; what a request does not say stays as it is."""
    stages = len(own.places) - 1
    each = asked if isinstance(asked, list) else [asked] * stages
    if len(each) != stages:
        raise wrong(
            f"Expected `cascade.thresholds` to hold one entry for each of the {stages} stages before the last, but "
            f"got {len(each)}",
            "cascade.thresholds",
        )
    for stage, (place, new) in enumerate(zip(own.places, each, strict=False)):
        if new.p_ik is not None and cascade.models[place].probe_layer is None:
            several = isinstance(asked, list)
            field = f"cascade.thresholds[{stage}].p_ik" if several else "cascade.thresholds.p_ik"
            advice = "" if several else "; a list of thresholds has one entry a stage"
            raise wrong(
                f"Expected no `{field}` of {cascade.names[place]!r}, which has no probe, but got {new.p_ik:g}{advice}",
                field,
            )
    before = [own.limits(place) or NO_LIMITS for place in own.places[:-1]]
    changed = (
        Thresholds(**{name: getattr(new if name in new.model_fields_set else old, name) for name in CONFIDENCES})
        for old, new in zip(before, each, strict=True)
    )
    return ThresholdPolicy(own.places, tuple(changed))


def is_free(request: ChatRequest) -> bool:
    """Whether a conversation ends in no question of a known form: no options, and no prompt of Table 7."""
    text = request.messages[-1].text
    if not text.strip() or request.options.choices:
        return False
    known = (parse_prompt(whole) for whole in (text.strip(), f"{text.strip()}\n"))
    return not any(known) and not read_question(text).choices


def _free_prompt(request: ChatRequest) -> Prompt:
    """A conversation as it is, for models that take turns; its texts in a row for others."""
    _last(request)
    turns = tuple((message.role, message.text) for message in request.messages)
    return Prompt("", "\n\n".join(text for _, text in turns), answer_prefix=False, messages=turns)


def _chat_prompt(request: ChatRequest) -> Prompt:
    """The prompt of a conversation: its last message as a question, after whatever was said before."""
    before, last = request.messages[:-1], _last(request)
    question = read_question(last.text, request.options.choices, request.options.subject)
    prompt = prompt_of(question)
    paragraphs = [message.text.strip() for message in before]
    return replace(prompt, text="\n\n".join([*filter(None, paragraphs), prompt.text]))


def _last(request: ChatRequest) -> Message:
    """The last message, which is the user's question.

    Raises:
        ApiError: 400, if it is none.
    """
    *before, last = request.messages
    if last.role != "user":
        raise wrong(
            f"Expected the last message to be the user's question, but its role is {last.role!r}",
            "messages",
            "no_question",
        )
    if not last.text.strip():
        place = len(before)
        raise wrong("Expected the last message to hold a question, but it is empty", f"messages[{place}].content")
    return last


def read_question(text: str, choices: list[str] | None = None, subject: str | None = None) -> Question:
    """The question that a message asks.

    A text that is a prompt of Table 7 is that question; with ``choices``, or with lines "A. …", "B. …" at its end, it
    is multiple choice; else it is open-ended.

    Args:
        text: Of the message.
        choices: Options in the order of their letters.
        subject: By default "general knowledge".
    """
    asked = text.strip()
    if choices:
        return Question("", asked, subject or DEFAULT_SUBJECT, choices=tuple(choices))
    for whole in (asked, f"{asked}\n"):  # clients strip the open-ended prompt's last new line
        if (known := parse_prompt(whole)) is not None:
            return known
    return _listed_choices(asked, subject or DEFAULT_SUBJECT) or Question("", asked, subject or DEFAULT_SUBJECT)


def _listed_choices(text: str, subject: str) -> Question | None:
    """A question whose options are the last lines of a text, letters in order; an "Answer:" may follow them."""
    lines = [line.strip() for line in text.splitlines()]
    if lines[-1] == ANSWER_PREFIX:
        lines.pop()
    while lines and not lines[-1]:
        lines.pop()
    last = lines[-1][:1] if lines else ""
    count = LETTERS.find(last) + 1 if last else 0
    options, above = lines[-count:], lines[:-count]
    fits = all(
        line.startswith(f"{letter}. ") and line[3:].strip() for letter, line in zip(LETTERS, options, strict=False)
    )
    if count < 2 or len(options) < count or not fits:
        return None
    while above and above[-1] in ("", "Choices:", "Options:"):
        above.pop()
    asked = "\n".join(above).strip().removeprefix("Question:").strip()
    return Question("", asked, subject, choices=tuple(line[3:].strip() for line in options)) if asked else None


def _completion_prompt(text: str, request: CompletionRequest) -> Prompt:
    """A prompt that is given as it stands."""
    if not text:
        raise wrong("Expected `prompt` to hold text, but it is empty", "prompt")
    if request.options.choices is not None:
        return Prompt("", text, tuple(LETTERS[: len(request.options.choices)]), answer_prefix=False)
    known = parse_prompt(text)
    # The paper's own prompts are judged by the paper's own P(T), for which the thresholds were chosen.
    return Prompt("", text, answer_prefix=False) if known is None else prompt_of(known)
