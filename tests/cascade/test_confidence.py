"""Confidences against loops written for obviousness, sampling against exact probabilities, and the entry point."""

from __future__ import annotations

import json
import math
import signal
import time
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from scipy import stats

from cascade import confidences
from cascade.engines.base import Prompt, TokenLogprob
from cascade.engines.local import LocalModel
from cascade.engines.sampling import Sampler
from cascade.engines.settings import DecoderConfig, EndpointConfig
from cascade.errors import CascadeError
from cascade.score import main
from cascade.scores.reading import read_scores
from cascade.scores.schema import CONFIDENCES
from cascade.scoring.confidence.asked import (
    do_you_know_question,
    first_option_share,
    p_true_question,
    read_verbalized,
    verbalized_prompt,
)
from cascade.scoring.confidence.asking import Asking, answer_tokens, ask_confidences
from cascade.scoring.confidence.distributions import OF_TOKENS, margin, option_certainty, sequence_likelihood
from cascade.scoring.confidence.parts import Parts
from cascade.scoring.confidence.samples import clusters, self_consistency, semantic_certainty
from cascade.statistics.metrics import auroc
from cascade.tasks.base import Question, open_ended_prompt
from cascade.tasks.load import load_task
from cascade.tasks.task import MULTIPLE_CHOICE, OPEN_ENDED, LooseQuestions
from probes import stratified_split
from tests.cascade.faulty_server import FaultyServer, right_letter
from tests.processes import Forked
from tests.profile import LONG

LETTERED = Question("q", "What is 2 plus 2?", "arithmetic", ("B",), ("3", "4", "5", "6"))
SMALL = ["--data.model=mini-llama-small"]
OPEN = Question("q", "Who wrote it?", "author", ("Ann Bel",))


@pytest.fixture(scope="module")
def small() -> LocalModel:
    return DecoderConfig("mini-llama-small", batch_size=16).build()


# Functions


def test_the_free_confidences_are_what_loops_say():
    rng = np.random.default_rng(0)
    for _ in range(200):
        k = int(rng.integers(2, 8))
        p = [float(x) for x in rng.dirichlet([0.3] * k) * rng.uniform(0.1, 1)]
        shares = [x / sum(p) for x in p]
        entropy = 0.0
        for x in shares:
            entropy -= x * math.log(x) if x > 0 else 0.0
        assert option_certainty(p) == pytest.approx(1 - entropy / math.log(k))
        assert option_certainty(p) == pytest.approx(1 - stats.entropy(p) / math.log(k))
        best = max(shares)
        rest = sorted(shares)[:-1]
        assert margin(p) == pytest.approx(best - max(rest))
        product = 1.0
        for x in shares:
            product *= max(x, 1e-30)
        logprobs = [math.log(max(x, 1e-30)) for x in shares]
        assert sequence_likelihood(logprobs) == pytest.approx(product ** (1 / k))
        assert first_option_share(p) == pytest.approx(shares[0])


def test_their_ends_are_0_and_1():
    assert option_certainty([0.25] * 4) == pytest.approx(0) and option_certainty([0, 1, 0]) == 1
    assert margin([0.2, 0.2]) == 0 and margin([0, 0.3]) == 1
    assert sequence_likelihood([0.0]) == 1 and sequence_likelihood([-1e9]) == 0


@pytest.mark.parametrize("values", [[], [0.5], [0.5, -0.1], [0.0, 0.0], [float("nan"), 1.0]])
def test_what_is_no_distribution_is_refused(values):
    for function in (option_certainty, margin):
        with pytest.raises(CascadeError, match="`probabilities` of two or more options"):
            function(values)


