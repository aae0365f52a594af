"""Paired statistics against a numerically maximised likelihood, enumerated resamples, scipy and published tables."""

from __future__ import annotations

import json
import tracemalloc
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize, stats

from cascade.errors import CascadeError
from cascade.statistics.significance import mcnemar, mcnemar_paired, non_inferiority, paired_bootstrap


def test_mcnemar_gives_the_papers_table_9():
    test = mcnemar(9, 41)  # the one discordant table behind two of its rows
    assert round(test.chi2, 2) == 20.48
    assert round(test.chi2_corrected, 2) == 19.22
    assert round(test.p_chi2, 5) == round(test.p_chi2_corrected, 5) == 0.00001
    assert mcnemar(9, 14).p_exact == pytest.approx(0.4048, abs=1e-4)  # 8B → 70B: five questions fewer right
    assert mcnemar(0, 4).chi2 == 4.0
    assert mcnemar(0, 4).p_chi2 == pytest.approx(0.0455, abs=5e-5)


def test_mcnemar_of_equal_answers_is_one():
    same = np.array([True, False, True])
    test = mcnemar_paired(same, same)
    assert (test.p_exact, test.p_chi2, test.p_chi2_corrected) == (1.0, 1.0, 1.0)


def test_mcnemar_counts_the_discordant_pairs():
    test = mcnemar_paired(np.array([1, 1, 1, 0, 0], bool), np.array([1, 0, 0, 1, 0], bool))
    assert (test.only_first, test.only_second) == (2, 1)


def score_by_likelihood(b: int, c: int, n: int, difference: float) -> float:
    """The score statistic from the multinomial likelihood, maximised by search under P(first) − P(second) fixed."""

    def negative(q: float) -> float:
        chances = q + difference, q, 1 - 2 * q - difference
        return -sum(k * np.log(max(p, 1e-300)) for k, p in zip((b, c, n - b - c), chances, strict=True) if k)

    low, high = max(0.0, -difference), (1 - difference) / 2
    q = optimize.minimize_scalar(negative, bounds=(low, high), method="bounded", options={"xatol": 1e-12}).x
    variance = (q + difference) + q - difference**2  # of one question's difference: its mean square less its mean's
    return ((b - c) / n - difference) / np.sqrt(variance / n)


@st.composite
def tables(draw) -> tuple[int, int, int]:
    n = draw(st.integers(2, 400))
    b = draw(st.integers(0, n))
    return b, draw(st.integers(0, n - b)), n


@given(tables(), st.floats(0.005, 0.3), st.sampled_from([0.8, 0.95]))
def test_tangos_test_and_interval_are_those_of_the_maximised_likelihood(table, margin, confidence):
    found = non_inferiority(*table, margin, confidence)
    assert found.z == pytest.approx(score_by_likelihood(*table, -margin), rel=1e-4, abs=1e-4)
    assert found.p == pytest.approx(0.5 - stats.norm.cdf(found.z) + 0.5)
    critical = stats.norm.ppf((1 + confidence) / 2)
    if found.difference > -1:
        assert score_by_likelihood(*table, found.low) == pytest.approx(critical, rel=1e-3)
    if found.difference < 1:
        assert score_by_likelihood(*table, found.high) == pytest.approx(-critical, rel=1e-3)
    assert found.low <= found.difference <= found.high


@given(tables(), st.floats(0.005, 0.3), st.sampled_from([0.8, 0.95]))
def test_non_inferiority_is_shown_where_the_interval_excludes_the_margin(table, margin, confidence):
    found = non_inferiority(*table, margin, confidence)
    assert found.shown == (found.low > -margin)
    swapped = non_inferiority(table[1], table[0], table[2], margin, confidence)
    assert (swapped.low, swapped.high) == pytest.approx((-found.high, -found.low), abs=1e-9)


def test_tangos_interval_is_the_published_one():
    """Fagerland, Lydersen and Laake (2014), Table V: airway hyper-responsiveness, 1 and 7 discordant of 21 children.

    And what the R package PropCIs prints for 25 and 28 of 618 at 90 %.
    """
    children = non_inferiority(1, 7, 21, 0.1)
    assert (round(children.low, 3), round(children.high, 3)) == (-0.517, -0.026)
    printed = non_inferiority(28, 25, 618, 0.05, confidence=0.9)
    assert (round(printed.low, 4), round(printed.high, 4)) == (-0.0148, 0.0247)


