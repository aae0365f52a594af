"""What a request may hold: OpenAI's fields, and ours under ``cascade``.

Three kinds of fields: those that are kept to, those that change nothing and are ignored, and those that would change
the answer and are not supported, which are refused by name. What is asked by a request is `questions`' to say.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError

from cascade.serving.errors import ApiError, wrong
from cascade.tasks.base import LETTERS

MOST_LOGPROBS = 20
MOST_STOPS = 4
MOST_TOKENS = 2**31 - 1
MOST_STAGES = 100

HINTS = frozenset("user metadata store service_tier safety_identifier prompt_cache_key prompt_cache_retention".split())
"""Fields that change no answer. Models behind endpoints get them as they are."""

IGNORED = HINTS | {"parallel_tool_calls", "prediction"}
"""Fields that change nothing here."""

UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "echo": (False,),
    "suffix": ("",),
    "tools": ([],),
    "tool_choice": ("none",),
    "functions": ([],),
    "function_call": ("none",),
    "response_format": ({"type": "text"},),
    "logit_bias": ({},),
    "modalities": (["text"],),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "audio": (),
    "reasoning_effort": (),
    "verbosity": (),
    "web_search_options": (),
    "moderation": (),
}
"""Fields that would change the answer, and the values beside null that do not."""

ONE, SEVERAL = "<one>", "<several>"
_T = TypeVar("_T")
MANY = Annotated[list[_T], Field(fail_fast=True)]
"""A list of which the first mistake is told. To collect those of a long one would hold the event loop for seconds."""


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


def one_or_several(value: object) -> str:
    """The tag of a field that may be one thing or a list."""
    return SEVERAL if isinstance(value, list | tuple) else ONE


class StageThresholds(_Strict):
    """Thresholds of a stage; null leaves a confidence out, and an absent one stays as it is in the cascade's own.

    One of a confidence that the stage does not have is refused.
    """

    p_t: float | None = Field(default=None, ge=0, le=1)
    p_ik: float | None = Field(default=None, ge=0, le=1)
    p_ik_reader: float | None = Field(default=None, ge=0, le=1)


class CascadeOptions(_Strict):
    """What a request may say of the cascade.

    Attributes:
        choices: Options of a multiple-choice question, in the order of their letters.
        subject: Of a multiple-choice question.
        thresholds: For all stages, or a list of one a stage.
        budget: Instead of thresholds: share of the last model's cost.
        fallback: Whether an earlier model may answer whose confidence was too low, where every later one fails.
        trace: Whether a stream tells of each stage when it is over.
    """

    choices: MANY[Annotated[str, Field(min_length=1)]] | None = Field(
        default=None, min_length=2, max_length=len(LETTERS)
    )
    subject: str | None = Field(default=None, min_length=1)
    thresholds: (
        Annotated[
            Annotated[StageThresholds, Tag(ONE)]
            | Annotated[MANY[StageThresholds], Field(max_length=MOST_STAGES), Tag(SEVERAL)],
            Discriminator(one_or_several),
        ]
        | None
    ) = None
    budget: float | None = Field(default=None, gt=0)
    fallback: Literal["best_effort", "none"] | None = None
    trace: bool | None = None


class StreamOptions(_Strict):
    """How a stream ends."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class TextPart(_Strict):
    """A part of a message."""

    type: Literal["text"]
    text: str


_Content = Annotated[
    Annotated[str, Tag(ONE)] | Annotated[MANY[TextPart], Tag(SEVERAL)],
    Discriminator(one_or_several),
]


class Message(_Strict):
    """A turn of a conversation. What else a reply of ours or of OpenAI's holds may be sent back, where it is null."""

    role: Literal["system", "developer", "user", "assistant"]
    content: _Content
    name: str | None = None
    refusal: None = None
    audio: None = None
    function_call: None = None
    tool_calls: None = None
    annotations: list[Any] | None = Field(default=None, max_length=0)

    @property
    def text(self) -> str:
        """The content, parts joined by new lines."""
        return self.content if isinstance(self.content, str) else "\n".join(part.text for part in self.content)


