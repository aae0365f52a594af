"""One attempt at an OpenAI-compatible endpoint: what is sent, what may come back, and what it means if it fails.

Every failure says whether another attempt may do better and whether this one may have been billed. Trying again,
caching and counting are `cascade.engines.endpoint`'s. An endpoint is not trusted: it gets so many bytes and so much
time, it cannot send a request on to somebody else, and the key is taken out of all that it says.
"""

from __future__ import annotations

import contextlib
import email.utils
import json
import logging
import math
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import httpcore2
import httpx2
import openai

from cascade.engines.openai_format import Kind, most_bytes
from cascade.errors import CascadeError

MAX_WAIT_SECONDS = 60.0
"""The longest wait that a provider's ``Retry-After`` is followed for."""

DEADLINE_TIMEOUTS = 5
"""A whole attempt takes at most so many timeouts: some providers send blanks while they think, and are never silent."""

WATCH_SECONDS = 0.25
"""How often it is asked whether a reply that has not come is still wanted."""

_NO_KEY = "none"
_SHORTEST_SECRET = 8  # servers of one's own are given keys like EMPTY, which may well be an answer

# Nothing of a request had left for the endpoint at these; httpx and httpx2 call them the same.
_NEVER_SENT = frozenset({"ConnectError", "ConnectTimeout", "PoolTimeout"})
_RETRIED = frozenset({408, 409, 429})
# A gateway that gave up waiting does not know what the model behind it went on to bill.
_PERHAPS_BILLED = frozenset({408, 504})


class AttemptError(Exception):
    """An attempt failed, and another may not.

    Attributes:
        perhaps_billed: Whether the provider may charge for it nonetheless.
        wait: Seconds that it asks to wait.
        no_logprobs: Whether all that was wrong is that there were no log-probabilities.
        unconnected: Whether there was nobody to connect to.
    """

    def __init__(
        self,
        reason: str,
        perhaps_billed: bool,
        wait: float = 0.0,
        no_logprobs: bool = False,
        unconnected: bool = False,
    ) -> None:
        super().__init__(reason)
        self.perhaps_billed, self.wait = perhaps_billed, wait
        self.no_logprobs, self.unconnected = no_logprobs, unconnected


class QuestionError(Exception):
    """One request is given up.

    Attributes:
        bad_prompt: Whether the endpoint refuses the request itself, and bills nothing; else it was tried in vain.
    """

    def __init__(self, said: str, bad_prompt: bool = False) -> None:
        super().__init__(said)
        self.bad_prompt = bad_prompt


class UnwantedError(Exception):
    """Nobody waits for the reply any more, so that the connection was closed. It may have been billed."""


class RefusedError(CascadeError):
    """The endpoint refuses everybody who asks like this: the key, the account or the model. Nothing is billed."""


class _KeysOut(logging.Filter):
    """Takes the keys out of what the libraries log: request ids, reason phrases and headers are an endpoint's words."""

    def __init__(self) -> None:
        super().__init__()
        self.keys: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        said = record.getMessage()
        for key in self.keys:
            if key in said:
                said = said.replace(key, "[key]")
                record.msg, record.args = said, None
        return True


_KEYS_OUT = _KeysOut()
for _name in (
    *("openai", "openai._base_client", "openai._response", "openai._legacy_response", "httpx2"),
    *(f"httpcore2.{part}" for part in ("connection", "http11", "http2", "proxy", "socks")),
):
    logging.getLogger(_name).addFilter(_KEYS_OUT)


def keep_out(key: str) -> None:
    """Keeps a key out of what the libraries log."""
    if len(key) >= _SHORTEST_SECRET:
        _KEYS_OUT.keys.add(key)


def open_client(base_url: str, key: str, timeout: float) -> openai.OpenAI:
    """A client that follows no redirect, asks for plain bytes, and holds every attempt to `send`'s bounds."""
    keep_out(key)
    http = httpx2.Client(
        follow_redirects=False,
        event_hooks={"response": [_refuse_compressed]},
        timeout=timeout,
        limits=openai.DEFAULT_CONNECTION_LIMITS,
    )
    for transport in (http._transport, *http._mounts.values()):  # a proxy of the environment is mounted
        if isinstance(transport, httpx2.HTTPTransport):
            transport._pool._network_backend = _Wire()
    return openai.OpenAI(
        api_key=key or _NO_KEY,
        base_url=base_url,
        timeout=timeout,
        max_retries=0,
        http_client=http,
        default_headers={"Accept-Encoding": "identity"},
    )


