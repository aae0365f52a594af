"""A real server on a real port in this process, and models of a few lines to put behind it."""

from __future__ import annotations

import asyncio
import io
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import openai

from cascade.engines.base import OPEN, Engine, Failure, Prompt, Reply
from cascade.policies.base import Thresholds
from cascade.policies.thresholds import ThresholdPolicy
from cascade.runtime import Cascade
from cascade.serving.listening import bind
from cascade.serving.logs import Log
from cascade.serving.origins import Origins
from cascade.serving.server import Server
from cascade.serving.service import Limits, Service
from cascade.serving.shadow import Journal


@dataclass
class Plain(Engine):
    """A model that says one thing with one confidence; what it is asked before it replies may block or raise."""

    identity = {}  # noqa: RUF012 - never changed
    name: str
    text: str = "A"
    p_t: float = 0.5
    before: Callable[[list[Prompt]], None] = lambda prompts: None
    pieces: tuple[str, ...] = ()
    batch_size: int = 8
    parallel: int = 1
    parameters: int | None = 10
    num_layers: int | None = None
    hidden_size: int | None = None
    probe_layer: int | None = None
    probe_parameters: int = 0
    asked: list[str] = field(default_factory=list)
    batches: list[int] = field(default_factory=list)

    def answer(self, prompts, gate=OPEN, on_token=None) -> list[Reply | Failure]:
        self.asked += [prompt.text for prompt in prompts]
        self.batches.append(len(prompts))
        for i in range(len(prompts)):
            for piece in self.pieces if on_token is not None else ():
                on_token(i, piece)
        self.before(list(prompts))
        return [Reply(self.text, 5, 1, 0.001, p_t=self.p_t) for _ in prompts]

    def release(self) -> None:
        pass


def broken(prompts: list[Prompt]) -> None:
    raise RuntimeError("a secret of the prompt: " + prompts[0].text)


def plain_cascade(*models: Plain, p_t: float = 0.9) -> Cascade:
    return Cascade(models, ThresholdPolicy.whole([Thresholds(p_t, None)] * (len(models) - 1)))


@dataclass
class Running:
    """A server that runs."""

    url: str
    service: Service
    log: io.StringIO
    server: Server

    def client(self, key: str = "none") -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, timeout=30)

    def ask(self, text: str = "Who?", model: str = "cascade", **more):
        return self.client().chat.completions.create(model=model, messages=[{"role": "user", "content": text}], **more)

    def lines(self, event: str) -> list[dict]:
        assert self.service.log.flush()
        return [line for line in map(json.loads, self.log.getvalue().splitlines()) if line["event"] == event]


@contextmanager
def running(
    cascade: Cascade,
    limits: Limits | None = None,
    keys=(),
    log_text: bool = False,
    origins: Origins | None = None,
    journal: Journal | None = None,
    state: Path | None = None,
) -> Iterator[Running]:
    log = io.StringIO()
    service = Service(cascade, limits, keys, Log(log, log_text), origins, journal, state)
    server = Server(service, bind("127.0.0.1", 0))
    ready = threading.Event()
    thread = threading.Thread(
        target=lambda: asyncio.run(server.run_until_finished(lambda url: ready.set())), daemon=True
    )
    thread.start()
    assert ready.wait(60)
    try:
        yield Running(server.url, service, log, server)
    finally:
        server.finish()
        thread.join(30)
    assert not thread.is_alive()
