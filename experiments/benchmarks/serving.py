"""The server over loopback, asked by the real `openai` client: under load, and by one client that keeps its connection.

    python -m experiments.benchmarks.serving

Servers are processes of their own. Under load every question is asked at once, and the answers are held against
`Cascade.answer_many`'s in this process. By one client the same question is asked again and again, of the server and of
a bare FastAPI route that replies with a constant, both with and without TCP_NODELAY, in turns. Latencies are the
client's, from asking to the whole reply. The last line is JSON.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import httpx
import numpy as np
import openai
import uvicorn
from fastapi import FastAPI
from jsonargparse import ArgumentParser
from openai.types.chat import ChatCompletion

from cascade.runtime import build_cascade
from cascade.runtime.engine import prompt_of
from cascade.serving.listening import bind  # noqa: F401 - for the processes
from cascade.tasks.base import Question
from cascade.tasks.load import load_task
from experiments.benchmarks.side_by_side import report

SERVERS = {
    "cascade": "from cascade.serve import main; main(sys.argv[1:])",
    "cascade_delayed": "import cascade.serve as c; c.bind = delayed; c.main(sys.argv[1:])",
    "bare": "serve_bare(bind)",
    "bare_delayed": "serve_bare(delayed)",
}
"""What each process runs; `delayed` ones are without TCP_NODELAY."""

IN_A_ROW = 30
"""Requests without a pause: after one the client's kernel acknowledges at once for a while, and nothing is delayed."""

_IMPORTS = "import sys; from experiments.benchmarks.serving import bind, delayed, serve_bare; "


