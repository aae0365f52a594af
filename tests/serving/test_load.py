"""Many clients at once: everything accepted is answered once, and as offline."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter

import httpx
import openai
import pytest
from prometheus_client.parser import text_string_to_metric_families

from cascade.engines.base import prompt_of
from cascade.serving.service import Limits
from cascade.tasks.load import load_task
from tests.serving.running import Plain, plain_cascade, running

QUESTIONS = load_task("mini-mmlu").questions[::27][:300] + load_task("mini-popqa").questions[:50]


def metrics(url: str) -> dict[tuple[str, ...], float]:
    """By name and label values, labels in alphabetical order."""
    found = {}
    for family in text_string_to_metric_families(httpx.get(f"{url}/metrics").text):
        for sample in family.samples:
            found[sample.name, *(value for _, value in sorted(sample.labels.items()))] = sample.value
    return found


@pytest.fixture(scope="module")
def asked(miniatures):
    """Offline answers, then the same questions all at once; replies, the metrics after them, and the log."""
    offline = miniatures.answer_many(QUESTIONS, progress=False)
    with running(miniatures) as server:

        async def ask_all():
            client = openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)

            async def ask(question):
                messages = [{"role": "user", "content": prompt_of(question).text}]
                return await client.chat.completions.create(model="cascade", messages=messages)

            async with client:
                return await asyncio.gather(*map(ask, QUESTIONS))

        replies = asyncio.run(ask_all())
        counted, overview = metrics(server.url), httpx.get(f"{server.url}/v1/cascade").json()
    return offline, replies, counted, overview, server


def test_every_question_is_answered_once_by_the_same_model_with_the_same_text(asked):
    offline, replies, *_ = asked
    assert len({reply.id for reply in replies}) == len(QUESTIONS)
    for answer, reply in zip(offline, replies, strict=True):
        assert (reply.choices[0].message.content, reply.cascade["answered_by"]) == (answer.text, answer.model)
        assert [s["model"] for s in reply.cascade["stages"]] == [s.model for s in answer.steps]
    assert len({answer.model for answer in offline}) == 3


def test_the_metrics_add_up_to_what_was_asked(asked, miniatures):
    offline, replies, counted, overview, _ = asked
    assert counted["cascade_questions_total", "answered"] == len(QUESTIONS)
    for name in miniatures.names:
        steps = [step for answer in offline for step in answer.steps if step.model == name]
        outcomes = Counter(step.outcome.name.lower() for step in steps)
        for outcome, number in outcomes.items():
            assert counted["cascade_stage_questions_total", outcome, name] == number
        assert counted["cascade_stage_seconds_count", name] == len(steps)
        assert counted["cascade_p_t_count", name] == sum(step.p_t is not None for step in steps)
        assert counted["cascade_escalations_total", name] == len(steps) - outcomes["answered"]
        assert counted["cascade_failures_total", name] == 0
        assert counted["cascade_batch_questions_sum", name] == len(steps)
        assert overview["totals"]["answered_by"][name] == outcomes["answered"]
    for ledger in ("answered-only", "full-path", "early-exit"):
        told = sum(reply.cascade["cost"]["flops"][ledger] for reply in replies)
        assert counted["cascade_flops_total", ledger] == pytest.approx(told)
        assert overview["totals"]["cost"]["flops"][ledger] == pytest.approx(told)
    alone = 2 * miniatures.models[-1].parameters * len(QUESTIONS)
    assert counted["cascade_last_model_alone_flops_total",] == overview["totals"]["last_model_alone"]["flops"] == alone
    assert counted["cascade_requests_total", "/v1/chat/completions", "200"] == len(QUESTIONS)
    assert overview["totals"]["questions"] == len(QUESTIONS)


def test_questions_of_different_clients_share_batches(asked, miniatures):
    counted = asked[2]
    assert counted["cascade_batch_questions_count", miniatures.names[0]] < len(QUESTIONS) / 4


def test_the_log_has_a_line_a_request_and_no_question(asked):
    offline, *_, server = asked
    lines = [line for line in server.lines("request") if line["path"] == "/v1/chat/completions"]
    assert len(lines) == len({line["id"] for line in lines}) == len(QUESTIONS)
    assert Counter(line["answered_by"][0] for line in lines) == Counter(answer.model for answer in offline)
    log = server.log.getvalue()
    assert not any(question.text in log for question in QUESTIONS)
    assert not any(f'"{answer.text}"' in log for answer in offline if len(answer.text) > 1)


def test_drift_is_small_on_the_calibration_task_and_large_elsewhere(miniatures):
    validation = set(miniatures.calibration.question_ids)
    drifts = []
    for questions in (
        [q for q in load_task("mini-mmlu").questions if q.id in validation][::4],
        load_task("mini-popqa").questions[:150],
    ):
        with running(miniatures) as server:
            prompts = [prompt_of(question).text for question in questions]
            server.client().completions.create(model="cascade", prompt=prompts)
            found = metrics(server.url)
            drifts.append(found["cascade_drift", "p_t", "mini-llama-small"])
            # Other policies say nothing of the cascade's own.
            before = found["cascade_drift_values", "p_t", "mini-llama-small"]
            server.ask(model="mini-llama-small")
            server.ask(extra_body={"cascade": {"thresholds": {"p_t": 0.1}}})
            assert metrics(server.url)["cascade_drift_values", "p_t", "mini-llama-small"] == before
    assert drifts[0] < 0.12 < 0.3 < drifts[1]


def test_a_full_queue_turns_away_with_429_and_loses_nothing():
    gate, turned_away = threading.Event(), []
    slow = Plain("slow", p_t=0.95, before=lambda prompts: gate.wait(20) and None, batch_size=4)
    with running(plain_cascade(slow, Plain("never")), Limits(queue=10)) as server:

        async def ask_all():
            client = openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)

            async def ask(i: int):
                messages = [{"role": "user", "content": f"Question {i}?"}]
                try:
                    reply = await client.chat.completions.create(model="cascade", messages=messages)
                    return i, reply.choices[0].message.content
                except openai.RateLimitError as error:
                    turned_away.append((error.code, int(error.response.headers["retry-after"]) >= 1))
                    if len(turned_away) == 20:
                        gate.set()
                    return i, None

            async with client:
                return await asyncio.gather(*map(ask, range(30)))

        found = dict(asyncio.run(ask_all()))
        counted = metrics(server.url)
    answered = [i for i, text in found.items() if text == "A"]
    assert len(answered) == 10
    assert turned_away == [("queue_full", True)] * 20
    assert sorted(int(text.split()[-1].rstrip("?")) for text in map(last_line, slow.asked)) == sorted(answered)
    assert counted["cascade_rejected_total",] == 20
    assert counted["cascade_questions_total", "answered"] == 10
    assert max(slow.batches) <= 4


def last_line(prompt: str) -> str:
    return prompt.strip().splitlines()[-1]


def test_a_client_that_goes_away_does_not_break_its_batch():
    entered, gate = threading.Event(), threading.Event()

    def wait(prompts) -> None:
        entered.set()
        gate.wait(20)

    slow = Plain("slow", p_t=0.5, before=wait)
    last = Plain("last", text="Z")
    with running(plain_cascade(slow, last), Limits(window=0.1)) as server:
        replies = []
        others = [threading.Thread(target=lambda: replies.append(server.ask())) for _ in range(3)]

        def leave() -> None:
            body = {"model": "cascade", "messages": [{"role": "user", "content": "gone"}], "stream": True}
            with pytest.raises(httpx.ReadTimeout):
                httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=httpx.Timeout(20, read=0.5))

        for thread in others:
            thread.start()
        leave()
        assert entered.wait(20)
        gate.set()
        for thread in others:
            thread.join()
        assert [reply.choices[0].message.content for reply in replies] == ["Z"] * 3
