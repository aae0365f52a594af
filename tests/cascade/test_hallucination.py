"""Hallucination rate by hand, from score tables to the simulator's tables."""

from __future__ import annotations

import pyarrow as pa
import pytest

from cascade.errors import CascadeError
from cascade.policies.base import Thresholds
from cascade.report.tables import report_tables
from cascade.scores.arrays import align
from cascade.scores.schema import validate_scores
from cascade.scoring.scored import score
from cascade.simulation.simulator import report
from cascade.tasks.load import load_task
from cascade.tasks.task import MultipleChoice, OpenEnded

IDS = list("abcde")
# Small keeps a, b and c at 0.5; d and e are the large model's.
SMALL = {"correct": [1, 0, 0, 0, 1], "attempted": [1, 1, 0, 1, 1], "p_t": [0.9, 0.8, 0.7, 0.2, 0.1]}
LARGE = {"correct": [1, 1, 1, 0, 0], "attempted": [1, 1, 1, 0, 1], "p_t": [0.9] * 5}


def table(**without) -> pa.Table:
    rows = [{"question_id": IDS, "model": [name] * 5} | columns for name, columns in (("s", SMALL), ("l", LARGE))]
    return pa.concat_tables([pa.table({k: v for k, v in row.items() if k not in without}) for row in rows])


def test_abstentions_are_neither_right_nor_hallucinations():
    found = report(align(validate_scores(table(), "T"), ["s", "l"]), Thresholds(0.5, None))
    # s: b and d wrong, c declined. l: e wrong, d declined. s → l: b by s, then d declined and e wrong by l.
    assert [row.hallucination for row in found.singles] == [pytest.approx(0.4), pytest.approx(0.2)]
    assert found.chains[0].hallucination == pytest.approx(0.4) and found.chains[0].accuracy == pytest.approx(0.2)
    assert found.to_json()["chains"][0]["hallucination"] == pytest.approx(0.4)
    shown = next(t for t in report_tables(found) if t.name == "accuracy")
    assert [row[2] for row in shown.texts()] == ["40.00%", "20.00%", "40.00%"]


def test_without_the_column_there_is_no_rate():
    found = report(align(validate_scores(table(attempted=0), "T"), ["s", "l"]), Thresholds(0.5, None))
    assert found.singles[0].hallucination is None and "hallucination" not in found.singles[0].to_json()
    assert "Halluc." not in next(t for t in report_tables(found) if t.name == "accuracy").to_csv()


def test_right_and_not_attempted_is_refused():
    wrong = pa.table({"question_id": IDS[:3], "model": ["s"] * 3, "correct": [0, 0, 1], "attempted": [1, 0, 0]})
    with pytest.raises(CascadeError, match="attempted in T to be true where correct is, but row 2"):
        validate_scores(wrong, "T")


def test_scoring_tells_what_the_miniature_did_not_attempt(tmp_path):
    whole = load_task("mini-popqa")
    task = OpenEnded("mini-popqa", whole.questions[:120])
    found = score("mini-llama-small", task, tmp_path, layers=[1]).table().to_pylist()
    assert [row["attempted"] for row in found] == [row["prediction"] != "I do not know." for row in found]
    assert 0 < sum(row["attempted"] for row in found) < 120
    lettered = MultipleChoice("m", load_task("mini-mmlu").questions[:9])
    assert "attempted" not in score("mini-llama-small", lettered, tmp_path, layers=[1]).table().column_names
