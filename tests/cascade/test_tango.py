"""The exact critical value of Tango's test, held against plain enumeration of every outcome."""

from __future__ import annotations

from itertools import product
from math import comb

import numpy as np
import pytest

from cascade.errors import CascadeError
from cascade.statistics.tango import critical_value, interval, score, size


def enumerated(n: int, epsilon: float, critical: float, share: float) -> float:
    """How often the score reaches a number, by a loop over both counts, where P(only second) is P(only first) + ε."""
    total = 0.0
    for b in range(n + 1):
        for c in range(n - b + 1):
            if float(score(b, c, n, -epsilon)) >= critical:
                ways = comb(n, b) * comb(n - b, c)
                total += ways * share**b * (share + epsilon) ** c * (1 - 2 * share - epsilon) ** (n - b - c)
    return total


@pytest.mark.parametrize(("n", "epsilon"), [(7, 0.1), (25, 0.05), (40, 0.2)])
def test_the_size_is_that_of_every_outcome_counted_out(n, epsilon):
    shares = np.array([0.0, 0.003, 0.04, 0.2, (1 - epsilon) / 2])
    for critical in (0.4, 1.3, 2.2):
        by_hand = [enumerated(n, epsilon, critical, float(share)) for share in shares]
        assert size(n, epsilon, critical, shares) == pytest.approx(by_hand, abs=1e-12)


@pytest.mark.parametrize(("n", "epsilon", "delta"), [(25, 0.05, 0.2), (60, 0.05, 0.1), (60, 0.2, 0.05)])
def test_the_critical_value_is_the_smallest_that_is_never_too_generous(n, epsilon, delta):
    critical, fine = critical_value(n, epsilon, delta), np.linspace(0, (1 - epsilon) / 2, 30)
    worst = max(enumerated(n, epsilon, critical, float(share)) for share in fine)
    assert worst <= delta + 1e-3
    just_below = max(enumerated(n, epsilon, critical - 0.01, float(share)) for share in fine)
    assert just_below > delta or (critical < 1.2816 + 0.01 and delta == 0.1)


@pytest.mark.parametrize("n", [100, 160, 400, 1000, 3200, 4000])
def test_between_the_shares_that_are_looked_at_the_test_is_exact_too(n):
    fine = np.r_[0.0, np.geomspace(1e-6, 0.495, 1500), np.linspace(0.2, 0.495, 500)]
    assert size(n, 0.01, critical_value(n, 0.01, 0.1), fine).max() <= 0.1 + 2e-4


@pytest.mark.parametrize(("n", "epsilon"), [(12, 0.01), (30, 0.1), (45, 0.3)])
def test_a_loss_of_more_than_epsilon_is_ruled_out_no_more_often_than_one_of_just_that(n, epsilon):
    """What is exact at ε is so beyond it: the score falls with each loss, and with each gain that is one less."""
    for b in range(n):
        for c in range(n - b):
            assert score(b, c, n, -epsilon) > score(b, c + 1, n, -epsilon)
            assert score(b + 1, c, n, -epsilon) > score(b, c, n, -epsilon)


def test_what_the_normal_quantile_allows_is_more_than_asked_for_with_few_questions():
    assert size(400, 0.01, 1.2816, np.array([0.0])) > 0.1 - 1e-3 or critical_value(400, 0.01, 0.1) > 1.2816
    assert critical_value(400, 0.01, 0.1) == pytest.approx(1.312, abs=1e-3)  # as seen by others, with another program
    assert critical_value(1000, 0.01, 0.1) == pytest.approx(1.295, abs=1e-3)


def test_for_many_questions_the_critical_value_is_near_the_normal_quantile():
    found = [critical_value(n, 0.01, 0.1) - 1.2815515655 for n in (5_000, 20_000, 100_000, 1_000_000)]
    assert all(0 < gap < 0.02 for gap in found)


def test_sums_over_some_counts_are_those_over_all(monkeypatch):
    """Above `EVERY_COUNT` questions only some counts are summed."""
    shares = np.array([0.0, 1e-4, 0.003, 0.1, 0.4])
    whole = size(20_000, 0.01, 1.3, shares)
    monkeypatch.setattr("cascade.statistics.tango.EVERY_COUNT", 1000)
    assert size(20_000, 0.01, 1.3, shares) == pytest.approx(whole, abs=2e-3)
    assert size(20_000, 0.01, 1.3, shares[:3])[:3] == pytest.approx(whole[:3], abs=1e-9)  # of so few, all are


@pytest.mark.parametrize("n", [1, 3, 12, 1000, 100_000])
def test_the_interval_is_there_for_every_count_and_its_ends_are_just_not_rejected(n):
    few = sorted({*range(min(n, 11)), n})
    for b, c in product(few, {*few, *(n - b for b in few)}):
        if b + c > n:
            continue
        low, high = interval(b, c, n, 0.9)
        assert -1 <= low <= (b - c) / n <= high <= 1
        for end, sign in ((low, 1), (high, -1)):
            if abs(end) < 1 - 1e-9:
                assert sign * float(score(b, c, n, end)) == pytest.approx(1.6448536, abs=1e-3)


@pytest.mark.parametrize(
    ("arguments", "named"), [((0, 0.01, 0.1), "`n`"), ((10, 0, 0.1), "`epsilon`"), ((10, 0.01, 1.0), "`delta`")]
)
def test_what_cannot_be_asked_is_named(arguments, named):
    with pytest.raises(CascadeError, match=named):
        critical_value(*arguments)
