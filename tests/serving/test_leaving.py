"""Clients that go away: what no stage has begun is not begun, and what is asked of an endpoint is not paid for."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections import Counter

import pytest

from cascade.serving.service import Limits
from tests.serving.running import Plain, plain_cascade, running

REQUESTS = 60


def send(url: str, text: str, stream: bool, **more) -> socket.socket:
    """A connection on which a question has been asked, and nothing read."""
    asked = {"model": "cascade", "messages": [{"role": "user", "content": text}], "stream": stream, **more}
    body = json.dumps(asked).encode()
    host, port = url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)))
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
    connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    return connection


def wait_until(holds, what: str) -> None:
    end = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < end, f"never came: {what}"
        time.sleep(0.01)


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_before_the_reply_is_asked_nothing_more_for(stream):
    entered, gate = threading.Event(), threading.Event()

    def wait(prompts) -> None:
        entered.set()
        gate.wait(30)

    first, last = Plain("first", before=wait), Plain("last", text="Z")
    with running(plain_cascade(first, last), Limits(window=0.0)) as server:
        connections = [send(server.url, f"Question {i}?", stream) for i in range(REQUESTS)]
        batcher = server.service.batcher
        wait_until(lambda: entered.is_set() and batcher.under_way == REQUESTS, "all questions")
        for connection in connections:
            connection.close()
        wait_until(lambda: len(server.lines("request")) == REQUESTS, "a line for each request")
        gate.set()
        wait_until(lambda: not batcher.under_way, "the end of all questions")
        assert len(first.asked) == first.batches[0]  # the batch that was under way as the clients left
        assert last.asked == []
        assert Counter(line["status"] for line in server.lines("request")) == {499: REQUESTS}
        assert {line["error"] for line in server.lines("request")} == {"client_gone"}
        assert server.ask("Who?").choices[0].message.content == "Z"
        assert last.batches == [1]


def test_a_client_that_leaves_in_mid_stream_is_asked_nothing_more_for():
    begun, gate = threading.Event(), threading.Event()

    def half(prompts) -> None:
        begun.set()
        gate.wait(30)
        raise RuntimeError("no more")

    first = Plain("first", p_t=0.95, pieces=("Answer: on", "e "), before=half)
    last = Plain("last", text="Z")
    with running(plain_cascade(first, last)) as server:
        connection = send(server.url, "Who?", stream=True)
        while b"on" not in connection.recv(4096):
            pass
        connection.close()
        wait_until(lambda: len(server.lines("request")) == 1, "the request's line")
        gate.set()
        wait_until(lambda: not server.service.batcher.under_way, "the end of the question")
        assert last.asked == []
