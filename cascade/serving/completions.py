"""The shapes of replies to /v1/chat/completions and /v1/completions, whole and as the chunks of a stream.

Who is asked what is decided before, and when what is sent by `cascade.serving.answering`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from cascade.engines.base import Reply
from cascade.serving.errors import ApiError
from cascade.serving.protocol import ChatRequest, CompletionRequest
from cascade.serving.questions import Asked
from cascade.serving.replies import Told, chat_logprobs, completion_logprobs, to_json, usage
from cascade.tasks.base import ANSWER_PREFIX, after_prefix

Json = dict[str, Any]


class Events(Protocol):
    """How an endpoint tells of an answer piece by piece. Each method gives what is sent, maybe nothing."""

    def begin(self, index: int) -> bytes:
        """The answer to a prompt begins."""

    def piece(self, index: int, text: str) -> bytes:
        """More of its text."""

    def stage(self, index: int, stage: Json) -> bytes:
        """A stage is over, where the request wants to know."""

    def end(self, index: int, told: Told, cascade: Json) -> bytes:
        """It is at its end; ``cascade`` is the field of that name."""

    def finish(self, told: Sequence[Told]) -> bytes:
        """All are."""

    def error(self, error: ApiError) -> bytes:
        """Something failed, and nothing more comes."""


class Shape(Protocol):
    """How an endpoint says things."""

    param: str

    def body(self, id: str, created: int, model: str, told: Sequence[Told], cascade: Json) -> Json:
        """A whole reply."""

    def text(self, told: Told) -> str:
        """The whole text, as a reply holds it."""

    def shown(self, index: int, generated: str) -> str:
        """What of that text is certain, where this much is generated."""

    def events(self, id: str, created: int, model: str) -> Events:
        """A stream."""


class _Chunked:
    """What chat and completions have in common."""

    object: str
    stream_object: str
    param: str

    def __init__(self, include_usage: bool) -> None:
        self._include_usage = include_usage

    def choice(self, index: int, told: Told) -> Json:
        """A whole choice."""
        raise NotImplementedError

    def first(self, index: int) -> Json | None:
        """The choice of the first chunk, where there is one before any text."""
        raise NotImplementedError

    def piece(self, index: int, text: str) -> Json:
        """The choice of a chunk with a piece of text."""
        raise NotImplementedError

    def last(self, index: int, told: Told) -> Json:
        """The choice of the chunk that says how it ended."""
        raise NotImplementedError

    def body(self, id: str, created: int, model: str, told: Sequence[Told], cascade: Json) -> Json:
        """See `Shape`."""
        return {
            "id": id,
            "object": self.object,
            "created": created,
            "model": model,
            "choices": [self.choice(i, one) for i, one in enumerate(told)],
            "usage": usage(told),
            "cascade": cascade,
        }

    def events(self, id: str, created: int, model: str) -> Chunks:
        """See `Shape`."""
        head = {"id": id, "object": self.stream_object, "created": created, "model": model}
        return Chunks(self, head, self._include_usage)


class Chunks:
    """A stream of chunks of one head."""

    def __init__(self, shape: _Chunked, head: Json, include_usage: bool) -> None:
        self._shape, self._include_usage = shape, include_usage
        self._head = head | ({"usage": None} if include_usage else {})

    def begin(self, index: int) -> bytes:
        """See `Events`."""
        first = self._shape.first(index)
        return b"" if first is None else self._chunk({"choices": [first]})

    def piece(self, index: int, text: str) -> bytes:
        """See `Events`."""
        return self._chunk({"choices": [self._shape.piece(index, text)]})

    def stage(self, index: int, stage: Json) -> bytes:
        """See `Events`."""
        return self._chunk({"choices": [], "cascade": {"stage": stage}})

    def end(self, index: int, told: Told, cascade: Json) -> bytes:
        """See `Events`."""
        return self._chunk({"choices": [self._shape.last(index, told)], "cascade": cascade})

    def finish(self, told: Sequence[Told]) -> bytes:
        """See `Events`."""
        last = self._chunk({"choices": [], "usage": usage(told)}) if self._include_usage else b""
        return last + b"data: [DONE]\n\n"

    def error(self, error: ApiError) -> bytes:
        """See `Events`."""
        return data(error.body)

    def _chunk(self, more: Json) -> bytes:
        return data({**self._head, **more})


def data(value: Json) -> bytes:
    """A server-sent event without a name."""
    return b"data: " + to_json(value) + b"\n\n"


class Chat(_Chunked):
    """Of /v1/chat/completions."""

    object, stream_object, param = "chat.completion", "chat.completion.chunk", "messages"

    def __init__(self, request: ChatRequest, asked: Asked) -> None:
        super().__init__(request.include_usage)
        self._alternatives = request.alternatives
        self._as_it_is = bool(asked.prompts[0].letters) or asked.signal is not None

    def _logprobs(self, reply: Reply) -> Json | None:
        return None if self._alternatives is None else chat_logprobs(reply, self._alternatives)

    def choice(self, index: int, told: Told) -> Json:
        """See `Shape`."""
        reply = told.answer.reply
        return {
            "index": index,
            "message": {"role": "assistant", "content": told.answer.text, "refusal": None},
            "logprobs": self._logprobs(reply),
            "finish_reason": reply.finish_reason,
        }

    def text(self, told: Told) -> str:
        """See `Shape`."""
        return told.answer.text

    def shown(self, index: int, generated: str) -> str:
        """See `Shape`."""
        return generated if self._as_it_is else answer_so_far(generated)

    def first(self, index: int) -> Json | None:
        """See `Shape`."""
        delta = {"role": "assistant", "content": "", "refusal": None}
        return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}

    def piece(self, index: int, text: str) -> Json:
        """See `Shape`."""
        return {"index": index, "delta": {"content": text}, "logprobs": None, "finish_reason": None}

    def last(self, index: int, told: Told) -> Json:
        """See `Shape`."""
        reply = told.answer.reply
        return {"index": index, "delta": {}, "logprobs": self._logprobs(reply), "finish_reason": reply.finish_reason}


class Completions(_Chunked):
    """Of /v1/completions."""

    object = stream_object = "text_completion"
    param = "prompt"

    def __init__(self, request: CompletionRequest, asked: Asked) -> None:
        super().__init__(request.include_usage)
        self._alternatives, self._prompts = request.alternatives, asked.prompts

    def _logprobs(self, index: int, reply: Reply) -> Json | None:
        if self._alternatives is None:
            return None
        return completion_logprobs(reply, self._alternatives, len(self._prompts[index].text))

    def choice(self, index: int, told: Told) -> Json:
        """See `Shape`."""
        return self.last(index, told) | {"text": self.text(told)}

    def text(self, told: Told) -> str:
        """See `Shape`."""
        return told.answer.reply.text

    def shown(self, index: int, generated: str) -> str:
        """See `Shape`."""
        return generated

    def first(self, index: int) -> Json | None:
        """See `Shape`."""
        return None

    def piece(self, index: int, text: str) -> Json:
        """See `Shape`."""
        return {"index": index, "text": text, "logprobs": None, "finish_reason": None}

    def last(self, index: int, told: Told) -> Json:
        """See `Shape`."""
        reply = told.answer.reply
        return self.piece(index, "") | {
            "logprobs": self._logprobs(index, reply),
            "finish_reason": reply.finish_reason,
        }


def answer_so_far(generated: str) -> str:
    """What `after_prefix` will say of a text at the least, of which only the beginning is generated."""
    begun = generated.lstrip()
    if ANSWER_PREFIX.startswith(begun):
        return ""  # the format's "Answer:", or the beginning of the answer: not known yet
    return after_prefix(generated)
