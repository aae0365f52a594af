"""Reads a request's body: within its limit, in its time, and as strict JSON.

What `json` lets through and other readers do not (NaN, repeated keys, half a surrogate pair) is refused here, so that
nothing behind it has to think of it. What the fields mean is `cascade.serving.protocol`'s.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
from typing import Any, NoReturn

from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive

from cascade.serving.errors import ApiError, client_gone, wrong

DEEPEST = 32
"""Levels of a body. No field that is known goes deeper than five."""

BODY_SECONDS = 30.0
"""How long a client may take to send its body."""

DRAINED_BYTES = 16 * 2**20
DRAINED_SECONDS = 2.0
"""How much of a refused body is read all the same, so that its client comes to read the refusal."""


async def read_body(request: Request, limit: int) -> bytes:
    """The body, of which never more than ``limit`` bytes are held.

    Raises:
        ApiError: 413 where it is larger, 408 where it does not come, 499 where the client has gone.
    """
    said = request.headers.get("content-length", "")
    if said.isdecimal() and len(said) < 20 and int(said) > limit:
        raise _too_large(limit)
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for part in request.stream():
                size += len(part)
                if size > limit:
                    raise _too_large(limit)
                parts.append(part)
    except TimeoutError:
        raise ApiError(
            408, f"Expected the whole body within {BODY_SECONDS:.0f} s, but it did not come", code="request_timeout"
        ) from None
    except ClientDisconnect:
        raise client_gone() from None
    return b"".join(parts)


async def drain(receive: Receive) -> None:
    """Reads what is left of a body, up to a bound, and keeps none of it."""
    size = 0
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(DRAINED_SECONDS):
            while size < DRAINED_BYTES:
                message = await receive()
                size += len(message.get("body", b""))
                if not message.get("more_body", False):
                    return


def _too_large(limit: int) -> ApiError:
    message = f"Expected a body of at most {limit} bytes, but this one is larger"
    return ApiError(413, message, code="request_too_large", headers={"connection": "close"})


def parse_object(body: bytes) -> dict[str, Any]:
    """The JSON object that a body is.

    Raises:
        ApiError: 400 where it is none, or not one that every reader takes alike.
    """
    try:
        value = json.loads(
            body.decode(), parse_constant=_no_number, parse_float=_finite_number, object_pairs_hook=_distinct
        )
    except UnicodeDecodeError as error:
        raise wrong(f"Expected a body of UTF-8, but byte {error.start} is none") from None
    except RecursionError:
        raise _too_deep() from None
    except ValueError as error:
        raise wrong(f"Expected the body to be JSON, but {error}") from None
    if not isinstance(value, dict):
        raise wrong(f"Expected the body to be a JSON object, but got {_kind(value)}")
    _check(value)
    return value


def _check(value: object) -> None:
    """Refuses what is too deep, and text that is none."""
    level = [value]
    for _ in range(DEEPEST):
        inside: list[object] = []
        for item in level:
            if isinstance(item, str):
                _check_text(item)
            elif isinstance(item, dict):
                for key in item:
                    _check_text(key)
                inside.extend(item.values())
            elif isinstance(item, list):
                inside.extend(item)
        if not inside:
            return
        level = inside
    raise _too_deep()


def _check_text(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise wrong(f"Expected text in the body, but character {error.start} of a string is half a pair") from None


def _too_deep() -> ApiError:
    return wrong(f"Expected a body of at most {DEEPEST} levels, but it is nested deeper")


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is none of its numbers")


def _finite_number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:20]} is too large a number")
    return value


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {key[:40]!r} is there twice")
        found[key] = value
    return found


def _kind(value: object) -> str:
    names = {list: "a list", str: "a string", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")
