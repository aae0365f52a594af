"""Shadow mode: who answers, what the journal says, and that it goes from there to thresholds that are run."""

from __future__ import annotations

import json
import math
import random
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from cascade.engines.base import Reply, TokenLogprob, prompt_of
from cascade.errors import CascadeError
from cascade.policies.file import read_policy
from cascade.policies.thresholds import ThresholdPolicy
from cascade.runtime.costs import answer_costs
from cascade.scores.reading import read_scores, read_table
from cascade.serving.service import Limits
from cascade.serving.shadow import Journal
from cascade.simulate import main as simulate
from cascade.tasks.load import load_task
from tests.serving.running import Plain, broken, plain_cascade, running
from tests.serving.test_free_text import Writes, chain
from tests.serving.test_leaving import send, wait_until
from tests.serving.test_passing import counted

CHOICE = load_task("mini-mmlu").questions[::60]


def lines(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def asked_all(server, texts: list[str], **more) -> list:
    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(lambda text: server.ask(text, **more), texts))


@pytest.fixture(scope="module")
def kept(miniatures, tmp_path_factory):
    """A journal of real models, and the replies that their clients got."""
    folder = tmp_path_factory.mktemp("journal")
    with running(miniatures, journal=Journal(folder, False)) as server:
        replies = asked_all(server, [prompt_of(question).text for question in CHOICE])
        wait_until(lambda: counted(server, "shadow_questions") == {("written",): len(CHOICE)}, "the journal")
        totals = httpx.get(f"{server.url}/v1/cascade").json()["totals"]
        counters = {name: counted(server, name) for name in ("questions", "shadow_questions", "shadow_flops")}
    return folder, replies, totals, counters


def test_the_last_model_answers_whatever_the_cascade_would_do(kept, miniatures):
    _, replies, totals, _ = kept
    last = ThresholdPolicy.alone(2)
    journeys = [miniatures.start(question, last) for question in CHOICE]
    alone = miniatures.answer_many([], False, journeys=journeys)
    assert [reply.choices[0].message.content for reply in replies] == [answer.text for answer in alone]
    assert {reply.cascade["answered_by"] for reply in replies} == {"mini-llama-large"}
    assert replies[0].cascade["notes"] == ["shadow mode: the last model answers"]
    assert totals["answered_by"] == dict.fromkeys(miniatures.names, 0) | {"mini-llama-large": len(CHOICE)}


def test_the_journal_says_what_the_cascade_would_have_done(kept, miniatures):
    folder, replies, *_ = kept
    would = {line["question_id"]: line["would"] for line in lines(folder / "multiple-choice.jsonl")}
    assert len(would) == len(CHOICE)
    for question, reply in zip(CHOICE, replies, strict=True):
        offline, found = miniatures.answer(question), would[reply.id]
        assert found["answered_by"] == offline.model
        assert found["stages"] == [{"model": s.model, "outcome": s.outcome.name.lower()} for s in offline.steps]
        flops = answer_costs(miniatures, [offline])["flops"]
        for ledger in ("answered-only", "full-path", "early-exit"):
            assert found["cost"]["flops"][ledger] == pytest.approx(flops[ledger][0])


def test_the_journal_is_a_score_table_of_every_model(kept, miniatures):
    folder, replies, *_ = kept
    table = read_scores([folder])
    assert table.num_rows == 3 * len(CHOICE)
    rows = {(row["question_id"], row["model"]): row for row in table.to_pylist()}
    for question, reply in list(zip(CHOICE, replies, strict=True))[:15]:
        said = [model.answer([prompt_of(question)])[0] for model in miniatures.models]
        for model, offline in zip(miniatures.models, said, strict=True):
            row = rows[reply.id, model.name]
            assert row["prediction"] == offline.text
            assert row["correct"] == (offline.text == said[-1].text)
            assert row["p_t"] == pytest.approx(offline.p_t, abs=1e-5)
            assert row["p_ik"] == (None if offline.p_ik is None else pytest.approx(offline.p_ik, abs=1e-5))
            assert (row["parameters"], row["probe_layer"]) == (model.parameters, model.probe_layer)