def test_the_confidences_of_tokens_are_what_the_definitions_say():
    for logprobs in ([-0.5], [-0.1, -2.0, -0.3], [-1e-7, 0.0], [0.0, -800.0]):
        probabilities = [math.exp(value) for value in logprobs]
        assert OF_TOKENS["minimum"](logprobs) == pytest.approx(min(probabilities))
        assert OF_TOKENS["first_token"](logprobs) == pytest.approx(probabilities[0])
        assert OF_TOKENS["likelihood"](logprobs) == pytest.approx(math.exp(sum(logprobs) / len(logprobs)))
    for confidence in OF_TOKENS.values():
        with pytest.raises(CascadeError, match="at least one"):
            confidence([])
        with pytest.raises(CascadeError, match="at most 0"):
            confidence([-0.1, 0.2])
    assert OF_TOKENS.keys() <= CONFIDENCES.keys()


def test_consistency_and_semantic_entropy_are_what_counting_says():
    rng = np.random.default_rng(1)
    for _ in range(200):
        m = int(rng.integers(2, 12))
        said = [str(rng.choice(["Ann", "the Bel", "Cal", "Dee"])) for _ in range(m)]
        spelt = [s.upper() + "." if rng.random() < 0.5 else s for s in said]
        counts = Counter(said)
        entropy = 0.0
        for n in counts.values():
            entropy -= n / m * math.log(n / m)
        assert semantic_certainty(spelt) == pytest.approx(1 - entropy / math.log(m))
        assert self_consistency(spelt, "bel") == counts["the Bel"] / m
        assert sorted(map(len, clusters(spelt))) == sorted(counts.values())


def test_who_says_the_same_is_the_callers_to_say():
    samples = ["4", "four", "5", "2 + 2"]
    assert clusters(samples, lambda a, b: (a == "5") == (b == "5")) == [[0, 1, 3], [2]]
    assert semantic_certainty(samples, lambda a, b: True) == 1 and semantic_certainty(samples) == pytest.approx(0)
    assert self_consistency(samples, "vier", lambda a, b: a != "5") == 0.75
    with pytest.raises(CascadeError, match="two samples"):
        semantic_certainty(["4"])
    with pytest.raises(CascadeError, match="one sample"):
        self_consistency([], "4")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("Confidence: 80%", 0.8), (" 80%", 0.8), ("80", 0.8), ("0.8", 0.8), ("confidence 35 percent.", 0.35),
        ("100%\nI am sure.", 1.0), ("0", 0.0), ("1.0", 1.0), ("Confidence is 12.5 %", 0.125), ("1%", 0.01),
        ("1", None), ("", None), ("high", None), ("120%", None), ("80% or 90%", None), ("-5%", None),
        ("between 50 and 60", None), ("<unk>", None), ("1000", None),
    ],
)  # fmt: skip
def test_a_stated_confidence_is_read_or_is_none(text, value):
    assert read_verbalized(text) == value


def test_further_prompts_show_the_question_and_the_answer():
    asked = p_true_question(LETTERED, "B")
    assert asked.choices == ("True", "False") and "Proposed answer: 4\n" in asked.text
    assert "Proposed answer: Cal\n" in p_true_question(OPEN, "Cal").text
    assert do_you_know_question(OPEN).choices == ("Yes", "No", "Maybe")
    assert OPEN.text in do_you_know_question(OPEN).text
    assert verbalized_prompt(LETTERED, "B").endswith("\nB. 4\nC. 5\nD. 6\nProposed answer: B\nConfidence:")


def test_only_the_first_line_is_the_answer():
    tokens = [TokenLogprob(t, -1.0) for t in ("\n", " Ann", " Bel", "\nQuestion", ":")]
    assert [t.token for t in answer_tokens(tokens)] == ["\n", " Ann", " Bel"]
    assert (
        MULTIPLE_CHOICE.read_sample(LETTERED, " B. 4") == "B" and MULTIPLE_CHOICE.read_sample(LETTERED, " Bel") == "Bel"
    )
    assert (
        MULTIPLE_CHOICE.read_sample(LETTERED, " E") == "E" and OPEN_ENDED.read_sample(OPEN, " Answer: Ann\nx") == "Ann"
    )


# Sampling


