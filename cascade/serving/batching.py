"""Questions of different clients in batches of each stage: a queue and a thread a model.

A question that a stage passes on joins the next stage's queue, and is batched there again. How many are under way is
bounded, what was accepted is answered, and a stage that fails passes its questions on. Knows nothing of HTTP.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Protocol

from cascade.runtime.engine import Answer, Cascade, Journey, Step
from cascade.serving.errors import told_failure
from cascade.serving.replies import Told
from cascade.serving.room import Room


@dataclass(frozen=True)
class Piece:
    """A piece of the answer's text, as it is generated."""

    text: str


Event = Piece | Step | Told
"""What is heard of a question: each stage when it is over, pieces of its answer, and its end."""


class FullError(Exception):
    """There is no room for more questions.

    Attributes:
        seconds: After which to try again.
    """

    def __init__(self, seconds: int) -> None:
        super().__init__(f"no room for {seconds} s")
        self.seconds = seconds


class ClosedError(Exception):
    """Nothing is accepted any more, or not yet."""


class Observer(Protocol):
    """Who counts what happens. Called on the event loop."""

    def batch(self, place: int, size: int, seconds: float) -> None:
        """A model has worked on a batch."""

    def step(self, journey: Journey, step: Step) -> None:
        """A stage is over."""

    def end(self, told: Told, abandoned: bool, aside: bool) -> None:
        """A question is at its end; ``abandoned`` where nobody waited any more, ``aside`` if it is `Journey.aside`."""

    def broken(self, place: int, error: Exception) -> None:
        """A model could not be asked."""


@dataclass(eq=False)
class Ticket:
    """An accepted question.

    Attributes:
        journey: The question on its way.
        listen: Told of each event, on the event loop.
        told: The end.
        queued_seconds: Time spent waiting for stages.
        abandoned: Whether nobody waits for it any more: the stage that it is at is told so, and no other is asked.
    """

    journey: Journey
    listen: Callable[[Event], None] | None
    told: asyncio.Future[Told]
    queued_seconds: float = 0.0
    abandoned: bool = False
    _since: float = 0.0
    _told: int = 0

    def hear(self, event: Event) -> None:
        """Tells who listens."""
        if self.listen is not None and not self.abandoned:
            self.listen(event)