def test_what_is_asked_beside_counts_as_no_question_and_is_charged_apart(kept, miniatures):
    *_, counters = kept
    assert counters["questions"] == {("answered",): len(CHOICE)}
    assert counters["shadow_questions"] == {("written",): len(CHOICE)}
    small = sum(2 * model.parameters for model in miniatures.models[:2])
    assert counters["shadow_flops"][()] >= small * len(CHOICE)  # and the probes


def test_simulate_takes_the_folder_and_writes_a_policy_that_runs(kept, miniatures, tmp_path, capsys):
    folder, *_ = kept
    simulate([f"--scores={folder}", f"--chain={','.join(miniatures.names)}", f"--out={tmp_path}"])
    assert "mini-llama-large" in capsys.readouterr().out
    policy, _ = read_policy(tmp_path / "report.json", list(miniatures.names))
    assert policy.places[-1] == 2


class Unsure(Writes):
    """Is right, that is says what the large one does, as often as its tokens are likely."""

    def answer(self, prompts, gate=None, on_token=None):
        found = []
        for prompt in prompts:
            draw = random.Random(prompt.text)
            sure = draw.random()
            text = "The very same." if draw.random() < sure**0.2 else "Another."
            tokens = tuple(TokenLogprob(word, math.log(sure)) for word in text.split())
            found.append(Reply(text, 5, len(tokens), 0.001, p_t=sure, tokens=tokens))
        return found


def test_thresholds_of_free_text_go_from_the_journal_to_a_server(tmp_path):
    models = Unsure("small", "", []), Writes("large", "The very same!", [-0.1])
    models[1].parameters = 1000
    folder = tmp_path / "journal"
    with running(chain(*models), Limits(queue=4000), journal=Journal(folder, False)) as server:
        asked_all(server, [f"Say something {i}." for i in range(400)])
    table = read_table(folder)
    assert set(table["prediction"].to_pylist()) == {None}  # nobody said that texts may be written
    small = [row for row in table.to_pylist() if row["model"] == "small"]
    for row in small:
        assert 0 < row["confidence_likelihood"] <= 1
        assert row["confidence_minimum"] == pytest.approx(row["confidence_likelihood"])
    out = tmp_path / "out"
    simulate([f"--scores={folder}", "--columns.p_t=confidence_likelihood", "--chain=small,large", f"--out={out}"])
    policy, _ = read_policy(out / "report.json", ["small", "large"], "confidence_likelihood")
    with pytest.raises(CascadeError, match="on P.T. to run, but"):
        read_policy(out / "report.json", ["small", "large"])
    assert policy.places[-1] == 1


def test_a_stream_is_the_last_models_as_it_comes(tmp_path):
    last = Plain("last", text="Answer: sea", pieces=("Answer: s", "ea"))
    with running(plain_cascade(Plain("first", p_t=0.99), last), journal=Journal(tmp_path, False)) as server:
        pieces = [c.choices[0].delta.content for c in server.ask(stream=True) if c.choices]
        assert [piece for piece in pieces if piece] == ["s", "ea"]
        wait_until(lambda: counted(server, "shadow_would_answer") == {("false", "first"): 1}, "the journal")


def test_a_model_that_fails_or_finds_no_room_leaves_the_answer_and_no_line(tmp_path):
    first, last = Plain("first", before=broken), Plain("last", text="Z")
    with running(plain_cascade(first, last), journal=Journal(tmp_path, False)) as server:
        assert server.ask().choices[0].message.content == "Z"
        wait_until(lambda: counted(server, "shadow_questions") == {("incomplete",): 1}, "the end beside")
        assert not list(tmp_path.glob("*.jsonl"))
    gate, entered = threading.Event(), threading.Event()

    def wait(prompts):
        entered.set()
        gate.wait(30)

    models = Plain("first", before=wait), Plain("last", text="Z")
    with running(plain_cascade(*models), Limits(queue=2), journal=Journal(tmp_path, False)) as server:
        assert server.ask("One?").choices[0].message.content == "Z"  # the first model is still at it
        assert entered.wait(30)
        connection = send(server.url, "Two?", False)
        wait_until(lambda: b'"Z"' in connection.recv(65536), "the second answer")
        assert counted(server, "shadow_questions") == {("skipped",): 1}  # there was no room to ask the first again
        gate.set()
        wait_until(lambda: not server.service.batcher.under_way, "the end")


