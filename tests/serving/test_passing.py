"""What a chain cannot judge goes to the last model as the client wrote it, and is counted."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

import httpx
import openai
import pytest
from prometheus_client.parser import text_string_to_metric_families

from cascade.engines.base import Price
from cascade.engines.endpoint import Endpoint
from cascade.engines.request_cache import RequestCache
from cascade.engines.settings import EndpointConfig
from cascade.serving.service import Limits
from tests.serving.provider import Provider, completion, says
from tests.serving.running import Plain, plain_cascade, running
from tests.serving.test_leaving import send, wait_until

ASK = [{"role": "user", "content": "What is the weather in Paris?"}]
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}]
IMAGE = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]}]
CALL = {"name": "weather", "arguments": "{}"}
CALLED = [
    *ASK,
    {"role": "assistant", "content": None, "tool_calls": [{"id": "t", "type": "function", "function": CALL}]},
    {"role": "tool", "tool_call_id": "t", "content": "rain"},
]  # fmt: skip
BEYOND = {
    "tools": {"tools": TOOLS, "tool_choice": "auto"},
    "response_format": {"response_format": {"type": "json_object"}},
    "n": {"n": 3},
    "image_url": {"messages": IMAGE},
    "a tool's turn": {"messages": CALLED, "tools": None},
    "logit_bias": {"logit_bias": {"1": 5}},
    "an unknown field": {"extra_body": {"chat_template_kwargs": {"enable_thinking": False}}},
}


def endpoint(provider: Provider, folder: Path, name: str = "big", needs: bool = False, **more) -> Endpoint:
    settings = {"cache": folder / "requests.sqlite", "timeout": 5, "attempts": 1} | more
    return Endpoint(EndpointConfig(endpoint=name, base_url=provider.url, **settings), needs)


@pytest.fixture
def provider():
    with Provider().running() as provider:
        yield provider


@pytest.fixture
def served(provider, tmp_path):
    with running(plain_cascade(Plain("small", p_t=0.99, text="small's"), endpoint(provider, tmp_path))) as server:
        yield server


def counted(server, name: str) -> dict[tuple[str, ...], float]:
    page = httpx.get(f"{server.url}/metrics").text
    return {
        tuple(value for _, value in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if sample.name == f"cascade_{name}_total"
    }


@pytest.mark.parametrize(("reason", "fields"), BEYOND.items(), ids=BEYOND)
def test_what_no_chain_can_judge_goes_unchanged_to_the_last_model(served, provider, reason, fields):
    asked = {"messages": ASK} | fields
    reply = served.client().chat.completions.with_raw_response.create(model="cascade", **asked)
    written = {"model": "big", **asked} | asked.get("extra_body", {})
    written.pop("extra_body", None)
    assert provider.requests == [written]
    assert provider.paths == ["/v1/chat/completions"]
    assert reply.content == json.dumps(completion()).encode()  # byte for byte
    assert reply.headers["x-cascade-passed-through"] == reason and reply.headers["x-cascade-model"] == "big"
    assert counted(served, "passed_through") == {("big", reason): 1}
    assert counted(served, "passed_through_tokens") == {("prompt",): 11, ("completion",): 1}
    totals = httpx.get(f"{served.url}/v1/cascade").json()["totals"]
    assert totals["passed_through"] == {reason: 1} and totals["questions"] == 0
    wait_until(lambda: served.lines("request"), "the request's line")
    line = served.lines("request")[0]
    assert (line["passed_through"], line["answered_by"], line["prompt_tokens"]) == (reason, ["big"], 11)


def test_what_is_the_cascades_own_does_not_go_on(served, provider):
    served.ask(tools=TOOLS, extra_body={"cascade": {"trace": True}})
    assert "cascade" not in provider.requests[0]


def test_without_an_endpoint_at_its_end_a_chain_refuses_what_it_cannot_judge(tmp_path, provider):
    chain = plain_cascade(endpoint(provider, tmp_path, needs=True), Plain("last"))
    with running(chain) as server:
        with pytest.raises(openai.BadRequestError) as caught:
            server.ask(tools=TOOLS)
        assert caught.value.param == "tools" and provider.bodies == []
        assert server.ask(model="big", tools=TOOLS).model == "big"  # a member that is one is asked as it is
        assert len(provider.bodies) == 1


def test_an_ordinary_question_is_still_answered_by_the_chain(served, provider):
    assert served.ask("Who?").choices[0].message.content == "small's"
    assert provider.bodies == [] and counted(served, "passed_through") == {}


def chunk(**delta) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": None}
    head = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "big", "choices": [choice]}
    return b"data: " + json.dumps(head).encode() + b"\n\n"


def test_a_stream_comes_as_it_is_written(provider, tmp_path):
    usage = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
    last = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "big", "choices": [], "usage": usage}
    parts = [chunk(role="assistant"), chunk(content="a")[:20], chunk(content="a")[20:], chunk(content="b")]
    parts += [b"data: " + json.dumps(last).encode() + b"\n\n", b"data: [DONE]\n\n"]
    provider.say = lambda path, request: (200, "text/event-stream", list(parts))
    with running(plain_cascade(Plain("small"), endpoint(provider, tmp_path))) as server:
        found = list(server.ask(stream=True, tools=TOOLS, stream_options={"include_usage": True}))
        assert "".join(c.choices[0].delta.content or "" for c in found if c.choices) == "ab"
        body = {"model": "cascade", "messages": ASK, "tools": TOOLS, "stream": True}
        raw = httpx.post(f"{server.url}/v1/chat/completions", json=body)
        assert raw.content == b"".join(parts) and raw.headers["content-type"].startswith("text/event-stream")
        assert counted(server, "passed_through_tokens") == {("prompt",): 10, ("completion",): 4}


def test_what_an_endpoint_says_of_the_request_is_told_and_of_itself_is_not(provider, tmp_path):
    secret = "connect to db-7.internal.example as svc_billing failed"
    with running(plain_cascade(Plain("small"), endpoint(provider, tmp_path))) as server:
        for status, kind in ((400, openai.BadRequestError), (422, openai.UnprocessableEntityError)):
            error = {"error": {"message": "tools[0] has no name", "param": "tools[0]", "code": "bad_tool"}}
            provider.say = lambda p, r, s=status, e=error: (s, "application/json", [json.dumps(e).encode()])
            with pytest.raises(kind) as caught:
                server.ask(tools=TOOLS)
            assert (caught.value.param, caught.value.code) == ("tools[0]", "bad_tool")
            assert "has no name" in caught.value.message
        for status in (401, 403, 404, 500, 502):
            error = {"error": {"message": secret}}
            provider.say = lambda p, r, s=status, e=error: (s, "application/json", [json.dumps(e).encode()])
            with pytest.raises(openai.InternalServerError) as caught:
                server.ask(tools=TOOLS)
            assert caught.value.status_code == 503 and f"status {status}" in caught.value.message
            assert "internal" not in caught.value.message and "billing" not in caught.value.message
        provider.say = lambda p, r: (429, "application/json", [b"{}"])
        with pytest.raises(openai.RateLimitError) as caught:
            server.ask(tools=TOOLS)
        assert caught.value.response.headers["retry-after"] == "7"
        assert server.service.log.flush() and secret not in server.log.getvalue()


def test_an_endpoint_that_repeats_the_key_tells_it_to_nobody(provider, tmp_path, monkeypatch):
    key = "sk-0123456789abcdef"
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with running(plain_cascade(Plain("small"), endpoint(provider, tmp_path))) as server:
        for stream in (False, True):
            event = b"data: " + json.dumps({"choices": [], "said": key}).encode() + b"\n\n"
            body = json.dumps(completion(f"the key is {key}")).encode()
            found = (200, "text/event-stream", [event, b": " + key.encode() + b"\n"]) if stream else None
            provider.say = lambda p, r, f=found, b=body: f or (200, "application/json", [b])
            asked = {"model": "cascade", "messages": ASK, "tools": TOOLS, "stream": stream}
            reply = httpx.post(f"{server.url}/v1/chat/completions", json=asked)
            assert reply.status_code == 200 and key not in reply.text and "[key]" in reply.text
        assert provider.headers[0]["authorization"] == f"Bearer {key}"


def test_a_redirect_takes_the_request_nowhere_else(provider, tmp_path):
    with Provider().running() as other:
        provider.say = lambda p, r: (307, "application/json", [b"{}"])
        chain = plain_cascade(Plain("small"), endpoint(provider, tmp_path))
        with running(chain) as server, pytest.raises(openai.InternalServerError):
            server.ask(tools=TOOLS)
        assert other.bodies == []


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_ends_the_request_to_the_endpoint(provider, tmp_path, stream):
    kind = "text/event-stream" if stream else "application/json"
    provider.say = lambda p, r: (200, kind, [chunk(content="a"), 30.0, b"never"])
    with running(plain_cascade(Plain("small"), endpoint(provider, tmp_path, timeout=60))) as server:
        connection = send(server.url, "Who?", stream, tools=TOOLS)
        wait_until(lambda: provider.bodies, "the request at the endpoint")
        if stream:
            while b'"a"' not in connection.recv(4096):
                pass
        connection.close()
        assert provider.left.wait(20)
        wait_until(lambda: not server.service.batcher.under_way, "the end of the request")


def test_passed_requests_count_against_the_queue_and_are_waited_for_at_the_end(provider, tmp_path):
    body = json.dumps(completion()).encode()
    provider.say = lambda p, r: (200, "application/json", [1.5, body])
    with running(plain_cascade(Plain("small"), endpoint(provider, tmp_path)), Limits(queue=1)) as server:
        first = send(server.url, "Who?", False, tools=TOOLS)
        wait_until(lambda: provider.bodies, "the request at the endpoint")
        with pytest.raises(openai.RateLimitError):
            server.ask(tools=TOOLS)
        server.server.finish()
        reply = b""
        while part := first.recv(65536):
            reply += part
        assert reply.startswith(b"HTTP/1.1 200 ") and reply.endswith(body)


def spending(folder: Path):
    cache = RequestCache(folder / "requests.sqlite")
    try:
        return cache.spending()
    finally:
        cache.close()


def test_the_spending_cap_holds_for_what_is_passed_through(provider, tmp_path):
    priced = endpoint(provider, tmp_path, price=Price(1e6, 1e6), spending_cap=5_000.0)  # a dollar a token
    with running(plain_cascade(Plain("small"), priced)) as server:
        for fields, param in (
            ({"tools": TOOLS}, "max_completion_tokens"),
            ({"messages": IMAGE, "max_tokens": 5}, "messages"),
            ({"tools": [{"type": "web_search"}], "max_tokens": 5}, "messages"),
            ({"tools": TOOLS, "max_tokens": 5, "web_search_options": {"a": "b"}}, "web_search_options"),
        ):
            with pytest.raises(openai.BadRequestError) as caught:
                server.client().chat.completions.create(model="cascade", **{"messages": ASK} | fields)
            assert caught.value.param == param
        assert provider.bodies == []
        server.ask(tools=TOOLS, max_tokens=100)
        wait_until(lambda: spending(tmp_path).billed == 12, "the bill")  # 11 tokens read and 1 written
        assert counted(server, "passed_through_dollars") == {(): 12}
        with pytest.raises(openai.InternalServerError) as caught:
            server.ask(tools=TOOLS, max_tokens=1000, n=6)
        assert caught.value.code == "spending_cap" and len(provider.bodies) == 1
        provider.say = says(usage=None)
        server.ask(tools=TOOLS, max_tokens=100)
        wait_until(lambda: spending(tmp_path).reserved == 0, "the second bill")
        assert spending(tmp_path).billed > 100 + 12  # the most that it can have been


def test_an_endpoint_cannot_talk_the_cap_down(provider, tmp_path):
    priced = endpoint(provider, tmp_path, price=Price(1e6, 1e6), spending_cap=1e6)
    with running(plain_cascade(Plain("small"), priced)) as server:
        before = 0.0
        for usage in ({"prompt_tokens": 0, "completion_tokens": 0}, {"prompt_tokens": -9, "completion_tokens": -9},
                      {"prompt_tokens": 10**30, "completion_tokens": 1}, {"prompt_tokens": "1"}):  # fmt: skip
            provider.say = says(usage=usage)
            server.ask("Why? " * 200, tools=TOOLS, max_tokens=100)
            wait_until(lambda: spending(tmp_path).reserved == 0, "the bill")
            assert spending(tmp_path).billed - before > 1000 + 100  # a token a byte, and all that may be written
            before = spending(tmp_path).billed
        with pytest.raises(openai.InternalServerError) as caught:
            server.ask(tools=TOOLS, max_tokens=10**400)
        assert caught.value.code == "spending_cap"


def test_a_reply_that_nobody_reads_is_closed_and_paid_for(provider, tmp_path):
    priced = endpoint(provider, tmp_path, price=Price(1e6, 1e6), spending_cap=1e6)

    async def send_and_leave() -> None:
        passed = await priced.relay.send("/chat/completions", {"messages": ASK, "max_tokens": 7})
        await passed.close()
        await priced.relay.close()

    asyncio.run(send_and_leave())
    assert spending(tmp_path).reserved == 0 and spending(tmp_path).total > 7
    priced.release()


def test_hints_and_fields_that_only_endpoints_know_reach_the_endpoints_that_are_asked(provider, tmp_path):
    hints = {"prompt_cache_key": "k", "user": "u", "service_tier": "flex", "extra_body": {"top_k": 5}}
    both = endpoint(provider, tmp_path, "small", True), endpoint(provider, tmp_path)
    provider.say = says("x", logprob=-3.0)
    with running(plain_cascade(*both)) as server:
        assert server.ask("Who?", **hints).cascade["answered_by"] == "big"
    assert [request["model"] for request in provider.requests] == ["small", "big"]
    for request in provider.requests:
        assert {name: request.get(name) for name in ("prompt_cache_key", "user", "service_tier", "top_k")} == {
            "prompt_cache_key": "k", "user": "u", "service_tier": "flex", "top_k": 5,
        }  # fmt: skip


def test_temperature_top_p_and_seed_reach_the_endpoint_that_answers(provider, tmp_path):
    with running(plain_cascade(Plain("small", p_t=0.1), endpoint(provider, tmp_path))) as server:
        server.ask("Who?", temperature=0.7, top_p=0.5, seed=3)
        server.ask("Who?", temperature=0.7)
        server.ask("Who?", temperature=0.7)
    first, *others = provider.requests
    assert (first["temperature"], first["top_p"], first["seed"]) == (0.7, 0.5, 3)
    assert len({request["seed"] for request in others}) == 2  # two samples, and not one kept reply twice


def test_a_slow_question_at_an_endpoint_holds_up_no_other(provider, tmp_path):
    body = json.dumps(completion()).encode()
    provider.say = lambda p, r: (200, "application/json", [20.0, body] if "slow" in json.dumps(r) else [body])
    with running(plain_cascade(Plain("small", p_t=0.1), endpoint(provider, tmp_path, timeout=60))) as server:
        slow = send(server.url, "slow?", False)
        wait_until(lambda: provider.bodies, "the slow request")
        started = time.monotonic()
        for i in range(5):
            assert server.ask(f"quick {i}?").choices[0].message.content == "Paris"
        assert time.monotonic() - started < 20  # the slow one is still at it
        assert server.service.batcher.under_way == 1
        slow.close()
        assert provider.left.wait(15)  # and is broken off when its client leaves
        wait_until(lambda: not server.service.batcher.under_way, "the end of it")
