"""Any OpenAI-compatible endpoint as a model of a cascade, through the `openai` package.

Every reply is on disk before it is used (`cascade.engines.request_cache`), a spending cap is kept before a request
leaves, and what fails for a while is tried again. There is no P(IK) here: nobody shows hidden states.
"""

from __future__ import annotations

import ipaddress
import math
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import openai
import tenacity

from cascade.engines.attempts import (
    MAX_WAIT_SECONDS,
    WATCH_SECONDS,
    AttemptError,
    QuestionError,
    RefusedError,
    UnwantedError,
    open_client,
    scrub,
    send,
)
from cascade.engines.base import OPEN, Engine, Failure, Gate, Prompt, Reply
from cascade.engines.openai_format import (
    LIMITS,
    PATHS,
    Completion,
    MalformedResponseError,
    NoLogprobsError,
    build_request,
    parse_response,
    read_reply,
    usage_can_be,
)
from cascade.engines.relay import EndpointRelay
from cascade.engines.request_cache import RequestCache, StoredResponse, canonical_json, request_key
from cascade.engines.settings import EndpointConfig
from cascade.errors import CascadeError

OPENAI_URL = "https://api.openai.com/v1"

# Tokens that chat templates add to a message (roles, dates, a system prompt of their own), generously.
_TEMPLATE_TOKENS = 256
_OURS = frozenset({"model", "messages", "prompt", "stream", "n", "best_of", "echo", "logprobs", "top_logprobs", "stop"})


class SpendingCapError(CascadeError):
    """The next request might pass the spending cap. What was answered until then is stored."""


class _HaltedError(Exception):
    """Another question ended the whole call before this one was sent."""


@dataclass(frozen=True)
class _Job:
    """One prompt's request, and what it goes through."""

    prompt: Prompt
    request: Mapping[str, Any]
    key: str
    logprobs: bool
    cache: RequestCache
    halt: threading.Event
    wanted: Callable[[], bool] | None = None

    @property
    def over(self) -> bool:
        """Whether nobody waits for it any more."""
        return self.wanted is not None and not self.wanted()


