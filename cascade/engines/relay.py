"""Requests that go to an endpoint as a client wrote them, and replies that come back as the endpoint wrote them.

What a chain cannot judge (tools, images, several answers) goes this way. The bounds are those of `attempts`: no
redirect, plain bytes, so many of them, in so much time, and no key in what comes back. A spending cap holds here, too.
Nothing is kept and nothing is tried again: a client does that itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import httpx2

from cascade.engines.attempts import DEADLINE_TIMEOUTS, keep_out, retry_after, without_key
from cascade.engines.passing import CapError, Passed, RelayError
from cascade.engines.request_cache import RequestCache

MOST_BYTES = 2**26
"""Of a reply."""

LIMIT_FIELDS = ("max_completion_tokens", "max_tokens", "max_output_tokens")
_TEMPLATE_TOKENS = 256
_MOST_TOKENS = 10**9
# No token of a prompt has more bytes, and none of an answer comes in more, its alternatives and its event included.
_LONGEST_TOKEN, _LONGEST_CHUNK = 128, 8192
_TOLD = frozenset({400, 409, 413, 422})
_NEVER_BILLED = frozenset(range(300, 500)) - {408}
_PARTS_OF_TEXT = frozenset({"text", "input_text", "output_text", "refusal"})
# What adds tokens that nobody can count beforehand.
_UNKNOWN_COST = ("web_search_options", "previous_response_id", "conversation", "prompt", "audio", "background")


class EndpointRelay:
    """An endpoint, for requests as clients write them. Lives on one event loop.

    Args:
        model: As the provider calls it.
        base_url: Such as ``http://localhost:8000/v1``.
        key: Gives the key; raises `CascadeError` where one is needed and missing.
        timeout: Seconds of silence; five times as many in all.
        price: US dollars for a million tokens read and written.
        cap: US dollars that everything ever spent through the cache's file may come to.
        cache: Opens that file.
    """

    def __init__(
        self,
        model: str,
        base_url: str,
        key: Callable[[], str],
        timeout: float,
        price: tuple[float, float] | None,
        cap: float | None,
        cache: Callable[[], RequestCache],
    ) -> None:
        self.model, self.base_url = model, base_url
        self._key, self._timeout, self._price, self._cap, self._cache = key, timeout, price, cap, cache
        self._client: httpx2.AsyncClient | None = None
        self._settling: set[asyncio.Future[None]] = set()

    async def close(self) -> None:
        """Closes the connections, when all that was spent is written down."""
        await asyncio.gather(*self._settling, return_exceptions=True)
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    async def send(self, path: str, request: Mapping[str, Any]) -> Passed:
        """Sends a request, and gives the reply as soon as it begins.

        Args:
            path: Below the endpoint's address: ``/chat/completions``.
            request: As the client wrote it, under whatever model's name.

        Raises:
            RelayError: If the cap does not allow it, or no good reply begins.
            CascadeError: If a key is missing, or the cache cannot be used.
        """
        sent = {**request, "model": self.model}
        bound = self._bound(sent)
        key = self._key()
        keep_out(key)
        reservation = await asyncio.to_thread(self._reserve, bound)
        bill = _Bill(self, bound, reservation, size=len(_encoded(sent)))
        try:
            response = await self._begin(path, sent, key, bill)
        except BaseException:
            bill.settle()
            raise
        kind = response.headers.get("content-type", "application/json").split(";")[0].strip()
        passed = Passed(kind, _nothing(), response.aclose)
        passed.parts = self._parts(response, passed, bill, key, kind == "text/event-stream")

        async def close() -> None:
            passed.dollars = bill.dollars(passed)
            bill.settle(passed)
            await response.aclose()

        passed.close = close
        return passed

    def _open_client(self) -> httpx2.AsyncClient:
        if self._client is None:
            self._client = httpx2.AsyncClient(follow_redirects=False, timeout=self._timeout)
        return self._client

    async def _begin(self, path: str, sent: Mapping[str, Any], key: str, bill: _Bill) -> httpx2.Response:
        client = self._open_client()
        request = client.build_request(
            "POST",
            self.base_url + path,
            content=_encoded(sent),
            headers={
                "content-type": "application/json",
                "accept-encoding": "identity",
                **({"authorization": f"Bearer {key}"} if key else {}),
            },
        )
        try:
            response = await client.send(request, stream=True)
        except httpx2.HTTPError as error:
            bill.billed = not isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout | httpx2.PoolTimeout)
            reason = f"{type(error).__name__}: {error}".replace(key or "\0", "[key]")
            raise RelayError(f"{self.model} could not be reached ({reason[:300]})") from None
        encoding = response.headers.get("content-encoding", "identity").strip().lower()
        if response.status_code == 200 and encoding in ("", "identity"):
            return response
        bill.billed = response.status_code not in _NEVER_BILLED
        try:
            body = without_key(await self._whole(response), key) if encoding in ("", "identity") else b""
        finally:
            await response.aclose()
        if response.status_code == 200:
            raise RelayError(f"expected a reply of {self.model} that is not compressed, but got {encoding[:40]!r}")
        raise RelayError(
            f"status {response.status_code}: {body[:300].decode(errors='replace')}",
            response.status_code,
            body if response.status_code in _TOLD else None,
            retry_after(response.headers),
        )

    async def _whole(self, response: httpx2.Response) -> bytes:
        body = b""
        with contextlib.suppress(httpx2.HTTPError, TimeoutError):
            async with asyncio.timeout(self._timeout):
                async for part in response.aiter_raw():
                    body += part
                    if len(body) > 2**16:
                        break
        return body[: 2**16]

    async def _parts(
        self, response: httpx2.Response, passed: Passed, bill: _Bill, key: str, events: bool
    ) -> AsyncGenerator[bytes, None]:
        """The body: events line by line, anything else as a whole, so that a key in it can be seen."""
        raw, end = response.aiter_raw(), time.monotonic() + DEADLINE_TIMEOUTS * self._timeout
        held = b""
        while True:
            try:
                async with asyncio.timeout(end - time.monotonic()):
                    part = await anext(raw, None)
            except (httpx2.HTTPError, TimeoutError) as error:
                raise RelayError(f"the reply of {self.model} broke off ({type(error).__name__})") from None
            if part is None:
                break
            bill.received += len(part)
            if bill.received > MOST_BYTES:
                raise RelayError(f"expected a reply of {self.model} of at most {MOST_BYTES:,} bytes")
            held += part
            if events and (cut := held.rfind(b"\n") + 1):
                whole, held = held[:cut], held[cut:]
                yield b"".join(_clean(line, key, passed) for line in whole.splitlines(keepends=True))
        if events:
            yield _clean(held, key, passed)
        else:
            _count(held, passed)
            yield without_key(held, key)

    def _bound(self, request: Mapping[str, Any]) -> float | None:
        """The most US dollars that a request can cost; ``None`` where nobody holds it against a cap."""
        if self._price is None or self._cap is None:
            return None
        reason = "since there is a spending cap"
        for name in _UNKNOWN_COST:
            if request.get(name):
                raise RelayError(
                    f"Expected no `{name}`, {reason} and its cost is not known beforehand, but got one", param=name
                )
        if kind := _other_part(request):
            raise RelayError(
                f"Expected text alone, {reason} and the cost of {kind[:40]!r} is not known beforehand", param="messages"
            )
        limits = [request[name] for name in LIMIT_FIELDS if isinstance(request.get(name), int)]
        if not limits:
            raise RelayError(f"Expected `{LIMIT_FIELDS[0]}`, {reason}, but got none", param=LIMIT_FIELDS[0])
        several = request.get("n")
        written = max(0, *limits) * (max(1, several) if isinstance(several, int) else 1)
        return self._cost(len(_encoded(request)) + _TEMPLATE_TOKENS, min(written, _MOST_TOKENS))

    def _cost(self, read: int, written: int) -> float:
        assert self._price is not None
        return (read * self._price[0] + written * self._price[1]) / 1e6

    def _reserve(self, bound: float | None) -> int | None:
        if self._price is None:
            return None
        reservation = self._cache().reserve(bound or 0.0, self._cap)
        if reservation is None:
            raise CapError(f"Expected a request of at most ${bound:.6f} to fit under the spending cap of ${self._cap}")
        return reservation


@dataclass
class _Bill:
    """What a request may have cost, put in the place of its reservation once."""

    relay: EndpointRelay
    bound: float | None
    reservation: int | None
    size: int = 0
    billed: bool = True
    received: int = 0

    def dollars(self, passed: Passed) -> float | None:
        """By the usage; without one that can be, the bound, or a token a byte of what was sent and came."""
        if self.relay._price is None:
            return None
        read, written = passed.prompt_tokens, passed.completion_tokens
        if read is not None and written is not None:
            can_be = read >= self.size // _LONGEST_TOKEN and written >= self.received // _LONGEST_CHUNK
            if can_be or self.bound is None:
                return self.relay._cost(read, written)
        return self.relay._cost(self.size, self.received) if self.bound is None else self.bound

    def settle(self, passed: Passed | None = None) -> None:
        """Writes it down in a thread: whoever is cancelled does not wait for it."""
        reservation, self.reservation = self.reservation, None
        if reservation is None:
            return
        cache, spent = self.relay._cache(), None if passed is None else passed.dollars

        def write() -> None:
            if spent is not None:
                cache.settle(reservation, spent)
            else:
                (cache.charge if self.billed else cache.release)(reservation)

        done = asyncio.get_running_loop().run_in_executor(None, write)
        self.relay._settling.add(done)
        done.add_done_callback(self.relay._settling.discard)


def _encoded(request: Mapping[str, Any]) -> bytes:
    return json.dumps(request, ensure_ascii=False, allow_nan=False).encode()


async def _nothing() -> AsyncGenerator[bytes, None]:
    return
    yield b""


def _other_part(request: Mapping[str, Any]) -> str:
    """The kind of a part of a message that is no text; empty where there is none."""
    listed = [request.get(name) for name in ("messages", "input")]
    for message in (m for some in listed if isinstance(some, list) for m in some if isinstance(m, dict)):
        content = message.get("content")
        for part in content if isinstance(content, list) else ():
            kind = part.get("type") if isinstance(part, dict) else None
            if kind not in _PARTS_OF_TEXT:
                return str(kind)
    tools = request.get("tools")
    for tool in tools if isinstance(tools, list) else ():
        kind = tool.get("type") if isinstance(tool, dict) else None
        if kind not in ("function", "custom"):
            return str(kind)
    return ""


def _clean(line: bytes, key: str, passed: Passed) -> bytes:
    """A line of a stream without the key; what it says of usage is noted."""
    if not line.startswith(b"data:"):
        return without_key(line, key)
    text = line[5:].strip()
    if b'"usage"' in text:
        _count(text, passed)
    clean = without_key(text, key)
    return line if clean == text else b"data: " + clean + line[len(line.rstrip(b"\r\n")) :]


def _count(body: bytes, passed: Passed) -> None:
    """Notes the usage in a reply, or in an event of a stream."""
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        return
    for holder in (content, content.get("response") if isinstance(content, dict) else None):
        usage = holder.get("usage") if isinstance(holder, dict) else None
        if not isinstance(usage, dict):
            continue
        read = usage.get("prompt_tokens", usage.get("input_tokens"))
        written = usage.get("completion_tokens", usage.get("output_tokens"))
        if all(isinstance(n, int) and not isinstance(n, bool) and 0 <= n <= _MOST_TOKENS for n in (read, written)):
            passed.prompt_tokens, passed.completion_tokens = read, written
