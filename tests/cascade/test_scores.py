from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from cascade.errors import CascadeError
from cascade.scores.arrays import align, parts
from cascade.scores.reading import read_scores
from cascade.scores.schema import COLUMNS, validate_scores, write_scores


def table(model: str = "small", **columns) -> pa.Table:
    base = {
        "question_id": ["a", "b", "c"],
        "model": [model] * 3,
        "correct": [True, False, True],
        "p_t": [0.5, 1.0, 0.0],
    }
    merged = base | columns
    return pa.table({name: values for name, values in merged.items() if values is not None})


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"correct": None}, "correct missing .it has question_id, model, p_t"),
        ({"correct": None, "question_id": None}, "question_id, correct missing"),
        ({"p_t": [0.5, 1.5, 0.0]}, r"p_t in T to be in \[0, 1\], but row 1 is 1.5"),
        ({"p_t": [0.5, 0.5, float("nan")]}, "p_t .* row 2 is nan"),
        ({"correct": [True, None, True]}, "correct .* row 1 is null"),
        ({"p_t": ["x", "y", "z"]}, "p_t in T to be double"),
        ({"p_ik": [None, -0.5, 0.1]}, "p_ik .* row 1 is -0.5"),
        ({"seconds": [1.0, float("inf"), 1.0]}, "seconds .* row 1 is inf"),
        ({"question_id": ["a", "b", "a"]}, "'a' repeats for model 'small'"),
        ({"parameters": [5, 5, 6]}, "parameters .* varies"),
        ({"correct": [0.0, 1.0, 0.3]}, "correct .* true or false"),
        ({"correct": [2, 0, 1]}, "correct .* true or false"),
        ({"parameters": [0, 0, 0]}, "parameters .* row 0 is 0"),
    ],
)
def test_what_is_wrong_with_a_table_is_named(columns, message):
    with pytest.raises(CascadeError, match=message):
        validate_scores(table(**columns), "T")


def test_right_and_wrong_may_be_numbers():
    assert validate_scores(table(correct=[1, 0, 1]), "T")["correct"].to_pylist() == [True, False, True]


def test_the_same_rows_twice_are_refused(tmp_path):
    write_scores(table(), "small", tmp_path / "a.parquet")
    write_scores(table(parameters=[1] * 3), "small", tmp_path / "b.parquet")
    with pytest.raises(CascadeError, match="'a' repeats for model 'small'|'b' repeats|'c' repeats"):
        read_scores([tmp_path / "a.parquet", tmp_path / "b.parquet"])


def test_the_other_reading_of_p_t_is_another_column():
    both = pa.concat_tables([table(p_t_normalized=[0.9, 1.0, 0.1]), table("large", p_t_normalized=[1.0] * 3)])
    assert align(both, ["small", "large"], normalize=True).models[0].signals.p_t.tolist() == [0.9, 1.0, 0.1]
    with pytest.raises(CascadeError, match="p_t_normalized"):
        align(pa.concat_tables([table(), table("large")]), ["small", "large"], normalize=True)


def test_an_empty_table_is_refused():
    with pytest.raises(CascadeError, match="empty"):
        validate_scores(table().slice(0, 0), "T")


def test_columns_beyond_the_schema_are_dropped_and_types_cast():
    checked = validate_scores(table(p_t=np.array([0.5, 1, 0], np.float32), mood=["x"] * 3), "T")
    assert checked.column_names == ["question_id", "model", "correct", "p_t"]
    assert checked.schema.field("p_t").type == pa.float64()


def test_tables_are_joined_by_question_whatever_their_order(tmp_path):
    large = table("large", p_ik=[0.1, 0.2, 0.3]).take([2, 0, 1])
    write_scores(table(), "small", tmp_path / "small.parquet")
    write_scores(large, "large", tmp_path / "large.parquet")
    chain = align(read_scores([tmp_path / "small.parquet", tmp_path / "large.parquet"]), ["small", "large"])
    assert chain.question_ids == ("a", "b", "c")
    assert chain.models[1].signals.p_ik.tolist() == [0.1, 0.2, 0.3]
    assert chain.models[0].signals.p_ik is None
    assert chain.models[1].correct.tolist() == [True, False, True]


