"""Endpoints against a server that misbehaves on purpose, and that keeps a book of its own."""

from __future__ import annotations

import json
import signal
import sqlite3
import threading
import time
from collections import Counter
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from jsonargparse import ArgumentParser

from cascade.engines.attempts import retry_after
from cascade.engines.base import Failure, Price, Prompt, Reply
from cascade.engines.endpoint import Endpoint, SpendingCapError
from cascade.engines.settings import EndpointConfig
from cascade.errors import CascadeError
from tests.cascade.faulty_server import BILLED_FAULTS, FAULTS, FaultyServer, good_body, right_letter, seeded_faults
from tests.processes import Forked

PRICE = (2.0, 8.0)
KEY = "sk-a-secret-that-is-nowhere"


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


@pytest.fixture
def server():
    with FaultyServer().running() as server:
        yield server


def prompts(n: int) -> list[Prompt]:
    return [Prompt(f"q{i}", f"Question {i} Answer:", tuple("ABCD")) for i in range(n)]


def endpoint(server: FaultyServer, path, **more) -> Endpoint:
    settings = {"base_url": server.url, "timeout": 1.0, "backoff": 0.01, "cache": path / "cache.sqlite"} | more
    needs_confidence = settings.pop("needs_confidence", True)
    return Endpoint(configured(settings), needs_confidence)


def configured(settings: dict) -> EndpointConfig:
    """Settings with a price as two numbers."""
    values = {"endpoint": settings.get("name", "m")} | {name: v for name, v in settings.items() if name != "name"}
    return EndpointConfig(**values | ({"price": Price(*values["price"])} if "price" in values else {}))


def stored_questions(path) -> list[int]:
    """Read with SQLite itself, from the requests as they lie there."""
    connection = sqlite3.connect(path / "cache.sqlite")
    rows = connection.execute("SELECT request FROM responses").fetchall()
    connection.close()
    return sorted(int(json.loads(row)["messages"][0]["content"].split()[1]) for (row,) in rows)


def dollars_in(path) -> dict[str, float]:
    connection = sqlite3.connect(path / "cache.sqlite")
    spent = dict(connection.execute("SELECT kind, dollars FROM spending"))
    (spent["reserved"],) = connection.execute("SELECT total(dollars) FROM reservations").fetchone()
    connection.close()
    return spent


RUN = """
import json, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in what a shell started in the background
from cascade.errors import CascadeError
from cascade.engines.base import Prompt
from cascade.engines.settings import read_settings
order, settings = json.loads(sys.argv[1]), json.loads(sys.argv[2])
asked = [Prompt(f"q{i}", f"Question {i} Answer:", tuple("ABCD")) for i in order]
print("ready", flush=True)
try:
    print(json.dumps([r.text for r in read_settings(settings).build().answer(asked)]))
except CascadeError as error:
    print(type(error).__name__, error)
"""


def process(server: FaultyServer, path, order: list[int], **more) -> Forked:
    settings = {"endpoint": "m", "base_url": server.url, "timeout": 1.0, "backoff": 0.01}
    settings |= {"cache": str(path / "cache.sqlite")} | more
    if "price" in settings:
        settings["price"] = asdict(Price(*settings["price"]))
    return Forked("-c", RUN, json.dumps(order), json.dumps(settings))


def finished(run: Forked) -> str:
    out, err = run.communicate(timeout=60)
    assert run.returncode == 0, err
    return out.split("ready\n", 1)[1]


def wait_until(holds, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.005)


# Faults


