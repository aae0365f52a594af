"""What a real OpenAI client sees."""

from __future__ import annotations

import json
import math
import socket

import httpx
import openai
import pytest

from cascade.engines.base import Prompt, prompt_of
from cascade.policies.thresholds import ThresholdPolicy
from cascade.runtime.costs import answer_costs, last_model_alone
from cascade.tasks.base import open_ended_prompt
from cascade.tasks.load import load_task
from tests.serving.running import Plain, plain_cascade, running

OPEN = load_task("mini-popqa").questions
CHOICE = load_task("mini-mmlu").questions[::37]


def table_7(question) -> str:
    return prompt_of(question).text


def test_the_cascade_and_its_members_are_models(server):
    client = server.client()
    names = [model.id for model in client.models.list()]
    assert names == ["cascade", "mini-llama-small", "mini-llama-medium", "mini-llama-large"]
    assert client.models.retrieve("mini-llama-medium").id == "mini-llama-medium"
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("gpt/none")
    assert caught.value.code == "model_not_found"


def test_a_reply_says_which_stages_were_tried_and_what_they_cost(server, miniatures):
    question = next(q for q in CHOICE[:50] if len(miniatures.answer(q).steps) == 3)
    offline = miniatures.answer(question)
    raw = server.client().chat.completions.with_raw_response.create(
        model="cascade", messages=[{"role": "user", "content": table_7(question)}]
    )
    reply = raw.parse()
    told = reply.cascade
    assert reply.choices[0].message.content == offline.text
    assert told["answered_by"] == raw.headers["x-cascade-model"] == offline.model
    assert raw.headers["x-cascade-stages"] == ", ".join(miniatures.names)
    assert [s["model"] for s in told["stages"]] == list(miniatures.names)
    for stage, step in zip(told["stages"], offline.steps, strict=True):
        assert stage["outcome"] == step.outcome.name.lower()
        assert stage["p_t"] == pytest.approx(step.p_t, abs=1e-5)
        assert stage["p_ik"] == (None if step.p_ik is None else pytest.approx(step.p_ik, abs=1e-5))
    costs = answer_costs(miniatures, [offline])
    for unit, ledgers in costs.items():
        for ledger, values in ledgers.items():
            assert told["cost"][unit][ledger] == pytest.approx(values[0])
    assert float(raw.headers["x-cascade-cost-flops-full-path"]) == told["cost"]["flops"]["full-path"]
    assert told["last_model_alone"] == {"flops": last_model_alone(miniatures)}
    assert told["seconds"] > 0 and told["queued_seconds"] > 0
    assert told["stages"][0]["thresholds"] == {"p_t": 0.9, "p_ik": 0.5, "p_ik_reader": None}
    assert told["stages"][-1]["thresholds"] is None


def test_usage_is_that_of_the_answer_and_the_cascades_field_counts_every_model_that_was_tried(server, miniatures):
    question = next(q for q in OPEN[:50] if len(miniatures.answer(q).steps) == 3)
    reply = server.ask(question.text)
    replies = [step.reply for step in miniatures.answer(question).steps]
    assert reply.usage.prompt_tokens == replies[-1].prompt_tokens
    assert reply.usage.completion_tokens == replies[-1].completion_tokens
    read, written = (sum(getattr(r, f"{kind}_tokens") for r in replies) for kind in ("prompt", "completion"))
    assert reply.cascade["usage"] == {
        "prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written,
    }  # fmt: skip


def test_a_member_answers_alone(server, miniatures):
    for question in OPEN[:10]:
        reply = server.ask(question.text, model="mini-llama-small")
        alone = ThresholdPolicy((0,), ())
        (offline,) = miniatures.answer_many([], False, journeys=[miniatures.start(question, alone)])
        assert reply.choices[0].message.content == offline.text
        assert [stage["model"] for stage in reply.cascade["stages"]] == ["mini-llama-small"]


