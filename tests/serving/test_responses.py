"""/v1/responses, as a real OpenAI client sees it."""

from __future__ import annotations

import json
import math

import httpx
import openai
import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from cascade.engines.base import Prompt, prompt_of
from cascade.tasks.base import open_ended_prompt
from cascade.tasks.load import load_task
from tests.serving.provider import Provider
from tests.serving.running import Plain, broken, plain_cascade, running
from tests.serving.test_leaving import wait_until
from tests.serving.test_passing import TOOLS, endpoint

OPEN = load_task("mini-popqa").questions
CHOICE = load_task("mini-mmlu").questions[::37]
EVENT = TypeAdapter(ResponseStreamEvent)


def ask(server, text="Who?", **more):
    return server.client().responses.create(model=more.pop("model", "cascade"), input=text, **more)


def test_a_response_is_what_the_cascade_answers(server, miniatures):
    for question in [*OPEN[:5], *CHOICE[:5]]:
        offline = miniatures.answer(question)
        reply = ask(server, prompt_of(question).text)
        assert reply.output_text == offline.text
        assert reply.cascade["answered_by"] == offline.model
        last = offline.steps[-1].reply
        assert (reply.usage.input_tokens, reply.usage.output_tokens) == (last.prompt_tokens, last.completion_tokens)
        tried = [step.reply for step in offline.steps]
        assert reply.cascade["usage"]["prompt_tokens"] == sum(r.prompt_tokens for r in tried)


def test_a_reply_keeps_to_the_standard_in_every_field(server):
    raw = httpx.post(f"{server.url}/v1/responses", json={"model": "cascade", "input": "Who?", "metadata": {"a": "b"}})
    found = Response.model_validate(raw.json(), strict=False)
    assert found.status == "completed" and found.metadata == {"a": "b"} and found.id.startswith("resp_")
    assert raw.headers["x-cascade-model"] == raw.json()["cascade"]["answered_by"]


def test_a_conversation_is_its_turns_with_the_instructions_first(server, miniatures):
    first = ask(server, OPEN[0].text)
    turns = [
        {"role": "user", "content": OPEN[0].text},
        *[item.model_dump() for item in first.output],
        {"role": "user", "content": [{"type": "input_text", "text": OPEN[1].text}]},
    ]
    reply = ask(server, turns, model="mini-llama-large", instructions="Be brief.")
    prompt = f"Be brief.\n\n{OPEN[0].text}\n\n{first.output_text}\n\n{open_ended_prompt(OPEN[1])}"
    (offline,) = miniatures.models[2].answer([Prompt("q", prompt)])
    assert reply.usage.input_tokens == offline.prompt_tokens


def test_a_stream_adds_up_to_the_whole_reply(server):
    for question in [*OPEN[:8], *CHOICE[:4]]:
        text = prompt_of(question).text
        whole = ask(server, text)
        events = list(ask(server, text, stream=True))
        assert [event.sequence_number for event in events] == list(range(len(events)))
        kinds = [event.type for event in events]
        assert kinds[:4] == [
            "response.created", "response.in_progress", "response.output_item.added", "response.content_part.added",
        ]  # fmt: skip
        assert kinds[-4:] == [
            "response.output_text.done", "response.content_part.done", "response.output_item.done",
            "response.completed",
        ]  # fmt: skip
        assert "".join(e.delta for e in events if e.type == "response.output_text.delta") == whole.output_text
        last = events[-1].response
        assert (last.output_text, last.usage) == (whole.output_text, whole.usage)
        assert last.cascade["answered_by"] == whole.cascade["answered_by"]
        for event in events:
            EVENT.validate_python(event.model_dump())


def test_the_clients_own_helper_for_streams_takes_it(server):
    with server.client().responses.stream(model="cascade", input=OPEN[0].text) as stream:
        for _ in stream:
            pass
        assert stream.get_final_response().output_text == ask(server, OPEN[0].text).output_text


def test_the_cascade_decides_before_the_first_text():
    unsure = Plain("a", text="Answer: wrong", p_t=0.1, pieces=())
    sure = Plain("b", text="Answer: right", pieces=("Answer: ri", "ght"))
    with running(plain_cascade(unsure, sure)) as server:
        deltas = [event.delta for event in ask(server, stream=True) if event.type == "response.output_text.delta"]
        assert deltas == ["ri", "ght"]


