"""Requests that a chain cannot judge: they go to the last model unchanged, where that is an endpoint.

Whether a small model's answer can be trusted is known for texts. Of a call of a tool, an image, a fixed format or
several answers nothing says so. Such requests are passed through, and counted. Without an endpoint they are refused,
as `cascade.serving.protocol` says.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Collection, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from cascade.engines.base import Engine
from cascade.engines.passing import CapError, Passed, Relay, RelayError
from cascade.errors import CascadeError
from cascade.serving.answering import NO_BUFFER, while_there
from cascade.serving.batching import ClosedError, FullError
from cascade.serving.errors import ApiError, busy, unavailable, wrong
from cascade.serving.protocol import IGNORED, UNSUPPORTED, is_neutral
from cascade.serving.replies import header_text, to_json
from cascade.serving.service import Service, not_ready

UNKNOWN = "an unknown field"
TOOL_TURN = "a tool's turn"
NOT_ASKED_LAST = "no question last"
PARTS = frozenset({"image_url", "input_audio", "file", "input_image", "input_file"})
FORMATS = frozenset(
    "guided_json guided_regex guided_choice guided_grammar structured_outputs grammar json_schema".split()
)
"""What vLLM and llama.cpp call a format that an answer is forced into: its tokens' probabilities say nothing then."""


def beyond(
    body: Mapping[str, Any],
    known: Collection[str],
    unsupported: Mapping[str, tuple[Any, ...]] = UNSUPPORTED,
    ignored: Collection[str] = IGNORED,
) -> str:
    """What in a request a chain cannot judge, in a word of ours; empty where it can.

    Args:
        body: Of the request.
        known: Its fields that are kept to.
        unsupported: Its fields that would change the answer, and their values that do not.
        ignored: Its fields that change nothing.
    """
    for name, neutral in unsupported.items():
        if name in body and not is_neutral(body[name], neutral):
            return name
    for messages in (body.get("messages"), body.get("input")):
        if isinstance(messages, list) and (found := _beyond_turns(messages)):
            return found
    if any(body.get(name) is not None for name in FORMATS):
        return "response_format"
    strange = [name for name in body if not any(name in some for some in (known, ignored, unsupported))]
    return UNKNOWN if strange else ""


def _beyond_turns(messages: list[Any]) -> str:
    turns = [message for message in messages if isinstance(message, dict)]
    for turn in turns:
        if turn.get("role") in ("tool", "function") or turn.get("tool_calls") or turn.get("function_call"):
            return TOOL_TURN
        if turn.get("type") not in (None, "message"):
            return TOOL_TURN
        content = turn.get("content")
        for part in content if isinstance(content, list) else ():
            kind = part.get("type") if isinstance(part, dict) else None
            if kind in PARTS:
                return str(kind)
    if turns and turns[-1].get("role") == "assistant":
        return NOT_ASKED_LAST
    return ""


def relay_for(service: Service, model: object) -> tuple[Engine, Relay] | None:
    """The endpoint that a request to a model can be passed to; ``None`` where there is none.

    Args:
        service: Whose models.
        model: As the request names it: the cascade, whose last model is meant then, or one of its models.
    """
    cascade = service.cascade
    if model == cascade.name:
        engine = cascade.models[cascade.policy.places[-1]]
    elif model in cascade.names:
        engine = cascade.models[cascade.names.index(str(model))]
    else:
        return None
    return None if engine.relay is None else (engine, engine.relay)


def all_remote(service: Service, model: object) -> bool:
    """Whether every model that a request may come to is an endpoint, which may know fields that nobody here knows."""
    cascade = service.cascade
    if model == cascade.name:
        return all(cascade.models[place].relay is not None for place in cascade.policy.places)
    return relay_for(service, model) is not None


