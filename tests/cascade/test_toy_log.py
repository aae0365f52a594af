"""A log format is one file: `tests/toys/toy_log.py` makes score tables that are validated and simulated."""

from __future__ import annotations

import json

import pytest

from cascade.errors import CascadeError
from cascade.simulate import main
from tests.toys.toy_log import convert, score_table


def written(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def record(doc, model, letter, logprob, target):
    others = {other: -9.0 for other in "ABCD" if other != letter}
    return {"doc": doc, "model": model, "logprobs": {letter: logprob, **others}, "target": target, "tokens": 100 + doc}


def test_a_log_of_another_shape_becomes_a_score_table(tmp_path):
    log = written(tmp_path / "log.jsonl", [record(7, "m", "B", 0.0, "B"), record(8, "m", "C", -1.0, "A")])
    right, wrong = score_table(log).to_pylist()
    assert (right["question_id"], right["correct"], right["p_t"], right["prompt_tokens"]) == ("7", True, 1.0, 107)
    assert (wrong["correct"], wrong["prediction"], wrong["answer"]) == (False, "C", "A")
    assert wrong["p_t"] == pytest.approx(0.36788, abs=1e-5)  # 1 / e


def test_it_is_simulated_like_any_other(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    records = []
    for doc in range(200):  # the small model is sure where it is right, on every second question
        sure = doc % 2 == 0
        records.append(record(doc, "small", "A", -0.01 if sure else -1.2, "A" if sure else "B"))
        records.append(record(doc, "large", "A" if sure else "B", -0.01, "A" if sure else "B"))
    convert(written(tmp_path / "log.jsonl", records), tmp_path / "log.parquet")
    main(["validate", "log.parquet"])
    assert "small: 200 questions; confidences: p_t; costs in tokens" in capsys.readouterr().out
    main(["--scores", "log.parquet", "--chain", "small,large", "--out", "out"])
    chain = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("│ small → large "))
    assert "100.00%" in chain  # who is unsure is wrong, and the large model is right


def test_a_line_that_lacks_something_is_named(tmp_path):
    log = written(tmp_path / "log.jsonl", [record(1, "m", "A", 0.0, "A"), {"doc": 2, "model": "m", "target": "A"}])
    with pytest.raises(CascadeError, match=r"line 2 of .*log\.jsonl to have logprobs"):
        score_table(log)
