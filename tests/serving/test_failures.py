"""Stages that fail: the next stronger one answers, and the reply says so."""

from __future__ import annotations

import json

import httpx
import openai
import pytest

from cascade.engines.base import Failure
from tests.serving.running import Plain, broken, plain_cascade, running
from tests.serving.test_load import metrics

BEST_EFFORT = {"cascade": {"fallback": "best_effort"}}


def test_the_next_stage_answers_where_one_fails_and_the_reply_says_so():
    models = Plain("a", before=broken), Plain("b", text="B", p_t=0.95), Plain("c", text="C")
    with running(plain_cascade(*models)) as server:
        reply = server.ask("Who was Xanthippe?")
        assert reply.choices[0].message.content == "B"
        stages = reply.cascade["stages"]
        assert [(s["model"], s["outcome"]) for s in stages] == [("a", "failed"), ("b", "answered")]
        assert "RuntimeError" in stages[0]["failure"] and stages[1]["failure"] is None
        assert reply.cascade["notes"] == ["failed: a"]
        assert metrics(server.url)["cascade_failures_total", "a"] == 1
        (told,) = server.lines("stage_failed")
        assert told["model"] == "a" and told["errors"][0]["kind"] == "RuntimeError"
        assert any("broken" in frame for frame in told["errors"][0]["traceback"])
        assert "Xanthippe" not in server.log.getvalue() and "Traceback" not in json.dumps(reply.model_dump())
        assert server.ask(model="b").choices[0].message.content == "B"  # the stages behind it are at work


def test_a_threshold_on_p_ik_is_refused_for_a_stage_without_a_probe():
    probed = Plain("probed", num_layers=2, hidden_size=4, probe_layer=1)
    with running(plain_cascade(probed, Plain("bare"), Plain("last"))) as server:

        def refused(thresholds) -> openai.BadRequestError:
            with pytest.raises(openai.BadRequestError) as caught:
                server.ask(extra_body={"cascade": {"thresholds": thresholds}})
            return caught.value

        both = refused({"p_ik": 0.5})
        assert both.param == "cascade.thresholds.p_ik"
        assert "of 'bare', which has no probe, but got 0.5; a list" in both.body["message"]
        second = refused([{"p_ik": 0.5}, {"p_ik": 0}])
        assert second.param == "cascade.thresholds[1].p_ik"
        assert "'bare', which has no probe, but got 0" in second.body["message"]
        for fine in ([{"p_ik": None}, {"p_t": 0.1}], {"p_ik": None}, [{"p_ik": 0.0}, {"p_ik": None}]):
            assert server.ask(extra_body={"cascade": {"thresholds": fine}}).choices[0].message.content == "A"


def test_a_failed_last_stage_is_503_with_the_stages_in_the_body():
    with running(plain_cascade(Plain("a"), Plain("b", before=broken))) as server:
        with pytest.raises(openai.InternalServerError) as caught:
            server.ask()
        assert caught.value.status_code == 503
        body = caught.value.response.json()
        assert body["error"]["code"] == "last_stage_failed" and body["error"]["type"] == "server_error"
        outcomes = [(s["model"], s["outcome"]) for s in body["cascade"]["stages"]]
        assert outcomes == [("a", "rejected_by_p_t"), ("b", "failed")]
        assert metrics(server.url)["cascade_questions_total", "failed"] == 1


def test_best_effort_lets_an_earlier_model_answer_and_says_so():
    models = Plain("a", text="A"), Plain("b", text="B"), Plain("c", before=broken)
    with running(plain_cascade(*models)) as server:
        reply = server.ask(extra_body=BEST_EFFORT)
        assert reply.choices[0].message.content == "B" and reply.cascade["answered_by"] == "b"
        assert reply.cascade["stages"][-1]["best_effort"] is True
        assert "best effort" in reply.cascade["notes"][-1]
        with pytest.raises(openai.InternalServerError):
            server.ask(extra_body={"cascade": {"fallback": "none"}})


def test_best_effort_is_503_where_no_model_replied():
    with running(plain_cascade(Plain("a", before=broken), Plain("b", before=broken))) as server:
        with pytest.raises(openai.InternalServerError) as caught:
            server.ask(extra_body=BEST_EFFORT)
        assert [s["outcome"] for s in caught.value.response.json()["cascade"]["stages"]] == ["failed", "failed"]


