"""E-processes: exact expectation by enumeration, false alarms over long horizons, and power under a real break."""

from __future__ import annotations

import json
from itertools import pairwise, product
from math import log2

import numpy as np
import pytest
from scipy import integrate, stats

from cascade.errors import CascadeError
from cascade.statistics.sequential import CELLS, Bets, Histogram, MeanBets, UniformBets, cells, lower_bound

LEVEL = 0.05


def not_more_often_than(level: float, alarms: int, draws: int) -> bool:
    return stats.binomtest(alarms, draws, level, alternative="greater").pvalue > 0.001


def test_the_capital_is_the_mixture_over_bets_and_times_of_beginning():
    factors = np.random.default_rng(0).uniform(0.5, 1.6, (9, 3))
    bets = Bets(3)
    for row in factors:
        bets.multiply(row)
    weights = [1 / log2(k + 1) - 1 / log2(k + 2) for k in range(1, 2_000)]
    expected = 0.0
    for k, weight in enumerate(weights):
        for j in range(3):
            product_ = 1.0
            for row in factors[k:]:
                product_ *= row[j]
            expected += weight / 3 * product_
    expected += 1 / log2(2_001)  # who begins after those
    assert float(bets.value) == pytest.approx(expected)


@pytest.mark.parametrize(("rise", "fall"), [(0.2, 0.19), (0.01, 0.0), (0.5, 0.49)])
def test_at_the_limit_the_expectation_of_the_loss_process_is_1_by_enumeration(rise, fall):
    chances = {1: rise, -1: fall, 0: 1 - rise - fall}  # the mean is 0.01
    total = 0.0
    for losses in product(chances, repeat=6):
        bets = MeanBets(0.01, -1)
        for loss in losses:
            bets.observe(loss)
        total += float(bets.value) * float(np.prod([chances[loss] for loss in losses]))
    assert total == pytest.approx(1)


def test_bets_on_p_values_are_densities():
    def begun(p: float, j: int) -> float:
        bets = UniformBets()
        bets.observe(p)
        return float(bets.capital[j])

    count = UniformBets().capital.shape[-1]
    share = (1 - 1 / log2(3)) / count
    for j in range(count):
        assert min(begun(p, j) for p in np.linspace(0, 1, 101)) >= 0
        assert integrate.quad(begun, 0, 1, args=(j,), limit=200)[0] == pytest.approx(share, rel=0.01)


@pytest.mark.parametrize("fall", [0.0, 0.03, 0.3])
def test_a_promise_that_is_just_kept_alarms_at_most_at_the_level_over_20000_answers(fall):
    rng, draws = np.random.default_rng(1), 500
    bets = MeanBets(0.01, -1, (draws,))
    for _ in range(20_000):
        u = rng.random(draws)
        bets.observe((u < fall + 0.01).astype(float) - (u > 1 - fall))
    assert not_more_often_than(LEVEL, int((bets.peak >= 1 / LEVEL).sum()), draws)


def test_a_mean_that_depends_on_the_past_and_stays_below_the_limit_alarms_at_most_at_the_level():
    rng, draws = np.random.default_rng(2), 500
    bets, last = MeanBets(0.2, 0, (draws,)), np.zeros(draws)
    for _ in range(5_000):
        last = (rng.random(draws) < np.where(last > 0, 0.2, 0.05)).astype(float)
        bets.observe(last)
    assert not_more_often_than(LEVEL, int((bets.peak >= 1 / LEVEL).sum()), draws)


@pytest.mark.parametrize(("kept", "within"), [(0, 1_500), (10_000, 3_000)])
def test_a_loss_of_5_points_where_1_is_promised_alarms_within_so_many_answers(kept, within):
    rng, draws = np.random.default_rng(3), 200
    bets = MeanBets(0.01, -1, (draws,))
    for t in range(kept + within):
        rise = 0.075 if t >= kept else 0.03  # 2.5 % of answers are better than the last model's throughout
        u = rng.random(draws)
        bets.observe((u < rise).astype(float) - (u > 0.975))
    assert (bets.peak >= 1 / LEVEL).mean() >= 0.95


def p_values(reference: np.ndarray, live: np.ndarray, rng: np.random.Generator) -> list[float]:
    seen = Histogram.of(reference)
    return [seen.p_value(value, rng.random()) for value in live]


def walk(streams: list[list[float]]) -> np.ndarray:
    """The peak of each stream's e-process."""
    bets = UniformBets((len(streams),))
    for p in np.array(streams).T:
        bets.observe(p)
    return bets.peak


@pytest.mark.parametrize("kind", ["smooth", "ties", "one value"])
def test_questions_like_the_certifying_ones_alarm_at_most_at_the_level_however_few_certified(kind):
    rng, streams = np.random.default_rng(4), []
    for _ in range(200):
        values = rng.beta(5, 1, 50 + 1_000)
        if kind == "ties":
            values = np.round(values * 4) / 4
        if kind == "one value":
            values[:] = 1.0
        streams.append(p_values(values[:50], values[50:], rng))
    assert not_more_often_than(LEVEL, int((walk(streams) >= 1 / LEVEL).sum()), len(streams))