def test_a_stream_adds_up_to_the_whole_reply(server):
    for question in OPEN[:20]:
        whole = server.ask(question.text)
        chunks = list(server.ask(question.text, stream=True, stream_options={"include_usage": True}))
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        assert text == whole.choices[0].message.content
        assert chunks[0].choices[0].delta.role == "assistant"
        assert [c.choices[0].finish_reason for c in chunks if c.choices and c.choices[0].finish_reason] == ["stop"]
        assert chunks[-1].usage == whole.usage and not chunks[-1].choices
        assert chunks[-2].cascade["answered_by"] == whole.cascade["answered_by"]
        assert len({chunk.id for chunk in chunks}) == 1


def test_text_comes_as_it_is_generated_and_without_the_formats_answer_prefix():
    model = Plain("last", text=" Answer: Ann Lee\n", p_t=0.95, pieces=(" Ans", "wer:", " Ann", " Le", "e\n"))
    with running(plain_cascade(model, Plain("unused"))) as server:
        pieces = [c.choices[0].delta.content for c in server.ask(stream=True) if c.choices]
        assert [piece for piece in pieces if piece] == ["Ann", " Le", "e"]


def test_a_traced_stream_tells_of_each_stage(server, miniatures):
    question = next(q for q in CHOICE[:50] if len(miniatures.answer(q).steps) == 3)
    chunks = list(server.ask(table_7(question), stream=True, extra_body={"cascade": {"trace": True}}))
    stages = [c.cascade["stage"] for c in chunks if not c.choices]
    last = chunks[-1].cascade["stages"]
    assert [(s["model"], s["outcome"], s["cost"]) for s in stages] == [
        (s["model"], s["outcome"], s["cost"]) for s in last
    ]


def test_log_probabilities_are_those_of_every_generated_token(server, miniatures):
    question = OPEN[0]
    reply = server.ask(question.text, model="mini-llama-large", logprobs=True, top_logprobs=3)
    tokens = reply.choices[0].logprobs.content
    prompt = Prompt("q", open_ended_prompt(question), top_logprobs=3)
    (offline,) = miniatures.models[2].answer([prompt])
    assert [t.token for t in tokens] == [t.token for t in offline.tokens]
    assert [t.logprob for t in tokens] == pytest.approx([t.logprob for t in offline.tokens], abs=1e-4)
    for token in tokens:
        assert len(token.top_logprobs) == 3
        assert token.top_logprobs[0].logprob == max(t.logprob for t in token.top_logprobs)
        assert bytes(token.bytes).decode() == token.token
    without = server.ask(question.text, model="mini-llama-large", logprobs=True)
    assert [t.top_logprobs for t in without.choices[0].logprobs.content] == [[]] * len(tokens)
    assert server.ask(question.text).choices[0].logprobs is None


def test_the_log_probability_of_a_letter_is_p_t(server):
    reply = server.ask(table_7(CHOICE[0]), logprobs=True, top_logprobs=20)
    (token,) = reply.choices[0].logprobs.content
    assert math.exp(token.logprob) == pytest.approx(reply.cascade["stages"][-1]["p_t"], rel=1e-4)


def test_completions_are_given_raw_prompts_and_one_choice_each(server, miniatures):
    client = server.client()
    prompts = ["Once upon", "What is", "The following"]
    reply = client.completions.create(model="mini-llama-large", prompt=prompts, max_tokens=4, logprobs=2)
    assert [choice.index for choice in reply.choices] == [0, 1, 2]
    for prompt, choice in zip(prompts, reply.choices, strict=True):
        (offline,) = miniatures.models[2].answer([Prompt("q", prompt, (), False, 4, 2)])
        assert choice.text == offline.text
        assert choice.finish_reason == offline.finish_reason
        assert choice.logprobs.tokens == [t.token for t in offline.tokens]
        assert choice.logprobs.token_logprobs == pytest.approx([t.logprob for t in offline.tokens], abs=1e-4)
        assert choice.logprobs.text_offset[0] == len(prompt)
        assert all(len(top) <= 2 for top in choice.logprobs.top_logprobs)
    each = reply.cascade["questions"]
    assert [one["answered_by"] for one in each] == ["mini-llama-large"] * 3
    assert reply.cascade["cost"]["flops"]["full-path"] == sum(one["cost"]["flops"]["full-path"] for one in each)
    chunks = client.completions.create(model="mini-llama-large", prompt=prompts, max_tokens=4, stream=True)
    texts = ["", "", ""]
    for chunk in chunks:
        for choice in chunk.choices:
            texts[choice.index] += choice.text
    assert texts == [choice.text for choice in reply.choices]