def test_every_question_is_answered_once_whatever_the_server_does(tmp_path):
    fault = seeded_faults(seed=1, rate=0.015)
    asked = prompts(1000)
    with FaultyServer(fault=fault).running() as server:
        model = endpoint(server, tmp_path, price=PRICE, concurrency=16)
        replies = model.answer(asked)
        happened = Counter(entry.what for entry in server.book)
        assert all(isinstance(reply, Reply) for reply in replies)
        assert [reply.text for reply in replies] == [right_letter(i) for i in range(1000)]
        assert all(happened[name] > 0 for name in FAULTS)
        assert sorted(server.billed()) == stored_questions(tmp_path) == list(range(1000))
        by_hand = sum((10 + i % 5) * 2.0 + 8.0 for i in range(1000)) / 1e6
        assert dollars_in(tmp_path)["billed"] == pytest.approx(by_hand)
        assert sum(reply.dollars for reply in replies) == pytest.approx(by_hand)
        assert dollars_in(tmp_path)["reserved"] == 0
        sent = len(server.requests)
        again = endpoint(server, tmp_path, price=PRICE).answer(asked)
        assert len(server.requests) == sent
        assert [r.text for r in again] == [r.text for r in replies]
        assert all(a.cached and not r.cached for a, r in zip(again, replies, strict=True))
        assert [(a.dollars, a.seconds) for a in again] == [(r.dollars, r.seconds) for r in replies]


def test_a_question_that_never_works_is_a_failure_that_names_it_and_the_others_are_kept(tmp_path):
    with FaultyServer(fault=lambda question, attempt: "500" if question == 3 else "ok").running() as server:
        replies = endpoint(server, tmp_path, attempts=4).answer(prompts(6))
        assert isinstance(replies[3], Failure)
        assert replies[3].question_id == "q3"
        assert "4 attempts" in replies[3].reason and "500" in replies[3].reason and not replies[3].bad_prompt
        assert KEY not in replies[3].reason
        assert [r.text for i, r in enumerate(replies) if i != 3] == [right_letter(i) for i in range(6) if i != 3]
        assert server.attempts[3] == 4


@pytest.mark.parametrize("status", ["400", "413", "422"])
def test_a_request_that_is_refused_is_not_sent_again(tmp_path, status):
    with FaultyServer(fault=lambda question, attempt: status if question == 1 else "ok").running() as server:
        replies = endpoint(server, tmp_path, price=PRICE).answer(prompts(3))
        assert isinstance(replies[1], Failure) and replies[1].question_id == "q1" and status in replies[1].reason
        assert replies[1].bad_prompt
        assert server.attempts[1] == 1
        assert dollars_in(tmp_path)["perhaps billed"] == dollars_in(tmp_path)["reserved"] == 0


@pytest.mark.parametrize(
    ("status", "names"), [("401", "OPENAI_API_KEY"), ("402", "balance"), ("403", "rights"), ("404", "'m'")]
)
def test_a_refused_key_or_model_ends_the_call_at_once(tmp_path, status, names):
    with FaultyServer(fault=lambda question, attempt: status).running() as server:
        with pytest.raises(CascadeError, match=names) as error:
            endpoint(server, tmp_path, concurrency=2).answer(prompts(50))
        assert "\n" not in str(error.value) and KEY not in str(error.value) and status in str(error.value)
        assert len(server.requests) <= 2  # those that were under way


def test_a_server_that_is_not_there_is_a_failure_and_costs_nothing(tmp_path, server):
    model = endpoint(server, tmp_path, base_url="http://127.0.0.1:9/v1", price=PRICE, attempts=2, spending_cap=1.0)
    (reply,) = model.answer(prompts(1))
    assert isinstance(reply, Failure) and reply.question_id == "q0"
    assert dollars_in(tmp_path) == {"billed": 0, "perhaps billed": 0, "reserved": 0}


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_server_of_this_machine_that_is_not_running_is_found_out_once_and_not_by_every_question(tmp_path, host):
    """Six attempts at 200 questions, eight at once, would pause for about three minutes."""
    model = Endpoint(EndpointConfig("m", f"http://{host}:9/v1", cache=tmp_path / "cache.sqlite"))
    started = time.monotonic()
    replies = model.answer(prompts(200))
    assert time.monotonic() - started < 15
    assert [reply.question_id for reply in replies] == [f"q{i}" for i in range(200)]
    assert all("Connect" in reply.reason for reply in replies)
    tried = Counter(reply.reason.split()[0] for reply in replies)
    assert set(tried) <= {"1", "2"} and tried["2"] <= 16


