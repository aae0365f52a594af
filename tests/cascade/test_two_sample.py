"""The two-sample test against scipy's, its level for dependent signals with ties, and its power."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from cascade.errors import CascadeError
from cascade.statistics.two_sample import two_sample


def signals(rng: np.random.Generator, n: int, moved: float = 0.0) -> dict[str, np.ndarray]:
    """Two that depend on each other, one of them with ties, and one that is often unknown."""
    z = rng.normal(size=(3, n))
    p_ik = stats.norm.cdf(z[0])
    p_t = np.round(stats.norm.cdf(0.8 * z[0] + 0.6 * z[1] + moved) * 6) / 6
    return {"P(IK)": p_ik, "P(T)": p_t, "later": np.where(p_ik < 0.5, stats.norm.cdf(z[2]), np.nan)}


def test_distances_are_scipys():
    rng = np.random.default_rng(0)
    first, second = signals(rng, 150), signals(rng, 90, 0.3)
    found = two_sample(first, second, permutations=1)
    for name in ("P(IK)", "P(T)"):
        exact = stats.ks_2samp(first[name], second[name]).statistic
        assert found.distances[name] == pytest.approx(exact)
    lower = [np.nan_to_num(some["later"], nan=-1) for some in (first, second)]
    assert found.distances["later"] == pytest.approx(stats.ks_2samp(*lower).statistic)


def test_the_p_value_of_one_signal_is_that_of_all_permutations():
    rng = np.random.default_rng(1)
    first, second = np.round(rng.normal(size=6), 1), np.round(rng.normal(1, 1, 5), 1)

    def distance(a, b):
        return stats.ks_2samp(a, b).statistic

    every = stats.permutation_test((first, second), distance, n_resamples=np.inf, alternative="greater").pvalue
    found = two_sample({"s": first}, {"s": second}, permutations=20_000).p
    assert found == pytest.approx(every, abs=4 * np.sqrt(every * (1 - every) / 20_000) + 1e-4)


@pytest.mark.parametrize("sizes", [(40, 40), (15, 80)])
def test_sets_of_one_kind_are_told_apart_at_most_at_the_level(sizes):
    rng, draws = np.random.default_rng(2), 600
    found = [two_sample(signals(rng, sizes[0]), signals(rng, sizes[1]), permutations=99, seed=i) for i in range(draws)]
    for level in (0.05, 0.2):
        rejected = sum(one.p <= level for one in found)
        assert stats.binomtest(rejected, draws, level, alternative="greater").pvalue > 0.001
    any_signal = sum(min(one.p_values.values()) <= 0.05 for one in found)
    assert stats.binomtest(any_signal, draws, 0.05, alternative="greater").pvalue > 0.001


def test_a_signal_that_moved_is_found_and_named_and_the_others_are_not():
    rng, found = np.random.default_rng(3), []
    for i in range(60):
        found.append(two_sample(signals(rng, 300), signals(rng, 300, 0.5), permutations=199, seed=i))
    assert np.mean([one.p <= 0.05 and one.signal == "P(T)" for one in found]) >= 0.95
    others = sum(min(one.p_values["P(IK)"], one.p_values["later"]) <= 0.05 for one in found)
    assert stats.binomtest(others, 60, 0.05, alternative="greater").pvalue > 0.001


def test_a_different_share_of_unknown_values_is_a_difference():
    rng = np.random.default_rng(4)
    first = {"later": np.where(rng.random(200) < 0.5, rng.random(200), np.nan)}
    second = {"later": np.where(rng.random(200) < 0.9, rng.random(200), np.nan)}
    assert two_sample(first, second).p <= 0.01


def test_a_million_questions_are_tested_on_a_stated_number_of_them():
    rng = np.random.default_rng(5)
    first = {"a": rng.random(1_000_000), "b": rng.random(1_000_000)}
    second = {"a": rng.random(1_000_000), "b": rng.random(1_000_000) ** 1.2}
    found = two_sample(first, second, permutations=99)
    assert found.tested == (10_000, 10_000)
    assert found.p == 0.01 and found.signal == "b"


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        ({}, {}, "same signals"),
        ({"a": np.ones(3)}, {"b": np.ones(3)}, "but got a and b"),
        ({"a": np.ones(3), "b": np.ones(4)}, {"a": np.ones(3), "b": np.ones(3)}, "shapes"),
        ({"a": np.ones(0)}, {"a": np.ones(3)}, "at least one"),
    ],
)
def test_what_is_not_two_sets_of_the_same_signals_is_named(first, second, said):
    with pytest.raises(CascadeError, match=said):
        two_sample(first, second)
