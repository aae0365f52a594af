"""One server's state: its cascade, queues, metrics and log, and whether it is starting, ready or stopping.

Knows nothing of routes (`cascade.serving.app`) or of sockets and signals (`cascade.serving.server`).
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cascade.engines.base import Prompt, prompt_of
from cascade.runtime.engine import Cascade
from cascade.serving.batching import Batcher, ClosedError, Event, FullError, Ticket
from cascade.serving.errors import ApiError, busy, unavailable, wrong
from cascade.serving.feedback import Feedback
from cascade.serving.logs import Log
from cascade.serving.metrics import Metrics
from cascade.serving.origins import Origins
from cascade.serving.protocol import ChatRequest, CompletionRequest
from cascade.serving.questions import Asked, Asker
from cascade.serving.room import Room
from cascade.serving.shadow import NOTE, Journal, Shadow
from cascade.tasks.base import Question


@dataclass(frozen=True)
class Limits:
    """What a server takes on.

    Attributes:
        queue: Questions under way at the most.
        window: Seconds that a question waits for others to make a batch with.
        body: Bytes of a request's body.
        bytes_per_token: Bytes of a prompt for each token of a model's context; a longer one is refused untokenised.
        connections: At the most; fewer where the system allows fewer.
    """

    queue: int = 1024
    window: float = 0.004
    body: int = 2**20
    bytes_per_token: int = 32
    connections: int = 4096


class Service:
    """A cascade that is asked over HTTP.

    Args:
        cascade: That answers.
        limits: What is taken on.
        keys: API keys; none where anybody may ask.
        log: Where lines go.
        origins: From where requests may come; by default from this machine.
        journal: Where shadow mode writes; without one the cascade answers by itself.
        state: File that the state of the watch is kept in over restarts; by default in none.
    """

    def __init__(
        self,
        cascade: Cascade,
        limits: Limits | None = None,
        keys: Sequence[str] = (),
        log: Log | None = None,
        origins: Origins | None = None,
        journal: Journal | None = None,
        state: Path | None = None,
    ) -> None:
        self.cascade, self.limits, self.log = cascade, limits or Limits(), log or Log()
        self.origins = origins or Origins()
        self.created = int(time.time())
        self.feedback = Feedback(cascade, self.log, state)
        self.metrics = Metrics(cascade, self.log, self.feedback)
        room = Room(cascade, self.limits.bytes_per_token)
        self.batcher = Batcher(cascade, self.metrics, self.limits.window, self.limits.queue, room)
        self._asker = Asker(cascade, room)
        self.shadow = None if journal is None else Shadow(cascade, journal, self.metrics, self.log)
        self._keys = [hashlib.sha256(key.encode()).digest() for key in keys]

    async def start(self) -> None:
        """Loads every model, and then accepts questions."""
        await asyncio.to_thread(warm_up, self.cascade)
        self.feedback.start()
        self.batcher.start()

    async def stop(self) -> None:
        """Accepts nothing more, and waits for what was accepted."""
        await self.batcher.drain()
        if self.shadow is not None:
            await self.shadow.finish()
        await asyncio.to_thread(self.feedback.write)
        for model in self.cascade.models:
            if model.relay is not None:
                await model.relay.close()

    @property
    def ready(self) -> bool:
        """Whether questions are accepted."""
        return self.batcher.working

    @property
    def keyed(self) -> bool:
        """Whether a key is asked for."""
        return bool(self._keys)

    def admits(self, authorization: str | None) -> bool:
        """Whether a request with this header may be answered. Takes as long for any key."""
        if not self._keys:
            return True
        scheme, _, key = (authorization or "").partition(" ")
        digest = hashlib.sha256(key.strip().encode("latin-1")).digest()  # the bytes that came
        found = [hmac.compare_digest(digest, known) for known in self._keys]
        return any(found) and scheme.lower() == "bearer"

    async def ask(
        self, request: ChatRequest | CompletionRequest, id: str, extra: Mapping[str, Any] | None = None
    ) -> Asked:
        """What a request asks; ``extra`` are further fields for the models behind endpoints.

        Raises:
            ApiError: 404 or 400 where it cannot be asked.
        """
        if request.options.budget is not None:  # the first one computes the frontier
            found = await asyncio.to_thread(self._asker.ask, request, id, extra)
        else:
            found = self._asker.ask(request, id, extra)
        aside = self.shadow is not None and found.model == self.cascade.name
        return replace(found, notes=(*found.notes, NOTE)) if aside else found

    def accept(self, asked: Asked, listen: Callable[[int, Event], None] | None = None) -> list[Ticket]:
        """Takes a request's questions on.

        Raises:
            ApiError: 429 where the queue is full, 503 where nothing is accepted.
        """
        if len(asked.prompts) > self.limits.queue:
            raise wrong(f"Expected at most {self.limits.queue} prompts, but got {len(asked.prompts)}", "prompt")
        shadow = self.shadow if asked.model == self.cascade.name else None
        policy = asked.policy if shadow is None else shadow.alone(asked)
        how = policy, asked.best_effort, asked.signal
        journeys = [self.cascade.start(prompt, *how) for prompt in asked.prompts]
        try:
            tickets = self.batcher.accept(journeys, listen)
            if shadow is not None:
                shadow.begin(self.batcher, asked, tickets)
            return tickets
        except FullError as error:
            raise busy(self.limits.queue, error.seconds) from None
        except ClosedError:
            raise not_ready() from None


def not_ready() -> ApiError:
    """503: the server is starting or stopping."""
    error = unavailable("Expected a server that is ready, but this one is starting or stopping", "not_ready")
    error.headers["retry-after"] = "1"
    return error


def warm_up(cascade: Cascade) -> None:
    """Loads the weights of every local model and what it takes to read letters and answers; asks no endpoint.

    Raises:
        CascadeError: If a model cannot be loaded, or tell option letters apart: it would fail on every question that
            has options, and the next model would answer them all.
    """
    asked = (Question("warm-up", "What is 2 plus 2?", "arithmetic", choices=("3", "4")), Question("warm-up", "?", ""))
    prompts: list[Prompt] = [prompt_of(question, max_new_tokens=2) for question in asked]
    for model in cascade.models:
        model.check_letters(prompts[0].letters)
        model.warm_up(prompts)
    for reader in cascade.readers.values():
        reader.p_ik(prompts)