def test_models_with_different_questions_are_refused():
    both = pa.concat_tables([table(), table("large", question_id=["a", "b", "x"])])
    with pytest.raises(CascadeError, match=r"differ in 2, such as 'c'"):
        align(validate_scores(both, "T"), ["small", "large"])


@pytest.mark.parametrize("chain", [["small"], ["small", "small"], []])
def test_a_chain_is_two_or_more_different_models(chain):
    with pytest.raises(CascadeError, match="two or more different models"):
        align(validate_scores(table(), "T"), chain)


def test_a_model_without_scores_is_named():
    with pytest.raises(CascadeError, match=r"\(small\), but got 'huge'"):
        align(validate_scores(table(), "T"), ["small", "huge"])


@pytest.mark.parametrize("column", ["p_t", "p_ik", "p_ik_reader"])
def test_a_half_filled_confidence_is_refused(column):
    both = pa.concat_tables([table(**{column: [0.1, None, 0.2]}), table("large", **{column: [0.1, 0.1, 0.1]})])
    with pytest.raises(CascadeError, match=f"{column} of model 'small'"):
        align(validate_scores(both, "T"), ["small", "large"])


def test_only_the_last_model_may_do_without_a_confidence():
    letters = validate_scores(table("large", p_t=None), "T")
    both = pa.concat_tables([validate_scores(table(), "T"), letters], promote_options="default")
    assert align(both, ["small", "large"]).models[1].signals.p_t is None
    with pytest.raises(CascadeError, match="'large' to have a confidence"):
        align(both, ["large", "small"])


@pytest.mark.parametrize(("ending", "write"), [("csv", pyarrow.csv.write_csv), ("jsonl", None)])
def test_csv_and_json_lines_are_read_with_the_names_of_others(tmp_path, ending, write):
    theirs = pa.table({"qid": ["a", "b"], "llm": ["m", "m"], "is_right": [1, 0], "conf": [0.25, 1.0], "mood": [1, 2]})
    path = tmp_path / f"logs.{ending}"
    if write:
        write(theirs, path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in theirs.to_pylist()))
    found = read_scores([path], {"question_id": "qid", "model": "llm", "correct": "is_right", "p_t": "conf"})
    assert found.to_pylist() == [
        {"question_id": "a", "model": "m", "correct": True, "p_t": 0.25},
        {"question_id": "b", "model": "m", "correct": False, "p_t": 1.0},
    ]


@pytest.mark.parametrize(
    ("columns", "message"),
    [({"p_t": "nope"}, "column 'nope' for p_t"), ({"shoe_size": "p_t"}, "'shoe_size' is not one of them")],
)
def test_a_wrong_column_mapping_is_named(tmp_path, columns, message):
    write_scores(table(), "small", tmp_path / "a.parquet")
    with pytest.raises(CascadeError, match=message):
        read_scores([tmp_path / "a.parquet"], columns)


def test_logs_without_labels_are_read_only_where_that_is_meant(tmp_path):
    pq.write_table(table(correct=None), tmp_path / "a.parquet")
    assert "correct" not in read_scores([tmp_path / "a.parquet"], labelled=False).column_names
    with pytest.raises(CascadeError, match="correct missing"):
        read_scores([tmp_path / "a.parquet"])


def test_parts_do_not_overlap_and_follow_the_question(tmp_path):
    ids = [f"q{i}" for i in range(4000)]
    columns = {"question_id": ids, "correct": [True] * 4000, "p_t": [0.5] * 4000}
    both = pa.concat_tables([pa.table(columns | {"model": [name] * 4000}) for name in ("small", "large")])
    whole = align(both, ["small", "large"])
    drawn = parts(whole, (0.5, 0.25, 0.25), seed=1)
    assert sorted(name for part in drawn for name in part.question_ids) == sorted(ids)
    assert [len(part) / 4000 for part in drawn] == pytest.approx([0.5, 0.25, 0.25], abs=0.03)
    fewer = parts(whole.take(np.arange(1000)), (0.5, 0.25, 0.25), seed=1)
    assert all(set(a.question_ids) <= set(b.question_ids) for a, b in zip(fewer, drawn, strict=True))
    assert parts(whole, (0.5, 0.5), seed=2)[0].question_ids != parts(whole, (0.5, 0.5), seed=1)[0].question_ids
    with pytest.raises(CascadeError, match="parts that do not overlap, but there are 1"):
        parts(whole.take(np.arange(1)), (0.5, 0.5))


