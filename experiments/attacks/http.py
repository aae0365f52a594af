"""Attacks a server over HTTP, within bounds: each must leave it answering, and lose nothing that was accepted.

    python -m experiments.attacks.http            # a server of its own, some minutes
    python -m experiments.attacks.http --share 0.02

Starts `cascade.serve` with the miniature chain and a key on the loopback interface, tries one attack after the other,
prints a line for each, and ends with an error at the first that gets through.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
from jsonargparse import ArgumentParser

from experiments.attacks.bodies import CHAT, VALID, check, mutated

KEY = "the-attackers-own"
ALLOWED_GROWTH = 64 * 2**20
"""Bytes by which a server may grow while it does the same thing again and again: what allocators keep."""

MARKUP = "<script>alert(1)</script>\r\nx-injected: 1"
PATHS = (
    "/metrics /openapi.json /v1/models /v1/models/cascade /v1/models/x /v1/cascade /v1/chat/completions "
    "/v1/completions /v1 /v1/ /V1/models //v1/models /v1/%6dodels /healthz/ /readyz/../metrics /page.html"
).split()


@dataclass(frozen=True)
class Target:
    """A server that is attacked: its address and its process."""

    url: str
    process: subprocess.Popen[str]

    @property
    def headers(self) -> dict[str, str]:
        """Those of a client that may ask."""
        return {"authorization": f"Bearer {KEY}", "content-type": "application/json"}

    def client(self) -> httpx.AsyncClient:
        """A client that may ask, with any number of connections."""
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=100)
        return httpx.AsyncClient(base_url=self.url, headers=self.headers, limits=limits, timeout=120)

    def connect(self, data: bytes) -> socket.socket:
        """A bare connection on which something has been sent."""
        host, port = self.url.removeprefix("http://").split(":")
        connection = socket.create_connection((host, int(port)), timeout=30)
        connection.sendall(data)
        return connection

    def post(self, body: dict[str, object], version: str = "1.1") -> bytes:
        """A chat request as it is on the wire."""
        text = json.dumps(body).encode()
        head = f"POST {CHAT} HTTP/{version}\r\nHost: localhost\r\nContent-Length: {len(text)}\r\n"
        return (head + "".join(f"{name}: {value}\r\n" for name, value in self.headers.items()) + "\r\n").encode() + text

    @property
    def memory(self) -> int:
        """Bytes that the process holds (Linux)."""
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def check_alive(self) -> None:
        """Fails where the server does not answer, or not as it should."""
        assert httpx.get(f"{self.url}/healthz", timeout=10).status_code == 200
        reply = httpx.post(self.url + CHAT, json=QUESTION, headers=self.headers, timeout=30)
        assert reply.status_code == 200, reply.text


QUESTION: dict[str, object] = {
    "model": "cascade",
    "messages": [{"role": "user", "content": "What is 2 plus 2?\nA. 3\nB. 4"}],
}


@contextlib.contextmanager
def target() -> Iterator[Target]:
    """A server of its own, which ends afterwards."""
    command = [sys.executable, "-m", "cascade.serve", "--port", "0"]
    environment = {**os.environ, "CASCADE_API_KEYS": f"{KEY},another"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        try:
            yield Target(process.stdout.readline().split(" on ")[1].split("/v1")[0], process)
        finally:
            process.kill()


async def _all(at: Target, bodies: list[tuple[str, bytes]], at_once: int) -> list[httpx.Response]:
    room = asyncio.Semaphore(at_once)
    async with at.client() as client:

        async def one(path: str, body: bytes) -> httpx.Response:
            async with room:
                return await client.post(path, content=body)

        return await asyncio.gather(*(one(path, body) for path, body in bodies))


def fuzzed_bodies(at: Target, count: int) -> str:
    """Bodies that are nearly right: each is answered or refused in OpenAI's shape."""
    rng = random.Random(count)
    replies = asyncio.run(_all(at, [mutated(rng) for _ in range(count)], 64))
    return str(dict(Counter(map(check, replies))))


def mixed_requests(at: Target, count: int) -> str:
    """All kinds of requests at the same time: each is answered."""
    bodies = [(path, json.dumps(body).encode()) for path, body in (VALID[i % len(VALID)] for i in range(count))]
    replies = asyncio.run(_all(at, bodies, count))
    assert {check(reply) for reply in replies} == {200}
    return f"{count} answered"


def flood(at: Target, count: int) -> str:
    """More questions at once than there is room for: each is answered, or turned away with 429."""
    body = json.dumps(QUESTION).encode()
    replies = asyncio.run(_all(at, [(CHAT, body)] * count, count))
    found = Counter(reply.status_code for reply in replies)
    assert set(found) <= {200, 429}, found
    assert all(int(reply.headers["retry-after"]) >= 1 for reply in replies if reply.status_code == 429)
    return str(dict(found))