def test_tokens_are_drawn_by_their_probabilities_at_a_temperature():
    chances = torch.tensor([[0.6, 0.3, 0.1, 0.0]]).log()
    prompts = [Prompt("q", "", temperature=0.5, seed=i) for i in range(4000)]
    sampler = Sampler(prompts)
    found = sampler(torch.arange(4000), chances.expand(4000, -1))
    expected = np.array([0.36, 0.09, 0.01]) / 0.46
    counts = np.bincount(found.numpy(), minlength=4)
    assert counts[3] == 0
    assert stats.chisquare(counts[:3], expected * 4000).pvalue > 0.001


def test_samples_do_not_depend_on_the_batch_and_do_on_question_and_seed(small):
    questions = load_task("mini-popqa").questions[:24]
    prompts = [
        Prompt(q.id, open_ended_prompt(q), answer_prefix=False, temperature=1.0, seed=seed)
        for q in questions
        for seed in (0, 1, 2)
    ]
    whole = [reply.text for reply in small.answer(prompts)]
    one = DecoderConfig("mini-llama-small", batch_size=5).build()
    assert [reply.text for reply in one.answer(prompts[::-1])][::-1] == whole
    assert len({tuple(whole[i::3]) for i in range(3)}) == 3
    same_text = [Prompt(f"other {i}", prompts[0].text, answer_prefix=False, temperature=1.5) for i in range(20)]
    assert len({reply.text for reply in small.answer(same_text)}) > 3


def test_temperature_0_is_the_greedy_answer(small):
    prompts = [Prompt(q.id, open_ended_prompt(q), seed=7) for q in load_task("mini-popqa").questions[:20]]
    found = small.decoder.run([p.text for p in prompts], [1], max_new_tokens=16)
    assert [reply.text for reply in small.answer(prompts)] == list(found.texts)


def test_a_sampled_letter_is_refused():
    with pytest.raises(CascadeError, match="0 where a letter is wanted, but got 1.0"):
        Prompt("q", "?", ("A", "B"), temperature=1.0)


def test_samples_of_an_endpoint_are_different_requests(tmp_path):
    with FaultyServer().running() as server:
        model = EndpointConfig("m", server.url, cache=tmp_path / "c.sqlite", options={"seed": None}).build()
        model.answer([Prompt("q", "Question 1", answer_prefix=False, temperature=0.7, seed=i) for i in range(3)])
        model.answer([Prompt("q", "Question 1")])
    assert sorted(r["seed"] for r in server.requests[:3]) == [0, 1, 2]
    assert {r["temperature"] for r in server.requests[:3]} == {0.7}
    assert server.requests[3]["temperature"] == 0 and "seed" not in server.requests[3]


# Asking


def test_confidences_of_letters_are_those_of_the_models_own_distribution(small):
    questions = load_task("mini-mmlu").questions[:: 200 if LONG else 500]
    task = load_task("mini-mmlu")
    asking = Asking(("likelihood", "entropy", "margin", "self_consistency"), samples=200)
    rows = ask_confidences(small, LooseQuestions("t", questions), asking).to_pylist()
    output = small.decoder.run([task.prompt(q) for q in questions], [1])
    for i, (row, question) in enumerate(zip(rows, questions, strict=True)):
        tokens = list(small.decoder.option_tokens(task.prompt(question), question.letters))
        p = output.first_token[i, tokens].double().exp().numpy()
        assert row["confidence_margin"] == pytest.approx(np.diff(np.sort(p / p.sum()))[-1], abs=1e-5)
        assert row["confidence_entropy"] == pytest.approx(1 - stats.entropy(p) / math.log(4), abs=1e-5)
        assert row["confidence_likelihood"] == pytest.approx(row["p_t"], abs=1e-6)
        # Sampling finds what the distribution says, within five standard errors.
        chosen = p.max()
        assert abs(row["confidence_self_consistency"] - chosen) < 5 * math.sqrt(chosen * (1 - chosen) / 200) + 0.02
        assert row["attempted"] is None