def test_a_file_that_is_missing_or_no_parquet_is_named(tmp_path):
    with pytest.raises(CascadeError, match="no such file"):
        read_scores([tmp_path / "none.parquet"])
    (tmp_path / "bad.parquet").write_bytes(b"nonsense")
    with pytest.raises(CascadeError, match="bad.parquet to be a Parquet file"):
        read_scores([tmp_path / "bad.parquet"])
    (tmp_path / "bad.xlsx").write_bytes(b"nonsense")
    with pytest.raises(CascadeError, match="bad.xlsx to end in"):
        read_scores([tmp_path / "bad.xlsx"])


def test_what_is_written_is_read_back(tmp_path):
    path = tmp_path / "deep" / "t.parquet"
    write_scores(table(), "small", path)
    assert pq.read_table(path).to_pylist() == table().to_pylist()


def test_a_table_never_takes_the_place_of_another_models(tmp_path):
    """As models do that differ in case alone, where the file system does not tell cases apart."""
    path = tmp_path / "m.parquet"
    write_scores(table("M"), "M", path)
    before = path.read_bytes()
    with pytest.raises(CascadeError, match="m.parquet to be free for the scores of 'm', but it holds those of M"):
        write_scores(table("m"), "m", path)
    assert path.read_bytes() == before
    write_scores(table("M", p_t=[0.25] * 3), "M", path)
    assert pq.read_table(path)["p_t"].to_pylist() == [0.25] * 3
    path.write_bytes(b"what a full disk left")
    write_scores(table("m"), "m", path)
    assert pq.read_table(path)["model"].to_pylist() == ["m"] * 3


def lines(path, *rows: str) -> Path:
    path.write_text("\n".join(rows) + "\n")
    return path


def test_ids_models_and_answers_in_csv_are_the_text_that_stands_there(tmp_path):
    head = "question_id,model,correct,p_t,answer,prediction,subject,parameters"
    path = lines(
        tmp_path / "t.csv",
        head,
        "007,1.10,1,0.5,010,NA,2024-01-01,7",
        "7,1.10,0,,true,,null,7.0",
        "1.10,1.10,true,NaN,1e3,None,x,7",
        "1.1,1.1,False, 0.25 ,A,B,y,",
    )
    found = read_scores([path])
    assert found["question_id"].to_pylist() == ["007", "7", "1.10", "1.1"]
    assert found["model"].to_pylist() == ["1.10", "1.10", "1.10", "1.1"]
    assert found["answer"].to_pylist() == ["010", "true", "1e3", "A"]
    assert found["prediction"].to_pylist() == ["NA", "", "None", "B"]
    assert found["subject"].to_pylist() == ["2024-01-01", "null", "x", "y"]
    assert found["correct"].to_pylist() == [True, False, True, False]
    assert found["p_t"].to_pylist() == [0.5, None, None, 0.25]
    assert found["parameters"].to_pylist() == [7, 7, 7, None]


def test_columns_of_other_names_are_text_in_csv_too(tmp_path):
    path = lines(tmp_path / "t.csv", "qid,llm,ok", "007,1.10,1", "7,1.10,0", "007,1.1,1")
    found = read_scores([path], {"question_id": "qid", "model": "llm", "correct": "ok"})
    assert found["question_id"].to_pylist() == ["007", "7", "007"]
    assert found["model"].to_pylist() == ["1.10", "1.10", "1.1"]


def test_text_in_json_lines_is_never_taken_for_a_date(tmp_path):
    rows = [{"question_id": f"2024-01-0{i}", "model": "m", "correct": True, "prediction": "12:30:00"} for i in (1, 2)]
    found = read_scores([lines(tmp_path / "t.jsonl", *map(json.dumps, rows))])
    assert found["question_id"].to_pylist() == ["2024-01-01", "2024-01-02"]
    assert found["prediction"].to_pylist() == ["12:30:00"] * 2