def steady_memory(at: Target, count: int) -> str:
    """The same kinds of requests again and again: what they take is given back."""
    bodies = [(path, json.dumps(body).encode()) for path, body in (VALID[i % len(VALID)] for i in range(count))]
    asyncio.run(_all(at, bodies[: max(50, count // 3)], 32))
    before = at.memory
    asyncio.run(_all(at, bodies, 32))
    grown = at.memory - before
    assert grown < ALLOWED_GROWTH, f"{grown / 2**20:.0f} MiB more after {count} requests"
    return f"{grown / 2**20:+.1f} MiB"


def slow_heads(at: Target, count: int) -> str:
    """Connections that never finish their head, or say nothing: others are answered."""
    with contextlib.ExitStack() as stack:
        for i in range(count):
            stack.enter_context(at.connect((b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: localhost\r\nX:")[i % 3]))
        at.check_alive()
    return f"answered beside {count} silent connections"


def odd_connections(at: Target, count: int) -> str:
    """HTTP/1.0, several requests sent at once on one connection, and noise in place of HTTP."""
    with at.connect(at.post(QUESTION, "1.0")) as connection, connection.makefile("rb") as reader:
        reply = reader.read()
        assert reply.split(b" ", 2)[1] == b"200" and b"answered_by" in reply
    with at.connect(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n" * 20) as connection:
        reply = b""
        while reply.count(b"HTTP/1.1 200 ") < 20:
            part = connection.recv(65536)
            assert part, "the server closed before its last reply"
            reply += part
    rng = random.Random(count)
    for _ in range(count):
        with contextlib.suppress(ConnectionError), at.connect(rng.randbytes(200) + b"\r\n\r\n") as connection:
            assert b" 200 " not in connection.recv(4096).split(b"\r\n")[0]
    at.check_alive()
    return "each in its own reply"


def leaving_clients(at: Target, count: int) -> str:
    """Clients that leave before their reply, and in the middle of it: nothing is left under way."""
    for i in range(count):
        connection = at.connect(at.post({**QUESTION, "stream": i % 2 == 0}))
        if i % 4 == 0:
            connection.recv(64)
        connection.close()
    end = time.monotonic() + 60
    while b"cascade_questions_under_way 0.0" not in httpx.get(f"{at.url}/metrics", headers=at.headers).content:
        assert time.monotonic() < end, "questions of clients that have left are under way"
        time.sleep(0.05)
    at.check_alive()
    return f"{count} left"


def hostile_names(at: Target, count: int) -> str:
    """Markup and line ends in names: they come back as text of JSON, and as nothing else."""
    body = {**QUESTION, "model": MARKUP, MARKUP: 1}
    plain = {name: value for name, value in body.items() if name != MARKUP}
    for sent in (body, plain, {**QUESTION, "cascade": {MARKUP: 1}}, {**QUESTION, "user": MARKUP}):
        reply = httpx.post(at.url + CHAT, json=sent, headers=at.headers)
        assert reply.headers["content-type"] == "application/json" and "x-injected" not in reply.headers
        assert reply.status_code in (200, 400, 404)
    reply = httpx.get(f"{at.url}/%3Cscript%3E/%0d%0ax-injected:1", headers=at.headers)
    assert reply.status_code == 404 and reply.headers["content-type"] == "application/json"
    assert "x-injected" not in reply.headers
    return "text"


def keys_everywhere(at: Target, count: int) -> str:
    """No key, or another: every path but the page's and health's is closed, whether it is there or not."""
    with httpx.Client() as client:
        for path in PATHS:
            for key in ("", KEY[:-1], KEY + "x", KEY.upper(), "\xff"):
                headers = [(b"authorization", f"Bearer {key}".encode("latin-1"))] if key else []
                for method in ("GET", "POST", "HEAD", "OPTIONS", "DELETE"):
                    status = client.request(method, at.url + path, headers=headers).status_code
                    assert status == 401, f"{method} {path} with the key {key!r} is {status}"
    return f"{len(PATHS)} paths closed"


def sigterm_under_load(at: Target, count: int) -> str:
    """The end comes while questions are under way: what was accepted is answered, and the process ends with 0."""

    async def ask() -> Counter[int | str]:
        async with at.client() as client:
            asked = [asyncio.ensure_future(client.post(CHAT, json=QUESTION)) for _ in range(count)]
            await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
            at.process.send_signal(signal.SIGTERM)
            replies = await asyncio.gather(*asked, return_exceptions=True)
        # Who has not been heard yet may find nobody there; who was accepted is not let down.
        return Counter("not heard" if isinstance(r, httpx.ConnectError) else _status(r) for r in replies)

    found = asyncio.run(ask())
    assert set(found) <= {200, 503, "not heard"} and found[200], found
    assert at.process.wait(60) == 0
    return str(dict(found))


def _status(reply: httpx.Response | BaseException) -> int | str:
    return repr(reply) if isinstance(reply, BaseException) else reply.status_code


ATTACKS = {
    fuzzed_bodies: 6000,
    mixed_requests: 500,
    flood: 1500,
    steady_memory: 3000,
    slow_heads: 1000,
    odd_connections: 500,
    leaving_clients: 800,
    hostile_names: 1,
    keys_everywhere: 1,
    sigterm_under_load: 200,
}
"""Each with how often it is tried. The last one ends the server."""


def main(args: list[str] | None = None) -> None:
    """The entry point."""
    parser = ArgumentParser(prog="python -m experiments.attacks.http", description=__doc__)
    parser.add_argument("--share", type=float, default=1.0, help="of the requests of each attack")
    share = parser.parse_args(args).share
    with target() as at:
        for attack, count in ATTACKS.items():
            started = time.perf_counter()
            found = attack(at, max(1, round(count * share)))
            print(f"{attack.__name__}: {found} ({time.perf_counter() - started:.1f} s)", flush=True)
            assert attack is sigterm_under_load or at.process.poll() is None, "the server has ended"


if __name__ == "__main__":
    main()
