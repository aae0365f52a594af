"""Questions of one's own, from a file to P(IK): real ones through a real model, and what is wrong with a file."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml

from cascade.engines.settings import DecoderConfig
from cascade.errors import CascadeError
from cascade.miniature.families import ASSETS
from cascade.probing.chain import with_p_ik
from cascade.run import main as run
from cascade.scoring.scored import Scored, score
from cascade.simulate import main as simulate
from cascade.tasks.base import Question, multiple_choice_prompt
from cascade.tasks.benchmarks import mmlu_questions
from cascade.tasks.files import read_questions
from cascade.tasks.load import load_task
from cascade.tasks.task import MultipleChoice
from cascade.train import main, train
from probes import HiddenStateStore, Probe
from tests.processes import Forked

LINE = {"question": "What is 1?", "choices": ["0", "1", "2"], "answer": "B"}


def write(path, rows) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture(scope="module")
def tiny(shared_data) -> str:
    """A real Llama of 260 thousand parameters, with a context of 512 tokens and a vocabulary of 512."""
    return str(shared_data / "stories260k_hf")


@pytest.fixture(scope="module")
def nasty(shared_data, tiny, tmp_path_factory) -> str:
    """Real MMLU questions that are long or strange, as far as they fit the context, and some plain ones."""
    rows = [r for r in pq.read_table(shared_data / "mmlu" / "questions.parquet").to_pylist() if r["split"] == "test"]
    texts = ["\n".join([r["question"], *(r[c] for c in "ABCD")]) for r in rows]
    questions = mmlu_questions([r | {"choices": [r[c] for c in "ABCD"]} for r in rows])
    lengths = DecoderConfig(tiny, letters="bare").build().count_tokens([multiple_choice_prompt(q) for q in questions])
    fits = [i for i in range(len(rows)) if lengths[i] <= 512]
    tests = {
        "long": lambda i: lengths[i] > 505,
        "unicode": lambda i: not texts[i].isascii(),
        "latex": lambda i: "$" in texts[i] or "\\" in texts[i],
        "quotes": lambda i: '"' in texts[i] and "'" in texts[i],
        "lines": lambda i: "\n" in rows[i]["question"],
        "empty": lambda i: any(rows[i][c].strip(" .-").lower() in ("", "none", "nan", "null", "0") for c in "ABCD"),
        "plain": lambda i: True,
    }
    rng, chosen = random.Random(0), set()
    for test in tests.values():
        found = [i for i in fits if test(i) and i not in chosen]
        assert len(found) >= 30
        chosen |= set(rng.sample(found, 40 if len(found) > 40 else 30))
    return write(
        tmp_path_factory.mktemp("questions") / "nasty.jsonl",
        [
            {
                "id": questions[i].id,
                "question": rows[i]["question"],
                "subject": rows[i]["subject"][:4],  # few strata, so that every part has some
                "choices": [rows[i][c] for c in "ABCD"],
                "answer": "ABCD"[rows[i]["answer"]],
            }
            for i in sorted(chosen)
        ],
    )


def test_real_questions_go_from_a_file_to_p_ik_and_are_the_same_live(nasty, tiny, tmp_path, capsys):
    flags = [f"--data.model={tiny}", f"--data.task={nasty}", "--data.letters=bare", "--data.layer=4"]
    flags += [f"--data.stores={tmp_path / 'stores'}", f"--out={tmp_path / 'probes'}", "--logger=none"]
    flags += ["--data.batch_size=64", "--trainer.max_epochs=3", "--data.scoring_batch_size=16"]
    trained = train(flags)
    task = load_task(nasty)
    assert (task.name, type(task)) == ("nasty.jsonl", MultipleChoice) and len(task.questions) >= 240
    (folder,) = (tmp_path / "stores").iterdir()
    scored = Scored(HiddenStateStore(folder), task, reused=True)
    tokens = json.loads(pq.read_schema(folder / "scores-00000.parquet").metadata[b"p_t_tokens"])
    assert tokens == {"447": "A", "445": "B", "457": "C", "455": "D"}
    table = with_p_ik(scored, trained.probe, split_seed=0)
    assert set(table["prediction"].to_pylist()) <= set("ABCD")
    p_ik = dict(zip(table["question_id"].to_pylist(), table["p_ik"].to_pylist(), strict=True))
    assert np.isfinite(list(p_ik.values())).all()
    # The same by plain means: one prompt at a time, no padding, the model's own states.
    model = DecoderConfig(tiny, letters="bare").build()
    for question, row in list(zip(task.questions, scored.table().to_pylist(), strict=True))[::40]:
        ids = model.decoder.tokenizer(task.prompt(question), return_tensors="pt").input_ids
        with torch.no_grad():
            plain = model.decoder.model(input_ids=ids, output_hidden_states=True)
        p = plain.logits[0, -1].softmax(-1)[[447, 445, 457, 455]]
        assert row["p_t"] == pytest.approx(float(p.max()), abs=1e-4)
        assert row["prediction"] == "ABCD"[int(p.argmax())]
        assert p_ik[question.id] == pytest.approx(trained.probe.predict(plain.hidden_states[4][0, -1:])[0], abs=1e-4)
    config = tmp_path / "cascade.yaml"
    member = {"model": tiny, "letters": "bare", "probe": str(trained.run.checkpoint)}
    config.write_text(yaml.safe_dump({"models": [member, {"model": "mini-llama-large", "probe": "none"}], "p_t": 0.0}))
    few = write(tmp_path / "few.jsonl", [json.loads(line) for line in Path(nasty).read_text().splitlines()[:20]])
    run(["--config", str(config), "--questions", few, "--p_ik", "0.0", "--out", str(tmp_path / "run")])
    steps = pq.read_table(tmp_path / "run" / "steps.parquet").to_pylist()
    assert len(steps) == 20
    for step in steps:
        assert step["p_ik"] == pytest.approx(p_ik[step["question_id"]], abs=1e-4)


def refused(entry, args: list[str], capsys) -> str:
    capsys.readouterr()  # what was said before
    with pytest.raises(SystemExit) as end:
        entry(args)
    (said,) = capsys.readouterr().err.splitlines()
    assert end.value.code == 2 and said.startswith("error: ")
    return said


def test_letters_that_cannot_be_told_apart_are_one_line(tiny, nasty, tmp_path, capsys):
    """After "Answer:" this model puts 22 % on a space of its own, of which A, C and D would be the rest, and 2 % on
    " B", which is one token: no two of these probabilities mean the same."""
    stores = tmp_path / "stores"
    said = refused(
        main,
        [f"--data.model={tiny}", f"--data.task={nasty}", f"--data.stores={stores}", "--data.batch_size=64"],
        capsys,
    )
    assert "give each option letter, with a space before it, one token of its own" in said and not stores.exists()
    assert "'A' is '▁' + 'A', 'B' is '▁B', 'C' is '▁' + 'C'" in said and "letters=bare asks for that" in said


def test_a_live_model_that_cannot_tell_letters_apart_is_refused_before_anything_is_answered(tiny, tmp_path, capsys):
    """It would fail on every question, and the large model behind it would answer all of them."""
    chain = ["--chain", f"{tiny},mini-llama-large"]
    said = refused(run, [*chain, "--p_ik=null", "--limit=3", "--out", str(tmp_path / "run")], capsys)
    assert "'A' is '▁' + 'A', 'B' is '▁B', 'C' is '▁' + 'C'" in said and "letters=bare asks for that" in said
    assert not (tmp_path / "run").exists()


def test_the_letters_that_are_resolved_are_those_of_the_questions(tmp_path, capsys):
    """The miniatures were never shown an E or F; questions of up to four options are asked without them."""
    six = LINE | {"choices": [str(n) for n in range(6)]}
    few, some = write(tmp_path / "few.jsonl", [LINE]), write(tmp_path / "some.jsonl", [LINE, six])
    run(["--questions", few, "--out", str(tmp_path / "few")])
    said = refused(run, ["--questions", some, "--out", str(tmp_path / "some")], capsys)
    assert "'mini-llama-small'" in said and "'D' is ' D', 'E' is '<unk>', 'F' is '<unk>'" in said
    assert not (tmp_path / "some").exists()


def test_open_ended_questions_are_asked_of_a_model_that_cannot_tell_letters_apart(tiny, tmp_path):
    rows = [{"question": "Who?", "answers": ["Nobody"]}]
    flags = ["--questions", write(tmp_path / "open.jsonl", rows), "--p_t", "0", "--out", str(tmp_path / "run")]
    run(["--chain", f"{tiny},mini-llama-large", "--p_ik=null", *flags])
    assert pq.read_table(tmp_path / "run" / "answers.parquet")["model"].to_pylist() == [tiny]


def test_a_question_that_is_too_long_for_one_model_goes_to_the_next_and_that_is_said(tmp_path, capsys):
    rows = [LINE, LINE | {"id": "long", "question": "What is 1 plus 2? " * 300}]
    flags = ["--questions", write(tmp_path / "own.jsonl", rows), "--p_t", "0", "--p_ik", "0"]
    with pytest.raises(SystemExit):
        run([*flags, "--chain", "mini-llama-small,mini-llama-large", "--out", str(tmp_path / "run")])
    steps = pq.read_table(tmp_path / "run" / "steps.parquet").to_pylist()
    assert [(step["question_id"], step["model"], bool(step["failure"])) for step in steps] == [
        ("1", "mini-llama-small", False),
        ("long", "mini-llama-small", True),
        ("long", "mini-llama-large", True),
    ]
    said = capsys.readouterr().out.splitlines()
    small = "mini-llama-small failed on 1, such as 'long': Expected a prompt of at most 128 tokens for "
    assert [line for line in said if line.startswith(small)]


def test_a_prompt_longer_than_the_context_is_one_line_and_what_was_done_stays(tiny, tmp_path, capsys):
    stores = tmp_path / "stores"
    short = write(tmp_path / "short.jsonl", [LINE | {"id": f"q{i}"} for i in range(3)])
    done = score(DecoderConfig(tiny, letters="bare").build(), short, stores)
    long = write(tmp_path / "long.jsonl", [LINE, LINE | {"id": "the-long-one", "question": "a b " * 400}])
    flags = [f"--data.model={tiny}", f"--data.task={long}", "--data.letters=bare", f"--data.stores={stores}"]
    process = Forked("-m", "cascade.score", *flags)
    _, said = process.communicate()
    (last,) = said.splitlines()
    assert process.returncode == 2
    assert last.startswith("error: Expected prompts of at most 512 tokens") and "prompt 'the-long-one' has " in last
    assert list(stores.iterdir()) == [done.store.folder]
    assert score(DecoderConfig(tiny, letters="bare").build(), short, stores).reused and done.store.rows == 3


@pytest.fixture(scope="module")
def seven_letters(tmp_path_factory) -> str:
    """A miniature that knows the letters E, F and G: three of its words are called so."""
    folder = shutil.copytree(ASSETS / "mini-llama-small", tmp_path_factory.mktemp("letters") / "model")
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    for number, letter in zip((15, 16, 17), "EFG", strict=True):
        old = next(word for word, place in vocabulary.items() if place == number)
        vocabulary[f" {letter}"] = vocabulary.pop(old)
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    return str(folder)


def test_an_option_letter_that_is_an_unknown_word_is_refused(tmp_path):
    row = LINE | {"choices": [str(n) for n in range(5)], "answer": "E"}
    with pytest.raises(CascadeError, match="one token of its own .* 'E' is '<unk>'"):
        score(DecoderConfig("mini-llama-small").build(), load_task(write(tmp_path / "own.jsonl", [row])), tmp_path)


@pytest.mark.parametrize("count", [2, 3, 5, 7])
def test_more_and_fewer_than_four_choices_are_asked_and_judged(count, seven_letters, tmp_path):
    letters = "ABCDEFG"[:count]
    rows = [LINE | {"id": str(i), "choices": [str(n) for n in range(count)], "answer": letters[-1]} for i in range(6)]
    rows[0] |= {"choices": ["yes", "no"], "answer": "A"}  # beside questions with more
    path = write(tmp_path / "own.jsonl", rows)
    model = DecoderConfig(seven_letters).build()
    task = load_task(path)
    rows = score(model, task, tmp_path).table().to_pylist()
    for question, row in zip(task.questions, rows, strict=True):
        ids = model.decoder.tokenizer(task.prompt(question), return_tensors="pt").input_ids
        with torch.no_grad():
            p = model.decoder.model(input_ids=ids).logits[0, -1].softmax(-1)
        options = [float(p[model.decoder.tokenizer.convert_tokens_to_ids(f" {x}")]) for x in question.letters]
        assert row["p_t"] == pytest.approx(max(options), abs=1e-4)
        assert row["prediction"] == question.letters[int(np.argmax(options))]
        assert row["correct"] == (row["prediction"] == question.answers[0])


BAD_FILES = {
    "not json": ('{"question": "a", "answer": "b"}\n{"question": \n', "line 2"),
    "mixed": (f'{json.dumps(LINE)}\n{{"question": "a", "answer": "b"}}\n', "with choices or without"),
    "no answer": ('{"question": "a"}\n', "Expected `answers` for every question"),
    "two letters": (
        json.dumps({k: v for k, v in LINE.items() if k != "answer"} | {"answers": ["A", "B"]}),
        "one letter",
    ),
    "no such letter": (json.dumps(LINE | {"answer": "D"}), "line 1: Question '1': expected the answer to be one of A"),
    "empty": ("\n", "it holds none"),
    "blank answer": ('{"question": "a", "answers": ["b", " "]}\n', "no empty text among `answers`"),
}


@pytest.mark.parametrize("case", BAD_FILES)
@pytest.mark.parametrize("entry", ["train", "simulate"])
def test_a_bad_file_is_one_line(case, entry, tmp_path, capsys):
    text, said = BAD_FILES[case]
    path = tmp_path / "own.jsonl"
    path.write_text(text)
    flags = [f"--data.task={path}"] if entry == "train" else ["--task", str(path), "--runs", str(tmp_path)]
    assert said in refused(main if entry == "train" else simulate, flags, capsys)


def test_an_unknown_task_and_a_missing_file_are_one_line(tmp_path, capsys):
    for entry, flag in ((main, "--data.task"), (simulate, "--task"), (run, "--questions")):
        said = refused(entry, [flag, "mmmlu"], capsys)
        assert "mini-popqa, mmlu, gpqa, popqa, arc-challenge" in said and "but got 'mmmlu'" in said
        assert "there is no such file" in refused(entry, [flag, str(tmp_path / "none.csv")], capsys)


@pytest.mark.parametrize(
    ("answer", "choices", "letter"),
    [
        ("C", ["x", "y", "z"], "C"),
        ("z", ["x", "y", "z "], "C"),
        (2, ["x", "y", "z"], "C"),
        (0, ["2", "1", "0"], "A"),  # a number is a place, a text a text
        ("2", ["2", "1", "7"], None),  # the text of A, or the place of C
        ("2", ["0", "1", "2"], "C"),
        ("7", ["2", "1", "7"], "C"),
        ("A", ["O", "A", "B"], "A"),  # a letter is always one
        ("x", ["x", "y", "x"], None),
        ("[1, 2]", ["[2, 1]", "[1, 2]"], "B"),
        (3, ["x", "y", "z"], None),
        (-1, ["x", "y", "z"], None),
        (True, ["x", "y", "z"], None),
        (1.0, ["x", "y", "z"], None),
        ("w", ["x", "y", "z"], None),
        ("1", ["x", "y", "z"], None),  # places are JSON's numbers
        ("", ["x", "y", "z"], None),
    ],
)
def test_a_choice_is_named_by_its_letter_its_text_or_its_place(answer, choices, letter, tmp_path):
    path = tmp_path / "own.jsonl"
    write(path, [LINE, {"question": "?", "choices": choices, "answer": answer}])
    if letter is None:
        with pytest.raises(CascadeError, match=r"`answers?` in \S*own.jsonl, line 2|line 2: .* expected the answer to"):
            read_questions(path)
    else:
        assert read_questions(path)[1].answers == (letter,)


def test_digits_in_csv_are_the_text_of_a_choice_and_no_place(tmp_path):
    path = tmp_path / "own.csv"
    path.write_text('question,choices,answer\n?,"[""8"", ""9""]",9\n')
    assert read_questions(path)[0].answers == ("B",)
    for choices, said in (('[""x"", ""y""]', "one of A, B, but got '1'"), ('[""1"", ""0""]', "'1' may be A or B")):
        path.write_text(f'question,choices,answer\n?,"{choices}",1\n')
        with pytest.raises(CascadeError, match=f"own.csv, line 2.*{said}"):
            read_questions(path)


def test_too_few_questions_for_a_probe_are_one_line_and_both_ways_out_are_open(tmp_path, capsys):
    questions = load_task("mini-mmlu").questions[::200]
    own = write(
        tmp_path / "own.jsonl", [{"question": q.text, "choices": q.choices, "answer": q.answers[0]} for q in questions]
    )
    flags = ["--chain", "mini-llama-small,mini-llama-large", "--runs", str(tmp_path / "runs"), "--task", own]
    with pytest.raises(SystemExit):
        simulate(flags)
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("error: Expected at least 256 questions to train a probe on, but ")
    assert "--probes.task" in said and "--p_ik null" in said
    simulate([*flags, "--p_ik", "null", "--plan"])
    assert "mini-mmlu" not in capsys.readouterr().out
    simulate([*flags, "--p_ik", "null"])
    assert "training" not in capsys.readouterr().err
    folder = tmp_path / "runs" / "simulations" / "mini-llama-small+mini-llama-large--own.jsonl--without-p_ik"
    report = json.loads((folder / "report.json").read_text())
    assert report["thresholds"]["p_ik"] is None and report["without_p_ik"] == []
    assert {one["confidence"] for one in report["confidences"]} == {"P(T)"}
    assert report["questions"] == len(questions)  # none of them was trained on
    simulate([*flags, "--probes.task", "mini-gpqa"])
    scores = pq.read_table(
        folder.with_name(folder.name.removesuffix("--without-p_ik")) / "scores" / "mini-llama-small.parquet"
    )
    assert scores["p_ik"].null_count == 0


def test_null_in_json_lines_is_not_known(tmp_path):
    path = tmp_path / "own.jsonl"
    write(path, [{"id": None, "question": "a?", "subject": None, "choices": None, "answer": "b", "popularity": None}])
    assert read_questions(path) == (Question("1", "a?", "general knowledge", ("b",)),)


def test_a_chain_is_simulated_on_a_file_and_carried_over_to_another(tmp_path, capsys):
    """A CSV file calibrates, JSON lines are evaluated on; the probes are trained on the first."""
    import csv

    questions = load_task("mini-mmlu").questions[::12]
    own, other = tmp_path / "own.csv", tmp_path / "other.jsonl"
    with own.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "question", "subject", "choices", "answer"])
        writer.writerows([q.id, q.text, q.subject, json.dumps(q.choices), q.answers[0]] for q in questions)
    write(other, [{"question": q.text, "choices": q.choices, "answer": q.answers[0]} for q in questions[:100]])
    chain = "mini-llama-small,mini-llama-large"
    flags = ["--chain", chain, "--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "out")]
    again = str(tmp_path / "." / "copy.csv")
    Path(again).write_bytes(own.read_bytes())
    simulate([*flags, "--calibrate-on", str(own), "--evaluate-on", str(other), again, "--plan"])
    planned = capsys.readouterr().out
    assert "own.csv" in planned and "other.jsonl" in planned
    simulate([*flags, "--calibrate-on", str(own), "--evaluate-on", str(other), again])
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert str(other) in json.dumps(report)
    # The same questions by another name: what the probes were trained on is not evaluated on.
    asked = {one["name"]: one["questions"] for one in report["study"]["evaluations"]}
    assert asked[str(other)] == 100 and 0 < asked[again] < len(questions) / 5
    checkpoint = tmp_path / "runs" / "probes" / "mini-llama-small--own.csv--layer-2" / "probe"
    assert Probe.from_pretrained(checkpoint).config.task == "own.csv"
    scores = pq.read_table(tmp_path / "out" / "scores" / "mini-llama-small.parquet")
    assert set(scores["split"].to_pylist()) == {"train", "validation", "test"} and scores.num_rows == len(questions)


DEEP = "[" * 100_000 + "]" * 100_000


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("deep.jsonl", '{"question": "What is 1?", "subject": ' + DEEP + "}\n", r"deep\.jsonl, line 1, .*too deep"),
        ("deep.csv", f'question,choices,answer\nWhat is 1?,"{DEEP[:120_000]}",A\n', r"deep\.csv, line 2 .*too deep"),
        ("twice.csv", "question,answer,question\nWhat is 1?,one,What is 2?\n", r"twice\.csv .*'question' twice"),
        ("often.jsonl", '{"question": "What is 1?", "answers": ["1"], "popularity": Infinity}\n', r"often\.jsonl"),
    ],
)
def test_a_file_that_would_break_its_reader_is_named(tmp_path, name, content, said):
    (tmp_path / name).write_text(content)
    with pytest.raises(CascadeError, match=said) as error:
        read_questions(tmp_path / name)
    assert len(str(error.value)) < 500


def test_ids_in_csv_are_the_text_that_stands_there(tmp_path):
    (tmp_path / "own.csv").write_text("id,question,answers\n007,a?,\n7,b?,\n1.10,c?,\n1.1,d?,\n")
    assert [question.id for question in read_questions(tmp_path / "own.csv")] == ["007", "7", "1.10", "1.1"]