def test_a_bad_prompt_at_one_model_is_no_excuse_for_the_failure_of_the_last():
    class Short(Plain):
        def answer(self, prompts, gate=None, on_token=None):
            return [Failure(p.question_id, "Expected a prompt of at most 1 tokens for 'a'", True) for p in prompts]

    failing = running(plain_cascade(Short("a"), Plain("b", before=broken)))
    with failing as server, pytest.raises(openai.InternalServerError):
        server.ask()
    with running(plain_cascade(Short("a"), Plain("b", text="B"))) as server:
        assert server.ask().choices[0].message.content == "B"
    with running(plain_cascade(Short("a"), Short("b"))) as server:
        with pytest.raises(openai.BadRequestError) as caught:
            server.ask()
        assert caught.value.code == "context_length_exceeded"


def test_a_failure_before_a_streams_first_text_has_a_status_of_its_own():
    with running(plain_cascade(Plain("a"), Plain("b", before=broken))) as server:
        with pytest.raises(openai.InternalServerError) as caught:
            server.ask(stream=True)
        assert caught.value.status_code == 503


def test_a_failure_in_mid_stream_is_an_error_event_and_the_end():
    half = Plain("a", p_t=0.95, pieces=("Answer: on", "e "), before=broken)
    with running(plain_cascade(half, Plain("b", text="Answer: two"))) as server:
        body = {"model": "cascade", "messages": [{"role": "user", "content": "?"}], "stream": True}
        reply = httpx.post(f"{server.url}/v1/chat/completions", json=body)
        events = [json.loads(line.removeprefix("data: ")) for line in reply.text.split("\n\n") if line]
        assert reply.status_code == 200 and "[DONE]" not in reply.text
        assert events[-1]["error"]["code"] == "stage_failed"
        with pytest.raises(openai.APIError, match="failed while"):
            list(server.ask(stream=True))


def test_a_stream_goes_on_where_the_next_stage_says_what_was_sent_already():
    half = Plain("a", p_t=0.95, pieces=("Answer: t",), before=broken)
    last = Plain("b", text="Answer: two", pieces=("Answer: ", "tw", "o"))
    with running(plain_cascade(half, last)) as server:
        assert "".join(chunk.choices[0].delta.content or "" for chunk in server.ask(stream=True)) == "two"


def test_a_failure_after_a_traced_stage_is_an_error_event():
    with running(plain_cascade(Plain("a"), Plain("b", before=broken))) as server:
        stream = server.ask(stream=True, extra_body={"cascade": {"trace": True}})
        assert [next(stream).cascade["stage"]["outcome"] for _ in range(2)] == ["rejected_by_p_t", "failed"]
        with pytest.raises(openai.APIError):
            next(stream)


SECRET = "status 500: connect to db-7.internal.example as svc_billing failed"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("reason", "told"),
    [
        (SECRET, "a failed with status 500"),
        (f"6 attempts, the last of which: {SECRET}", "a failed with status 500"),
        ("Connection error. (ConnectError: svc_billing@db-7.internal.example)", "a failed"),
        ("a refused to answer: svc_billing at db-7.internal.example may not say", "a refused to answer"),
    ],
)
def test_a_providers_own_words_are_logged_and_not_told(reason, told, stream):
    class Refusing(Plain):
        def answer(self, prompts, gate=None, on_token=None):
            return [Failure(p.question_id, reason, bad_prompt="status" in reason) for p in prompts]

    def check(said: str) -> None:
        assert told in said
        assert "internal" not in said and "billing" not in said

    trace = {"cascade": {"trace": True}} if stream else {}
    with running(plain_cascade(Refusing("a"), Plain("b", text="B"))) as server:
        reply = server.ask(stream=stream, extra_body=trace)
        check(json.dumps([chunk.model_dump() for chunk in (reply if stream else [reply])]))
        with pytest.raises(openai.APIStatusError) as caught:
            server.ask(model="a", stream=stream)
        check(caught.value.response.text)
        assert [line["reason"] for line in server.lines("question_failed")] == [reason] * 2


def test_a_reason_that_quotes_the_question_is_logged_only_where_text_may_be():
    class Quoting(Plain):
        def answer(self, prompts, gate=None, on_token=None):
            return [Failure(p.question_id, f"status 400: bad prompt {p.text[-60:]!r}", True) for p in prompts]

    for log_text in (False, True):
        with running(plain_cascade(Quoting("a"), Plain("b")), log_text=log_text) as server:
            server.ask("Who was Xanthippe, the wife of Socrates?")
            (line,) = server.lines("question_failed")
            assert ("Xanthippe" in line["reason"]) == log_text
            assert log_text or "quotes the question" in line["reason"]