def test_a_server_that_was_there_before_and_one_elsewhere_are_tried_as_often_as_is_said(tmp_path):
    with FaultyServer().running() as server:
        before = endpoint(server, tmp_path)
        before.answer(prompts(1))
        before.release()  # of a connection that is open
    elsewhere = Endpoint(EndpointConfig("m", "http://0.0.0.0:9/v1", cache=tmp_path / "other.sqlite", backoff=0.01))
    for model in (before, elsewhere):
        replies = model.answer(prompts(3)[1:])
        assert [reply.reason.split(",")[0] for reply in replies] == ["6 attempts"] * 2


def test_retry_after_is_waited_for(tmp_path):
    server = FaultyServer(fault=lambda question, attempt: "429" if attempt == 1 else "ok", retry_after="0.4")
    with server.running():
        (reply,) = endpoint(server, tmp_path).answer(prompts(1))
        assert reply.text == right_letter(0)
        assert server.book[1].at - server.book[0].at >= 0.4


def test_retry_after_may_be_a_date_and_is_bounded():
    def after(**how):
        return format_datetime(datetime.now(UTC) + timedelta(**how), usegmt=True)

    assert 27 <= retry_after({"retry-after": after(seconds=30)}) <= 30
    assert retry_after({"retry-after": after(hours=3)}) == 60
    assert retry_after({"retry-after": "86400"}) == 60
    assert retry_after({"retry-after": "inf"}) == 60
    for nothing in ("soon", "nan", "-5", after(seconds=-30)):
        assert retry_after({"retry-after": nothing}) == 0
    assert retry_after({}) == 0


# Several threads, several processes


def test_identical_requests_are_sent_once(tmp_path, server):
    server.delay = 0.05
    replies = endpoint(server, tmp_path, price=PRICE).answer(prompts(1) * 40)
    assert len(server.requests) == 1
    assert Counter(reply.cached for reply in replies) == {False: 1, True: 39}
    assert {reply.dollars for reply in replies} == {(10 * 2.0 + 8.0) / 1e6}


def test_processes_share_a_cache_and_its_spending(tmp_path, server):
    orders = [list(range(150)), list(range(149, -1, -1))]
    runs = [process(server, tmp_path, order, price=PRICE) for order in orders]
    for run, order in zip(runs, orders, strict=True):
        assert json.loads(finished(run)) == [right_letter(i) for i in order]
    assert stored_questions(tmp_path) == list(range(150))
    assert dollars_in(tmp_path)["billed"] == pytest.approx(server.dollars(PRICE))
    # What both sent at the same moment is paid twice; no more than that.
    assert 150 <= len(server.billed()) <= 150 + 8
    sent = len(server.requests)
    assert all(reply.cached for reply in endpoint(server, tmp_path).answer(prompts(150)))
    assert len(server.requests) == sent


def test_what_a_killed_run_had_stored_is_never_sent_again(tmp_path, server):
    server.delay = 0.01
    run = process(server, tmp_path, list(range(300)), price=PRICE)
    wait_until(lambda: len(server.billed()) >= 60)
    run.kill()
    run.communicate()
    time.sleep(0.1)  # what was on its way to the server arrives
    stored, sent = stored_questions(tmp_path), len(server.requests)
    assert 40 <= len(stored) < 300
    # Of what was billed, only what was on the wire at that moment is lost, and the cap goes on counting it.
    assert len(server.billed()) - len(stored) <= 8
    assert sum(dollars_in(tmp_path).values()) >= server.dollars(PRICE)
    replies = endpoint(server, tmp_path, price=PRICE).answer(prompts(300))
    assert [reply.text for reply in replies] == [right_letter(i) for i in range(300)]
    resent = {int(r["messages"][0]["content"].split()[1]) for r in server.requests[sent:]}
    assert resent == set(range(300)) - set(stored)