def test_an_endpoint_gives_them_too(tmp_path):
    questions = [Question(f"q{i}", f"Number {i}?", "s", (right_letter(i),), ("w", "x", "y", "z")) for i in range(6)]
    with FaultyServer().running() as server:
        model = EndpointConfig("m", server.url, cache=tmp_path / "c.sqlite").build()
        table = ask_confidences(
            model, LooseQuestions("t", questions), Asking(("margin", "entropy", "p_true", "semantic_entropy"))
        )
    rows = table.to_pylist()
    # Its letters have 0.7, 0.1, 0.1 and 0.1; it answers with a bare letter, always the same.
    for row in rows:
        assert row["correct"] and row["confidence_margin"] == pytest.approx(0.6)
        assert row["confidence_entropy"] == pytest.approx(1 - stats.entropy([0.7, 0.1, 0.1, 0.1]) / math.log(4))
        assert row["confidence_semantic_entropy"] == 1 and row["confidence_semantic_entropy_prompts"] == 10
        assert row["confidence_p_true_prompts"] == 1 and row["confidence_p_true_completion_tokens"] == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"methods": ("magic",)}, "likelihood, .* but got magic"),
        ({"methods": ("margin", "margin")}, "each confidence once"),
        ({"samples": 1}, "`samples` to be at least 2"),
        ({"temperature": 0.0}, "`temperature` to be above 0"),
        ({"unreadable": 2.0}, "`unreadable`"),
    ],
)
def test_what_cannot_be_asked_is_refused(settings, message):
    with pytest.raises(CascadeError, match=message):
        Asking(**settings)


def test_the_entropy_of_options_needs_options(small):
    with pytest.raises(CascadeError, match="semantic_entropy is for these"):
        ask_confidences(small, LooseQuestions("t", (OPEN,)), Asking(("entropy",)))


# The entry point


def test_every_confidence_of_the_miniature_end_to_end(tmp_path, capsys):
    out = tmp_path / "deep" / "scores.parquet"
    asked = [*SMALL, "--data.task", "mini-popqa", "--limit", "60", "--samples", "4"]
    main([*asked, "--confidences", "all", "--out", str(out)])
    table = read_scores([out])
    rows = table.to_pylist()
    task = load_task("mini-popqa")
    assert [row["question_id"] for row in rows] == [q.id for q in task.questions[:60]]
    assert [row["correct"] for row in rows] == [
        task.judge(q, row["prediction"]) for q, row in zip(task.questions, rows, strict=False)
    ]
    said = capsys.readouterr().out
    for name in CONFIDENCES:
        if name == "entropy":
            assert "confidence_entropy" not in rows[0]
            continue
        values = [row[f"confidence_{name}"] for row in rows]
        if name == "verbalized":
            assert values == [None] * 60  # the miniature cannot say a number so
            continue
        area = auroc(np.array(values), np.array([row["correct"] for row in rows]))
        assert f"{area:.3f}" in said
    decoder = DecoderConfig("mini-llama-small").build()
    for row, question in zip(rows, task.questions, strict=False):
        prompts = 4 * decoder.count_tokens([task.prompt(question)])[0]
        assert row["confidence_self_consistency_prompt_tokens"] == prompts
        assert row["confidence_self_consistency_prompts"] == row["confidence_semantic_entropy_prompts"] == 4
        assert row["confidence_p_true_completion_tokens"] == row["confidence_p_true_prompts"] == 1
    again = tmp_path / "again.parquet"
    flags = ["--data.scoring_batch_size", "7", "--confidences", "self_consistency,p_true"]
    main([*asked, *flags, "--out", str(again)])
    for name in ("self_consistency", "p_true"):
        first, second = (np.array(pq.read_table(p)[f"confidence_{name}"]) for p in (out, again))
        assert np.allclose(first, second, atol=1e-5)