async def pass_through(
    service: Service, request: Request, body: Mapping[str, Any], path: str, reason: str, log: dict[str, Any]
) -> Response | None:
    """The endpoint's own reply; ``None`` where there is no endpoint to ask.

    Args:
        service: Whose models.
        request: Whose body has been read.
        body: What it says; ``cascade`` in it is ours, and does not go on.
        path: Below the endpoint's address.
        reason: From `beyond`.
        log: Of the request.

    Raises:
        ApiError: If the endpoint does not answer, the client has gone, or there is no room.
    """
    if (found := relay_for(service, body.get("model"))) is None:
        return None
    engine, relay = found
    passing = contextlib.AsyncExitStack()
    try:
        passing.enter_context(service.batcher.place())
    except FullError as error:
        raise busy(service.limits.queue, error.seconds) from None
    except ClosedError:
        raise not_ready() from None
    passed: Passed | None = None

    def done() -> None:
        log["passed_through"], log["answered_by"] = reason, [engine.name]
        if passed is not None:
            log["prompt_tokens"], log["completion_tokens"] = passed.prompt_tokens, passed.completion_tokens
        service.metrics.passed(reason, engine.name, passed)

    passing.callback(done)
    headers = {"x-cascade-model": header_text(engine.name), "x-cascade-passed-through": reason}
    try:
        sent = {name: value for name, value in body.items() if name != "cascade"}
        passed = await while_there(request, relay.send(path, sent))
        passing.push_async_callback(passed.close)
        if passed.media_type != "text/event-stream":
            content = b"".join(await while_there(request, _all(passed)))
            await passing.aclose()
            return Response(content, headers=headers, media_type=passed.media_type)
    except BaseException as error:
        await passing.aclose()
        if isinstance(error, RelayError | CascadeError):
            raise _told(service, engine.name, error) from None
        raise

    async def parts() -> AsyncIterator[bytes]:
        assert passed is not None
        try:
            async for part in passed.parts:
                yield part
        except RelayError as error:
            yield b"data: " + to_json(_told(service, engine.name, error).body) + b"\n\n"

    return _Passing(parts(), passing, {**NO_BUFFER, **headers})


class _Passing(StreamingResponse):
    """A stream whose end is seen even where its client has gone before the first part."""

    def __init__(
        self, parts: AsyncIterator[bytes], passing: contextlib.AsyncExitStack, headers: Mapping[str, str]
    ) -> None:
        super().__init__(parts, headers=headers, media_type="text/event-stream")
        self._passing = passing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._passing.aclose()


async def _all(passed: Passed) -> list[bytes]:
    return [part async for part in passed.parts]


def _told(service: Service, model: str, error: RelayError | CascadeError) -> ApiError:
    """What a client is told: of its own request all that the endpoint says, of anything else the status alone."""
    service.log.write("passing_failed", model=model, reason=str(error) if service.log.text else _without_text(error))
    if isinstance(error, CascadeError):
        return unavailable(f"{model} cannot be asked just now", "last_stage_failed")
    if isinstance(error, CapError):
        return unavailable(f"{model} is at its spending cap", "spending_cap")
    if error.param is not None:
        return wrong(str(error), error.param)
    if error.body is not None and error.status is not None:
        return _own_words(error.status, error.body, model)
    if error.status == 429:
        wait = max(1, round(error.wait))
        return ApiError(
            429,
            f"{model} asks to come back in {wait} s",
            code="rate_limit_exceeded",
            kind="rate_limit_error",
            headers={"retry-after": str(wait)},
        )
    said = "failed" if error.status is None else f"failed with status {error.status}"
    return unavailable(f"{model} {said}", "last_stage_failed")


def _without_text(error: RelayError | CascadeError) -> str:
    """The reason for a log that holds no questions: what an endpoint says of a request may quote it."""
    told = isinstance(error, RelayError) and error.status is not None
    return f"status {error.status}" if told and isinstance(error, RelayError) else str(error)


def _own_words(status: int, body: bytes, model: str) -> ApiError:
    try:
        said = json.loads(body)["error"]
        message, param, code = (said.get(name) for name in ("message", "param", "code"))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        message = param = code = None
    texts = [value if isinstance(value, str) else None for value in (message, param, code)]
    return ApiError(status, texts[0] or f"{model} refuses the request with status {status}", texts[1], texts[2])
