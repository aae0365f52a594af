"""Feedback over HTTP: what counts, what is refused, alarms wherever they have to be seen, and restarts."""

from __future__ import annotations

import json

import httpx
import numpy as np
import pytest

from cascade.policies.base import Thresholds
from cascade.policies.promise import Promise, Watched
from cascade.policies.thresholds import ThresholdPolicy
from cascade.runtime import Cascade
from cascade.statistics.sequential import Histogram
from tests.serving.running import Plain, plain_cascade, running

PROMISE = Promise(0.01, 0.1, 1_000, 0.9, 0.9)


def promised(p_t: float = 0.95, signals=None) -> Cascade:
    models = Plain("small", p_t=p_t), Plain("large")
    policy = ThresholdPolicy.whole([Thresholds(0.9, None)])
    return Cascade(models, policy, watched=Watched(PROMISE, signals or {}))


def tell(server, id: str, **body) -> httpx.Response:
    return httpx.post(f"{server.url}/v1/feedback", json={"id": id, **body})


def test_a_promise_that_is_broken_alarms_once_in_the_log_and_everywhere_it_is_asked(tmp_path):
    with running(promised(), state=tmp_path / "state" / "watch.json") as server:
        for _ in range(40):
            reply = tell(server, server.ask().id, correct=False, reference_correct=True).json()
            assert reply["counted"]
        (alarm,) = [line for line in reply["watch"]["alarms"] if "promise is broken" in line]
        assert "1.00%" in alarm and "large" in alarm
        assert [line["message"] for line in server.lines("alarm")].count(alarm) <= 1
        assert sum("promise is broken" in line["message"] for line in server.lines("alarm")) == 1
        assert 'cascade_alarm{test="loss"} 1.0' in httpx.get(f"{server.url}/metrics").text
        overview = httpx.get(f"{server.url}/v1/cascade").json()
        assert overview["watch"]["tests"]["loss"]["alarm"]
    with running(promised(), state=tmp_path / "state" / "watch.json") as server:
        after = httpx.get(f"{server.url}/v1/cascade").json()["watch"]
        assert after == overview["watch"]
        tell(server, server.ask().id, correct=False, reference_correct=True)
        assert not server.lines("alarm")  # it was said before
    assert {path.name for path in (tmp_path / "state").iterdir()} == {"watch.json"}


def test_what_is_known_of_the_last_model_decides_what_is_tested():
    with running(promised()) as server:
        watch = tell(server, server.ask().id, correct=True).json()["watch"]
        assert watch["tests"]["accuracy"]["observations"] == 1
        assert watch["tests"]["loss"]["observations"] == 0
    with running(promised(p_t=0.1)) as server:  # the last model answers: it loses nothing against itself
        watch = tell(server, server.ask().id, correct=False).json()["watch"]
        assert watch["tests"]["loss"]["observations"] == 1 and watch["tests"]["loss"]["mean"] == 0


def test_low_accuracy_alone_does_not_say_that_the_promise_is_broken():
    with running(promised()) as server:
        for _ in range(60):
            reply = tell(server, server.ask().id, correct=False).json()
    (alarm,) = reply["watch"]["alarms"]
    assert "accuracy is below" in alarm and "not said" in alarm and "promise is broken" not in alarm


def test_answers_by_another_policy_do_not_count_and_a_verdict_counts_once():
    with running(promised()) as server:
        own = server.ask(extra_body={"cascade": {"thresholds": {"p_t": 0.1}}}).id
        assert not tell(server, own, correct=True).json()["counted"]
        assert not tell(server, server.ask(model="large").id, correct=True).json()["counted"]
        id = server.ask().id
        assert tell(server, id, correct=True).json()["counted"]
        again = tell(server, id, correct=True)
        assert again.status_code == 200 and not again.json()["counted"]
        assert tell(server, id, correct=False).status_code == 409
        assert httpx.get(f"{server.url}/v1/cascade").json()["watch"]["feedback"] == 1


def test_the_right_answer_is_compared_and_several_prompts_are_told_apart():
    with running(promised()) as server:
        reply = server.client().completions.create(model="cascade", prompt=["One?", "Two?"])
        first = tell(server, reply.id, index=0, answer="A").json()["watch"]
        second = tell(server, reply.id, index=1, answer="B").json()["watch"]
        assert (first["accuracy"], second["accuracy"]) == (1.0, 0.5)
        assert tell(server, reply.id, index=2, answer="B").status_code == 404


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({}, 400, "id"),
        ({"id": "x"}, 400, "correct"),
        ({"id": "x", "correct": True, "answer": "A"}, 400, "correct"),
        ({"id": "x", "correct": "yes"}, 400, "correct"),
        ({"id": "x", "correct": True, "more": 1}, 400, "more"),
        ({"id": "x", "correct": True}, 404, "id"),
    ],
)
def test_what_is_no_feedback_is_refused_by_name(server, body, status, param):
    reply = httpx.post(f"{server.url}/v1/feedback", json=body)
    assert reply.status_code == status
    assert reply.json()["error"]["param"] == param


def test_questions_of_another_kind_alarm_without_a_verdict():
    rng = np.random.default_rng(0)
    usual = {("small", "p_t"): Histogram.of(rng.beta(2, 2, 400))}
    with running(promised(p_t=0.95, signals=usual)) as server:
        for _ in range(8):
            server.client().completions.create(model="cascade", prompt=[f"{i}?" for i in range(10)])
        found = httpx.get(f"{server.url}/v1/cascade").json()["watch"]
    assert any("not like those" in line and "P(T) of small" in line for line in found["alarms"])
    assert found["signals"][0]["distance"] > 0.5


def test_a_server_without_anything_to_watch_by_says_so_in_one_line():
    with running(plain_cascade(Plain("a", p_t=0.95), Plain("b"))) as server:
        (line,) = server.lines("not_watching")
        assert "No promise" in line["reason"]
        reply = tell(server, server.ask().id, correct=True).json()
        assert reply["counted"] and reply["watch"]["tests"] == {}


@pytest.mark.parametrize("text", ["{", "[]", '{"watch": "another"}', "{}"])
def test_a_state_that_is_none_of_this_policy_is_one_line(tmp_path, text):
    from cascade.errors import CascadeError
    from cascade.serving.service import Service

    path = tmp_path / "watch.json"
    path.write_text(text)
    with pytest.raises(CascadeError, match="Expected the state of"):
        Service(promised(), state=path)


def test_what_the_state_says_is_plain_json(tmp_path):
    path = tmp_path / "watch.json"
    with running(promised(), state=path) as server:
        tell(server, server.ask().id, correct=True)
        assert json.loads(path.read_text())["feedback"] == 1  # before the reply, and not with the end
