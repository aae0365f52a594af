"""The log: nobody waits for who reads it."""

from __future__ import annotations

import json
import os
import signal
import threading

import httpx

from cascade.serving import logs
from cascade.serving.logs import Log
from tests.processes import Forked

REQUESTS = 1500
"""Lines of some 150 bytes: several times what a pipe holds."""


def test_a_log_that_nobody_reads_stops_nobody(tmp_path):
    os.mkfifo(tmp_path / "log")
    process = Forked("-m", "cascade.serve", "--port", "0", stderr=str(tmp_path / "log"))
    try:
        url = process.stdout.readline().split(" on ")[1].split("/v1")[0]
        with httpx.Client(base_url=url, timeout=20) as client:
            for _ in range(REQUESTS):
                assert client.get("/healthz").status_code == 200
            body = {"model": "mini-llama-small", "prompt": "?", "max_tokens": 1}
            assert client.post("/v1/completions", json=body).status_code == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.stdout.close()


def test_lines_come_in_their_order_from_many_threads_and_whole():
    read, write = os.pipe()
    with os.fdopen(read) as reader, os.fdopen(write, "w") as stream:
        log, found = Log(stream), []
        listener = threading.Thread(target=lambda: found.extend(reader.readline() for _ in range(400)))
        listener.start()

        def say(name: int) -> None:
            for i in range(100):
                log.write("said", name=name, i=i, more="é" * 2000)

        threads = [threading.Thread(target=say, args=(name,)) for name in range(4)]
        for thread in threads:
            thread.start()
        for thread in (*threads, listener):
            thread.join(30)
        assert log.flush()
    lines = [json.loads(line) for line in found]
    assert sorted((line["name"], line["i"]) for line in lines) == [(n, i) for n in range(4) for i in range(100)]
    for name in range(4):
        assert [line["i"] for line in lines if line["name"] == name] == list(range(100))


def test_what_is_lost_is_counted(monkeypatch):
    monkeypatch.setattr(logs, "_MOST_WAITING", 10)
    gate = threading.Event()

    class Slow:
        written = ""

        def fileno(self):
            raise OSError

        def write(self, line):
            gate.wait(30)
            self.written += line

        def flush(self):
            pass

    slow = Slow()
    log = Log(slow)
    for i in range(100):
        log.write("said", i=i)
    gate.set()
    assert log.flush()
    log.write("last")
    assert log.flush()
    lines = [json.loads(line) for line in slow.written.splitlines()]
    said = [line["i"] for line in lines if line["event"] == "said"]
    (lost,) = [line["lines"] for line in lines if line["event"] == "lines_lost"]
    assert said == list(range(len(said))) and 10 <= len(said) <= 11
    assert len(said) + lost == 100 and lines[-1]["event"] == "last"


def test_a_closed_stream_ends_nothing(tmp_path):
    stream = (tmp_path / "log").open("w")
    log = Log(stream)
    stream.close()
    log.write("said")
    assert log.flush()