@dataclass
class Batcher:
    """Runs a cascade for questions as they come. Lives on one event loop.

    Attributes:
        cascade: That answers.
        observer: Who counts.
        window: Seconds to wait for more questions once there is one.
        limit: Questions under way at the most.
        room: What a model is too small for, so that it is not asked; by default nothing.
        under_way: Questions accepted and not yet at their end.
    """

    cascade: Cascade
    observer: Observer
    window: float = 0.004
    limit: int = 1024
    room: Room | None = None
    under_way: int = 0
    _queues: list[asyncio.Queue[Ticket]] = field(default_factory=list)
    _workers: list[asyncio.Task[None]] = field(default_factory=list)
    _pools: list[ThreadPoolExecutor] = field(default_factory=list)
    _ended: deque[float] = field(default_factory=lambda: deque(maxlen=256))
    _idle: asyncio.Event = field(default_factory=asyncio.Event)
    _open: bool = False
    _closed: bool = False

    def __post_init__(self) -> None:
        self._idle.set()

    def start(self) -> None:
        """Opens the queues, unless they have been closed before."""
        if self._closed:
            return
        for place, model in enumerate(self.cascade.models):
            self._queues.append(asyncio.Queue())
            self._pools.append(ThreadPoolExecutor(model.parallel, thread_name_prefix=f"stage {place + 1}"))
            self._workers += [asyncio.create_task(self._work(place)) for _ in range(model.parallel)]
        self._open = True

    def stop_accepting(self) -> None:
        """Refuses what comes from now on."""
        self._open, self._closed = False, True

    async def drain(self) -> None:
        """Waits until everything that was accepted is at its end, and closes the queues."""
        self.stop_accepting()
        await self._idle.wait()
        for worker in self._workers:
            worker.cancel()
        await asyncio.gather(*self._workers, return_exceptions=True)
        for pool in self._pools:
            pool.shutdown()

    @property
    def working(self) -> bool:
        """Whether questions are accepted, and every stage is at work."""
        return self._open and not any(worker.done() for worker in self._workers)

    @property
    def waiting(self) -> list[int]:
        """Questions in each stage's queue."""
        return [queue.qsize() for queue in self._queues]

    def accept(self, journeys: Sequence[Journey], listen: Callable[[int, Event], None] | None = None) -> list[Ticket]:
        """Takes questions on, all or none.

        Args:
            journeys: Before their first model.
            listen: Told of a journey's index and what is heard of it.

        Raises:
            FullError: If there is no room for them.
            ClosedError: If nothing is accepted.
        """
        if not self._open:
            raise ClosedError
        if self.under_way + len(journeys) > self.limit:
            raise FullError(self._seconds_of_waiting())
        loop = asyncio.get_running_loop()
        tickets = []
        for i, journey in enumerate(journeys):
            hear = None if listen is None else (lambda event, i=i: listen(i, event))
            tickets.append(Ticket(journey, hear, loop.create_future()))
        self.under_way += len(tickets)
        self._idle.clear()
        for ticket in tickets:
            self._queue(ticket)
        return tickets

    @contextlib.contextmanager
    def place(self) -> Iterator[None]:
        """The place of a question that no stage works on: it counts as under way, and the end waits for it.

        Raises:
            FullError: If there is no room for it.
            ClosedError: If nothing is accepted.
        """
        if not self._open:
            raise ClosedError
        if self.under_way >= self.limit:
            raise FullError(self._seconds_of_waiting())
        self.under_way += 1
        self._idle.clear()
        try:
            yield
        finally:
            self.under_way -= 1
            if not self.under_way:
                self._idle.set()

    def _seconds_of_waiting(self) -> int:
        """Until what is under way is answered, at the rate of the last answers; at least one, at most a minute."""
        if len(self._ended) < 2 or self._ended[-1] == self._ended[0]:
            return 1
        rate = (len(self._ended) - 1) / (self._ended[-1] - self._ended[0])
        return max(1, min(60, math.ceil(self.under_way / rate)))

    def _queue(self, ticket: Ticket) -> None:
        ticket._since = time.perf_counter()
        self._queues[ticket.journey.at].put_nowait(ticket)

    async def _work(self, place: int) -> None:
        """One thread's life: collect, run, pass on."""
        while True:
            batch = await self._collect(place)
            now = time.perf_counter()
            for ticket in batch:
                ticket.queued_seconds += now - ticket._since
            self._end([ticket for ticket in batch if ticket.abandoned])
            batch = self._refuse(place, [ticket for ticket in batch if not ticket.abandoned])
            if batch:
                await self._run(place, batch)

    async def _collect(self, place: int) -> list[Ticket]:
        """What comes within the window, up to a batch."""
        queue, size = self._queues[place], self.cascade.models[place].batch_size
        batch = [await queue.get()]
        deadline = asyncio.get_running_loop().time() + self.window
        while len(batch) < size:
            try:
                async with asyncio.timeout_at(deadline):
                    batch.append(queue.get_nowait() if queue.qsize() else await queue.get())
            except TimeoutError:
                break
        return batch

    def _refuse(self, place: int, batch: list[Ticket]) -> list[Ticket]:
        """Sends what is too long for a model past it; the others."""
        if self.room is None:
            return batch
        reasons = [self.room.refusal(place, ticket.journey.prompt) for ticket in batch]
        refused = [ticket for ticket, reason in zip(batch, reasons, strict=True) if reason]
        for ticket, reason in zip(batch, reasons, strict=True):
            if reason:
                self.cascade.fail(place, [ticket.journey], reason, bad_prompt=True)
        self._pass_on(refused)
        return [ticket for ticket, reason in zip(batch, reasons, strict=True) if not reason]

    async def _run(self, place: int, batch: list[Ticket]) -> None:
        loop = asyncio.get_running_loop()
        journeys = [ticket.journey for ticket in batch]

        def tell(i: int, text: str) -> None:
            loop.call_soon_threadsafe(batch[i].hear, Piece(text))

        on_token = tell if any(ticket.listen is not None for ticket in batch) else None
        started = time.perf_counter()
        try:
            await loop.run_in_executor(
                self._pools[place], self.cascade.step, place, journeys, on_token, lambda i: not batch[i].abandoned
            )
        except Exception as error:
            # Whatever a model does wrong is its stage's failure, and no other's.
            self.observer.broken(place, error)
            left = [journey for journey in journeys if journey.at == place]
            self.cascade.fail(place, left, f"{self.cascade.names[place]} could not be asked ({type(error).__name__})")
        self.observer.batch(place, len(batch), time.perf_counter() - started)
        self._pass_on(batch)

    def _pass_on(self, batch: Sequence[Ticket]) -> None:
        """Tells what a stage made of its questions, and brings them to the next, or to their end."""
        for ticket in batch:
            steps = ticket.journey.steps
            for i, step in enumerate(steps[ticket._told :], ticket._told):
                if not (ticket.abandoned and step.failure):  # what was broken off is no failure of a stage
                    self.observer.step(ticket.journey, step)
                if step.failure:  # from here on it is on its way to a client
                    steps[i] = replace(step, failure=told_failure(step.model, step.failure))
                ticket.hear(steps[i])
            ticket._told = len(ticket.journey.steps)
            if not ticket.journey.done:
                self._queue(ticket)
        self._end([ticket for ticket in batch if ticket.journey.done])

    def _end(self, tickets: Sequence[Ticket]) -> None:
        """The end of questions, answered or dropped."""
        answers = [
            Answer.of(journey)
            if journey.done
            else Answer(
                journey.prompt.question_id, "", None, tuple(journey.steps), journey.policy, "nobody waited for it"
            )
            for journey in (ticket.journey for ticket in tickets)
        ]
        queued = [ticket.queued_seconds for ticket in tickets]
        for ticket, told in zip(tickets, Told.many(self.cascade, answers, queued), strict=True):
            self.under_way -= 1
            self._ended.append(time.perf_counter())
            self.observer.end(told, ticket.abandoned, ticket.journey.aside)
            if not ticket.told.done():  # its waiter may have gone
                ticket.told.set_result(told)
            ticket.hear(told)
        if not self.under_way:
            self._idle.set()
