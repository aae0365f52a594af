"""Connections: what is set on them, how long they may stay silent, and how many there may be."""

from __future__ import annotations

import socket

import httpx

from tests.serving.running import Plain, plain_cascade, running


def test_small_writes_leave_at_once():
    with running(plain_cascade(Plain("a"), Plain("b"))) as server, httpx.Client(base_url=server.url) as client:
        assert client.get("/healthz").status_code == 200
        (connection,) = server.server.server_state.connections
        accepted = connection.transport.get_extra_info("socket")
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