class _Bounds(threading.local):
    """What is left to the attempt that this thread is at."""

    deadline = most_seconds = math.inf
    left = most = math.inf
    wanted: Callable[[], bool] | None = None

    @contextlib.contextmanager
    def hold(self, seconds: float, most: int, wanted: Callable[[], bool] | None) -> Iterator[None]:
        self.most_seconds, self.deadline = seconds, time.monotonic() + seconds
        self.left = self.most = most
        self.wanted = wanted
        try:
            yield
        finally:
            self.deadline = self.left = math.inf
            self.wanted = None

    def seconds(self, silence: float | None) -> float | None:
        """How long the next step may take."""
        if (left := self.deadline - time.monotonic()) <= 0:
            raise httpcore2.ReadTimeout(f"it was not done after {self.most_seconds:g} seconds")
        return silence if left == math.inf else left if silence is None else min(silence, left)


_BOUNDS = _Bounds()


class _Wire(httpcore2.NetworkBackend):
    """Connections on which every read counts against the attempt's bounds, those of headers and errors included."""

    def __init__(self) -> None:
        self._backend = httpcore2.SyncBackend()

    def connect_tcp(self, host: str, port: int, timeout: float | None = None, *args: Any, **named: Any) -> _Stream:
        return _Stream(self._backend.connect_tcp(host, port, _BOUNDS.seconds(timeout), *args, **named))

    def connect_unix_socket(self, path: str, timeout: float | None = None, *args: Any, **named: Any) -> _Stream:
        return _Stream(self._backend.connect_unix_socket(path, _BOUNDS.seconds(timeout), *args, **named))


