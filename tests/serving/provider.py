"""An endpoint that writes down what it is sent, byte for byte, and says what a test wants it to say."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


def completion(text: str = "Paris", logprob: float = -0.02, **more: Any) -> dict[str, Any]:
    """A reply in the standard's shape; each word is a token of the same log-probability."""
    words = text.split(" ")
    tokens = [word if i == 0 else f" {word}" for i, word in enumerate(words)]
    content = [
        {"token": t, "logprob": logprob, "bytes": None, "top_logprobs": [{"token": t, "logprob": logprob}]}
        for t in tokens
    ]
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": text, "refusal": None},
        "logprobs": {"content": content},
        "finish_reason": "stop",
    }
    usage = {"prompt_tokens": 11, "completion_tokens": len(tokens), "total_tokens": 11 + len(tokens)}
    reply = {"id": "c-1", "object": "chat.completion", "created": 1, "model": "big", "choices": [choice]}
    return reply | {"usage": usage} | more


@dataclass
class Provider:
    """Serves on a port of its own; ``say`` maps a path and a body to a status, a content type and parts of a body.

    A part that is a number is a pause of so many seconds.
    """

    say: Callable[[str, dict[str, Any]], tuple[int, str, list[bytes | float]]] | None = None
    bodies: list[bytes] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    left: threading.Event = field(default_factory=threading.Event)
    url: str = ""

    @property
    def requests(self) -> list[dict[str, Any]]:
        return [json.loads(body) for body in self.bodies]

    @contextlib.contextmanager
    def running(self) -> Iterator[Provider]:
        server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        self.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()


def says(text: str = "Paris", logprob: float = -0.02, **more: Any):
    """What an endpoint replies that says one thing."""
    body = json.dumps(completion(text, logprob, **more)).encode()
    return lambda path, request: (200, "application/json", [body])


def _handler(provider: Provider) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            provider.bodies.append(body)
            provider.paths.append(self.path)
            provider.headers.append({name.lower(): value for name, value in self.headers.items()})
            status, kind, parts = (provider.say or says())(self.path, json.loads(body))
            self.close_connection = True
            try:
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Connection", "close")
                self.send_header("Retry-After", "7")
                self.end_headers()
                self.wfile.flush()
                for part in parts:
                    self._put(part)
            except OSError:
                provider.left.set()

        def _put(self, part: bytes | float) -> None:
            if isinstance(part, bytes):
                self.wfile.write(part)
                self.wfile.flush()
                return
            end = time.monotonic() + part
            self.connection.settimeout(0.02)
            while time.monotonic() < end:
                with contextlib.suppress(TimeoutError):
                    if not self.connection.recv(1):
                        raise ConnectionError("the client has left")

        def log_message(self, *_: object) -> None:
            pass

    return Handler