def test_json_lines_may_leave_out_what_is_not_known(tmp_path):
    path = lines(
        tmp_path / "t.jsonl",
        '{"question_id": "a", "model": "m", "correct": true}',
        "",
        '{"model": "m", "question_id": "b", "correct": false, "p_t": 1, "more": {"deep": [1, "x"]}}',
        '{"question_id": "c", "model": "m", "correct": false, "p_t": 0.5, "more": 3}',
    )
    assert read_scores([path]).to_pylist() == [
        {"question_id": "a", "model": "m", "correct": True, "p_t": None},
        {"question_id": "b", "model": "m", "correct": False, "p_t": 1.0},
        {"question_id": "c", "model": "m", "correct": False, "p_t": 0.5},
    ]


GOOD = '{"question_id": "a", "model": "m", "correct": true}'


@pytest.mark.parametrize(
    ("bad", "names"),
    [
        ('{"question_id": "b", "more": ' + "[" * 100_000 + "]" * 100_000 + "}", r"line 2, but .*deep"),
        ("[" * 100_000, r"line 2, but .*deep"),
        ('{"question_id": "b", "model": "m", "correct": true, "correct": false}', "line 2.*'correct' twice"),
        ('{"question_id": "b"', "line 2"),
        ("[1, 2]", "line 2.*object"),
        ('{"question_id": 5, "model": "m", "correct": true}', "question_id"),
        ('{"question_id": "b", "model": "m", "correct": true, "p_t": 1' + "0" * 400 + "}", "p_t"),
        ('{"question_id": "b", "model": "m", "correct": true, "p_t": 1' + "0" * 5000 + "}", "line 2"),
        ('{"question_id": "\\ud83d", "model": "m", "correct": true}', "question_id"),
        ('{"question_id": "b", "model": "m", "correct": true, "p_t": [1]}', "p_t"),
    ],
)
def test_json_lines_that_are_wrong_are_named_in_one_line(tmp_path, bad, names):
    path = lines(tmp_path / "t.jsonl", GOOD, bad)
    with pytest.raises(CascadeError, match=names) as error:
        read_scores([path])
    assert "t.jsonl" in str(error.value) and "\n" not in str(error.value) and len(str(error.value)) < 500


def test_bytes_that_are_no_text_are_named(tmp_path):
    for ending in ("csv", "jsonl"):
        path = tmp_path / f"t.{ending}"
        path.write_bytes(b"question_id,model,correct\na\xff,m,1\n")
        with pytest.raises(CascadeError, match=rf"t\.{ending}"):
            read_scores([path])


def test_a_column_that_stands_twice_is_named(tmp_path):
    path = lines(tmp_path / "t.csv", "question_id,model,correct,p_t,p_t", "a,m,1,0.5,0.6")
    with pytest.raises(CascadeError, match=r"t\.csv .*p_t"):
        read_scores([path])
    twice = pa.table([["a"], ["m"], [True], [0.5], [0.6]], names=["question_id", "model", "correct", "p_t", "p_t"])
    pq.write_table(twice, tmp_path / "t.parquet")
    with pytest.raises(CascadeError, match=r"t\.parquet .*p_t"):
        read_scores([tmp_path / "t.parquet"])


@pytest.mark.parametrize(("cell", "names"), [("soon", "p_t.*soon"), ("1.5", "row 0 is 1.5"), ("inf", "row 0 is inf")])
def test_a_cell_that_is_no_probability_is_named(tmp_path, cell, names):
    with pytest.raises(CascadeError, match=names):
        read_scores([lines(tmp_path / "t.csv", "question_id,model,correct,p_t", f"a,m,1,{cell}")])


def test_the_documentation_has_every_column():
    """`python -m experiments.readme` writes them; a column added without it is noticed here."""
    page = (Path(__file__).parents[2] / "docs" / "score-table.md").read_text()
    for column in COLUMNS:
        assert f"| `{column.name}` |" in page
        assert column.meaning in page
