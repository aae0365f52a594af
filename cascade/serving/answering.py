"""From a request that was understood to its reply, whole or as a stream, for as long as its client is there.

What replies look like is `cascade.serving.completions`' and `cascade.serving.responses`'.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine, Sequence
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from cascade.runtime.engine import Step
from cascade.serving.batching import Event, Piece
from cascade.serving.completions import Shape
from cascade.serving.errors import ApiError, client_gone
from cascade.serving.questions import Asked
from cascade.serving.replies import (
    Told,
    cascade_field,
    cascade_fields,
    failed,
    headers,
    live_stage_field,
    to_json,
    usage_of_all,
)
from cascade.serving.service import Service

Json = dict[str, Any]
_T = TypeVar("_T")
NO_BUFFER = {"cache-control": "no-cache", "x-accel-buffering": "no"}


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
    field = cascade_fields(service.cascade, told, asked.notes)
    body = shape.body(id, int(time.time()), asked.model, told, field)
    return Response(to_json(body), headers=headers(told), media_type="application/json")


async def reply_in_pieces(
    service: Service,
    shape: Shape,
    asked: Asked,
    id: str,
    log: Json,
    request: Request,
    trace: bool,
) -> Response:
    """Begins a stream once there is something to say, so that what fails before has a status of its own.

    Raises:
        ApiError: If a question has no answer, or the client has gone, and nothing has been said yet.
    """
    stream = _Stream(service, shape, asked, id, log, trace)
    try:
        first = await while_there(request, stream.next())
    except BaseException:
        stream.close()
        raise
    return StreamingResponse(stream.run(first), headers=NO_BUFFER, media_type="text/event-stream")


class _Stream:
    """One request's stream of server-sent events."""

    def __init__(self, service: Service, shape: Shape, asked: Asked, id: str, log: Json, trace: bool) -> None:
        self.service, self.shape, self.asked, self.log = service, shape, asked, log
        self.trace, self.say = trace, shape.events(id, int(time.time()), asked.model)
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
            yield self.say.finish(told)
        except ApiError as error:
            self.log["error"] = error.code
            note(self.service, self.log, self.asked, list(self.told.values()))
            yield self.say.error(error)
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
            found += self._events(i, event)
            # Failures alone do not begin a stream: where every stage fails, that is a status of its own.
            if found and (self.started or not (isinstance(event, Step) and event.failure)):
                self.started = True
                return found

    def _events(self, i: int, event: Event) -> bytes:
        if isinstance(event, Piece):
            self.generated[i] += event.text
            return self._show(i, self.shape.shown(i, self.generated[i]))
        if isinstance(event, Step):
            if event.failure:
                self.generated[i] = ""  # the next stage begins again
            if not self.trace:
                return b""
            policy = self.tickets[i].journey.policy
            stage = live_stage_field(self.service.cascade, event, policy) | {"index": i}
            return self.say.stage(i, stage)
        self.told[i] = event
        if event.answer.model is None:
            raise failed(self.service.cascade, event, self.asked.notes, self.shape.param)
        text = self.shape.text(event)
        if not text.startswith(self.sent[i]):
            # A stage failed half way, and another answered: what was sent cannot be taken back.
            raise ApiError(503, "A stage failed while it was answering", code="stage_failed", kind="server_error")
        field = cascade_field(self.service.cascade, event, self.asked.notes)
        return self._show(i, text) + self.say.end(i, event, field)

    def _show(self, i: int, text: str) -> bytes:
        """What brings that which has been sent up to a text."""
        found = b"" if i in self.begun else self.say.begin(i)
        self.begun.add(i)
        if len(text) > len(self.sent[i]) and text.startswith(self.sent[i]):
            found += self.say.piece(i, text[len(self.sent[i]) :])
            self.sent[i] = text
        return found


def note(service: Service, log: Json, asked: Asked, told: Sequence[Told]) -> None:
    """Writes down for the log what became of a request."""
    answers = [one.answer for one in told]
    spent = usage_of_all(told)
    log["answered_by"] = [answer.model for answer in answers]
    log["stages"] = [[step.model for step in answer.steps] for answer in answers]
    log["prompt_tokens"], log["completion_tokens"] = spent["prompt_tokens"], spent["completion_tokens"]
    flops = [one.total["flops"]["full-path"] for one in told if "flops" in one.total]
    log["flops"] = sum(flops) if flops else None
    if service.log.text:
        log["prompts"] = [prompt.text for prompt in asked.prompts]
        log["answers"] = [answer.text for answer in answers]
