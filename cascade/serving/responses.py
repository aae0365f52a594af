"""/v1/responses: what a request may hold, as a chat, and the shape of its replies.

A response is one answer to a conversation that is whole in the request. Nothing is stored: what refers to an earlier
response is beyond a chain (`cascade.serving.passing`), as are tools and formats.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError

from cascade.engines.base import Reply
from cascade.serving.completions import Json, answer_so_far
from cascade.serving.errors import ApiError
from cascade.serving.protocol import (
    MANY,
    MOST_LOGPROBS,
    MOST_TOKENS,
    ONE,
    SEVERAL,
    CascadeOptions,
    ChatRequest,
    check_fields,
    one_or_several,
    told,
)
from cascade.serving.questions import Asked
from cascade.serving.replies import Told, chat_logprobs, to_json, usage

RESPONSES_UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "text": ({}, {"format": {"type": "text"}}),
    "reasoning": ({},),
    "previous_response_id": (),
    "conversation": (),
    "prompt": (),
    "background": (False,),
    "max_tool_calls": (),
    "context_management": (),
    "moderation": (),
    "image": (),
}
"""As `protocol.UNSUPPORTED`."""

RESPONSES_IGNORED = frozenset({"truncation", "parallel_tool_calls", "prompt_cache_options", "access_programs"})
_LOGPROBS = "message.output_text.logprobs"


class _Part(BaseModel):
    """A part of a turn. What else a part of an earlier reply holds may be sent back."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)
    type: Literal["input_text", "output_text", "text"]
    text: str


class _Turn(BaseModel):
    """A turn of the conversation, or a message of an earlier reply."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)
    type: Literal["message"] | None = None
    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[Annotated[str, Tag(ONE)] | Annotated[MANY[_Part], Tag(SEVERAL)], Discriminator(one_or_several)]
    id: str | None = None
    status: str | None = None
    phase: str | None = None

    @property
    def text(self) -> str:
        """The content, parts joined by new lines."""
        return self.content if isinstance(self.content, str) else "\n".join(part.text for part in self.content)


class _StreamOptions(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)
    include_obfuscation: bool | None = None


class ResponsesRequest(BaseModel):
    """POST /v1/responses."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)
    model: str = Field(min_length=1)
    input: Annotated[
        Annotated[str, Tag(ONE)] | Annotated[MANY[_Turn], Field(min_length=1), Tag(SEVERAL)],
        Discriminator(one_or_several),
    ]
    instructions: str | None = None
    max_output_tokens: int | None = Field(default=None, ge=1, le=MOST_TOKENS)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, ge=0, le=1)
    seed: int | None = Field(default=None, ge=-(2**63), le=2**63 - 1)
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    include: MANY[str] | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=MOST_LOGPROBS)
    metadata: dict[str, str] | None = Field(default=None, max_length=16)
    cascade: CascadeOptions | None = None

    @property
    def alternatives(self) -> int | None:
        """How many alternatives each token is shown with; ``None`` where no log-probabilities are wanted."""
        wanted = _LOGPROBS in (self.include or ()) or self.top_logprobs is not None
        return (self.top_logprobs or 0) if wanted else None

    def as_chat(self) -> ChatRequest:
        """The same as a chat, instructions first."""
        turns = [{"role": "user", "content": self.input}] if isinstance(self.input, str) else []
        if not isinstance(self.input, str):
            turns = [{"role": turn.role, "content": turn.text} for turn in self.input]
        if self.instructions:
            turns.insert(0, {"role": "system", "content": self.instructions})
        asked = {
            "model": self.model,
            "messages": turns,
            "max_completion_tokens": self.max_output_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "seed": self.seed,
            "stream": self.stream,
            "logprobs": None if self.alternatives is None else True,
            "top_logprobs": self.alternatives,
            "cascade": self.cascade,
        }
        return ChatRequest.model_validate(asked)


def parse_responses(body: dict[str, Any], unknown_too: bool = False) -> ResponsesRequest:
    """A request that can be answered as it is meant.

    Raises:
        ApiError: 400, naming the field that is at fault.
    """
    known = set(ResponsesRequest.model_fields)
    check_fields(body, known, RESPONSES_UNSUPPORTED, unknown_too, RESPONSES_IGNORED)
    try:
        return ResponsesRequest.model_validate({name: value for name, value in body.items() if name in known})
    except ValidationError as error:
        raise told(error) from None


def of_input(error: ApiError) -> ApiError:
    """An error of the chat that a request was taken for, by the request's own names."""
    if error.param == "max_tokens":
        error.param = "max_output_tokens"
    elif error.param is not None and error.param.startswith("messages"):
        error.param = "input"
    return error


