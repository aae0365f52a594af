"""The file of replies and spending: opened by many at once, and files that are not what they should be."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
import time

import pytest

from cascade.engines import request_cache
from cascade.engines.request_cache import RequestCache, Spending, StoredResponse, canonical_json, request_key
from cascade.errors import CascadeError
from tests.cascade.faulty_server import FaultyServer, good_body, right_letter
from tests.cascade.test_endpoint import PRICE, endpoint, prompts

SPEND = """
import sys
from pathlib import Path
from cascade.engines.request_cache import RequestCache, StoredResponse
me, granted = sys.argv[2], 0
print("ready", flush=True)
sys.stdin.readline()
cache = RequestCache(Path(sys.argv[1]))
for i in range(40):
    reservation = cache.reserve(1.0, cap=100.0)
    if reservation is not None:
        cache.store(f"{me}/{i}", {"i": i}, StoredResponse("{}", 0.0, 1.0), reservation)
        granted += 1
print(granted)
"""


@pytest.fixture
def server():
    with FaultyServer().running() as server:
        yield server


def test_processes_that_open_a_new_file_at_once_spend_exactly_the_cap(tmp_path):
    path = tmp_path / "cache.sqlite"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    runs = [subprocess.Popen([sys.executable, "-c", SPEND, str(path), str(i)], **pipes) for i in range(4)]
    for run in runs:
        assert run.stdout.readline() == "ready\n"
    for run in runs:
        run.stdin.write("go\n")
        run.stdin.flush()
    said = [run.communicate(timeout=60) for run in runs]
    assert sum(int(out) for out, _ in said) == 100, said
    cache = RequestCache(path)
    assert len(cache) == 100
    assert cache.spending() == Spending(billed=100.0, perhaps_billed=0.0, reserved=0.0)


def test_a_reservation_counts_until_it_is_settled(tmp_path):
    cache = RequestCache(tmp_path / "new" / "cache.sqlite")
    first, second, third = (cache.reserve(dollars, cap=1.0) for dollars in (0.5, 0.25, 0.25))
    assert None not in (first, second, third)
    assert cache.reserve(0.01, cap=1.0) is None
    assert cache.spending() == Spending(0.0, 0.0, 1.0)
    cache.release(first)
    cache.charge(second)
    cache.store("key", {}, StoredResponse("{}", 1.5, 0.125), third)
    assert cache.spending() == Spending(0.125, 0.25, 0.0)
    assert cache.reserve(0.625, cap=1.0) is not None
    assert cache.get("key") == StoredResponse("{}", 1.5, 0.125)
    assert cache.get("another") is None


def test_a_request_is_known_by_what_it_says_and_where_it_goes():
    request = {"model": "m", "prompt": "é\n", "stop": ["a", "b"]}
    key = request_key("https://host/v1/completions", request)
    assert key == request_key("https://host/v1/completions", dict(reversed(request.items())))
    assert key != request_key("https://other/v1/completions", request)
    assert key != request_key("https://host/v1/completions", request | {"stop": ["b", "a"]})
    assert canonical_json(request) == '{"model":"m","prompt":"é\\n","stop":["a","b"]}'


def test_a_file_of_another_kind_is_named_and_left_as_it_is(tmp_path, server):
    path = tmp_path / "cache.sqlite"
    path.write_bytes(b"not a database, but somebody's notes" * 100)
    before = path.read_bytes()
    with pytest.raises(CascadeError, match=r"cache\.sqlite"):
        endpoint(server, tmp_path).answer(prompts(1))
    assert path.read_bytes() == before
    path.unlink()
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE recipes (name TEXT)")
    connection.commit()
    connection.close()
    before = path.read_bytes()
    with pytest.raises(CascadeError, match=r"cache\.sqlite.*another program"):
        endpoint(server, tmp_path).answer(prompts(1))
    assert path.read_bytes() == before
    assert server.requests == []


def test_a_file_that_was_damaged_is_named(tmp_path, server):
    model = endpoint(server, tmp_path)
    model.answer(prompts(200))
    model.release()
    path = tmp_path / "cache.sqlite"
    data = bytearray(path.read_bytes())
    data[8192:-4096] = bytes(len(data) - 4096 - 8192)
    path.write_bytes(data)
    with pytest.raises(CascadeError, match=r"cache\.sqlite"):
        endpoint(server, tmp_path).answer(prompts(200))


def test_a_stored_reply_that_was_changed_is_named(tmp_path, server):
    model = endpoint(server, tmp_path)
    model.answer(prompts(1))
    model.release()
    with sqlite3.connect(tmp_path / "cache.sqlite") as connection:
        connection.execute("UPDATE responses SET response = replace(response, 'usage', 'abuse')")
    with pytest.raises(CascadeError, match=r"cache\.sqlite.*'q0'.*usage"):
        model.answer(prompts(1))


@pytest.fixture
def hold(tmp_path):
    """Takes the lock of the file, as another process might, until it is told to let go."""
    others = []

    def take():
        other = sqlite3.connect(tmp_path / "cache.sqlite", isolation_level=None, check_same_thread=False)
        other.execute("BEGIN EXCLUSIVE")
        others.append(other)
        return other

    yield take
    for other in others:
        other.close()


def test_a_file_that_is_locked_is_waited_for_once_and_named(tmp_path, server, monkeypatch, hold):
    endpoint(server, tmp_path, price=PRICE).answer(prompts(1))
    monkeypatch.setattr(request_cache, "_BUSY_SECONDS", 0.2)
    other = hold()
    with pytest.raises(CascadeError, match=r"cache\.sqlite to be free within 0.2 seconds.*locked") as error:
        endpoint(server, tmp_path, price=PRICE).answer(prompts(9))
    assert "\n" not in str(error.value)
    assert len(server.requests) == 1
    other.execute("ROLLBACK")
    assert all(reply.text for reply in endpoint(server, tmp_path, price=PRICE).answer(prompts(9)))


def test_a_file_that_is_locked_under_way_ends_the_call_and_every_cent_goes_on_counting(
    tmp_path, server, monkeypatch, hold
):
    monkeypatch.setattr(request_cache, "_BUSY_SECONDS", 2.0)
    taken, lock = [], threading.Lock()

    def body(request):
        number = int(request["messages"][0]["content"].split()[1])
        with lock:
            if number >= 20 and not taken:
                taken.append(hold())
        return good_body(request, number)

    server.body = body
    server.delay = 0.02
    model = endpoint(server, tmp_path, price=PRICE, spending_cap=1.0, concurrency=8)
    started = time.monotonic()
    with pytest.raises(CascadeError, match="locked"):
        model.answer(prompts(200))
    # Eight threads that each waited, once to store and once to charge, would take 32 seconds.
    assert time.monotonic() - started < 20
    assert len(server.requests) < 200
    taken[0].execute("ROLLBACK")
    assert RequestCache(tmp_path / "cache.sqlite").spending().total >= server.dollars(PRICE)
    kept = len(RequestCache(tmp_path / "cache.sqlite"))
    assert kept >= 12
    sent = len(server.requests)
    assert [r.text for r in model.answer(prompts(200))] == [right_letter(i) for i in range(200)]  # the very same one
    assert len(server.requests) - sent == 200 - kept


@pytest.mark.parametrize("path", ["folder", "notes.txt/cache.sqlite", "/proc/self/cache.sqlite"])
def test_a_file_that_cannot_be_made_is_named(tmp_path, server, path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(CascadeError, match=r"`cache`.* is not: ") as error:
        endpoint(server, tmp_path, cache=tmp_path / path).answer(prompts(1))
    assert "\n" not in str(error.value) and server.requests == []
