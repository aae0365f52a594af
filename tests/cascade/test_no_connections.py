"""Nothing phones home: the commands connect to nobody that they were not told to ask."""

from __future__ import annotations

import socket

import pytest

from cascade.run import main as run
from cascade.simulate import main as simulate
from cascade.train import main as train


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