def test_questions_that_a_probe_was_trained_on_are_named(tmp_path):
    """P(IK) comes with the answers: the simulator has to know on which questions it is worth nothing."""
    own, out = tmp_path / "own.jsonl", tmp_path / "scores.parquet"
    some = load_task("mini-mmlu").questions[:60]
    lines = [{"id": q.id, "question": q.text, "subject": q.subject, "choices": q.choices, "answer": q.answers[0]}
             for q in some]  # fmt: skip
    own.write_text("".join(json.dumps(line) + "\n" for line in lines))
    for task, everything in (("mini-mmlu", load_task("mini-mmlu").questions), (str(own), some)):
        main([*SMALL, f"--data.task={task}", f"--out={out}", "--confidences=margin", "--limit=40"])
        table = pq.read_table(out)
        split = stratified_split([q.id for q in everything], [q.subject for q in everything])
        train = {everything[row].id for row in split.train}
        for row in table.to_pylist():
            assert (row["split"] == "train") == (row["question_id"] in train) and row["p_ik"] is not None
        assert set(table["task"].to_pylist()) == {load_task(task).name}
    main([*SMALL, "--data.task=mini-popqa", f"--out={out}", "--confidences=margin", "--limit=4"])
    foreign = pq.read_table(out)
    assert foreign["split"].null_count == 4


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--confidences", "magic"], "`confidences` to be of"),
        (["--limit", "0"], "`limit` to be at least 1"),
        (["--data.task", "mini-popqa", "--confidences", "entropy"], "multiple-choice questions"),
        (["--data.task", "mini-nothing"], "mini-nothing"),
        (["--out", "x.csv"], "end in .parquet"),
    ],
)
def test_wrong_flags_are_one_line(tmp_path, capsys, flags, message):
    with pytest.raises(SystemExit):
        main([*SMALL, "--out", str(tmp_path / "o.parquet"), *flags])
    said = capsys.readouterr().err
    assert message in said and "Traceback" not in said and not list(tmp_path.iterdir())


def test_the_former_command_says_in_a_line_where_it_went(capsys):
    with pytest.raises(SystemExit) as ended:
        confidences.main(["--model=mini-llama-small"])
    said = capsys.readouterr().err
    assert ended.value.code == 2 and said.count("\n") == 1
    assert "python -m cascade.score --data.model … --data.task … --out FILE.parquet --confidences all" in said


@pytest.mark.parametrize("flags", [["--confidences=margin"], ["--limit=3"], ["--probe=none"]])
def test_what_only_a_table_has_needs_a_file_for_it(capsys, flags):
    with pytest.raises(SystemExit):
        main([*SMALL, *flags])
    assert f"Expected `out`, a file for the score table, where there is `{flags[0][2:].split('=')[0]}`" in (
        capsys.readouterr().err
    )


def test_without_confidences_a_table_is_that_of_the_store_and_asking_says_the_same(tmp_path):
    """And P(IK) is the shipped probe's in both."""
    some = [*SMALL, "--data.task=mini-gpqa", f"--data.stores={tmp_path / 'stores'}"]
    main([*some, f"--out={tmp_path / 'store.parquet'}"])
    main([*some, f"--out={tmp_path / 'asked.parquet'}", "--limit=448"])
    stored, asked = (read_scores([tmp_path / f"{name}.parquet"]).to_pylist() for name in ("store", "asked"))
    assert len(stored) == 448 and list((tmp_path / "stores").glob("mini-llama-small--mini-gpqa--*"))
    for one, other in zip(stored, asked, strict=True):
        for name in ("question_id", "prediction", "correct", "prompt_tokens", "num_layers", "probe_layer", "split"):
            assert one.get(name) == other.get(name)
        for name in ("p_t", "p_ik", "option_mass"):
            assert one[name] == pytest.approx(other[name], abs=1e-5)