def test_a_member_asked_by_its_name_is_in_no_journal(tmp_path):
    with running(plain_cascade(Plain("first"), Plain("last")), journal=Journal(tmp_path, False)) as server:
        assert server.ask(model="first").cascade["notes"] == []
    assert not list(tmp_path.glob("*.jsonl"))


@pytest.mark.parametrize("text", [False, True])
def test_texts_are_written_only_where_they_may_be(tmp_path, text):
    models = Plain("first", text="Answer: Ann"), Plain("last", text="Answer: the Ann.")
    with running(plain_cascade(*models), journal=Journal(tmp_path, text)) as server:
        server.ask("Who was Xanthippe?")
    everything = "".join(path.read_text() for path in tmp_path.rglob("*.jsonl"))
    assert ("Xanthippe" in everything) == ("Ann" in everything) == text
    (line,) = lines(tmp_path / "open-ended.jsonl")
    assert [row["correct"] for row in line["models"]] == [True, True]  # but for case, articles and full stops
    if text:
        (question,) = lines(tmp_path / "texts" / "open-ended.jsonl")
        assert question["answers"] == ["the Ann."] and question["id"] == line["question_id"]


def test_one_server_at_a_time_writes_and_a_line_that_was_cut_is_dropped(tmp_path):
    first = Journal(tmp_path, False)
    with pytest.raises(CascadeError, match="one server at a time"):
        Journal(tmp_path, False)
    row = {"model": "a", "correct": True, "p_t": 0.5}
    first.write("free-text", {"question_id": "q1", "models": [row, row | {"model": "b"}]}, {})
    first.close()
    path = tmp_path / "free-text.jsonl"
    with path.open("a") as file:
        file.write('{"cascade-journal": "free-te')  # a crash
    assert read_table(path).num_rows == 2
    again = Journal(tmp_path, False)
    again.write("free-text", {"question_id": "q2", "models": [row, row | {"model": "b", "p_t": None}]}, {})
    again.close()
    found = read_table(path).to_pylist()
    assert [(r["question_id"], r["model"], r["p_t"]) for r in found] == [
        ("q1", "a", 0.5), ("q1", "b", 0.5), ("q2", "a", 0.5), ("q2", "b", 0.0),
    ]  # fmt: skip


def test_a_journal_that_cannot_be_read_as_one_table_says_why(tmp_path):
    row = {"model": "a", "correct": True, "p_t": 0.5}
    journal = Journal(tmp_path, False)
    with pytest.raises(CascadeError, match="there is none"):
        read_table(tmp_path)
    for form in ("free-text", "multiple-choice"):
        journal.write(form, {"question_id": "q1", "models": [row, row | {"model": "b"}]}, {})
    with pytest.raises(CascadeError, match=r"one form of questions.*free-text.jsonl.*multiple-choice.jsonl"):
        read_table(tmp_path)
    journal.write("free-text", {"question_id": "q2", "models": [row, row | {"model": "c"}]}, {})
    with pytest.raises(CascadeError, match="one chain .* a → b from line 1 on; a → c from line 2 on"):
        read_table(tmp_path / "free-text.jsonl")
    with (tmp_path / "multiple-choice.jsonl").open("a") as file:
        file.write('{"cascade-journal": "multiple-choice"}\n')
    with pytest.raises(CascadeError, match="line 2, but KeyError"):
        read_table(tmp_path / "multiple-choice.jsonl")
    journal.close()
