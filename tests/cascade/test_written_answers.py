"""Answers that lm-evaluation-harness generates: read as texts, without probabilities."""

from __future__ import annotations

import json
from pathlib import Path

from cascade.scores.reading import read_scores

LOGS = Path(__file__).parents[1] / "fixtures" / "logs" / "lm_eval" / "mini_written"


def test_generated_answers_are_right_where_the_harness_says_so_and_have_no_p_t():
    table = read_scores([LOGS])
    (results,) = LOGS.rglob("results_*.json")
    share = json.loads(results.read_text())["results"]["mini_written"]["exact_match,none"]
    right = table["correct"].to_pylist()
    assert len(right) == 6
    assert abs(sum(right) / 6 - share) < 1e-9
    assert "p_t" not in table.column_names
    assert set(table["answer"].to_pylist()) <= set("ABCD")