def test_ctrl_c_ends_within_the_timeout_and_keeps_what_was_under_way(tmp_path, server):
    server.delay = 0.3
    run = process(server, tmp_path, list(range(200)))
    wait_until(lambda: len(server.requests) >= 12)
    run.send_signal(signal.SIGINT)
    run.communicate(timeout=20)
    assert run.returncode != 0
    assert len(server.requests) < 40
    assert stored_questions(tmp_path) == sorted(server.billed())


# The spending cap


@pytest.mark.parametrize("runs", [1, 2])
def test_the_servers_own_bill_never_passes_the_cap(tmp_path, runs):
    cap = 0.004
    with FaultyServer(fault=seeded_faults(seed=2, rate=0.01), hang=0.6).running() as server:
        settings = {"price": PRICE, "spending_cap": cap, "timeout": 0.5}
        orders = [list(range(run, 250, runs)) for run in range(runs)]
        said = [finished(run) for run in [process(server, tmp_path, order, **settings) for order in orders]]
        assert server.dollars(PRICE) <= cap
        for line in said:
            assert line.startswith("SpendingCapError") and f"${cap}" in line and "question 'q" in line
        assert sum(dollars_in(tmp_path).values()) <= cap
        assert stored_questions(tmp_path) == sorted(server.billed())
        # The bounds of requests that cost less are given back: the cap is used up, but for about one bound.
        assert len(server.billed()) > 20
        sent = len(server.requests)
        replies = endpoint(server, tmp_path, price=PRICE, spending_cap=10.0).answer(prompts(250))
        assert [reply.text for reply in replies] == [right_letter(i) for i in range(250)]
        assert len(set(server.billed())) == len(server.billed()) == 250
        assert sent < len(server.requests)


def test_the_cap_counts_what_was_spent_through_the_file_before_and_by_other_models(tmp_path, server):
    endpoint(server, tmp_path, name="before", price=(1000.0, 0.0)).answer(prompts(1))  # 10 tokens: $0.01
    with pytest.raises(SpendingCapError, match=r"\$0\.010000 of it is spent or reserved"):
        endpoint(server, tmp_path, price=PRICE, spending_cap=0.0101).answer(prompts(1))
    assert len(server.requests) == 1


@pytest.mark.parametrize("fault", [*sorted(BILLED_FAULTS), "504"])
def test_an_attempt_that_may_have_been_billed_stays_counted_at_its_bound(tmp_path, fault):
    server = FaultyServer(fault=lambda question, attempt: fault if question == 1 and attempt == 1 else "ok")
    with server.running():
        model = endpoint(server, tmp_path, price=PRICE, timeout=0.4, concurrency=1)
        assert [reply.text for reply in model.answer(prompts(2))] == [right_letter(0), right_letter(1)]
    spent = dollars_in(tmp_path)
    assert spent["billed"] == pytest.approx((21 * 2.0 + 2 * 8.0) / 1e6)
    assert spent["perhaps billed"] > (11 * 2.0 + 8.0) / 1e6


@pytest.mark.parametrize("fault", ["429", "500", "503"])
def test_an_attempt_that_was_refused_is_not_counted(tmp_path, fault):
    with FaultyServer(fault=lambda question, attempt: fault if attempt == 1 else "ok").running() as server:
        endpoint(server, tmp_path, price=PRICE).answer(prompts(1))
    assert dollars_in(tmp_path) == {"billed": pytest.approx(28e-6), "perhaps billed": 0, "reserved": 0}