def test_a_paper_prompt_as_a_completion_is_answered_with_a_letter(server, miniatures):
    for question in CHOICE[:5]:
        offline = miniatures.answer(question)
        reply = server.client().completions.create(model="cascade", prompt=table_7(question))
        assert (reply.choices[0].text, reply.cascade["answered_by"]) == (offline.text, offline.model)


def test_a_stop_text_and_the_limit_end_an_answer(server):
    client = server.client()
    whole = client.completions.create(model="mini-llama-large", prompt=open_ended_prompt(OPEN[0]))
    assert whole.choices[0].finish_reason == "stop" and ":" in whole.choices[0].text
    cut = client.completions.create(model="mini-llama-large", prompt=open_ended_prompt(OPEN[0]), stop=[":"])
    assert cut.choices[0].text == whole.choices[0].text.split(":")[0]
    short = client.completions.create(model="mini-llama-large", prompt=open_ended_prompt(OPEN[0]), max_tokens=1)
    assert short.choices[0].finish_reason == "length" and short.usage.completion_tokens == 1


def test_a_letter_is_not_sampled_and_that_is_told(server):
    text = table_7(CHOICE[0])
    assert server.ask(text, temperature=0, top_p=1, seed=3).cascade["notes"] == []
    assert "not sampled" in server.ask(text, temperature=0.7).cascade["notes"][0]
    assert server.ask(temperature=0.7).cascade["notes"] == []


def test_a_temperature_and_a_seed_reach_the_model_that_answers(server, miniatures):
    def drawn(**more) -> list[str]:
        return [server.ask("Who?", model="mini-llama-large", temperature=1.9, **more).choices[0].message.content
                for _ in range(6)]  # fmt: skip

    assert len(set(drawn(seed=7))) == 1 and len(set(drawn())) > 1
    prompt = Prompt("any", open_ended_prompt(OPEN[0]), temperature=1.9, top_p=0.8, seed=7, draws="0")
    (offline,) = miniatures.models[2].answer([prompt])
    asked = {"temperature": 1.9, "top_p": 0.8, "seed": 7}
    reply = server.client().completions.create(model="mini-llama-large", prompt=prompt.text, **asked)
    assert reply.choices[0].text == offline.text


def test_thresholds_and_budgets_of_a_request_change_who_answers(server, miniatures):
    text = table_7(CHOICE[0])

    def asked(**options):
        return server.ask(text, extra_body={"cascade": options}).cascade

    assert asked(thresholds={"p_t": None, "p_ik": None})["answered_by"] == "mini-llama-small"
    assert (
        asked(thresholds=[{"p_t": 1, "p_ik": None}, {"p_t": None, "p_ik": None}])["answered_by"] == "mini-llama-medium"
    )
    assert asked(thresholds={"p_t": 1.0})["stages"][0]["thresholds"] == {"p_t": 1.0, "p_ik": 0.5, "p_ik_reader": None}
    for question in CHOICE[:10]:
        text = table_7(question)
        policy = miniatures.policy_within(0.3)
        (offline,) = miniatures.answer_many([], False, journeys=[miniatures.start(question, policy)])
        assert asked(budget=0.3)["answered_by"] == offline.model


