"""`cascade export`: what is written is read back, by this project and by a plain reader of each form."""

from __future__ import annotations

import csv
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cascade.export import main
from cascade.scores.reading import read_scores
from cascade.scores.schema import validate_scores


def row(number: int, model: str, **more) -> dict:
    sure = (number * 7 % 10) / 10
    return {
        "question_id": f"q{number}",
        "model": model,
        "correct": sure >= 0.3 or model == "large",
        "p_t": sure,
        "task": "mini",
        "subject": 'has a comma, and "quotes"',
        "answer": "A",
        "prediction": "A" if sure >= 0.3 or model == "large" else "B",
        "parameters": 10 if model == "small" else 100,
        "cost_usd": 0.25,
        **more,
    }


@pytest.fixture
def scores(tmp_path):
    table = pa.Table.from_pylist([row(number, model) for model in ("small", "large") for number in range(12)])
    pq.write_table(table, tmp_path / "scores.parquet")
    return tmp_path / "scores.parquet"


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_a_score_table_in_another_form_is_the_same_table(scores, tmp_path, ending):
    main([str(scores), "--out", str(tmp_path / "out" / f"again.{ending}")])
    assert read_scores([tmp_path / "out" / f"again.{ending}"]).to_pylist() == read_scores([scores]).to_pylist()


def test_csv_and_json_lines_are_plain_ones(scores, tmp_path):
    main([str(scores), "--out", str(tmp_path / "a.csv")])
    main([str(scores), "--out", str(tmp_path / "a.jsonl")])
    with (tmp_path / "a.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    lines = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert len(rows) == len(lines) == 24
    assert (rows[3]["question_id"], float(rows[3]["p_t"]), rows[3]["correct"]) == ("q3", 0.1, "false")
    assert rows[3]["subject"] == lines[3]["subject"] == 'has a comma, and "quotes"'
    assert (lines[3]["question_id"], lines[3]["p_t"], lines[3]["correct"]) == ("q3", 0.1, False)


def test_samples_have_the_harness_fields_and_are_read_back(scores, tmp_path):
    main([str(scores), "--out", str(tmp_path / "samples")])
    (file,) = (tmp_path / "samples" / "small").glob("samples_*.jsonl")
    samples = [json.loads(line) for line in file.read_text().splitlines()]
    for name in ("doc_id", "doc", "target", "resps", "filtered_resps", "metrics", "acc"):
        assert all(name in sample for sample in samples), name
    assert {sample["acc"] for sample in samples} == {0.0, 1.0}
    results = json.loads((file.parent / "results.json").read_text())
    assert results["results"]["mini"]["acc,none"] == pytest.approx(sum(s["acc"] for s in samples) / 12)
    again, before = read_scores([tmp_path / "samples"]), read_scores([scores])

    def kept(table, by_doc):
        found = {}
        for r in table.to_pylist():
            name = by_doc[r["question_id"]] if by_doc else r["question_id"]
            found[r["model"], name] = (r["correct"], r["p_t"], r["cost_usd"], r["prediction"])
        return found

    docs = {f"mini/{s['doc_id']}": s["doc"]["question_id"] for s in samples}
    assert kept(again, docs) == kept(before, None)


def test_other_names_are_mapped(tmp_path):
    (tmp_path / "mine.csv").write_text("question_id,model,ok,sure\na,m,1,0.5\n")
    main([str(tmp_path / "mine.csv"), "--columns.correct=ok", "--columns.p_t=sure", "--out", str(tmp_path / "o.jsonl")])
    assert json.loads((tmp_path / "o.jsonl").read_text()) == {
        "question_id": "a",
        "model": "m",
        "correct": True,
        "p_t": 0.5,
    }


def run_folder(folder):
    folder.mkdir()
    answers = [
        {"question_id": "a", "model": "small", "answer": "B", "failure": None, "correct": True},
        {"question_id": "b", "model": "large", "answer": "x,\ny", "failure": None, "correct": False},
    ]
    pq.write_table(pa.Table.from_pylist(answers), folder / "answers.parquet")
    pq.write_table(pa.Table.from_pylist([{"question_id": "a"}]), folder / "steps.parquet")
    return folder


def test_a_runs_folder_gives_its_answers(tmp_path):
    folder = run_folder(tmp_path / "run")
    main([str(folder), "--out", str(tmp_path / "answers.csv")])
    main([str(folder), "--out", str(tmp_path / "answers.jsonl")])
    with (tmp_path / "answers.csv").open(newline="") as file:
        assert [(r["question_id"], r["model"], r["answer"]) for r in csv.DictReader(file)] == [
            ("a", "small", "B"),
            ("b", "large", "x,\ny"),
        ]
    assert json.loads((tmp_path / "answers.jsonl").read_text().splitlines()[1])["answer"] == "x,\ny"


@pytest.mark.parametrize(
    ("out", "said"), [("a.xlsx", "to end in .csv, .parquet, .jsonl"), ("folder", "to be a file where answers")]
)
def test_a_form_that_is_not_written_is_named(tmp_path, capsys, out, said):
    folder = run_folder(tmp_path / "run")
    with pytest.raises(SystemExit):
        main([str(folder), "--out", str(tmp_path / out)])
    assert said in capsys.readouterr().err
    assert not (tmp_path / out).exists()


def test_what_holds_no_scores_is_named(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    with pytest.raises(SystemExit):
        main([str(tmp_path / "empty"), "--out", str(tmp_path / "a.csv")])
    assert "error: Expected" in capsys.readouterr().err


def test_a_store_gives_its_scores(made_once, tmp_path):
    runs = made_once.main_job()
    store = next(path.parent for path in sorted(runs.rglob("manifest.json")) if "mini-llama-small" in str(path))
    main([str(store), "--out", str(tmp_path / "store.parquet")])
    table = pq.read_table(tmp_path / "store.parquet")
    assert table.num_rows == 8100
    assert validate_scores(table, "the store")["model"].unique().to_pylist() == ["mini-llama-small"]