class _Request(_Strict):
    model: str = Field(min_length=1)
    max_tokens: int | None = Field(default=None, ge=1, le=MOST_TOKENS)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, ge=0, le=1)
    seed: int | None = Field(default=None, ge=-(2**63), le=2**63 - 1)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    stop: (
        Annotated[
            Annotated[str, Field(min_length=1), Tag(ONE)]
            | Annotated[MANY[Annotated[str, Field(min_length=1)]], Field(max_length=MOST_STOPS), Tag(SEVERAL)],
            Discriminator(one_or_several),
        ]
        | None
    ) = None
    cascade: CascadeOptions | None = None

    @property
    def stops(self) -> tuple[str, ...]:
        """Texts that end the answer."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def options(self) -> CascadeOptions:
        """What is said of the cascade."""
        return self.cascade or CascadeOptions()

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with the usage."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)


class ChatRequest(_Request):
    """POST /v1/chat/completions."""

    messages: MANY[Message] = Field(min_length=1)
    max_completion_tokens: int | None = Field(default=None, ge=1, le=MOST_TOKENS)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=MOST_LOGPROBS)

    @property
    def limit(self) -> int | None:
        """The most tokens to generate."""
        return self.max_completion_tokens if self.max_tokens is None else self.max_tokens

    @property
    def alternatives(self) -> int | None:
        """How many alternatives each token is shown with; ``None`` where no log-probabilities are wanted."""
        return (self.top_logprobs or 0) if self.logprobs else None


class CompletionRequest(_Request):
    """POST /v1/completions."""

    prompt: Annotated[
        Annotated[str, Tag(ONE)] | Annotated[MANY[str], Field(min_length=1), Tag(SEVERAL)],
        Discriminator(one_or_several),
    ]
    logprobs: int | None = Field(default=None, ge=0, le=MOST_LOGPROBS)

    @property
    def limit(self) -> int | None:
        """The most tokens to generate."""
        return self.max_tokens

    @property
    def alternatives(self) -> int | None:
        """How many alternatives each token is shown with; ``None`` where no log-probabilities are wanted."""
        return self.logprobs

    @property
    def prompts(self) -> Sequence[str]:
        """One or more."""
        return [self.prompt] if isinstance(self.prompt, str) else self.prompt


R = TypeVar("R", ChatRequest, CompletionRequest)


def is_neutral(value: object, allowed: Sequence[object]) -> bool:
    """Whether a field that is not supported says nothing: it is null, or one of the values that change nothing."""
    return value is None or any(_same(value, one) for one in allowed)


def parse_request(kind: type[R], body: dict[str, Any], unknown_too: bool = False) -> R:
    """A request that can be answered as it is meant.

    Args:
        kind: Of the request.
        body: What it says.
        unknown_too: Whether fields that nobody here knows are passed on, and not refused.

    Raises:
        ApiError: 400, naming the field that is at fault.
    """
    known = set(kind.model_fields)
    check_fields(body, known, UNSUPPORTED, unknown_too)
    try:
        request = kind.model_validate({name: value for name, value in body.items() if name in known})
    except ValidationError as error:
        raise told(error) from None
    _check(request)
    return request


def check_fields(
    body: Mapping[str, Any],
    known: Collection[str],
    unsupported: Mapping[str, tuple[Any, ...]],
    unknown_too: bool,
    ignored: Collection[str] = (),
) -> None:
    """Raises `ApiError` where a request has a field that would change the answer and that nobody here knows.

    Args:
        body: Of the request.
        known: Its fields that are kept to.
        unsupported: Those that would change the answer, and their values that do not.
        unknown_too: Whether fields that nobody here knows are passed on, and not refused.
        ignored: Those that change nothing, beside `IGNORED`.
    """
    for name, value in body.items():
        if name in known or name in IGNORED or name in ignored:
            continue
        if name not in unsupported:
            if unknown_too:
                continue
            raise wrong(f"Unrecognized request argument supplied: {name[:60]}", name[:60])
        allowed = unsupported[name]
        if not is_neutral(value, allowed):
            instead = f"absent or {_shown(allowed[0])}" if allowed else "absent"
            raise wrong(f"Expected `{name}` to be {instead}, since nothing else is supported here", name)


def extra_of(body: Mapping[str, Any], ours: Collection[str], unknown_too: bool) -> dict[str, Any]:
    """Fields for the models behind endpoints: hints and, where all models are there, what only they may know.

    Args:
        body: Of the request.
        ours: Fields that are known here, whatever is made of them.
        unknown_too: Whether all models are behind endpoints.
    """
    return {
        name: value
        for name, value in body.items()
        if value is not None and (name in HINTS or (unknown_too and name not in ours and name not in IGNORED))
    }


def _check(request: _Request) -> None:
    """What no field can say by itself."""
    if request.stream_options is not None and not request.stream:
        raise wrong("Expected `stream_options` with `stream` only, but `stream` is not true", "stream_options")
    options = request.options
    if options.thresholds is not None and options.budget is not None:
        raise wrong("Expected `cascade.thresholds` or `cascade.budget`, but got both", "cascade.budget")
    if not isinstance(request, ChatRequest):
        return
    if request.max_tokens is not None and request.max_completion_tokens is not None:
        raise wrong("Expected `max_tokens` or `max_completion_tokens`, but got both", "max_tokens")
    if request.top_logprobs is not None and not request.logprobs:
        raise wrong("Expected `top_logprobs` with `logprobs` only, but `logprobs` is not true", "top_logprobs")


def _same(value: object, other: object) -> bool:
    """Equality in JSON, where true is not 1."""
    return isinstance(value, bool) == isinstance(other, bool) and value == other


def _shown(value: object) -> str:
    return "false" if value is False else repr(value).replace("'", '"')


def told(error: ValidationError) -> ApiError:
    """The first thing that pydantic finds, in OpenAI's words."""
    first = error.errors(include_url=False, include_context=False)[0]
    path = ""
    for part in first["loc"]:
        if part not in (ONE, SEVERAL):
            path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else str(part)
    if first["type"] == "missing":
        return wrong(f"Missing required parameter: '{path}'.", path, "missing_required_parameter")
    if first["type"] == "extra_forbidden":
        return wrong(f"Unrecognized request argument supplied: {path[:60]}", path[:60])
    got = first["input"]
    what = first["msg"][0].lower() + first["msg"][1:]
    shown = type(got).__name__ if isinstance(got, dict | list) else ascii(got)[:60]
    return wrong(f"Invalid value for '{path}': {what}, but got {shown}", path, "invalid_value")
