"""Nothing phones home: the commands connect to nobody that they were not told to ask."""

from __future__ import annotations

import json
import signal
import socket

import openai
import pytest

from cascade.run import main as run
from cascade.simulate import main as simulate
from cascade.train import main as train
from tests.processes import Forked

SERVE = """
import json, socket
from cascade.serve import main
asked = []
def refuse(*where, **_):
    asked.append(repr(where))
    raise OSError("no network here")
looked_up = socket.getaddrinfo
def look_up(host, *more, **named):
    return looked_up(host, *more, **named) if host == "127.0.0.1" else refuse(host, *more)
socket.getaddrinfo, socket.create_connection, socket.socket.connect = look_up, refuse, refuse
try:
    socket.create_connection(("127.0.0.1", 9))
except OSError:
    pass
main(["--port", "0"])
print(json.dumps(asked))
"""


@pytest.fixture
def connections(monkeypatch) -> list[object]:
    """Every address that is looked up or connected to; none of them is reached."""
    asked: list[object] = []

    def refuse(*where: object, **_: object) -> None:
        asked.append(where)
        raise OSError("no network here")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    return asked


def test_train_simulate_and_run_connect_to_nobody(connections, made_once, tmp_path):
    with pytest.raises(OSError, match="no network here"):
        socket.create_connection(("127.0.0.1", 9))
    assert len(connections) == 1  # one that is made is seen
    connections.clear()
    made_once.copy(tmp_path, made_once.store("mini-llama-small"))
    train([f"--data.stores={tmp_path / 'stores'}", f"--out={tmp_path / 'probes'}", "--trainer.max_epochs=1"])
    simulate([f"--runs={made_once.main_job()}", f"--out={tmp_path / 'simulated'}"])
    run(["--limit=20", f"--runs={tmp_path}"])
    assert connections == []


def test_serve_connects_to_nobody():
    process = Forked("-c", SERVE)
    try:
        url = process.stdout.readline().split(" on ")[1].split("/v1")[0]
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=60)
        for text in ("What is 2 plus 2?\nA. 3\nB. 4", "Who?"):
            assert client.responses.create(model="cascade", input=text).output_text
            assert client.chat.completions.create(model="cascade", messages=[{"role": "user", "content": text}]).choices
        assert len(list(client.models.list())) == 4
        process.send_signal(signal.SIGTERM)
        asked = json.loads(process.stdout.readline())
    finally:
        process.kill()
    assert asked == ["(('127.0.0.1', 9),)"]  # the one that the test itself made, which is seen