def test_the_test_martingale_alarms_at_most_at_the_level_over_20000_questions():
    rng, draws = np.random.default_rng(10), 300
    bets = UniformBets((draws,))
    for _ in range(20_000):
        bets.observe(rng.random(draws))
    assert not_more_often_than(LEVEL, int((bets.peak >= 1 / LEVEL).sum()), draws)


def test_p_values_are_uniform_and_independent_of_each_other_even_against_a_small_sample_with_ties():
    rng, found = np.random.default_rng(5), []
    for _ in range(3_000):
        values = np.round(rng.beta(2, 1, 13) * 5) / 5
        seen = Histogram.of(values[:10])
        found.append([seen.p_value(value, rng.random()) for value in values[10:]])
    p = np.array(found)
    for column in p.T:
        assert stats.kstest(column, "uniform").pvalue > 0.001
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert stats.spearmanr(p[:, i], p[:, j]).pvalue > 0.001


@pytest.mark.parametrize(
    "changed", [lambda rng, n: rng.beta(3, 1, n), lambda rng, n: rng.beta(30, 6, n)], ids=["lower", "narrower"]
)
def test_questions_of_another_kind_alarm_within_1000(changed):
    rng, streams = np.random.default_rng(6), []
    for _ in range(40):
        reference, same = rng.beta(5, 1, 500), rng.beta(5, 1, 300)
        streams.append(p_values(reference, np.append(same, changed(rng, 1_000)), rng))
    assert (walk(streams) >= 1 / LEVEL).sum() >= 38


def test_a_p_value_is_the_rank_with_ties_broken_by_lot():
    seen = Histogram.of(np.array([0.1, 0.5, 0.5, 0.9]))
    assert seen.p_value(0.5, 0.0) == pytest.approx(1 / 5)
    assert seen.p_value(0.5, 1.0) == pytest.approx((1 + 4) / 6)
    assert seen.size == 6


def test_cells_keep_the_order_up_to_probabilities_that_are_nearly_1():
    p = np.sort(np.concatenate([np.random.default_rng(7).random(1_000), 1 - np.logspace(-1, -8, 100), [0.0, 1.0]]))
    found = cells(p)
    assert all(a <= b for a, b in pairwise(found))
    assert found[0] == 0 and found[-1] == CELLS - 1
    assert len(set(cells(1 - np.logspace(-2, -8, 7)))) == 7


def test_the_distance_of_histograms_is_kolmogorov_and_smirnovs():
    rng = np.random.default_rng(8)
    a, b = rng.beta(5, 1, 400), rng.beta(4, 1, 700)
    exact = stats.ks_2samp(a, b).statistic
    assert Histogram.of(a).distance(Histogram.of(b)) == pytest.approx(exact, abs=0.02)


def test_a_state_goes_through_json_and_goes_on_alike():
    rng = np.random.default_rng(9)
    whole, first = MeanBets(0.01, -1), MeanBets(0.01, -1)
    losses = rng.choice([-1, 0, 1], 60)
    for i, loss in enumerate(losses):
        whole.observe(loss)
        first.observe(loss)
        if i == 30:
            text, first = json.dumps(first.to_json()), MeanBets(0.01, -1)
            first.restore(json.loads(text))
    assert float(whole.value) == float(first.value) and float(whole.peak) == float(first.peak)
    histogram = Histogram.of(rng.random(50))
    assert (Histogram.from_json(json.loads(json.dumps(histogram.to_json()))).counts == histogram.counts).all()


def test_a_watch_of_years_that_alarmed_long_ago_still_goes_through_json():
    """Nothing but losses, and questions of wholly another kind: no capital grows beyond what a number can be."""
    mean, uniform = MeanBets(0.01, -1), UniformBets()
    for _ in range(5_000):
        mean.observe(1.0)
        uniform.observe(1e-9)
    for bets, fresh in ((mean, MeanBets(0.01, -1)), (uniform, UniformBets())):
        fresh.restore(json.loads(json.dumps(bets.to_json(), allow_nan=False)))
        assert float(fresh.peak) == float(bets.peak) > 1 / LEVEL
        assert np.isfinite(fresh.value)


def test_the_lower_bound_of_a_share_is_scipys_exact_one():
    exact = stats.binomtest(85, 100, alternative="greater").proportion_ci(0.99, "exact")
    assert lower_bound(0.85, 100, 0.01) == pytest.approx(exact.low)
    assert lower_bound(0.0, 10, 0.01) == 0


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda: MeanBets(0.0, 0.0), "`limit`"),
        (lambda: MeanBets(0.01, -1).observe(-2), "at least -1"),
        (lambda: MeanBets(0.01, -1).observe(float("nan")), "at least -1"),
        (lambda: UniformBets().observe(1.5), r"\[0, 1\]"),
        (lambda: Histogram.of(np.array([0.5, np.nan])), r"\[0, 1\]"),
        (lambda: Histogram.from_json(f"{CELLS}:1"), "cell"),
        (lambda: Histogram.from_json({"a": 1}), "cell"),
        (lambda: MeanBets(0.01, -1).restore({"observations": 1}), "state"),
        (lambda: MeanBets(0.01, -1).restore(UniformBets().to_json()), "state"),
    ],
)
def test_what_is_not_as_it_has_to_be_is_named(wrong, said):
    with pytest.raises(CascadeError, match=said):
        wrong()