def delayed(host: str, port: int) -> socket.socket:
    """A socket as `bind` makes it, but for the protocol by which asyncio sets TCP_NODELAY."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.bind((host, port))
    listener.listen(2048)
    return listener


def serve_bare(make: Any) -> None:
    """Serves a route that replies with a constant of a chat completion's size, until it is stopped."""
    listener = make("127.0.0.1", 0)
    app = FastAPI()
    message = {"role": "assistant", "content": "A", "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    reply = {"id": "1", "object": "chat.completion", "created": 1, "model": "bare", "choices": [choice]}
    reply |= {"usage": usage, "cascade": "x" * 1500}

    @app.post("/v1/chat/completions")
    async def chat(body: dict[str, Any]) -> dict[str, Any]:
        return reply

    @app.get("/healthz")
    async def healthz() -> str:
        return "ok"

    print(f"Serving a bare route on http://127.0.0.1:{listener.getsockname()[1]}/v1 ", flush=True)
    config = uvicorn.Config(app, log_config=None, access_log=False)
    asyncio.run(uvicorn.Server(config).serve(sockets=[listener]))


@contextlib.contextmanager
def process(name: str, *args: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """The address of one of `SERVERS` and its process, which is asked to end after."""
    command = [sys.executable, "-c", _IMPORTS + SERVERS[name], *args]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert server.stdout is not None
    try:
        yield server.stdout.readline().split(" on ")[1].split(" ")[0], server
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(60)
        server.stdout.close()


def latencies(rounds: int, config: list[str]) -> dict[str, float]:
    """Median milliseconds of a chat request and of `/healthz` on a kept connection, by server, and their ratios.

    Args:
        rounds: In each every server is asked `IN_A_ROW` times, in turns; the first round is not counted.
        config: Of the cascade, as arguments.
    """
    messages = [{"role": "user", "content": prompt_of(load_task("mini-mmlu").questions[0]).text}]
    with contextlib.ExitStack() as stack:
        rivals: dict[str, Callable[[], object]] = {}
        for name in SERVERS:
            url, _ = stack.enter_context(process(name, "--port", "0", *config))
            client = stack.enter_context(openai.OpenAI(base_url=url, api_key="none", max_retries=0))
            plain = stack.enter_context(httpx.Client(base_url=url.removesuffix("/v1")))
            rivals[f"{name}_chat"] = partial(client.chat.completions.create, model="cascade", messages=messages)
            rivals[f"{name}_health"] = partial(plain.get, "/healthz")
        seconds: dict[str, list[float]] = {name: [] for name in rivals}
        for turn in range(rounds + 1):
            for name, ask in rivals.items():
                for _ in range(IN_A_ROW):
                    started = time.perf_counter()
                    ask()
                    if turn:
                        seconds[name].append(time.perf_counter() - started)
    found = {f"{name}_ms": round(1000 * median(values), 3) for name, values in seconds.items()}
    for kind in ("chat", "health"):
        for name in ("cascade", "bare"):
            found[f"{name}_{kind}_delayed_ratio"] = round(
                found[f"{name}_delayed_{kind}_ms"] / found[f"{name}_{kind}_ms"], 2
            )
        found[f"cascade_bare_{kind}_ratio"] = round(found[f"cascade_{kind}_ms"] / found[f"bare_{kind}_ms"], 2)
    return found


async def ask_all(url: str, questions: list[Question], at_once: int) -> tuple[list[ChatCompletion], list[float]]:
    """Replies in the questions' order, and the seconds that each took."""
    room = asyncio.Semaphore(at_once)
    seconds = [0.0] * len(questions)
    async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:

        async def ask(i: int) -> ChatCompletion:
            async with room:
                started = time.perf_counter()
                reply = await client.chat.completions.create(
                    model="cascade", messages=[{"role": "user", "content": prompt_of(questions[i]).text}]
                )
                seconds[i] = time.perf_counter() - started
                return reply

        return await asyncio.gather(*map(ask, range(len(questions)))), seconds


def same(reply: ChatCompletion, text: str, model: str | None) -> bool:
    """Whether a reply has the text and the model of the offline answer."""
    told = (reply.model_extra or {})["cascade"]
    return (reply.choices[0].message.content, told["answered_by"]) == (text, model)


def main(args: list[str] | None = None) -> None:
    """The entry point."""
    parser = ArgumentParser(prog="python -m experiments.benchmarks.serving", description=__doc__)
    parser.add_argument("--requests", type=int, default=600, help="questions, one in six open-ended")
    parser.add_argument("--at_once", type=int, default=300, help="requests under way together")
    parser.add_argument("--rounds", type=int, default=10, help=f"turns of {IN_A_ROW} requests by one client")
    parser.add_argument("--config", type=Path, help="YAML of a cascade; by default the miniature Llamas")
    values = parser.parse_args(args)
    open_ended = values.requests // 6
    closed = load_task("mini-mmlu").questions
    step = max(1, len(closed) // (values.requests - open_ended))
    asked = [*closed[::step][: values.requests - open_ended], *load_task("mini-popqa").questions[:open_ended]]
    config = [] if values.config is None else ["--config", str(values.config)]
    started = time.perf_counter()
    with process("cascade", "--port", "0", *config) as (url, server):
        start = time.perf_counter() - started
        asyncio.run(ask_all(url, asked[:10], 10))
        started = time.perf_counter()
        replies, seconds = asyncio.run(ask_all(url, asked, values.at_once))
        whole = time.perf_counter() - started
    offline = build_cascade(values.config).answer_many(asked, progress=False)
    equal = [same(reply, answer.text, answer.model) for reply, answer in zip(replies, offline, strict=True)]
    p50, p95 = np.percentile(seconds, [50, 95])
    print(
        f"{len(asked)} requests, {values.at_once} at once: {whole:.1f} s, {len(asked) / whole:.0f} questions a second"
    )
    report(
        {
            "requests": len(asked),
            "at_once": values.at_once,
            "seconds": round(whole, 3),
            "questions_per_second": round(len(asked) / whole, 1),
            "p50_seconds": round(float(p50), 4),
            "p95_seconds": round(float(p95), 4),
            "answered_once": len({reply.id for reply in replies}) == len(asked),
            "equal_to_offline": sum(equal),
            "all_equal_to_offline": all(equal),
            "seconds_to_ready": round(start, 1),
            "exit_code": server.returncode,
            **latencies(values.rounds, config),
            "cores": os.cpu_count(),
        }
    )


if __name__ == "__main__":
    main()
