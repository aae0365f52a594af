"""The entry point as a process: it says where it is, ends well, and fails in one line."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
import threading
import time

import httpx
import openai
import pytest

from cascade.serve import main
from experiments.benchmarks.serving import main as load
from tests.processes import Forked, instead_of_popen

SLOW = """
import sys, time
import cascade.engines.local as local
from cascade.serve import main
from experiments.benchmarks.serving import main as load
answer = local.LocalModel.answer
def slow(self, prompts, *more):
    time.sleep(0.3)
    return answer(self, prompts, *more)
local.LocalModel.answer = slow
main(sys.argv[1:])
"""


@pytest.fixture
def slow_server():
    process = Forked("-c", SLOW, "--port", "0")
    url = process.stdout.readline().split(" on ")[1].split("/v1")[0]
    yield process, url
    process.kill()


def test_sigterm_lets_everything_accepted_be_answered_and_ends_with_0(slow_server):
    process, url = slow_server
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
    found: list[str] = []

    def ask(stream: bool) -> None:
        messages = [{"role": "user", "content": "What is 2 plus 2?"}]
        reply = client.chat.completions.create(model="cascade", messages=messages, stream=stream)
        if stream:
            found.append("".join(c.choices[0].delta.content or "" for c in reply if c.choices))
        else:
            found.append(reply.choices[0].message.content)

    threads = [threading.Thread(target=ask, args=(i % 2 == 0,)) for i in range(12)]
    for thread in threads:
        thread.start()
    while b"questions_under_way 12.0" not in httpx.get(f"{url}/metrics").content:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    statuses = set()
    while True:
        try:
            statuses.add(httpx.get(f"{url}/readyz").status_code)
            if 503 in statuses:
                late = httpx.post(f"{url}/v1/completions", json={"model": "cascade", "prompt": "late"})
                assert late.status_code == 503 and late.json()["error"]["code"] == "not_ready"
                break
        except httpx.TransportError:
            break
    for thread in threads:
        thread.join()
    assert process.wait(20) == 0
    assert 503 in statuses
    assert len(found) == 12 and len(set(found)) == 1 and found[0]
    lines = [json.loads(line) for line in process.stderr.read().splitlines()]
    assert [line["status"] for line in lines if line.get("path") == "/v1/chat/completions"] == [200] * 12


def test_a_second_signal_does_not_wait_for_a_stage():
    stuck = SLOW.replace("sleep(0.3)", "sleep(0 if prompts[0].question_id == 'warm-up' else 60)")
    process = Forked("-c", stuck, "--port", "0")
    try:
        url = process.stdout.readline().split(" on ")[1].split("/v1")[0]
        body = {"model": "cascade", "prompt": "?"}
        with contextlib.suppress(httpx.TimeoutException):
            httpx.post(f"{url}/v1/completions", json=body, timeout=0.5)
        process.send_signal(signal.SIGTERM)
        while httpx.get(f"{url}/readyz").status_code != 503:
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 1
        assert "Traceback" not in process.stderr.read()
    finally:
        process.kill()


def test_a_port_that_is_taken_is_one_line_and_2(capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(SystemExit) as caught:
            main(["--port", str(port)])
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and f"127.0.0.1:{port}" in error and "--port" in error


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--port", "70000"], "70000"),
        (["--queue", "0"], "`queue` to be at least 1"),
        (["--config", "nowhere.yaml", "--port", "0"], "nowhere.yaml"),
        (["--api_keys", "/dev/null"], "API keys"),
        (["--batch_milliseconds", "-1"], "batch_milliseconds"),
    ],
)
def test_wrong_arguments_are_one_line_and_2(args, said, capsys):
    with pytest.raises(SystemExit) as caught:
        main(args)
    error = capsys.readouterr().err
    assert caught.value.code == 2
    assert said in error and error.count("\n") == 1


def test_a_model_that_could_answer_no_multiple_choice_is_refused_before_the_server_is_ready(
    shared_data, capsys, tmp_path
):
    """Its tokenizer has " B" as one token and " A" as two; the models behind it would be asked everything."""
    tiny = str(shared_data / "stories260k_hf")
    config = tmp_path / "cascade.yaml"
    config.write_text(json.dumps({"chain": f"{tiny},mini-llama-large", "p_ik": None}))
    with pytest.raises(SystemExit) as ended:
        main(["--config", str(config), "--port", "0"])
    said = capsys.readouterr()
    assert ended.value.code == 2 and "Serving" not in said.out
    assert said.err.count("\n") == 1 and "'A' is '▁' + 'A', 'B' is '▁B'" in said.err and "letters=bare" in said.err


def test_a_host_that_is_no_name_is_one_line_and_2(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--host", "a" * 80])
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("error: Expected to listen on aaa")


def test_a_file_of_keys_that_is_no_text_is_one_line_and_2(tmp_path, capsys):
    path = tmp_path / "keys"
    path.write_bytes(b"\xd0\xff")
    with pytest.raises(SystemExit) as ended:
        main(["--api_keys", str(path)])
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("error: Expected a file of text (UTF-8)")


def test_the_load_script_finds_every_answer_equal_to_offline(capsys, monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", instead_of_popen)
    load(["--requests=30", "--at_once=30", "--rounds=1"])
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["all_equal_to_offline"] and found["answered_once"] and found["requests"] == 30
    assert found["exit_code"] == 0
    assert found["cascade_chat_ms"] > 0 and found["bare_delayed_health_ms"] > 0
