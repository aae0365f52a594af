"""Connections: what is set on them, how long they may stay silent, and how many there may be."""

from __future__ import annotations

import socket
import threading
import time

import httpx
import pytest

from cascade.serving.connections import BoundedConnection
from cascade.serving.service import Limits
from tests.processes import Forked
from tests.serving.running import Plain, plain_cascade, running

HALF = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-Half:"


def connect(url: str, data: bytes = b"") -> socket.socket:
    host, port = url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)), timeout=30)
    connection.sendall(data)
    return connection


def is_closed(connection: socket.socket) -> bool:
    """Reads until the server closes; what else it may say is no matter here. Waits for half a minute at most."""
    try:
        while connection.recv(4096):
            pass
    except ConnectionError:
        pass
    return True


def is_cut(connection: socket.socket, data: bytes, pause: float) -> bool:
    """Sends again and again until the server closes; for half a minute at most."""
    end = time.monotonic() + 30
    while time.monotonic() < end:
        try:
            connection.sendall(data)
        except ConnectionError:
            return True
        time.sleep(pause)
    return False


@pytest.fixture
def hasty(monkeypatch):
    monkeypatch.setattr(BoundedConnection, "head_seconds", 0.3)
    monkeypatch.setattr(BoundedConnection, "grace_seconds", 0.0)


def test_small_writes_leave_at_once():
    with running(plain_cascade(Plain("a"), Plain("b"))) as server, httpx.Client(base_url=server.url) as client:
        assert client.get("/healthz").status_code == 200
        (connection,) = server.server.server_state.connections
        accepted = connection.transport.get_extra_info("socket")
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


@pytest.mark.parametrize("sent", [b"", b"G", HALF, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n" + HALF])
def test_a_head_that_does_not_come_ends_its_connection(hasty, sent):
    with running(plain_cascade(Plain("a"), Plain("b"))) as server:
        assert is_closed(connect(server.url, sent))


def test_a_head_that_trickles_in_ends_its_connection(hasty):
    with running(plain_cascade(Plain("a"), Plain("b"))) as server, connect(server.url, HALF) as connection:
        assert is_cut(connection, b"x", 0.02)


def test_a_body_without_end_after_its_refusal_ends_its_connection(hasty):
    with running(plain_cascade(Plain("a"), Plain("b")), keys=["k"]) as server:
        head = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999\r\n\r\n"
        with connect(server.url, head) as connection:
            assert is_cut(connection, b" " * 65536, 0.0)


def test_a_question_may_take_longer_than_a_head(hasty):
    gate = threading.Event()
    slow = Plain("slow", p_t=0.95, before=lambda prompts: gate.wait(30) and None)
    with running(plain_cascade(slow, Plain("b"))) as server:
        timer = threading.Timer(1.0, gate.set)
        timer.start()
        assert server.ask("Who?").choices[0].message.content == "A"


def test_half_sent_heads_do_not_keep_others_out(hasty, monkeypatch):
    monkeypatch.setattr(BoundedConnection, "head_seconds", 60.0)
    with running(plain_cascade(Plain("a"), Plain("b")), Limits(connections=20)) as server:
        silent = [connect(server.url, HALF) for _ in range(60)]
        assert httpx.get(f"{server.url}/healthz").status_code == 200
        assert server.ask("Who?").choices[0].message.content == "A"
        assert len(server.server.server_state.connections) <= 20
        assert is_closed(silent[0])
        for connection in silent:
            connection.close()


def test_where_all_are_busy_a_further_connection_is_refused_and_nobody_loses_a_reply(hasty):
    gate = threading.Event()
    slow = Plain("slow", p_t=0.95, before=lambda prompts: gate.wait(30) and None)
    with running(plain_cascade(slow, Plain("b")), Limits(connections=5)) as server:
        found = []
        threads = [threading.Thread(target=lambda: found.append(server.ask("Who?"))) for _ in range(5)]
        for thread in threads:
            thread.start()
        while server.service.batcher.under_way < 5:
            time.sleep(0.01)
        assert is_closed(connect(server.url, HALF))
        gate.set()
        for thread in threads:
            thread.join()
        assert [reply.choices[0].message.content for reply in found] == ["A"] * 5


FEW_FILES = """
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (400, 400))
from cascade.serving.connections import BoundedConnection
from cascade.serve import main
BoundedConnection.grace_seconds, BoundedConnection.head_seconds = 0.0, 3600.0
main(sys.argv[1:])
"""


def test_half_sent_heads_do_not_use_up_a_process_files():
    process = Forked("-c", FEW_FILES, "--port", "0")
    try:
        url = process.stdout.readline().split(" on ")[1].split("/v1")[0]
        silent = [connect(url, HALF) for _ in range(500)]
        assert httpx.get(f"{url}/healthz", timeout=60).status_code == 200
        for connection in silent:
            connection.close()
    finally:
        process.kill()
