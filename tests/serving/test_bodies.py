"""Bodies of every kind: always 200 or the right 4xx in OpenAI's shape, never a 500."""

from __future__ import annotations

import asyncio
import copy
import io
import json
import os
import random
from collections import Counter

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cascade.engines.base import prompt_of
from cascade.serving.app import create_app
from cascade.serving.logs import Log
from cascade.serving.service import Limits, Service
from cascade.tasks.load import load_task
from tests.profile import LONG

BODIES = int(os.environ.get("CASCADE_FUZZED_BODIES", "2000" if LONG else "400"))
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
MC, OPEN = (prompt_of(load_task(name).questions[7]).text for name in ("mini-mmlu", "mini-popqa"))


def user(text) -> dict:
    return {"role": "user", "content": text}


VALID = [
    (CHAT, {"model": "cascade", "messages": [user(MC)], "max_tokens": 2}),
    (CHAT, {"model": "mini-llama-small", "messages": [user(OPEN)], "max_tokens": 2, "stop": ["x"], "temperature": 0.5}),
    (CHAT, {"model": "cascade",
            "messages": [{"role": "system", "content": "s"}, user([{"type": "text", "text": "Who?"}])],
            "max_completion_tokens": 2, "logprobs": True, "top_logprobs": 2, "user": "u"}),
    (CHAT, {"model": "cascade", "messages": [user("Which?")], "max_tokens": 2,
            "cascade": {"choices": ["a", "b"], "subject": "s", "thresholds": [{"p_t": 0.5, "p_ik": None}, {}],
                        "fallback": "best_effort", "trace": True}}),
    (CHAT, {"model": "cascade", "messages": [user("Who?")], "max_tokens": 2, "stream": True,
            "stream_options": {"include_usage": True}, "cascade": {"budget": 0.5, "trace": True}}),
    (COMPLETIONS, {"model": "cascade", "prompt": ["a", MC], "max_tokens": 2, "logprobs": 1, "echo": False, "n": 1}),
    (COMPLETIONS, {"model": "mini-llama-medium", "prompt": OPEN, "max_tokens": 2, "stream": True, "seed": 1}),
]  # fmt: skip
ODD = [
    None, True, False, 0, 1, -1, 2, 0.5, -0.5, 10**30, 10**400, -(10**30), 1e308, 5e-324, float("nan"), float("inf"),
    "", " ", "A", "\x00", "\ud800", "\U0001f600", "e\u0301" * 30, "cascade", "word " * 300, "A. x\nB. y", "\n" * 50,
    [], {}, [[]], [None], [{}], {"": {}}, {"a": None}, ["x"] * 50, [1, 2, 3], {"type": "text"}, {"p_t": 0.5},
    {"p_t": float("inf")},
]  # fmt: skip
NAMES = [
    "model",
    "messages",
    "prompt",
    "stream",
    "n",
    "tools",
    "logit_bias",
    "cascade",
    "stop",
    "role",
    "content",
    "x",
    "",
]
RAW = [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100000, b'{"a":' * 5000, b"9" * 5000, b'{"model": NaN}']


def mutated(rng: random.Random) -> tuple[str, bytes]:
    """A valid body with some of its values, keys or bytes changed."""
    path, body = rng.choice(VALID)
    body = json.loads(json.dumps(body))
    for _ in range(rng.choice([0, 1, 1, 1, 2, 3])):
        at = body
        while True:
            keys = list(at) if isinstance(at, dict) else list(range(len(at)))
            if not keys:
                break
            key = rng.choice(keys)
            if isinstance(at[key], dict | list) and at[key] and rng.random() < 0.7:
                at = at[key]
                continue
            kind = rng.random()
            if kind < 0.6:
                at[key] = copy.deepcopy(rng.choice(ODD))
            elif kind < 0.75:
                del at[key]
            elif isinstance(at, dict):
                at[rng.choice(NAMES)] = copy.deepcopy(rng.choice([*ODD, at[key]]))
            else:
                at.append(copy.deepcopy(rng.choice(ODD)))
            break
    text = json.dumps(body).encode()
    if rng.random() < 0.15:
        place = rng.randrange(len(text))
        text = rng.choice([
            text[:place],
            text[:place] + bytes([rng.randrange(256)]) + text[place + 1 :],
            text[:place] + text[place + rng.randrange(1, 9) :],
            text[:-1] + b', "model": "cascade"}',
            text + text[:place],
        ])  # fmt: skip
    return (path, rng.choice(RAW)) if rng.random() < 0.01 else (path, text)


