"""An attack on the client of OpenAI-compatible endpoints, by servers of this machine that are hostile on purpose.

    python -m experiments.attacks.endpoints

A line for each attack says whether the client held, and the exit status is 1 if it did not. Nothing leaves the machine;
every server stops by itself, after a bounded count of bytes and seconds.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import logging
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from cascade.engines.attempts import retry_after
from cascade.engines.base import Failure, Price, Prompt, Reply
from cascade.engines.endpoint import Endpoint, SpendingCapError
from cascade.engines.request_cache import RequestCache
from cascade.engines.settings import EndpointConfig
from cascade.errors import CascadeError

KEY = "sk-hostile-0123456789-abcdef"
KEY_VARIABLE = "CASCADE_ATTACK_KEY"
PRICE = Price(2.0, 8.0)
MOST_SECONDS, MOST_BYTES = 20.0, 2**27


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """Nothing: clients hang up on it, as they should."""


@dataclass
class Hostile:
    """A server that answers every request by ``answer``, and keeps what came to it."""

    answer: Callable[[BaseHTTPRequestHandler], None]
    bodies: list[dict[str, Any]] = field(default_factory=list)
    sent: int = 0
    url: str = ""

    @contextlib.contextmanager
    def running(self) -> Iterator[Hostile]:
        """Serves on a port of its own."""
        book, lock = self, threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    book.bodies.append(body)
                with contextlib.suppress(ConnectionError):
                    book.answer(self)

            def do_GET(self) -> None:  # what a followed redirect may become
                with lock:
                    book.bodies.append({})
                self.send_error(404)

            def log_message(self, *_: object) -> None:
                pass

        server = _Server(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        self.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()

    def dollars(self, usage: tuple[int, int] = (10, 1)) -> float:
        """What a server that says less would really bill."""
        return len(self.bodies) * (usage[0] * PRICE.input + usage[1] * PRICE.output) / 1e6


def reply(handler: BaseHTTPRequestHandler, status: int, body: bytes, headers: Sequence[tuple[str, str]] = ()) -> None:
    handler.send_response(status)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", str(len(body)))
    for name, value in headers:
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(body)
    handler.wfile.flush()


def completion(usage: object = None, logprob: float = -0.1, **message: object) -> bytes:
    """A whole answer of one letter."""
    shown = {"token": "A", "logprob": logprob, "top_logprobs": [{"token": "A", "logprob": logprob}]}
    choice = {"message": {"content": "A"} | message, "logprobs": {"content": [shown]}, "finish_reason": "stop"}
    body = {"choices": [choice]}
    if usage is None:
        usage = {"prompt_tokens": 10, "completion_tokens": 1}
    return json.dumps(body | ({} if usage == "missing" else {"usage": usage})).encode()


def endless(status: int) -> Callable[[BaseHTTPRequestHandler], None]:
    """A body without end."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        handler.send_header("Connection", "close")
        handler.end_headers()
        handler.close_connection = True
        until, block = time.monotonic() + MOST_SECONDS, b" " * 2**16
        for _ in range(MOST_BYTES // len(block)):
            if time.monotonic() > until:
                return
            handler.wfile.write(block)

    return answer


def dribble(head: bytes) -> Callable[[BaseHTTPRequestHandler], None]:
    """A byte every tenth of a second, so that the line is never silent for long."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.close_connection = True
        handler.wfile.write(head)
        for _ in range(int(10 * MOST_SECONDS)):
            handler.wfile.write(b"x")
            handler.wfile.flush()
            time.sleep(0.1)

    return answer


def answers(body: bytes, status: int = 200, *headers: tuple[str, str]) -> Callable[[BaseHTTPRequestHandler], None]:
    """The same every time."""
    return lambda handler: reply(handler, status, body, headers)


def prompts(count: int) -> list[Prompt]:
    return [Prompt(f"q{i}", f"Question {i} Answer:", tuple("ABCD")) for i in range(count)]


@dataclass
class Outcome:
    """What became of a call."""

    replies: list[Reply | Failure]
    error: CascadeError | None
    seconds: float
    told: str
    """All that anybody can read of it: replies, the traceback, the log at its finest, and the files."""


def ask(server: Hostile, folder: Path, count: int = 1, **more: Any) -> Outcome:
    """Asks questions, and keeps everything that is left of that."""
    os.environ[KEY_VARIABLE] = KEY
    settings: dict[str, Any] = {
        "endpoint": "m", "base_url": server.url, "api_key_env": KEY_VARIABLE, "cache": folder / "cache.sqlite",
        "timeout": 0.4, "backoff": 0.01, "attempts": 2, "price": PRICE,
    }  # fmt: skip
    model = Endpoint(EndpointConfig(**settings | more))
    log = logging.StreamHandler(io.StringIO())
    root = logging.getLogger()
    level = root.level
    root.addHandler(log)
    root.setLevel(logging.DEBUG)
    started, replies, error, told = time.monotonic(), list[Reply | Failure](), None, ""
    try:
        replies = model.answer(prompts(count))
    except CascadeError as raised:
        error, told = raised, "".join(traceback.format_exception(raised))
    finally:
        root.removeHandler(log)
        root.setLevel(level)
    seconds = time.monotonic() - started
    files = "".join(path.read_bytes().decode(errors="replace") for path in folder.iterdir() if path.is_file())
    model.release()
    return Outcome(replies, error, seconds, told + repr(replies) + log.stream.getvalue() + files)


def spent(folder: Path) -> float:
    return RequestCache(folder / "cache.sqlite").spending().total


def fails(outcome: Outcome, said: str) -> list[str]:
    """A failure in a line of bounded length, soon."""
    wrong = [] if outcome.seconds < 15 else [f"it took {outcome.seconds:.1f} s"]
    reasons = [r.reason for r in outcome.replies if isinstance(r, Failure)]
    if len(reasons) != 1 or said not in reasons[0] or len(reasons[0]) > 400 or "\n" in reasons[0]:
        wrong.append(f"expected a failure that says {said!r}, but got {outcome.replies} and {outcome.error}")
    return wrong


def bodies_without_end(folder: Path) -> list[str]:
    """Of an answer and of an error, both."""
    wrong = []
    for status in (200, 400, 500):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with Hostile(endless(status)).running() as server:
            wrong += fails(ask(server, folder), "longer than")
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        wrong += [f"memory grew by {grown:.0f} MiB at status {status}"] if grown > 64 else []
    return wrong


def compressed_bombs(folder: Path) -> list[str]:
    """A hundred kilobytes that stand for a hundred megabytes."""
    bomb = gzip.compress(bytes(MOST_BYTES), 9)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    wrong = []
    for status in (200, 400):
        with Hostile(answers(bomb, status, ("Content-Encoding", "gzip"))).running() as server:
            wrong += fails(ask(server, folder), "not compressed")
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    return wrong + ([f"memory grew by {grown:.0f} MiB"] if grown > 64 else [])


def dribbles(folder: Path) -> list[str]:
    """Of headers and of a body: five timeouts of 0.4 s are the most for one attempt."""
    wrong = []
    for head in (b"HTTP/1.1 200 OK\r\nX-Slow: ", b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n"):
        with Hostile(dribble(head)).running() as server:
            wrong += fails(ask(server, folder), "timed out")
    return wrong


def redirects(folder: Path) -> list[str]:
    """Neither the key nor the prompt goes to another host."""
    wrong = []
    with Hostile(answers(completion())).running() as other:
        for status in (301, 302, 303, 307, 308):
            where = other.url.replace("127.0.0.1", "localhost") + "/chat/completions"
            with Hostile(answers(b"{}", status, ("Location", where))).running() as server:
                outcome = ask(server, folder, count=3, concurrency=1)
                if outcome.error is None or str(status) not in str(outcome.error) or len(server.bodies) != 1:
                    wrong.append(f"expected status {status} to end the call, but got {outcome.error}")
        wrong += ["a redirect was followed"] if other.bodies else []
    return wrong


def keys_that_are_repeated(folder: Path) -> list[str]:
    """The endpoint says the key wherever it can; it is in no reply, error, log or file."""
    escaped = "".join(f"\\u{ord(c):04x}" for c in KEY)
    said = {
        "answer": answers(completion(content=f"your key is {KEY}")),
        "refusal": answers(completion(refusal=f"not for {KEY}")),
        "escaped": answers(completion(refusal="not for KEY").replace(b"KEY", escaped.encode())),
        "token": answers(completion().replace(b'"token": "A"', b'"token": ' + json.dumps(KEY).encode())),
        "no choice": answers(json.dumps({"choices": KEY, "usage": {}}).encode()),
        "error": answers(json.dumps({"error": {"message": "no " + KEY}}).encode()),
        "no json": answers(b"{" + KEY.encode()),
        "header": answers(completion(), 200, ("X-Key", KEY), ("x-request-id", KEY)),
        "reason": lambda handler: handler.wfile.write(f"HTTP/1.1 418 {KEY}\r\nContent-Length: 0\r\n\r\n".encode()),
        "location": answers(b"{}", 307, ("Location", f"http://localhost/{KEY}")),
        **{
            f"status {status}": answers(json.dumps({"error": {"message": f"no {KEY}", "code": KEY}}).encode(), status)
            for status in (400, 401, 403, 404, 422, 429, 500)
        },
    }
    wrong = []
    for name, answer in said.items():
        inside = folder / name.replace(" ", "-")
        inside.mkdir()
        with Hostile(answer).running() as server:
            told = ask(server, inside).told
        if KEY in told or escaped in told:
            wrong.append(f"the key stands where it was repeated as {name}")
    return wrong


INCREDIBLE = {
    "zero": {"prompt_tokens": 0, "completion_tokens": 0},
    "no answer": {"prompt_tokens": 10, "completion_tokens": 0},
    "negative": {"prompt_tokens": -(10**6), "completion_tokens": -(10**6)},
    "missing": "missing",
    "null": {"prompt_tokens": None, "completion_tokens": None},
}


def usage_that_cannot_be(folder: Path) -> list[str]:
    """A cap of a cent holds against what the server says least: its true bill stays below."""
    wrong = []
    for name, usage in INCREDIBLE.items():
        inside = folder / name.replace(" ", "-")
        inside.mkdir()
        with Hostile(answers(completion(usage))).running() as server:
            outcome = ask(server, inside, count=300, spending_cap=0.01, concurrency=4)
            if not isinstance(outcome.error, SpendingCapError) or len(server.bodies) > 50:
                wrong.append(f"usage {name}: {len(server.bodies)} of 300 were sent, {outcome.error}")
            if not 0 < spent(inside) <= 0.01 or spent(inside) < server.dollars():
                wrong.append(f"usage {name}: ${spent(inside):.6f} are counted")
    return wrong


def probabilities_that_cannot_be(folder: Path) -> list[str]:
    """Above 1, NaN, infinite."""
    wrong = []
    for logprob in (0.5, float("nan"), float("inf"), 1e308):
        with Hostile(answers(completion(logprob=logprob))).running() as server:
            wrong += fails(ask(server, folder), "2 attempts")
    return wrong


def waits_that_are_asked_for(folder: Path) -> list[str]:
    """No provider makes a run wait for more than a minute at a time."""
    asked = (
        "1e9",
        "1e999",
        "inf",
        "-1e9",
        "nan",
        "9" * 5000,
        "Fri, 31 Dec 9999 23:59:59 GMT",
        "Fri, 31 Dec 99999",
        "\0",
    )
    return [f"{value[:40]!r} is waited for" for value in asked if not 0 <= retry_after({"retry-after": value}) <= 60]


def four_processes_under_one_cap(folder: Path) -> list[str]:
    """The server's own bill stays below, whatever the usage that it says."""
    wrong = []
    for name, usage in (("honest", None), ("zero", INCREDIBLE["zero"])):
        path = folder / f"{name}.sqlite"
        with Hostile(answers(completion(usage))).running() as server:
            command = [sys.executable, "-m", "experiments.attacks.endpoints", "--ask", server.url, str(path)]
            environment = os.environ | {KEY_VARIABLE: KEY}
            runs = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) for _ in range(4)]
            said = [run.communicate(timeout=120)[0] for run in runs]
            if not all("SpendingCapError" in line for line in said):
                wrong.append(f"{name}: {said}")
            if (counted := RequestCache(path).spending().total) > 0.01 or server.dollars() > 0.01:
                wrong.append(f"{name}: ${counted:.6f} counted, ${server.dollars():.6f} billed")
    return wrong


