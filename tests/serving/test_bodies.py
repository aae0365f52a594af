"""Bodies of every kind: always 200 or the right 4xx in OpenAI's shape, never a 500."""

from __future__ import annotations

import asyncio
import io
import json
import os
import random
from collections import Counter

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cascade.serving.app import create_app
from cascade.serving.logs import Log
from cascade.serving.service import Limits, Service
from experiments.attacks.bodies import CHAT, COMPLETIONS, NAMES, check, mutated
from tests.profile import LONG

BODIES = int(os.environ.get("CASCADE_FUZZED_BODIES", "2000" if LONG else "400"))


class Bench:
    """A service in this process, without a socket."""

    def __init__(self, cascade) -> None:
        self.loop, self.log = asyncio.new_event_loop(), io.StringIO()
        self.service = Service(cascade, Limits(window=0.0), log=Log(self.log))
        self.loop.run_until_complete(self.service.start())
        transport = httpx.ASGITransport(create_app(self.service), raise_app_exceptions=False)
        self.client = httpx.AsyncClient(transport=transport, base_url="http://localhost")

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
        """What the log says beside requests and the true alarm that these are questions of another kind."""
        assert self.service.log.flush()
        lines = self.log.getvalue().splitlines()
        return [line for line in lines if json.loads(line)["event"] not in ("request", "alarm")]


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
