"""The paper's numbers: they are whole, they follow from one another, and where they do not it is said."""

from __future__ import annotations

from importlib import import_module

import numpy as np
import pytest

from experiments.paper.arithmetic import (
    discordant,
    dollars_from_counts,
    drops,
    from_counts,
    last_of,
    lowest_f1,
    reduced_cc,
)
from experiments.paper.numbers import paper
from experiments.paper.scales import API, ARROW

PAPER = paper()
ROWS = {number: table.rows for number, table in PAPER.tables.items()}


def test_every_table_is_there_and_has_a_script():
    assert list(PAPER.tables) == list(range(1, 16))
    for number in PAPER.tables:
        assert callable(import_module(f"experiments.table_{number:02d}").main)


@pytest.mark.parametrize("exact", [True, False])
def test_the_papers_savings_follow_from_its_counts(exact):
    for label, saved in from_counts(PAPER, "answered-only", exact).items():
        # Round sizes are off by a point where the smallest model weighs most.
        assert saved == pytest.approx(ROWS[1][label]["reduced_cc"], abs=0.5 if exact else 1.0)


def test_the_papers_small_chain_costs_more_than_it_saves_once_every_pass_counts():
    assert from_counts(PAPER, "full-path", exact=False)["3B → 8B"] == pytest.approx(-3.4, abs=0.05)
    assert reduced_cc([487, 943], [3e9, 8e9], "full-path") == pytest.approx(
        100 * (1 - (1430 * 3e9 + 943 * 8e9) / (1430 * 8e9))
    )


def test_the_papers_counts_are_of_the_test_set():
    for row in ROWS[8].values():
        assert sum(row.values()) == PAPER.questions["mmlu"]
    assert ROWS[6]["8B → 70B"]["accuracy"] == pytest.approx(100 * 232 / PAPER.questions["gpqa"], abs=0.01)


@pytest.mark.parametrize(
    ("number", "column", "relative", "scale"),
    [(1, "pd_points", 0, 1), (3, "pd_relative", 1, 1), (4, "pd_points", 0, 1), (6, "pd_points", 0, 1),
     (11, "pd_relative", 1, 1)],
)  # fmt: skip
def test_the_papers_drops_follow_from_its_accuracies(number, column, relative, scale):
    found = drops(PAPER.tables[number], bool(relative))
    assert found
    for label, drop in found.items():
        assert drop == pytest.approx(ROWS[number][label][column], abs=0.011), label


def test_table_15_and_table_5_are_of_table_1s_accuracies():
    last = ROWS[1]["70B"]["accuracy"] / 100
    for row in ROWS[15].values():
        assert 100 * (row["accuracy"] / last - 1) == pytest.approx(row["pd_relative"], abs=0.011)
    assert ROWS[15]["P(T) ≥ 0.90"]["accuracy"] == pytest.approx(ROWS[1]["8B → 70B"]["accuracy"] / 100)
    without = ROWS[15]["P(T) ≥ 0.90, w/o P(IK)"]
    assert 100 * (without["accuracy"] - last) == pytest.approx(ROWS[5]["8B → 70B, w/o P(IK)"]["pd_points"], abs=0.011)
    for label in ("8B → 70B", "3B → 8B → 70B"):
        for column in ("pd_points", "reduced_cc"):
            assert ROWS[5][label][column] == ROWS[1][label][column]


def test_asking_for_p_ik_too_can_only_keep_less_but_the_paper_keeps_more_once():
    more = [
        label
        for label, row in ROWS[15].items()
        if "w/o" not in label and row["reduced_cc"] > ROWS[15][f"{label}, w/o P(IK)"]["reduced_cc"]
    ]
    assert more == ["P(T) ≥ 0.95"]


def test_the_papers_tokens_and_dollars_give_its_percentages():
    for label, row in ROWS[4].items():
        if ARROW in label:
            assert 100 * (1 - row["tokens"] / ROWS[4][API]["tokens"]) == pytest.approx(row["reduced_tokens"], abs=0.006)
    for number, step, digits in ((13, 0.0005, 0.006), (11, 0.00005, 0.006)):
        for label, row in ROWS[number].items():
            if ARROW not in label:
                continue
            last = ROWS[number][last_of(label)]["cost"]
            # Table 11's percentages are of dollars before they were rounded.
            slack = 100 * step * (1 / last + row["cost"] / last**2) if number == 11 else 0
            assert 100 * (1 - row["cost"] / last) == pytest.approx(row["reduced_cost"], abs=digits + slack), label


def test_the_papers_dollars_are_answered_only():
    answered, full = (dollars_from_counts(PAPER, ledger) for ledger in ("answered-only", "full-path"))
    for label, dollars in answered.items():
        printed = ROWS[13][label]["cost"]
        assert abs(dollars - printed) < 0.06 * printed < abs(full[label] - printed)
    assert ROWS[11]["3B → 8B"]["cost"] < min(ROWS[11]["3B"]["cost"], ROWS[11]["8B"]["cost"])


def test_the_papers_grounding_gains_and_macro_figures_are_its_own():
    for size in ("3B", "8B", "70B"):
        gain = ROWS[10][f"{size} (w/ grounding)"]["accuracy"] - ROWS[10][f"{size} (w/o grounding)"]["accuracy"]
        assert gain == pytest.approx(ROWS[10][f"{size} (w/ grounding)"]["delta"], abs=1e-9)
    for label, row in ROWS[2].items():
        assert row["recall"] == pytest.approx(ROWS[1][label]["accuracy"] / 100, abs=0.004)
        assert min(row["precision"], row["recall"]) - 0.002 < row["f1"] < max(row["precision"], row["recall"])
    for row in ROWS[11].values():
        assert row["accuracy"] + row["hallucination"] <= 1


@pytest.mark.parametrize(
    ("label", "way", "pair"),
    [("3B → 8B vs 8B", True, (7, 18)), ("8B → 70B vs 70B", None, (9, 14)), ("3B → GPT-4o vs GPT-4o", True, (9, 37)),
     ("8B → GPT-4o vs GPT-4o", True, (7, 18)), ("70B → GPT-4o vs GPT-4o", True, (54, 60))],
)  # fmt: skip
def test_the_papers_tests_are_corrected_ones_of_its_own_accuracies(label, way, pair):
    row, (chain, _, last) = ROWS[9][label], label.partition(" vs ")
    accuracies = ROWS[4 if last == API else 1]
    points = abs(accuracies[last]["accuracy"] - accuracies[chain]["accuracy"])
    assert pair[1] - pair[0] == pytest.approx(points * PAPER.questions["mmlu"] / 100, abs=0.15)
    assert pair in discordant(row.get("chi2"), row["p"], 130, way)


def test_two_of_the_papers_tests_come_from_one_table_of_disagreement():
    first, second = (ROWS[9][f"{chain} vs 70B"]["chi2"] for chain in ("3B → 8B → 70B", "3B → 70B"))
    both = set(discordant(first, None, 130, True)) & set(discordant(second, None, 130, False))
    assert both == {(9, 41)}


def test_the_papers_f1_is_not_that_of_right_answers():
    for size, row in ROWS[14].items():
        assert row["f1"] < 100 * lowest_f1(row["accuracy"] / 100, ROWS[1][size]["accuracy"] / 100)
    rng = np.random.default_rng(0)
    for _ in range(200):
        right, said = rng.random(60) < 0.7, rng.random(60) < 0.7
        hit = int((right & said).sum())
        f1 = 2 * hit / (2 * hit + int((right != said).sum()))
        assert f1 >= lowest_f1(float((right == said).mean()), float(right.mean())) - 1e-12
