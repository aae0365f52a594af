"""Score rows that earlier versions wrote are read, with the numbers that were put in."""

from __future__ import annotations

from pathlib import Path

import pytest

from cascade.scoring.scored import Scored
from cascade.tasks.load import load_task
from probes import HiddenStateStore

BEFORE = Path(__file__).parents[1] / "fixtures" / "written_before" / "store"


def test_score_rows_of_before_are_read():
    rows = Scored(HiddenStateStore(BEFORE), load_task("mini-mmlu"), reused=True).table().to_pylist()
    assert [row["question_id"] for row in rows] == ["q0", "q1", "q2"]
    assert [row["prediction"] for row in rows] == ["A", "B", "C"]
    assert [row["answer"] for row in rows] == ["A", "B", "A"]
    assert [row["correct"] for row in rows] == [True, True, False]
    assert [row["prompt_tokens"] for row in rows] == [10, 11, 12]
    for row in rows:
        mass = 1 / 2 + 1 / 4 + 1 / 8 + 1 / 16
        right = 1 / 2 if row["correct"] else 1 / 8  # the third row's "A" comes two letters after its "C"
        assert row["p_t"] == pytest.approx(1 / 2)
        assert row["option_mass"] == pytest.approx(mass)
        assert row["p_t_normalized"] == pytest.approx(1 / 2 / mass)
        assert row["p_right"] == pytest.approx(right / mass)
        assert row["seconds"] > 0
        assert (row["model"], row["task"], row["parameters"], row["num_layers"]) == ("org/tiny", "tiny", 1000, 1)