class _Stream(httpcore2.NetworkStream):
    def __init__(self, stream: httpcore2.NetworkStream) -> None:
        self._stream = stream

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        try:
            data = self._read(max_bytes, timeout)
        except httpcore2.ReadTimeout:
            _BOUNDS.seconds(timeout)  # raises another error where the whole attempt has run out of time
            raise
        _BOUNDS.left -= len(data)
        if _BOUNDS.left < 0:
            raise httpcore2.ReadError(f"it is longer than {_BOUNDS.most:,} bytes, the most that was asked for")
        return data

    def _read(self, max_bytes: int, timeout: float | None) -> bytes:
        """Reads in short waits where somebody may lose interest, each of which may end without a byte."""
        wanted, end = _BOUNDS.wanted, math.inf if timeout is None else time.monotonic() + timeout
        while wanted is not None and (left := end - time.monotonic()) > WATCH_SECONDS:
            if not wanted():
                raise UnwantedError
            with contextlib.suppress(httpcore2.ReadTimeout):
                return self._stream.read(max_bytes, _BOUNDS.seconds(min(left, WATCH_SECONDS)))
            _BOUNDS.seconds(timeout)
        return self._stream.read(max_bytes, _BOUNDS.seconds(None if end == math.inf else end - time.monotonic()))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, _BOUNDS.seconds(timeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> _Stream:
        return _Stream(self._stream.start_tls(ssl_context, server_hostname, _BOUNDS.seconds(timeout)))

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def _refuse_compressed(response: httpx2.Response) -> None:
    """A megabyte may stand for a thousand; none was asked for."""
    encoding = response.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise httpx2.DecodingError(
            f"expected a reply that is not compressed, as was asked for, but got {encoding[:40]!r}",
            request=response.request,
        )


def send(
    client: openai.OpenAI,
    kind: Kind,
    request: Mapping[str, Any],
    api_key_env: str,
    wanted: Callable[[], bool] | None = None,
) -> bytes:
    """Sends a request once.

    Args:
        client: Of `open_client`.
        kind: Of `cascade.engines.openai_format`.
        request: What `build_request` made.
        api_key_env: Where the key is from, for errors; the key itself is kept out of them.
        wanted: Asked while nothing comes: whether anybody still waits for the reply.

    Returns:
        The body of a response that has a good status, without the key.

    Raises:
        UnwantedError: If nobody waits any more.
        AttemptError, QuestionError, RefusedError: By what may be done about it. None has the library's error for its
            cause: that holds what the endpoint said, with the key in it if it repeats that.
    """
    rest = {name: value for name, value in request.items() if name not in ("model", "messages", "prompt")}
    model = request["model"]
    assert isinstance(client.timeout, float)
    try:
        with _BOUNDS.hold(DEADLINE_TIMEOUTS * client.timeout, most_bytes(request), wanted):
            if kind == "chat":
                chat = client.chat.completions.with_raw_response
                body = chat.create(model=model, messages=request["messages"], extra_body=rest).content
            else:
                completions = client.completions.with_raw_response
                body = completions.create(model=model, prompt=request["prompt"], extra_body=rest).content
        return without_key(body, client.api_key)
    except openai.APIStatusError as error:
        raise _status_error(client, error, model, api_key_env) from None
    except openai.APIConnectionError as error:
        cause = error.__cause__
        if isinstance(cause, UnwantedError):
            raise UnwantedError from None
        reason = f"{error.message} ({type(cause).__name__}: {cause})"
        name = type(cause).__name__
        sent = name not in _NEVER_SENT
        raise AttemptError(scrub(client, reason), sent, unconnected=name == "ConnectError") from None


def _status_error(client: openai.OpenAI, error: openai.APIStatusError, model: str, api_key_env: str) -> Exception:
    status = error.status_code
    said = scrub(client, f"status {status}: {error.message}")
    if status in (401, 402, 403) or error.code == "insufficient_quota":
        # The provider's own words are left out: they tend to repeat a part of the key.
        return RefusedError(
            f"Expected {client.base_url} to accept the key in {api_key_env} for {model!r}, but got status {status}; "
            f"check the key, its rights and the account's balance"
        )
    if 300 <= status < 400:
        where = scrub(client, error.response.headers.get("location", "nowhere"))
        return RefusedError(
            f"Expected {client.base_url} to answer for {model!r}, but it sends requests on to {where} (status "
            f"{status}); they go nowhere but to `base_url`, give that as it if you trust it"
        )
    if status == 404:
        return RefusedError(f"Expected {client.base_url} to have a model {model!r}, but got {said}")
    if status in _RETRIED or status >= 500:
        return AttemptError(said, status in _PERHAPS_BILLED, wait=retry_after(error.response.headers))
    return QuestionError(said, bad_prompt=True)


def scrub(client: openai.OpenAI, text: str) -> str:
    """One line of bounded length, without the client's key."""
    return " ".join(_replace_key(text, client.api_key).split())[:300]


def without_key(body: bytes, key: str) -> bytes:
    """A response without the key that it repeats, however JSON spells it; byte for byte as it came if it has none."""
    if len(key) < _SHORTEST_SECRET:
        return body
    try:
        said = json.dumps(json.loads(body), ensure_ascii=False)
    except (ValueError, RecursionError):  # none that will be used, but a part of it may be shown
        return body.replace(key.encode(), b"[key]")
    spelt = json.dumps(key, ensure_ascii=False)[1:-1]
    return said.replace(spelt, "[key]").encode(errors="surrogatepass") if spelt in said else body


def _replace_key(text: str, key: str) -> str:
    return text if len(key) < _SHORTEST_SECRET else text.replace(key, "[key]")


def retry_after(headers: Mapping[str, str]) -> float:
    """Seconds that a provider asks to wait, as a number or a date; 0 if it does not, at most `MAX_WAIT_SECONDS`."""
    value = headers.get("retry-after", "").strip()
    try:
        seconds = float(value)
    except ValueError:
        try:
            date = email.utils.parsedate_to_datetime(value)
        except ValueError:
            return 0.0  # neither a number nor a date
        # A date without a zone is in GMT (RFC 9110, 5.6.7).
        seconds = ((date if date.tzinfo else date.replace(tzinfo=UTC)) - datetime.now(UTC)).total_seconds()
    return 0.0 if math.isnan(seconds) else min(max(seconds, 0.0), MAX_WAIT_SECONDS)