ATTACKS = (
    bodies_without_end,
    compressed_bombs,
    dribbles,
    redirects,
    keys_that_are_repeated,
    usage_that_cannot_be,
    probabilities_that_cannot_be,
    waits_that_are_asked_for,
    four_processes_under_one_cap,
)


def _ask_until_the_cap(url: str, cache: str) -> None:
    settings = EndpointConfig(
        endpoint="m",
        base_url=url,
        api_key_env=KEY_VARIABLE,
        cache=Path(cache),
        price=PRICE,
        spending_cap=0.01,
        backoff=0.01,
    )
    model = Endpoint(settings)
    own = [Prompt(f"q{i}", f"Question {i} of {os.getpid()} Answer:", tuple("ABCD")) for i in range(500)]
    try:
        model.answer(own)
    except CascadeError as error:
        print(type(error).__name__, error)


def main() -> None:
    if sys.argv[1:2] == ["--ask"]:
        _ask_until_the_cap(*sys.argv[2:4])
        return
    failed = False
    for attack in ATTACKS:
        started = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            wrong = attack(Path(folder))
        failed |= bool(wrong)
        print(
            f"{'FAILED' if wrong else 'held'}  {attack.__name__.replace('_', ' ')} ({time.monotonic() - started:.1f} s)"
        )
        for line in wrong:
            print(f"        {line}")
    raise SystemExit(int(failed))


if __name__ == "__main__":
    main()
