from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cascade.errors import CascadeError
from cascade.simulation.scores import align, read_scores, validate_scores, write_scores


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
        ({"p_t": None}, "p_t missing"),
        ({"correct": None, "question_id": None}, "question_id, correct missing"),
        ({"p_t": [0.5, 1.5, 0.0]}, r"p_t in T to be in \[0, 1\], but row 1 is 1.5"),
        ({"p_t": [0.5, 0.5, float("nan")]}, "p_t .* row 2 is nan"),
        ({"p_t": [0.5, None, 0.5]}, "p_t .* row 1 is null"),
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
    assert align(both, ["small", "large"], normalize=True).models[0].p_t.tolist() == [0.9, 1.0, 0.1]
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
    assert chain.models[1].p_ik.tolist() == [0.1, 0.2, 0.3]
    assert chain.models[0].p_ik is None
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


def test_half_filled_p_ik_is_refused():
    both = pa.concat_tables([table(p_ik=[0.1, None, 0.2]), table("large", p_ik=[0.1, 0.1, 0.1])])
    with pytest.raises(CascadeError, match="p_ik of model 'small'"):
        align(validate_scores(both, "T"), ["small", "large"])


def test_a_file_that_is_missing_or_no_parquet_is_named(tmp_path):
    with pytest.raises(CascadeError, match="no such file"):
        read_scores([tmp_path / "none.parquet"])
    (tmp_path / "bad.parquet").write_bytes(b"nonsense")
    with pytest.raises(CascadeError, match="bad.parquet to be a Parquet file"):
        read_scores([tmp_path / "bad.parquet"])


def test_what_is_written_is_read_back(tmp_path):
    path = tmp_path / "deep" / "t.parquet"
    write_scores(table(), "small", path)
    assert pq.read_table(path).to_pylist() == table().to_pylist()