def test_a_provider_that_generates_more_than_it_was_allowed_is_stopped_under_a_cap(tmp_path):
    def body(request):
        return good_body(request, 0) | {"usage": {"prompt_tokens": 10, "completion_tokens": 5000}}

    with FaultyServer(body=body).running() as server:
        model = endpoint(server, tmp_path, price=PRICE, spending_cap=1.0, concurrency=1)
        with pytest.raises(CascadeError, match="max_completion_tokens"):
            model.answer(prompts(5))
        assert len(server.requests) == 1


# Settings, keys and files


def test_the_key_is_sent_and_written_nowhere(tmp_path, server, caplog):
    caplog.set_level("DEBUG")
    model = endpoint(server, tmp_path)
    model.answer(prompts(3))
    model.release()
    assert {headers["authorization"] for headers in server.headers} == {f"Bearer {KEY}"}
    assert all(KEY.encode() not in path.read_bytes() for path in tmp_path.iterdir())
    assert KEY not in caplog.text and KEY not in repr(vars(model))
    assert all(reply.cached for reply in model.answer(prompts(3)))  # opens again


def test_a_key_is_needed_for_other_machines_only(tmp_path, server, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    assert endpoint(server, tmp_path).answer(prompts(1))[0].text == right_letter(0)
    model = endpoint(server, tmp_path, base_url="https://endpoint.invalid/v1", api_key_env="ELSEWHERE_KEY")
    with pytest.raises(CascadeError, match="variable ELSEWHERE_KEY to hold the key for https://endpoint.invalid/v1"):
        model.answer(prompts(1))


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({"spending_cap": 1.0}, "`price`"),
        ({"price": (1.0, -1.0)}, "`price`"),
        ({"price": PRICE, "spending_cap": -1.0}, "`spending_cap`"),
        ({"kind": "responses"}, "`kind`"),
        ({"base_url": "https://me:secret@host/v1"}, "without a password"),
        ({"base_url": "localhost:8000"}, "`base_url`"),
        ({"concurrency": 0}, "`concurrency`"),
        ({"attempts": 0}, "`attempts`"),
        ({"timeout": 0.0}, "`timeout`"),
        ({"limit_field": "max_length"}, "`limit_field`"),
        ({"options": {"n": 2}}, "`options`"),
        ({"options": {"max_completion_tokens": None}}, "max_completion_tokens"),
    ],
)
def test_settings_that_cannot_be_are_named(tmp_path, settings, names):
    with pytest.raises(CascadeError, match=names) as error:
        Endpoint(configured({"cache": tmp_path / "cache.sqlite", **settings}))
    assert "secret" not in str(error.value)


def test_all_of_it_can_be_written_in_yaml(tmp_path, server):
    yaml = f"""
        endpoint: m
        cache: {tmp_path}/cache.sqlite
        base_url: {server.url}
        kind: completions
        price: {{input: 2.0, output: 8.0}}
        spending_cap: 1
        top_logprobs: 20
        options: {{seed: 5, temperature: null}}
    """
    parser = ArgumentParser()
    parser.add_class_arguments(EndpointConfig, "model")
    parser.add_argument("--config", action="config")
    (tmp_path / "model.yaml").write_text("model:" + yaml)
    model = parser.instantiate(parser.parse_args([f"--config={tmp_path}/model.yaml"])).model.build()
    (reply,) = model.answer(prompts(1))
    assert (reply.text, reply.dollars) == (right_letter(0), pytest.approx(28e-6))
    prompt = "Question 0 Answer:"
    assert server.requests == [{"model": "m", "prompt": prompt, "max_tokens": 1, "logprobs": 20, "seed": 5}]


def test_a_prompt_that_is_no_text_is_named(tmp_path, server):
    with pytest.raises(CascadeError, match="'q9'"):
        endpoint(server, tmp_path).answer([Prompt("q9", "half a pair: \ud83d")])


def test_no_thread_is_left(tmp_path, server):
    before = set(threading.enumerate())
    endpoint(server, tmp_path).answer(prompts(20))
    assert not [t for t in set(threading.enumerate()) - before if t.name.startswith("endpoint")]