BAD = {
    "unknown model": ({"model": "gpt-4"}, openai.NotFoundError, "model", "model_not_found"),
    "empty messages": ({"messages": []}, openai.BadRequestError, "messages", None),
    "no question": (
        {"messages": [{"role": "user", "content": " "}]},
        openai.BadRequestError,
        "messages[0].content",
        None,
    ),
    "image": (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
        openai.BadRequestError,
        "messages[0].content[0].type",
        None,
    ),
    "tool": ({"messages": [{"role": "tool", "content": "x", "tool_call_id": "1"}]}, openai.BadRequestError, None, None),
    "n": ({"n": 2}, openai.BadRequestError, "n", None),
    "tools": ({"tools": [{"type": "function"}]}, openai.BadRequestError, "tools", None),
    "json": ({"response_format": {"type": "json_object"}}, openai.BadRequestError, "response_format", None),
    "bias": ({"logit_bias": {"1": 5}}, openai.BadRequestError, "logit_bias", None),
    "limit": ({"max_tokens": 0}, openai.BadRequestError, "max_tokens", None),
    "context": ({"max_tokens": 129}, openai.BadRequestError, "max_tokens", "context_length_exceeded"),
    "two limits": ({"max_tokens": 2, "max_completion_tokens": 2}, openai.BadRequestError, "max_tokens", None),
    "top_logprobs": ({"top_logprobs": 2}, openai.BadRequestError, "top_logprobs", None),
    "stops": ({"stop": list("abcde")}, openai.BadRequestError, "stop", None),
    "temperature": ({"temperature": 3}, openai.BadRequestError, "temperature", None),
    "unknown": ({"extra_body": {"frobnicate": 1}}, openai.BadRequestError, "frobnicate", None),
    "too long": (
        {"messages": [{"role": "user", "content": "word " * 500}]},
        openai.BadRequestError,
        "messages",
        "context_length_exceeded",
    ),
}
OPTIONS = {
    "cascade.thresholds.p_t": {"thresholds": {"p_t": 1.5}},
    "cascade.thresholds[0].p_ik": {"thresholds": [{"p_ik": -0.1}, {}]},
    "cascade.thresholds": {"thresholds": [{}, {}, {}]},
    "cascade.thresholds.p_ik_reader": {"thresholds": {"p_ik_reader": 2}},
    "cascade.budget": {"budget": 1e-6},
    "cascade.fallback": {"fallback": "any"},
    "cascade.choices": {"choices": ["one"]},
    "cascade.else": {"else": 1},
}
BAD |= {name: ({"extra_body": {"cascade": o}}, openai.BadRequestError, name, None) for name, o in OPTIONS.items()}
both = {"cascade": {"budget": 0.5, "thresholds": {"p_t": 0.5}}}
BAD["both"] = ({"extra_body": both}, openai.BadRequestError, "cascade.budget", None)
member = {"model": "mini-llama-small", "extra_body": {"cascade": {"budget": 0.5}}}
BAD["a member's budget"] = (member, openai.BadRequestError, "cascade.budget", None)


@pytest.mark.parametrize(("fields", "kind", "param", "code"), BAD.values(), ids=BAD)
def test_a_bad_request_is_told_what_is_wrong_in_openais_shape(server, fields, kind, param, code):
    usual = {"model": "cascade", "messages": [{"role": "user", "content": "Who?"}]}
    with pytest.raises(kind) as caught:
        server.client().chat.completions.create(**usual | fields)
    assert set(caught.value.body) == {"message", "type", "param", "code"}
    assert caught.value.body["type"] == "invalid_request_error"
    if param is not None:
        assert caught.value.param == param
    if code is not None:
        assert caught.value.code == code


def test_a_prompt_that_no_model_has_room_for_is_named(server):
    with pytest.raises(openai.BadRequestError) as caught:
        server.client().completions.create(model="cascade", prompt=["short", "word " * 500])
    assert (caught.value.param, caught.value.code) == ("prompt", "context_length_exceeded")


def test_what_changes_nothing_is_ignored(server):
    assert server.ask(user="u", metadata={"a": "b"}, store=False, n=1, response_format={"type": "text"}, logit_bias={})