@given(tables())
def test_without_a_margin_the_score_is_mcnemars(table):
    b, c, n = table
    if b + c:
        assert non_inferiority(b, c, n, 1e-9).z ** 2 == pytest.approx(mcnemar(b, c).chi2, rel=1e-3, abs=1e-3)


@given(st.integers(1, 10**6))
def test_answers_that_never_differ_still_leave_an_interval(n):
    """With no discordant pair z(δ)² = n|δ| / (1 − |δ|), worked out by hand."""
    found, square = non_inferiority(0, 0, n, 0.01), stats.chi2.ppf(0.95, 1)
    assert (found.low, found.high) == pytest.approx((-square / (n + square), square / (n + square)))
    assert found.z**2 == pytest.approx(n * 0.01 / 0.99)


@pytest.mark.parametrize("table", [(5, 0, 5), (0, 5, 5), (10**6 - 1, 0, 10**6), (0, 10**6 - 1, 10**6), (1, 0, 1)])
def test_extreme_tables_have_intervals_within_the_possible(table):
    found = non_inferiority(*table, 0.02)
    assert -1 <= found.low <= found.difference <= found.high <= 1
    assert found.low < found.high


def test_a_statement_never_says_equal():
    shown, missed = non_inferiority(*np.array([30, 30, 2000]), 0.02), non_inferiority(10, 20, 200, 0.01)
    assert shown.statement == "not inferior by more than 2 points (p < 0.001)"
    assert missed.statement == f"not shown to lose at most 1 point (p = {missed.p:.3f})"
    assert json.loads(json.dumps(shown.to_json()))["statement"] == shown.statement


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ((-1, 0, 5, 0.02), "`n`"),
        ((3, 3, 5, 0.02), "`n`"),
        ((1, 1, 5, 2), "`margin`"),
        ((1, 1, 5, 0), "`margin`"),
        ((1, 1, 5, 0.02, 95), "`confidence`"),
    ],
)
def test_counts_and_margins_that_cannot_be_are_named(arguments, named):
    with pytest.raises(CascadeError, match=named):
        non_inferiority(*arguments)


FIVE = (
    np.array([1, 1, 0, 1, 0, 1], bool),
    np.array([1, 1, 1, 1, 0, 0], bool),
    np.array([0.11, 0.23, 0.37, 0.59, 0.83, 0.31]),
    np.array([1.0, 1.3, 1.1, 1.2, 1.7, 0.9]),
)


def test_the_intervals_are_quantiles_of_all_possible_resamples():
    """All 6⁶ resamples of six questions, each as likely; an end may miss its quantile by Monte Carlo error only."""
    every = []
    for drawn in product(range(6), repeat=6):
        correct, reference, cost, whole = (sum(column[list(drawn)].tolist()) for column in FIVE)
        lost = 100 * (reference - correct) / 6
        every.append((correct / 6, (correct - reference) / 6, cost / whole, lost / (1 - cost / whole)))
    found = paired_bootstrap(*FIVE, replicates=20000, confidence=0.9)
    accuracy, _, ratio, trade = np.array(every).T
    for column, interval in ((accuracy, found.accuracy), (ratio, found.cost_ratio), (trade, found.trade)):
        for end, share in ((interval.low, 0.05), (interval.high, 0.95)):
            assert (column < end - 1e-9).mean() <= share + 0.007  # over four standard errors of 20,000 replicates
            assert (column <= end + 1e-9).mean() >= share - 0.007


def test_the_interval_of_a_rare_disagreement_covers_the_truth():
    """Of 100 answers 1 in 200 differs: resampling sees no difference in most draws, and says that there is none."""
    rng, draws, covered, resampled = np.random.default_rng(0), 1000, 0, 0
    for kind in rng.choice([-1, 0, 1], p=[0.004, 0.995, 0.001], size=(draws, 100)):
        correct, reference = kind > -1, kind < 1
        found = paired_bootstrap(correct, reference, np.ones(100), np.ones(100), replicates=20).difference
        covered += found.low <= -0.003 <= found.high
        means = np.mean(rng.choice(kind, size=(200, 100)), axis=1)
        resampled += np.quantile(means, 0.025) <= -0.003 <= np.quantile(means, 0.975)
    assert covered / draws >= 0.95 - 0.02
    assert resampled / draws < 0.6


