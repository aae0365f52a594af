"""What is found before anything is computed: a chain the wrong way round, logs that differ, folders that are files."""

from __future__ import annotations

import json
import re

import pytest

from cascade.simulate import main
from cascade.tasks.load import load_task


def refused(args: list[str], capsys) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main(args)
    assert stop.value.code == 2
    return capsys.readouterr().err.splitlines()[-1]


def log(path, **changed) -> str:
    """Two models' answers to 200 questions; ``changed`` gives columns of all rows anew, by row number and size."""
    with path.open("w") as file:
        for model, size in (("big", 7_000_000_000), ("little", 3_000_000)):
            for row in range(200):
                values = {"question_id": str(row), "model": model, "correct": row % 3 > 0, "p_t": (row % 10) / 10}
                values |= {"parameters": size} | {name: of(row, model) for name, of in changed.items()}
                file.write(json.dumps({name: value for name, value in values.items() if value is not None}) + "\n")
    return str(path)


def test_a_chain_the_wrong_way_round_is_refused_unless_that_is_meant(tmp_path, capsys):
    flags = ["--scores", log(tmp_path / "log.jsonl"), "--chain", "big,little", f"--out={tmp_path / 'out'}"]
    said = refused(flags, capsys)
    assert re.search(r"'big' \(7,000,000,000 parameters\) comes before 'little' .*`--any_order true`", said)
    main([*flags, "--any_order=true"])
    assert f"score tables to {tmp_path / 'out'}" in capsys.readouterr().out


def test_a_chain_of_unknown_sizes_is_ordered_by_price(tmp_path, capsys):
    scores = log(tmp_path / "log.jsonl", parameters=lambda row, model: None)
    prices = tmp_path / "prices.yaml"
    prices.write_text(
        "source: here\ndate: today\nmodels:\n  big: {input: 5, output: 10}\n  little: {input: 1, output: 2}\n"
    )
    flags = ["--scores", scores, "--chain", "big,little", f"--prices={prices}", f"--out={tmp_path / 'out'}"]
    assert "'big' (15 US dollars) comes before 'little' (3)" in refused(flags, capsys)


def test_miniatures_the_wrong_way_round_are_refused_before_one_is_asked(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("cascade.scoring.scored.score_share", None)
    said = refused(["--chain", "mini-llama-large,mini-llama-small", f"--runs={tmp_path}"], capsys)
    assert "'mini-llama-large'" in said and "comes before 'mini-llama-small'" in said


def test_validate_refuses_what_simulate_would(tmp_path, capsys):
    scores = log(tmp_path / "log.jsonl", question_id=lambda row, model: f"{model[0] if row == 7 else ''}{row}")
    said = refused(["validate", scores], capsys)
    assert re.search(r"'little' \(200 rows\) and 'big' \(200 rows\) differ in 2, such as 'b7'", said)
    assert "differ in 2, such as 'b7'" in refused(["--scores", scores, f"--out={tmp_path / 'out'}"], capsys)


@pytest.mark.parametrize(
    ("column", "of", "message"),
    [
        ("correct", lambda row, _: "yes" if row else "true", "1 or 0, but got 'yes' in row 1; did you mean true and"),
        ("p_t", lambda row, _: -0.5 - row, "row 0 is -0.5; these may be log-probabilities: did you mean their exp"),
        ("p_t", lambda row, _: row / 100, r"in \[0, 1\], but row 101 is 1.01$"),
    ],
)
def test_validate_says_which_row_and_what_values_are_taken(column, of, message, tmp_path, capsys):
    said = refused(["validate", log(tmp_path / "log.jsonl", **{column: of})], capsys)
    assert re.search(f"^error: Expected {column} in .*{message}", said)


@pytest.mark.parametrize("flag", ["--report", "--out"])
def test_a_folder_that_cannot_be_written_is_found_before_anything_is_computed(flag, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("cascade.probing.chain.own_scores", None)
    (tmp_path / "file").write_text("")
    said = refused([f"{flag}={tmp_path / 'file' / 'deeper'}", f"--runs={tmp_path / 'runs'}"], capsys)
    assert said.startswith("error: ") and str(tmp_path / "file") in said


def test_fields_that_are_not_ours_are_ignored_and_misspelt_ones_refused(tmp_path):
    path = tmp_path / "q.jsonl"
    line = {
        "question": "Is it?",
        "choices": ["yes", "no"],
        "answer": "A",
        "source": "exam",
        "year": 1999,
        "tags": ["x"],
    }
    path.write_text(json.dumps(line) + "\n")
    (question,) = load_task(str(path)).questions
    assert (question.text, question.choices, question.answers) == ("Is it?", ("yes", "no"), ("A",))
    for wrong, meant in (("choises", "choices"), ("options", "choices"), ("Subject", "subject")):
        path.write_text(json.dumps({"question": "Is it?", "answer": "yes", wrong: "x"}) + "\n")
        with pytest.raises(ValueError, match=f"but got {wrong}; did you mean {meant}"):
            load_task(str(path))