def test_an_endpoint_has_a_table_without_states_and_no_store(tmp_path, capsys):
    own, out = tmp_path / "own.jsonl", tmp_path / "scores.parquet"
    lines = [{"question": f"Number {i}?", "choices": list("wxyz"), "answer": right_letter(i)} for i in range(20)]
    own.write_text("".join(json.dumps(line) + "\n" for line in lines))
    flags = ["--data.engine.endpoint=m", f"--data.task={own}", f"--data.stores={tmp_path / 'stores'}"]
    with FaultyServer().running() as server:
        flags += [f"--data.engine.base_url={server.url}", f"--data.engine.cache={tmp_path / 'a.sqlite'}"]
        with pytest.raises(SystemExit):
            main(flags)
        assert "Expected an engine that shows hidden states" in capsys.readouterr().err
        main([*flags, f"--out={out}"])
        assert len(server.requests) == 20
    rows = pq.read_table(out).to_pylist()
    assert [row["model"] for row in rows] == ["m"] * 20 and {row["p_ik"] for row in rows} == {None}
    assert not (tmp_path / "stores").exists()


# Stopped, and gone on with


def measured_apart(table: pa.Table) -> tuple[pa.Table, pa.Table]:
    """A table's columns but for those that are measured, and those."""
    times = [name for name in table.column_names if name.endswith("seconds")]
    return table.drop_columns(times), table.select(["question_id", *times])


def test_what_was_asked_before_a_crash_is_not_asked_again(tmp_path, capsys):
    flags = [*SMALL, "--data.task=mini-popqa", "--confidences=margin,p_true,self_consistency", "--samples=2"]
    flags += ["--limit=520"]
    main([*flags, f"--out={tmp_path / 'whole.parquet'}"])
    out, parts = tmp_path / "killed.parquet", tmp_path / "killed.parquet.parts"
    process = Forked("-m", "cascade.score", *flags, f"--out={out}")
    while len(list(parts.glob("part-*.parquet"))) < 3:
        assert process.poll() is None
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = [pq.read_table(path) for path in sorted(parts.glob("part-*.parquet"))]
    assert not out.exists() and 3 <= len(before) < 9
    for change in ("--seed=1", "--confidences=margin", "--max_new_tokens=5"):
        with pytest.raises(SystemExit):
            main([*flags, change, f"--out={out}"])
        assert f"but {change[2:].split('=')[0]} differ" in capsys.readouterr().err.splitlines()[-1]
    main([*flags, f"--out={out}"])
    assert not parts.exists()
    resumed, whole = (measured_apart(pq.read_table(path)) for path in (out, tmp_path / "whole.parquet"))
    assert resumed[0].equals(whole[0])
    # Times would differ if a question had been asked again.
    kept = pa.concat_tables([measured_apart(part)[1] for part in before])
    assert resumed[1].slice(0, len(kept)).equals(kept)


@pytest.mark.parametrize("after", [0, 70])
def test_ctrl_c_says_what_is_kept(tmp_path, monkeypatch, capsys, after):
    asked, answer = [], LocalModel.answer

    def stopped(engine, prompts, *args, **more):
        if len(asked) >= after:
            raise KeyboardInterrupt
        asked.extend(prompts)
        return answer(engine, prompts, *args, **more)

    monkeypatch.setattr(LocalModel, "answer", stopped)
    out = tmp_path / "t.parquet"
    with pytest.raises(SystemExit) as ended:
        main([*SMALL, "--data.task=mini-mmlu", "--confidences=margin", "--limit=200", f"--out={out}"])
    assert ended.value.code == 130
    (kept,) = capsys.readouterr().err.splitlines()[-1:]
    assert kept.startswith("Stopped; what was asked by then is in" if after else "Stopped: nothing was written to")
    assert (tmp_path / "t.parquet.parts").exists() == bool(after)