class Responses:
    """The shape of a reply; see `cascade.serving.completions.Shape`."""

    param = "input"

    def __init__(self, request: ResponsesRequest, asked: Asked) -> None:
        self._request = request
        self._as_it_is = bool(asked.prompts[0].letters) or asked.signal is not None
        self.message_id = f"msg_{uuid.uuid4().hex}"

    def body(self, id: str, created: int, model: str, told: Sequence[Told], cascade: Json) -> Json:
        """See `Shape`."""
        (one,) = told
        cut = one.answer.reply.finish_reason == "length"
        status = "incomplete" if cut else "completed"
        return self.head(id, created, model) | {
            "status": status,
            "completed_at": created,
            "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
            "output": [self.message(status, [self.part(one.answer.text, one.answer.reply)])],
            "usage": _usage(told),
            "cascade": cascade,
        }

    def head(self, id: str, created: int, model: str) -> Json:
        """A response that has only begun."""
        request = self._request
        return {
            "id": id,
            "object": "response",
            "created_at": created,
            "status": "in_progress",
            "background": False,
            "error": None,
            "incomplete_details": None,
            "instructions": request.instructions,
            "max_output_tokens": request.max_output_tokens,
            "metadata": request.metadata or {},
            "model": model,
            "output": [],
            "parallel_tool_calls": False,
            "previous_response_id": None,
            "reasoning": {"effort": None, "summary": None},
            "store": False,
            "temperature": request.temperature,
            "text": {"format": {"type": "text"}},
            "tool_choice": "none",
            "tools": [],
            "top_logprobs": request.top_logprobs or 0,
            "top_p": request.top_p,
            "truncation": "disabled",
            "usage": None,
        }

    def message(self, status: str, content: list[Json]) -> Json:
        """The one item of the output."""
        return {
            "id": self.message_id,
            "type": "message",
            "role": "assistant",
            "status": status,
            "content": content,
        }

    def part(self, text: str, reply: Reply | None = None) -> Json:
        """The one part of its content."""
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": self.logprobs(reply)}

    def logprobs(self, reply: Reply | None) -> list[Json]:
        """Of the answer's tokens, where they are wanted."""
        if reply is None or self._request.alternatives is None:
            return []
        found: list[Json] = chat_logprobs(reply, self._request.alternatives)["content"]
        return found

    def text(self, told: Told) -> str:
        """See `Shape`."""
        return told.answer.text

    def shown(self, index: int, generated: str) -> str:
        """See `Shape`."""
        return generated if self._as_it_is else answer_so_far(generated)

    def events(self, id: str, created: int, model: str) -> ResponseEvents:
        """See `Shape`."""
        return ResponseEvents(self, id, created, model)


class ResponseEvents:
    """A stream of named and numbered events; see `cascade.serving.completions.Events`."""

    def __init__(self, shape: Responses, id: str, created: int, model: str) -> None:
        self._shape, self._id, self._created, self._model = shape, id, created, model
        self._number = 0
        self._begun = False

    def begin(self, index: int) -> bytes:
        """See `Events`."""
        self._begun = True
        head = self._shape.head(self._id, self._created, self._model)
        return (
            self._event("response.created", response=head)
            + self._event("response.in_progress", response=head)
            + self._event("response.output_item.added", output_index=0, item=self._shape.message("in_progress", []))
            + self._of_part("response.content_part.added", part=self._shape.part(""))
        )

    def piece(self, index: int, text: str) -> bytes:
        """See `Events`."""
        return self._of_part("response.output_text.delta", delta=text, logprobs=[])

    def stage(self, index: int, stage: Json) -> bytes:
        """See `Events`."""
        return self._event("response.cascade.stage", stage=stage)

    def end(self, index: int, told: Told, cascade: Json) -> bytes:
        """See `Events`."""
        whole = self._shape.body(self._id, self._created, self._model, [told], cascade)
        (message,) = whole["output"]
        (part,) = message["content"]
        return (
            self._of_part("response.output_text.done", text=part["text"], logprobs=part["logprobs"])
            + self._of_part("response.content_part.done", part=part)
            + self._event("response.output_item.done", output_index=0, item=message)
            + self._event(f"response.{whole['status']}", response=whole)
        )

    def finish(self, told: Sequence[Told]) -> bytes:
        """See `Events`."""
        return b""

    def error(self, error: ApiError) -> bytes:
        """See `Events`."""
        said = {"code": error.code, "message": error.message, "param": error.param}
        return self._event("error", error=error.body["error"], **said)

    def _of_part(self, name: str, **values: Any) -> bytes:
        return self._event(name, item_id=self._shape.message_id, output_index=0, content_index=0, **values)

    def _event(self, name: str, **values: Any) -> bytes:
        number, self._number = self._number, self._number + 1
        value = {"type": name, "sequence_number": number, **values}
        return b"event: " + name.encode() + b"\ndata: " + to_json(value) + b"\n\n"


def _usage(told: Sequence[Told]) -> Json:
    counted = usage(told)
    return {
        "input_tokens": counted["prompt_tokens"],
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": counted["completion_tokens"],
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": counted["total_tokens"],
    }