def check(reply: httpx.Response) -> int:
    """Status of a reply that has the right shape."""
    assert reply.status_code in (200, 400, 404, 413), reply.text
    if reply.status_code == 200 and reply.headers["content-type"].startswith("text/event-stream"):
        events = [line.removeprefix("data: ") for line in reply.text.split("\n\n") if line]
        assert events[-1] == "[DONE]"
        for event in events[:-1]:
            json.loads(event, parse_constant=pytest.fail)
        return 200
    body = json.loads(reply.content, parse_constant=pytest.fail)
    if reply.status_code != 200:
        assert set(body["error"]) == {"message", "type", "param", "code"}
        assert isinstance(body["error"]["message"], str) and body["error"]["message"]
        assert body["error"]["type"] == "invalid_request_error"
        assert "Traceback" not in reply.text
    else:
        assert body["choices"] and body["usage"]["total_tokens"] > 0
    return reply.status_code


class Bench:
    """A service in this process, without a socket."""

    def __init__(self, cascade) -> None:
        self.loop, self.log = asyncio.new_event_loop(), io.StringIO()
        self.service = Service(cascade, Limits(window=0.0), log=Log(self.log))
        self.loop.run_until_complete(self.service.start())
        transport = httpx.ASGITransport(create_app(self.service), raise_app_exceptions=False)
        self.client = httpx.AsyncClient(transport=transport, base_url="http://test")

    async def post(self, path: str, body: bytes) -> httpx.Response:
        return await self.client.post(path, content=body, headers={"content-type": "application/json"})

    def post_all(self, bodies: list[tuple[str, bytes]], at_once: int = 64) -> list[httpx.Response]:
        async def run():
            room = asyncio.Semaphore(at_once)

            async def one(path, body):
                async with room:
                    return await self.post(path, body)

            return await asyncio.gather(*(one(path, body) for path, body in bodies))

        return self.loop.run_until_complete(run())

    def bugs(self) -> list[str]:
        return [line for line in self.log.getvalue().splitlines() if json.loads(line)["event"] != "request"]


@pytest.fixture(scope="module")
def bench(miniatures):
    bench = Bench(miniatures)
    yield bench
    bench.loop.run_until_complete(bench.service.stop())
    bench.loop.close()


def test_fuzzed_bodies_are_answered_or_refused_in_openais_shape(bench):
    rng = random.Random(0)
    bodies = [mutated(rng) for _ in range(BODIES)]
    replies = bench.post_all(bodies)
    statuses = Counter()
    for (path, body), reply in zip(bodies, replies, strict=True):
        try:
            statuses[check(reply)] += 1
        except AssertionError as error:
            raise AssertionError(f"{path} {body[:500]!r}: {error}") from error
    assert not bench.bugs()
    assert sum(statuses.values()) == BODIES and min(statuses[200], statuses[400]) > BODIES / 10
    print(dict(statuses))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=5), inner),
    max_leaves=8,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(path=st.sampled_from([CHAT, COMPLETIONS]), body=JSON, more=st.dictionaries(st.sampled_from(NAMES), JSON))
def test_any_json_is_answered_or_refused_in_openais_shape(bench, path, body, more):
    if isinstance(body, dict):
        body = {"model": "cascade", "max_tokens": 1, **body, **more}
    check(bench.loop.run_until_complete(bench.post(path, json.dumps(body).encode())))
    assert not bench.bugs()


BASE = '{"model": "cascade", "messages": [{"role": "user", "content": "?"}], "max_tokens": 1'


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (BASE + ', "temperature": NaN}', "NaN is none of its numbers"),
        (BASE + ', "temperature": -Infinity}', "Infinity is none"),
        (BASE + ', "temperature": 1e999}', "too large a number"),
        (BASE + ', "max_tokens": 1}', "'max_tokens' is there twice"),
        (BASE + ', "user": "\\ud800"}', "half a pair"),
        (BASE + ', "\\udfff": 1}', "half a pair"),
        (BASE + ', "seed": ' + "9" * 5000 + "}", "JSON"),
        (BASE + ', "user": ' + "[" * 40 + "]" * 40 + "}", "nested deeper"),
        ("[" * 200_000 + "]" * 200_000, "nested deeper"),
        ('{"a":' * 100_000 + "1" + "}" * 100_000, "nested deeper"),
        (BASE, "JSON"),
        ("[]", "object, but got a list"),
        ("", "JSON"),
        (b"\xff\xfe{\x00}\x00", "UTF-8"),
    ],
    ids=lambda value: value if isinstance(value, str) and len(value) < 30 else "",
)
def test_what_json_lets_through_and_others_do_not_is_refused(bench, body, said):
    body = body if isinstance(body, bytes) else body.encode()
    reply = bench.loop.run_until_complete(bench.post(CHAT, body))
    assert check(reply) == 400
    assert said in reply.json()["error"]["message"]


def test_a_huge_integer_is_out_of_range_and_not_a_crash(bench):
    for field in ("max_tokens", "top_logprobs", "temperature", "n"):
        body = {**json.loads(BASE + "}"), field: 10**4000}
        assert check(bench.loop.run_until_complete(bench.post(CHAT, json.dumps(body).encode()))) == 400