def test_log_probabilities_are_there_where_they_are_wanted(server):
    text = prompt_of(CHOICE[0]).text
    reply = ask(server, text, include=["message.output_text.logprobs"], top_logprobs=2)
    (token,) = reply.output[0].content[0].logprobs
    assert math.exp(token.logprob) == pytest.approx(reply.cascade["stages"][-1]["p_t"], rel=1e-4)
    assert len(token.top_logprobs) == 2
    assert ask(server, text).output[0].content[0].logprobs == []


def test_an_answer_that_the_limit_ends_is_incomplete(server):
    reply = ask(server, open_ended_prompt(OPEN[0]), model="mini-llama-large", max_output_tokens=1)
    assert (reply.status, reply.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    *_, last = ask(server, open_ended_prompt(OPEN[0]), model="mini-llama-large", max_output_tokens=1, stream=True)
    assert last.type == "response.incomplete"


PICTURE = [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]
BAD = {
    "input": ({"input": ""}, "input"),
    "no turn": ({"input": []}, "input"),
    "last": ({"input": [{"role": "assistant", "content": "I"}]}, "input"),
    "image": ({"input": PICTURE}, "input[0].content[0].type"),
    "tools": ({"tools": TOOLS}, "tools"),
    "format": ({"text": {"format": {"type": "json_object"}}}, "text"),
    "earlier": ({"previous_response_id": "resp_1"}, "previous_response_id"),
    "limit": ({"max_output_tokens": 0}, "max_output_tokens"),
    "context": ({"max_output_tokens": 129}, "max_output_tokens"),
    "unknown": ({"extra_body": {"frobnicate": 1}}, "frobnicate"),
}  # fmt: skip


@pytest.mark.parametrize(("fields", "param"), BAD.values(), ids=BAD)
def test_a_bad_request_is_told_what_is_wrong_by_its_own_names(server, fields, param):
    with pytest.raises(openai.BadRequestError) as caught:
        server.client().responses.create(**{"model": "cascade", "input": "Who?"} | fields)
    assert caught.value.param == param


def test_what_no_chain_can_judge_goes_unchanged_to_the_same_route_of_the_last_model(tmp_path):
    body = json.dumps({"id": "resp_1", "usage": {"input_tokens": 3, "output_tokens": 4}}).encode()
    with Provider(lambda path, request: (200, "application/json", [body])).running() as provider:
        chain = plain_cascade(Plain("small", p_t=0.99), endpoint(provider, tmp_path))
        with running(chain) as server:
            asked = {"model": "cascade", "input": "Who?", "tools": TOOLS, "previous_response_id": "resp_0"}
            reply = httpx.post(f"{server.url}/v1/responses", json=asked)
            assert reply.content == body and provider.paths == ["/v1/responses"]
            assert provider.requests == [asked | {"model": "big"}]
            wait_until(lambda: server.lines("request"), "the request's line")
            (line,) = server.lines("request")
            assert (line["prompt_tokens"], line["completion_tokens"]) == (3, 4)


def test_a_failure_in_mid_stream_is_an_error_event():
    half = Plain("a", p_t=0.95, pieces=("Answer: on", "e "), before=broken)
    with running(plain_cascade(half, Plain("b", text="Answer: two"))) as server:
        with pytest.raises(openai.APIError, match="failed while"):
            list(ask(server, stream=True))
        raw = httpx.post(f"{server.url}/v1/responses", json={"model": "cascade", "input": "?", "stream": True}).text
        last = raw.strip().split("\n\n")[-1]
        assert last.startswith("event: error\n") and '"code":"stage_failed"' in last


def test_a_traced_stream_tells_of_each_stage():
    with running(plain_cascade(Plain("a"), Plain("b"))) as server:
        events = list(ask(server, stream=True, extra_body={"cascade": {"trace": True}}))
        stages = [event.stage["outcome"] for event in events if event.type == "response.cascade.stage"]
        assert stages == ["rejected_by_p_t", "answered"]
