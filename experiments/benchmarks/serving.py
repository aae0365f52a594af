"""The server under load: every question at once, over loopback, by the real `openai` client.

    python -m experiments.benchmarks.serving

The server is a process of its own; the answers are held against `Cascade.answer_many`'s in this one. Latencies are the
client's, from asking to the whole reply, with all requests under way together. The last line is JSON.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import openai
from jsonargparse import ArgumentParser
from openai.types.chat import ChatCompletion

from cascade.engines.base import prompt_of
from cascade.runtime.build import build_cascade
from cascade.tasks.base import Question
from cascade.tasks.load import load_task
from experiments.benchmarks.side_by_side import report


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
    parser.add_argument("--config", type=Path, help="YAML of a cascade; by default the miniature Llamas")
    values = parser.parse_args(args)
    open_ended = values.requests // 6
    closed = load_task("mini-mmlu").questions
    step = max(1, len(closed) // (values.requests - open_ended))
    asked = [*closed[::step][: values.requests - open_ended], *load_task("mini-popqa").questions[:open_ended]]
    config = [] if values.config is None else ["--config", str(values.config)]
    command = [sys.executable, "-m", "cascade.serve", "--port", "0", *config]
    started = time.perf_counter()
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert server.stdout is not None
    try:
        line = server.stdout.readline()
        start = time.perf_counter() - started
        url = line.split(" on ")[1].split(" ")[0]
        asyncio.run(ask_all(url, asked[:10], 10))
        started = time.perf_counter()
        replies, seconds = asyncio.run(ask_all(url, asked, values.at_once))
        whole = time.perf_counter() - started
    finally:
        server.send_signal(signal.SIGTERM)
        code = server.wait(60)
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
            "exit_code": code,
            "cores": os.cpu_count(),
        }
    )


if __name__ == "__main__":
    main()