class Endpoint(Engine):
    """A model behind an OpenAI-compatible endpoint.

    Args:
        settings: Where it is, how it is asked, and what it may cost.
        needs_confidence: Whether P(T) is wanted. A chain's last model needs none, and then log-probabilities are
            asked for only where `Prompt.top_logprobs` does.

    Raises:
        CascadeError: If one of them is not what it has to be.
    """

    parameters: int | None = None

    def __init__(self, settings: EndpointConfig, needs_confidence: bool = True) -> None:
        self.name, self.parameters, self.kind = settings.endpoint, settings.parameters, settings.kind
        self.base_url = (settings.base_url or OPENAI_URL).rstrip("/")
        self.price = None if settings.price is None else (settings.price.input, settings.price.output)
        self.spending_cap = settings.spending_cap
        # A server asks each question by itself, so that a slow one holds up no other.
        self.concurrency = self.parallel = settings.concurrency
        self.batch_size = 1
        self.timeout, self.attempts, self.backoff = settings.timeout, settings.attempts, settings.backoff
        self.needs_confidence = needs_confidence
        shown = 20 if self.kind == "chat" else 5
        self.top_logprobs = shown if settings.top_logprobs is None else settings.top_logprobs
        limit = "max_completion_tokens" if self.kind == "chat" else "max_tokens"
        self.limit_field = settings.limit_field or limit
        self.options, self.continues = dict(settings.options), settings.continues
        self._cache_path, self._api_key_env = Path(settings.cache), settings.api_key_env
        self._check_arguments()
        self._cache: RequestCache | None = None
        self._client: openai.OpenAI | None = None
        self._client_lock = threading.Lock()
        self._settled = threading.Condition()
        self._under_way = 0
        self._logprobs_seen = self._connected = self._found_closed = False

    def _check_arguments(self) -> None:
        def expect(holds: bool, argument: str, wanted: str, got: object) -> None:
            if not holds:
                raise CascadeError(f"Expected `{argument}` of {self.name!r} to be {wanted}, but got {got!r}")

        expect(self.kind in PATHS, "kind", f"one of {', '.join(PATHS)}", self.kind)
        url = urlsplit(self.base_url)
        secret = url.username or url.password or url.query
        expect(not secret, "base_url", "without a password or a query", f"one with it, for {url.hostname}")
        expect(url.scheme in ("http", "https") and bool(url.hostname), "base_url", "an http(s) address", self.base_url)
        for argument in ("concurrency", "attempts", "top_logprobs"):
            expect(getattr(self, argument) >= 1, argument, "at least 1", getattr(self, argument))
        expect(self.timeout > 0, "timeout", "more than 0 seconds", self.timeout)
        expect(self.backoff >= 0, "backoff", "at least 0 seconds", self.backoff)
        expect(self.limit_field in LIMITS, "limit_field", f"one of {', '.join(LIMITS)}", self.limit_field)
        if self.price is not None:
            two = all(math.isfinite(p) and p >= 0 for p in self.price)
            expect(two, "price", "two numbers of at least 0, (input, output)", self.price)
        if self.spending_cap is not None:
            expect(self.spending_cap >= 0, "spending_cap", "at least 0 dollars", self.spending_cap)
            expect(self.price is not None, "price", "given where there is a `spending_cap`", self.price)
        taken = sorted(_OURS & self.options.keys())
        expect(not taken, "options", "fields that have no argument of their own", ", ".join(taken))
        limits = [self.options[field] for field in LIMITS if self.options.get(field) is not None]
        whole = all(isinstance(limit, int) and limit >= 1 for limit in limits)
        expect(whole, "options", "with a limit of at least 1 token", limits)
        unlimited = self.limit_field in self.options and not limits
        expect(not unlimited, "options", f"with some limit in the place of {self.limit_field}", self.options)

    @property
    def identity(self) -> dict[str, Any]:
        """Where it is asked, and how."""
        known = {"name": self.name, "base_url": self.base_url, "kind": self.kind, "options": dict(self.options)}
        return known | ({"continues": True} if self.continues else {})

    def answer(
        self,
        prompts: Sequence[Prompt],
        gate: Gate = OPEN,
        on_token: Callable[[int, str], None] | None = None,
    ) -> list[Reply | Failure]:
        """One reply a prompt, in order; a prompt that fails after all attempts does not take the others with it.

        Args:
            prompts: Any number.
            gate: Asked for `on_token` alone, and whether an answer is still wanted. There is no P(IK), and the whole
                answer comes in the one request that brings P(T), so that a gate after the first token could save
                nothing; hold `Reply.p_t` against the threshold instead.
            on_token: Called once a prompt that the gate keeps, with the whole text, in the order in which the replies
                come.

        Raises:
            SpendingCapError: If the next request might pass the cap; everything under way is finished and stored.
            CascadeError: If the key, the account, the address or the model is refused, no log-probabilities come where
                they are needed, or the cache file cannot be used. Like Ctrl-C, it lets what is under way come in, for
                at most `timeout` of silence, and sends nothing new.
        """
        cache = self._open_cache()
        halt = threading.Event()
        replies: dict[int, Reply | Failure] = {}
        places: dict[Future[Reply | Failure], int] = {}
        with ThreadPoolExecutor(self.concurrency, thread_name_prefix=f"endpoint {self.name}") as pool:
            try:
                for place, prompt in enumerate(prompts):
                    wanted = None if gate.wanted is None else partial(gate.wanted, place)
                    places[pool.submit(self._answer_or_halt, prompt, cache, halt, wanted)] = place
                for future in as_completed(places):
                    if future.exception() is not None:
                        break
                    reply = replies[places[future]] = future.result()
                    if on_token is not None and isinstance(reply, Reply) and _stays(gate, places[future], reply):
                        on_token(places[future], reply.text)
            finally:
                halt.set()
                pool.shutdown(wait=True, cancel_futures=True)
        if len(replies) < len(prompts):
            raise _first_error(places)
        return [replies[i] for i in range(len(prompts))]

    @cached_property
    def relay(self) -> EndpointRelay:
        """The same endpoint, price and cap, for requests as clients write them."""
        price, cap = self.price, self.spending_cap
        return EndpointRelay(self.name, self.base_url, self._key, float(self.timeout), price, cap, self._open_cache)

    def _key(self) -> str:
        key = os.environ.get(self._api_key_env, "").strip()
        if not key and not _is_loopback(self.base_url):
            raise CascadeError(
                f"Expected the environment variable {self._api_key_env} to hold the key for {self.base_url}, but it is "
                f"not set"
            )
        return key

    def release(self) -> None:
        """Closes the connections and the cache file; the next call opens them again."""
        if self._client is not None:
            self._client.close()
            self._client = None
        if self._cache is not None:
            self._cache.close()
            self._cache = None

    def _open_cache(self) -> RequestCache:
        with self._client_lock:
            if self._cache is None:
                self._cache = RequestCache(self._cache_path)
            return self._cache

    def _open_client(self) -> openai.OpenAI:
        with self._client_lock:
            if self._client is None:
                self._client = open_client(self.base_url, self._key(), float(self.timeout))
            return self._client

    def _answer_or_halt(
        self, prompt: Prompt, cache: RequestCache, halt: threading.Event, wanted: Callable[[], bool] | None
    ) -> Reply | Failure:
        """What a thread of the pool does; an error ends the whole call before another request leaves."""
        if halt.is_set():
            raise _HaltedError
        try:
            return self._answer_one(prompt, cache, halt, wanted)
        except UnwantedError:
            return Failure(prompt.question_id, "nobody waited for it")
        except BaseException:
            halt.set()
            raise

    def _answer_one(
        self, prompt: Prompt, cache: RequestCache, halt: threading.Event, wanted: Callable[[], bool] | None
    ) -> Reply | Failure:
        asked = self.top_logprobs if self.needs_confidence else min(prompt.top_logprobs, self.top_logprobs)
        request = build_request(self.kind, self.name, prompt, asked, self.limit_field, self.options, self.continues)
        try:
            key = request_key(self.base_url + PATHS[self.kind], request)
        except (TypeError, ValueError) as error:
            raise CascadeError(
                f"Expected question {prompt.question_id!r} and `options` to be what JSON can say, but got {error}"
            ) from error
        job = _Job(prompt, request, key, bool(asked), cache, halt, wanted)
        with cache.claim(key):
            response = cache.get(key)
            if cached := response is not None:
                completion = self._parse_stored(response, job)
            else:
                try:
                    response, completion = self._ask(job)
                except QuestionError as error:
                    return Failure(prompt.question_id, str(error), error.bad_prompt)
        self._logprobs_seen |= bool(completion.tokens)
        if completion.refusal:
            return Failure(prompt.question_id, f"{self.name} refused to answer: {completion.refusal}", refusal=True)
        dollars = self._dollars(completion, request) if response.dollars is None else response.dollars
        return read_reply(prompt, completion, response.seconds, dollars, cached, self.needs_confidence)

    def _parse_stored(self, response: StoredResponse, job: _Job) -> Completion:
        try:
            return parse_response(self.kind, response.body, job.logprobs)
        except MalformedResponseError as error:
            raise CascadeError(
                f"Expected {job.cache.path} to hold a whole response to question {job.prompt.question_id!r}, but "
                f"{error}; the file was changed, give another `cache`"
            ) from error

    def _ask(self, job: _Job) -> tuple[StoredResponse, Completion]:
        """Sends a request until a reply is stored."""
        pause = tenacity.wait_random_exponential(multiplier=self.backoff, max=MAX_WAIT_SECONDS)
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(AttemptError),
            stop=lambda state: state.attempt_number >= self.attempts or self._shows_none(state) or self._closed(state),
            wait=lambda state: _attempt_error(state).wait + pause(state),
            sleep=partial(_pause, job),
            reraise=True,
        )
        try:
            completion = retrying(self._attempt, job)
        except AttemptError as error:
            tried = retrying.statistics["attempt_number"]
            if error.no_logprobs and not self._logprobs_seen:
                raise CascadeError(
                    f"Expected {self.name!r} at {self.base_url} to give log-probabilities, but it gives none; "
                    f"name an endpoint that does, or make it the last of a chain's models, which needs no confidence"
                ) from error
            raise QuestionError(f"{tried} attempts, the last of which: {error}") from error
        response = job.cache.get(job.key)
        assert response is not None  # stored by the attempt, in this file
        return response, completion

    def _shows_none(self, state: tenacity.RetryCallState) -> bool:
        """Whether it is plain by the second reply that log-probabilities never come: every reply is paid for."""
        return state.attempt_number >= 2 and _attempt_error(state).no_logprobs and not self._logprobs_seen

    def _closed(self, state: tenacity.RetryCallState) -> bool:
        """Whether no server runs on this machine, as far as was ever seen: two attempts find that out for all.

        Another machine may be out of reach for a while, and a server that was there before may be starting again.
        """
        if not _attempt_error(state).unconnected or self._connected or not _is_loopback(self.base_url):
            return False
        self._found_closed |= state.attempt_number >= 2
        return self._found_closed

    def _attempt(self, job: _Job) -> Completion:
        """Reserves, sends, checks and stores; whatever happens, the reservation is settled."""
        client = self._open_client()
        bound = self._bound(job.request)
        reservation = self._reserve(bound, job)
        perhaps_billed = True
        try:
            start = time.perf_counter()
            try:
                body = send(client, self.kind, job.request, self._api_key_env, job.wanted)
                self._connected = True
            except (AttemptError, QuestionError, RefusedError) as error:
                self._connected |= not (isinstance(error, AttemptError) and error.unconnected)
                perhaps_billed = isinstance(error, AttemptError) and error.perhaps_billed
                raise
            seconds = time.perf_counter() - start
            try:
                completion = parse_response(self.kind, body, job.logprobs)
            except MalformedResponseError as error:
                missing = isinstance(error, NoLogprobsError)
                raise AttemptError(scrub(client, str(error)), perhaps_billed, no_logprobs=missing) from error
            response = StoredResponse(body.decode(), seconds, self._dollars(completion, job.request))
            job.cache.store(job.key, job.request, response, reservation)
            reservation = None
        finally:
            try:
                if reservation is not None:
                    (job.cache.charge if perhaps_billed else job.cache.release)(reservation)
            finally:
                with self._settled:
                    self._under_way -= 1
                    self._settled.notify_all()
        if self.spending_cap is not None and bound is not None and (response.dollars or 0.0) > bound:
            raise CascadeError(
                f"Expected {self.name!r} to bill at most ${bound:.6f} for question {job.prompt.question_id!r}, but it "
                f"billed ${response.dollars:.6f}: it does not keep to {self.limit_field}; see `limit_field`"
            )
        return completion

    def _reserve(self, bound: float | None, job: _Job) -> int | None:
        """Waits for those under way where the cap leaves no room: they mostly cost less than was set aside."""
        with self._settled:
            while not job.halt.is_set():
                if job.over:
                    raise UnwantedError
                reservation = None if bound is None else job.cache.reserve(bound, self.spending_cap)
                if bound is None or reservation is not None:
                    self._under_way += 1
                    return reservation
                if self._under_way == 0:
                    raise SpendingCapError(
                        f"Expected all requests to fit under the spending cap of ${self.spending_cap}, but "
                        f"${job.cache.spending().total:.6f} of it is spent or reserved in {job.cache.path} and "
                        f"question {job.prompt.question_id!r} may cost ${bound:.6f}; what was answered is stored"
                    )
                self._settled.wait(None if job.wanted is None else WATCH_SECONDS)
        raise _HaltedError

    def _bound(self, request: Mapping[str, Any]) -> float | None:
        """The most US dollars that a request can cost: no tokenizer makes more than a token of a byte."""
        if self.price is None:
            return None
        prompt_tokens = len(canonical_json(request).encode()) + _TEMPLATE_TOKENS
        completion_tokens: int = max(request[field] for field in LIMITS if field in request)
        return (prompt_tokens * self.price[0] + completion_tokens * self.price[1]) / 1e6

    def _dollars(self, completion: Completion, request: Mapping[str, Any]) -> float | None:
        """By the usage, or the most that it can be where that cannot be."""
        if self.price is None:
            return None
        if not usage_can_be(completion, request):
            return self._bound(request)
        return (completion.prompt_tokens * self.price[0] + completion.completion_tokens * self.price[1]) / 1e6


def _pause(job: _Job, seconds: float) -> None:
    """Waits, as long as the whole call goes on and the answer is wanted."""
    end = time.monotonic() + seconds
    while not job.halt.is_set() and (left := end - time.monotonic()) > 0:
        if job.over:
            raise UnwantedError
        job.halt.wait(left if job.wanted is None else min(left, WATCH_SECONDS))


def _attempt_error(state: tenacity.RetryCallState) -> AttemptError:
    error = state.outcome.exception() if state.outcome else None
    assert isinstance(error, AttemptError)  # nothing else is tried again
    return error


def _first_error(places: Mapping[Future[Reply | Failure], int]) -> BaseException:
    """The error of the first prompt that has one of its own."""
    errors = [f.exception() for f in places if f.done() and not f.cancelled()]
    return next(error for error in errors if error is not None and not isinstance(error, _HaltedError))


def _stays(gate: Gate, place: int, reply: Reply) -> bool:
    """Whether there is a text, and it may be shown."""
    p_t = np.nan if reply.p_t is None else reply.p_t
    return bool(reply.text) and bool(gate.p_t(np.array([place]), np.array([p_t]))[0])


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