def test_a_part_that_is_damaged_or_of_other_questions_is_named(tmp_path):
    parts, row = Parts(tmp_path / "parts", {"a": 1}), {"question_id": ["x", "y"], "p_t": [0.5, 0.25]}
    assert parts.read(0, ["x", "y"]) is None and not parts.folder.exists()
    parts.write(0, pa.table(row))
    again = Parts(tmp_path / "parts", {"a": 1})
    assert again.read(0, ["x", "y"]).to_pydict() == row
    with pytest.raises(CascadeError, match=r"part-00000-\w+.parquet is corrupt \(it is of other questions\)"):
        again.read(0, ["x", "z"])
    (path,) = parts.folder.glob("part-*")
    whole = path.read_bytes()
    for damaged in [whole[:-7], *(whole[:i] + bytes([whole[i] ^ 1]) + whole[i + 1 :] for i in range(len(whole)))]:
        path.write_bytes(damaged)
        with pytest.raises(CascadeError, match=f"{path.name} is corrupt .its checksum differs"):
            again.read(0, ["x", "y"])
    (parts.folder / "run.json").write_text("[1]")
    with pytest.raises(CascadeError, match=r"run.json to say what the parts beside it are of"):
        Parts(tmp_path / "parts", {"a": 1})


def test_an_endpoint_that_fails_loses_nothing_of_what_it_was_asked(tmp_path, capsys):
    own, out = tmp_path / "own.jsonl", tmp_path / "scores.parquet"
    lines = [{"question": f"Number {i}?", "choices": list("wxyz"), "answer": right_letter(i)} for i in range(150)]
    own.write_text("".join(json.dumps(line) + "\n" for line in lines))
    flags = ["--data.engine.endpoint=m", "--data.engine.attempts=1", f"--data.task={own}", "--confidences=margin"]
    flags += [f"--out={out}"]
    with FaultyServer(fault=lambda question, attempt: "500" if question >= 100 else "ok").running() as server:
        with pytest.raises(SystemExit):
            main([*flags, f"--data.engine.base_url={server.url}", f"--data.engine.cache={tmp_path / 'a.sqlite'}"])
        said = capsys.readouterr().err.splitlines()[-1]
        assert "64 of 150 questions are kept in" in said and "goes on from there" in said
        server.fault, server.book = lambda question, attempt: "ok", []
        # No cache of replies: what is not asked again is what was kept.
        main([*flags, f"--data.engine.base_url={server.url}", f"--data.engine.cache={tmp_path / 'b.sqlite'}"])
        assert sorted(server.billed()) == list(range(64, 150))
    assert [row["correct"] for row in pq.read_table(out).to_pylist()] == [True] * 150


# In P(T)'s place


def scores(tmp_path, **more) -> str:
    base = {
        "question_id": list("abcd"), "model": ["s"] * 4, "correct": [True, False, True, False],
        "p_t": [0.9, 0.9, 0.1, 0.1], "confidence_margin": [0.1, 0.1, 0.9, 0.9],
    }  # fmt: skip
    path = tmp_path / "s.parquet"
    pq.write_table(pa.table(base | more), path)
    return str(path)


def test_a_confidence_takes_the_place_of_p_t_with_what_it_cost(tmp_path):
    extra = {"confidence_p_true": [0.5, 0.6, 0.7, 0.8], "confidence_p_true_prompts": [1] * 4}
    path = scores(tmp_path, **extra, confidence_p_true_prompt_tokens=[9] * 4)
    table = read_scores([path], {"p_t": "confidence_p_true"})
    assert table["p_t"].to_pylist() == [0.5, 0.6, 0.7, 0.8] and table["p_t_prompts"].to_pylist() == [1] * 4
    assert table["p_t_prompt_tokens"].to_pylist() == [9] * 4 and table["p_t_needs_answer"].to_pylist() == [True] * 4
    other = read_scores([path], {"p_t": "confidence_margin"})
    assert other["p_t"].to_pylist() == [0.1, 0.1, 0.9, 0.9] and "p_t_prompts" not in other.column_names
    assert other["p_t_needs_answer"].to_pylist() == [False] * 4
    assert read_scores([path])["p_t"].to_pylist() == [0.9, 0.9, 0.1, 0.1]


def test_a_confidence_outside_0_and_1_is_refused(tmp_path):
    with pytest.raises(CascadeError, match=r"confidence_margin .* in \[0, 1\], but row 1 is 1.5"):
        read_scores([scores(tmp_path, confidence_margin=[0.1, 1.5, 0.2, 0.3])])