def test_a_reply_may_be_sent_back_as_a_turn(server, miniatures):
    first = server.ask(OPEN[0].text)
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": OPEN[0].text},
        first.choices[0].message.model_dump(),
        {"role": "user", "content": [{"type": "text", "text": OPEN[1].text}]},
    ]
    reply = server.client().chat.completions.create(model="mini-llama-large", messages=messages)
    prompt = f"Be brief.\n\n{OPEN[0].text}\n\n{first.choices[0].message.content}\n\n{open_ended_prompt(OPEN[1])}"
    (offline,) = miniatures.models[2].answer([Prompt("q", prompt)])
    assert reply.usage.prompt_tokens == offline.prompt_tokens


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/nothing", 404, "unknown_url"),
        ("GET", "/v1/chat/completions", 405, "method_not_allowed"),
        ("POST", "/healthz", 405, "method_not_allowed"),
        ("GET", "/v1/models/none", 404, "model_not_found"),
    ],
)
def test_wrong_paths_and_methods_have_the_same_shape(server, method, path, status, code):
    reply = httpx.request(method, server.url + path)
    assert reply.status_code == status
    assert reply.json()["error"]["code"] == code


def test_a_body_over_the_limit_is_refused_while_it_is_read(server):
    sent = 0

    def endless():
        nonlocal sent
        while sent < 64 * 2**20:
            sent += 2**16
            yield b" " * 2**16

    try:
        json_said = {"content-type": "application/json"}
        reply = httpx.post(f"{server.url}/v1/chat/completions", content=endless(), headers=json_said, timeout=20)
        assert reply.status_code == 413 and reply.json()["error"]["code"] == "request_too_large"
    except httpx.WriteError:
        pass  # the server closed the connection before the client looked for a reply
    assert sent < 32 * 2**20


@pytest.mark.parametrize("declared", [True, False])
def test_a_client_that_sends_all_of_a_large_body_before_it_reads_is_told(server, declared):
    host, port = server.url.removeprefix("http://").split(":")
    length = "Content-Length: 4194304" if declared else "Transfer-Encoding: chunked"
    head = f"POST /v1/completions HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n{length}\r\n\r\n"
    body = b" " * 4 * 2**20
    for _ in range(10):
        with socket.create_connection((host, int(port)), timeout=30) as connection:
            connection.sendall(head.encode() + (body if declared else b"400000\r\n" + body + b"\r\n0\r\n\r\n"))
            reply = b""
            while part := connection.recv(4096):
                reply += part
        assert reply.startswith(b"HTTP/1.1 413 ") and b"connection: close" in reply and b"request_too_large" in reply


def test_a_client_that_asks_first_need_not_send_a_large_body(server):
    host, port = server.url.removeprefix("http://").split(":")
    head = (
        f"POST /v1/completions HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {2**30}\r\nExpect: 100-continue\r\n\r\n"
    )
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(head.encode())
        assert connection.recv(4096).startswith(b"HTTP/1.1 413 ")


def test_a_key_is_asked_for_everywhere_but_for_the_page_and_health():
    with running(plain_cascade(Plain("a"), Plain("b")), keys=["right", "other"]) as server:
        for key in ("wrong", "righ", "rightt"):
            with pytest.raises(openai.AuthenticationError) as caught:
                server.client(key).chat.completions.create(model="a", messages=[{"role": "user", "content": "?"}])
            assert caught.value.code == "invalid_api_key"
        assert server.client("other").chat.completions.create(model="a", messages=[{"role": "user", "content": "?"}])
        open_to_all = {path: httpx.get(server.url + path).status_code for path in ("/", "/healthz", "/readyz")}
        assert set(open_to_all.values()) == {200}
        closed = ("/metrics", "/v1/models", "/v1/cascade", "/v1/nothing")
        assert {httpx.get(server.url + path).status_code for path in closed} == {401}
        assert httpx.get(f"{server.url}/v1/cascade", headers={"authorization": "Bearer right"}).status_code == 200


def test_what_the_page_is_drawn_from(server, miniatures):
    found = httpx.get(f"{server.url}/v1/cascade").json()
    assert [m["name"] for m in found["models"]] == list(miniatures.names)
    assert found["policy"]["thresholds"][0] == {"p_t": 0.9, "p_ik": 0.5, "p_ik_reader": None}
    assert {sample["task"] for sample in found["samples"]} == {"mini-mmlu", "mini-popqa"}
    assert "<html" in httpx.get(server.url).text
    json.dumps(found, allow_nan=False)