def test_the_difference_of_qualities_between_0_and_1_is_resampled():
    """Tango's interval is of right and wrong; what is half right has none."""
    half = np.tile([0.5, 1.0], 50)
    found = paired_bootstrap(half, np.ones(100), np.ones(100), np.ones(100), replicates=500).difference
    assert found.estimate == -0.25
    assert found.low == pytest.approx(-0.25 - 1.96 * 0.025, abs=0.01)


def test_the_intervals_are_near_those_of_scipy():
    rng = np.random.default_rng(3)
    columns = (rng.random(300) < 0.7, rng.random(300) < 0.75, rng.gamma(2.0, 0.1, 300), rng.gamma(2.0, 1.0, 300))

    def trade(correct, reference, cost, whole, axis):
        saved = 1 - cost.sum(axis) / whole.sum(axis)
        return 100 * (reference.mean(axis) - correct.mean(axis)) / saved

    expected = stats.bootstrap(
        columns, trade, paired=True, vectorized=True, method="percentile", n_resamples=5000, batch=500, rng=1
    ).confidence_interval
    found = paired_bootstrap(*columns, replicates=5000).trade
    assert found.estimate == pytest.approx(trade(*columns, axis=0))
    width = expected.high - expected.low
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.05 * width)


def test_a_question_is_drawn_with_both_models():
    """A cascade that is right where its reference is, at a third of each question's cost, differs in no resample."""
    rng = np.random.default_rng(0)
    right, cost = rng.random(200) < 0.6, rng.gamma(2.0, 1.0, 200)
    found = paired_bootstrap(right, right, cost / 3, cost, replicates=100)
    # On other questions they may differ.
    assert found.difference.low == pytest.approx(-found.difference.high)
    assert found.difference.low < found.difference.estimate == 0
    assert (found.cost_ratio.low, found.cost_ratio.high) == pytest.approx((1 / 3, 1 / 3))
    assert (found.trade.low, found.trade.high) == (0, 0)
    assert found.accuracy.low < found.accuracy.high


def test_the_estimates_are_a_worked_example():
    """One of four more lost, for 60 % of the cost saved."""
    found = paired_bootstrap(
        np.array([1, 0, 0, 1]), np.array([1, 1, 0, 1]), np.full(4, 4.0), np.full(4, 10.0), replicates=50, seed=1
    )
    assert (found.accuracy.estimate, found.difference.estimate) == (0.5, -0.25)
    assert (found.cost_ratio.estimate, found.trade.estimate) == pytest.approx((0.4, 25 / 0.6))
    assert json.loads(json.dumps(found.to_json()))["trade"]["estimate"] == found.trade.estimate


@pytest.mark.filterwarnings("error")
def test_a_trade_for_nothing_saved_is_nan():
    right = np.array([1, 0, 1, 1])
    dearer = paired_bootstrap(right, right, np.full(4, 2.0), np.ones(4), replicates=20)
    assert np.isnan([dearer.trade.estimate, dearer.trade.low, dearer.trade.high]).all()
    assert dearer.cost_ratio.low == dearer.cost_ratio.high == 2
    sometimes = paired_bootstrap(right, right, np.array([0, 0, 0, 3.0]), np.ones(4), replicates=200)
    assert sometimes.trade.estimate == 0
    assert np.isnan([sometimes.trade.low, sometimes.trade.high]).all()
    free = paired_bootstrap(right, right, np.ones(4), np.zeros(4), replicates=20)
    assert np.isnan([free.cost_ratio.estimate, free.cost_ratio.low, free.trade.estimate]).all()
    assert free.difference.estimate == 0


def test_the_same_seed_gives_the_same_intervals():
    assert paired_bootstrap(*FIVE, replicates=50) == paired_bootstrap(*FIVE, replicates=50)
    assert paired_bootstrap(*FIVE, replicates=50) != paired_bootstrap(*FIVE, replicates=50, seed=1)


def test_a_million_questions_stay_below_200_megabytes():
    one = np.ones(10**6, dtype=np.float32)
    tracemalloc.start()
    paired_bootstrap(one, one, one, one, replicates=8)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200e6


@pytest.mark.parametrize(
    ("change", "named"), [({"replicates": 0}, "`replicates`"), ({"confidence": 1}, "`confidence`")]
)
def test_a_resampling_that_cannot_be_is_named(change, named):
    with pytest.raises(CascadeError, match=named):
        paired_bootstrap(*FIVE, **change)
    with pytest.raises(CascadeError, match="`cost`"):
        paired_bootstrap(FIVE[0], FIVE[1], FIVE[2][:3], FIVE[3])
