"""Answers to /v1/chat/completions and /v1/completions, whole or as a stream.

The two differ in the shapes of their replies only (`Chat`, `Completions`); who is asked what is decided before.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine, Sequence
from typing import Any, Protocol, TypeVar

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from cascade.engines.base import Reply
from cascade.runtime.engine import Step
from cascade.serving.batching import Event, Piece
from cascade.serving.errors import ApiError, client_gone
from cascade.serving.protocol import ChatRequest, CompletionRequest
from cascade.serving.questions import Asked
from cascade.serving.replies import (
    Told,
    cascade_field,
    cascade_fields,
    chat_logprobs,
    completion_logprobs,
    failed,
    headers,
    live_stage_field,
    to_json,
    usage,
)
from cascade.serving.service import Service
from cascade.tasks.base import ANSWER_PREFIX, after_prefix

Json = dict[str, Any]
_T = TypeVar("_T")
NO_BUFFER = {"cache-control": "no-cache", "x-accel-buffering": "no"}


class Shape(Protocol):
    """How one of the two endpoints says things."""

    object: str
    stream_object: str
    param: str

    def choice(self, index: int, told: Told) -> Json:
        """A whole choice."""

    def text(self, told: Told) -> str:
        """The whole text, as a choice holds it."""

    def shown(self, index: int, generated: str) -> str:
        """What of that text is certain, where this much is generated."""

    def first(self, index: int) -> Json | None:
        """The choice of the first chunk, where there is one before any text."""

    def piece(self, index: int, text: str) -> Json:
        """The choice of a chunk with a piece of text."""

    def last(self, index: int, told: Told) -> Json:
        """The choice of the chunk that says how it ended."""


class Chat:
    """Of /v1/chat/completions."""

    object, stream_object, param = "chat.completion", "chat.completion.chunk", "messages"

    def __init__(self, request: ChatRequest, asked: Asked) -> None:
        self._alternatives = request.alternatives
        self._letters = bool(asked.prompts[0].letters)

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
        return generated if self._letters else answer_so_far(generated)

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


class Completions:
    """Of /v1/completions."""

    object = stream_object = "text_completion"
    param = "prompt"

    def __init__(self, request: CompletionRequest, asked: Asked) -> None:
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


async def while_there(request: Request, work: Coroutine[Any, Any, _T]) -> _T:
    """What some work gives, which is given up where the client goes away before.

    Args:
        request: Whose body has been read.
        work: That is cancelled then.

    Raises:
        ApiError: 499, if the client has gone.
    """

    async def leave() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(leave())
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise client_gone()
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def reply_whole(service: Service, shape: Shape, asked: Asked, id: str, log: Json, request: Request) -> Response:
    """Waits for every answer, as long as the client does.

    Raises:
        ApiError: If a question has none, or the client has gone.
    """
    tickets = service.accept(asked)

    async def answers() -> list[Told]:
        return [await ticket.told for ticket in tickets]

    try:
        told = await while_there(request, answers())
    finally:
        for ticket in tickets:
            ticket.abandoned = True
    note(service, log, asked, told)
    for one in told:
        if one.answer.model is None:
            raise failed(service.cascade, one, asked.notes, shape.param)
    body = {
        "id": id,
        "object": shape.object,
        "created": int(time.time()),
        "model": asked.model,
        "choices": [shape.choice(i, one) for i, one in enumerate(told)],
        "usage": usage(told),
        "cascade": cascade_fields(service.cascade, told, asked.notes),
    }
    return Response(to_json(body), headers=headers(told), media_type="application/json")


async def reply_in_pieces(
    service: Service,
    shape: Shape,
    asked: Asked,
    id: str,
    log: Json,
    request: Request,
    include_usage: bool,
    trace: bool,
) -> Response:
    """Begins a stream once there is something to say, so that what fails before has a status of its own.

    Raises:
        ApiError: If a question has no answer, or the client has gone, and nothing has been said yet.
    """
    stream = _Stream(service, shape, asked, id, log, include_usage, trace)
    try:
        first = await while_there(request, stream.next())
    except BaseException:
        stream.close()
        raise
    return StreamingResponse(stream.run(first), headers=NO_BUFFER, media_type="text/event-stream")


class _Stream:
    """One request's stream of server-sent events."""

    def __init__(
        self, service: Service, shape: Shape, asked: Asked, id: str, log: Json, include_usage: bool, trace: bool
    ) -> None:
        self.service, self.shape, self.asked, self.log = service, shape, asked, log
        self.include_usage, self.trace = include_usage, trace
        self.head = {"id": id, "object": shape.stream_object, "created": int(time.time()), "model": asked.model}
        self.generated = [""] * len(asked.prompts)
        self.sent = [""] * len(asked.prompts)
        self.begun: set[int] = set()
        self.started = False
        self.told: dict[int, Told] = {}
        self.events: asyncio.Queue[tuple[int, Event]] = asyncio.Queue()
        self.tickets = service.accept(asked, lambda i, event: self.events.put_nowait((i, event)))

    def close(self) -> None:
        """Nobody listens any more: what no stage has begun is dropped."""
        for ticket in self.tickets:
            ticket.abandoned = True

    async def run(self, first: bytes) -> AsyncIterator[bytes]:
        """The events after the first, which is there already."""
        try:
            yield first
            while len(self.told) < len(self.tickets):
                yield await self.next()
            told = [self.told[i] for i in range(len(self.told))]
            note(self.service, self.log, self.asked, told)
            if self.include_usage:
                yield self._event({"choices": [], "usage": usage(told)})
            yield b"data: [DONE]\n\n"
        except ApiError as error:
            self.log["error"] = error.code
            note(self.service, self.log, self.asked, list(self.told.values()))
            yield _data(error.body)
        finally:
            self.close()

    async def next(self) -> bytes:
        """The next events to be sent, at least one.

        Raises:
            ApiError: If a question has no answer.
        """
        found = b""
        while True:
            i, event = await self.events.get()
            found += b"".join(map(self._event, self._chunks(i, event)))
            # Failures alone do not begin a stream: where every stage fails, that is a status of its own.
            if found and (self.started or not (isinstance(event, Step) and event.failure)):
                self.started = True
                return found

    def _chunks(self, i: int, event: Event) -> Sequence[Json]:
        if isinstance(event, Piece):
            self.generated[i] += event.text
            return self._show(i, self.shape.shown(i, self.generated[i]))
        if isinstance(event, Step):
            if event.failure:
                self.generated[i] = ""  # the next stage begins again
            if not self.trace:
                return []
            policy = self.tickets[i].journey.policy
            stage = live_stage_field(self.service.cascade, event, policy) | {"index": i}
            return [{"choices": [], "cascade": {"stage": stage}}]
        self.told[i] = event
        if event.answer.model is None:
            raise failed(self.service.cascade, event, self.asked.notes, self.shape.param)
        text = self.shape.text(event)
        if not text.startswith(self.sent[i]):
            # A stage failed half way, and another answered: what was sent cannot be taken back.
            raise ApiError(503, "A stage failed while it was answering", code="stage_failed", kind="server_error")
        field = cascade_field(self.service.cascade, event, self.asked.notes)
        return [*self._show(i, text), {"choices": [self.shape.last(i, event)], "cascade": field}]

    def _show(self, i: int, text: str) -> list[Json]:
        """Chunks that bring what has been sent up to a text."""
        chunks: list[Json] = []
        if i not in self.begun and (first := self.shape.first(i)) is not None:
            chunks.append({"choices": [first]})
        self.begun.add(i)
        if len(text) > len(self.sent[i]) and text.startswith(self.sent[i]):
            chunks.append({"choices": [self.shape.piece(i, text[len(self.sent[i]) :])]})
            self.sent[i] = text
        return chunks

    def _event(self, more: Json) -> bytes:
        usual = {"usage": None} if self.include_usage else {}
        return _data({**self.head, **usual, **more})


def _data(value: Json) -> bytes:
    return b"data: " + to_json(value) + b"\n\n"


def note(service: Service, log: Json, asked: Asked, told: Sequence[Told]) -> None:
    """Writes down for the log what became of a request."""
    answers = [one.answer for one in told]
    spent = usage(told)
    log["answered_by"] = [answer.model for answer in answers]
    log["stages"] = [[step.model for step in answer.steps] for answer in answers]
    log["prompt_tokens"], log["completion_tokens"] = spent["prompt_tokens"], spent["completion_tokens"]
    flops = [one.total["flops"]["full-path"] for one in told if "flops" in one.total]
    log["flops"] = sum(flops) if flops else None
    if service.log.text:
        log["prompts"] = [prompt.text for prompt in asked.prompts]
        log["answers"] = [answer.text for answer in answers]
