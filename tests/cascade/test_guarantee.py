"""A promise is checked by drawing from a population whose true loss is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from cascade.errors import CascadeError
from cascade.policies.ledgers import pass_costs
from cascade.simulation.frontier import frontier
from cascade.simulation.guarantee import (
    betting_p_value,
    binomial_p_value,
    count,
    guarantee,
    losses,
    p_values,
    questions_needed,
)
from experiments.promises import draw, population
from tests.profile import LONG


@pytest.mark.parametrize("bound", ["auto", "betting"])
def test_many_draws_break_the_promise_no_more_often_than_allowed(bound):
    draws = 1000 if LONG else 150
    kept = draw(population(), 1200, draws, epsilon=0.02, delta=0.1, bound=bound)
    # A binomial test: a promise broken a tenth of the time fails it once in a thousand.
    assert kept.broken <= stats.binom.ppf(0.999, draws, 0.1) / draws
    assert kept.promised >= 0.25  # a promise never made is never broken
    assert kept.saved > 0.05


@pytest.mark.parametrize("bound", ["betting", "binomial"])
def test_p_values_at_the_edge_of_the_null_are_valid(bound):
    """Losses whose mean is just ε: p ≤ α at most a share α of the time."""
    rng, epsilon, n = np.random.default_rng(0), 0.05, 300
    # binomial ignores gains, so that its edge has none.
    shares = [0.0, 0.95, 0.05] if bound == "binomial" else [0.05, 0.85, 0.10]
    loss = rng.choice([-1, 0, 1], p=shares, size=(20_000, n))
    p = (
        binomial_p_value(loss, epsilon)
        if bound == "binomial"
        else betting_p_value(count(loss), epsilon, np.full(20_000, 0.15))
    )
    for level in (0.01, 0.05, 0.1, 0.3):
        assert (p <= level).mean() <= level + 4 * np.sqrt(level / 20_000)


def test_the_binomial_p_value_is_the_sum_of_its_terms():
    from math import comb

    loss = np.array([[1] * 3 + [0] * 90 + [-1] * 7])
    by_hand = sum(comb(100, k) * 0.05**k * 0.95 ** (100 - k) for k in range(4))
    assert binomial_p_value(count(loss), 0.05) == pytest.approx([by_hand])


def test_betting_is_the_mean_of_plain_products():
    loss, epsilon = np.array([[1, 0, 0, -1, 0, 0, 1, 0, 0, 0] * 8]), 0.3
    capitals = []
    for factor in (0.25, 0.5, 1, 2):
        capital = 1.0
        for value in loss[0]:
            capital *= 1 + min(factor * epsilon / 0.25, 0.99 / 0.7) * (epsilon - value)
        capitals.append(capital)
    expected = min(1, 1 / np.mean(capitals))
    assert expected < 1
    assert betting_p_value(count(loss), epsilon, np.array([0.25])) == pytest.approx([expected])


def test_what_cannot_be_promised_says_how_many_questions_would():
    everyone = population(4000)
    chosen, few, many = everyone.take(np.arange(500)), everyone.take(np.arange(500, 540)), everyone
    found = frontier(chosen, pass_costs(chosen), "full-path", "P(T)")
    none = guarantee(chosen, few, found, pass_costs(few), epsilon=0.01, delta=0.05)
    assert not none.holds
    assert none.point.cost == 1
    assert 40 < none.questions_needed < np.inf
    assert "No thresholds can be promised" in none.statement and f"{none.questions_needed:,.0f}" in none.statement
    some = guarantee(chosen, many, found, pass_costs(many), epsilon=0.05, delta=0.05)
    assert some.holds
    assert some.statement.startswith("Promised: at most 5 points")
    # Its cost is of the questions that certify, as a plain loop has it: 10 for each, 100 for those passed on.
    (limit,) = some.point.policy.thresholds
    passed_on = sum(p < limit.p_t for p in many.models[0].signals.p_t)
    assert some.cost == pytest.approx((10 * 4000 + 100 * passed_on) / (100 * 4000))


@pytest.mark.parametrize("bound", ["betting", "binomial"])
def test_the_number_of_questions_needed_is_where_the_p_value_gets_there(bound):
    counts, differ, bounds = np.array([[1, 97, 2]]), np.array([0.03]), np.array([bound])
    needed = questions_needed(bounds, counts, 0.05, 0.1, differ)
    assert needed > 100
    for times, reached in ((needed / 100 * 1.05, True), (needed / 100 * 0.95, False)):
        p = p_values(bounds, counts * times, 0.05, differ)[0]
        assert (p <= 0.1) == reached
    assert questions_needed(bounds, np.array([[0, 95, 5]]), 0.05, 0.1, differ) == np.inf


def test_as_many_candidates_as_questions_are_thinned():
    everyone = population(60_000)
    halves = everyone.take(np.arange(30_000)), everyone.take(np.arange(30_000, 60_000))
    found = frontier(halves[0], pass_costs(halves[0]), "full-path", "P(T)")
    assert len(found.candidates) > 2000
    made = guarantee(*halves, found, pass_costs(halves[1]), epsilon=0.01)
    assert made.holds
    assert losses(everyone, [made.point]).mean() < 0.011


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"epsilon": 0}, "epsilon"),
        ({"delta": 1}, "delta"),
        ({"epsilon": float("nan")}, "epsilon"),
        ({"bound": "x"}, "bound"),
    ],
)
def test_what_cannot_be_asked_is_named(flags, message):
    chain = population(100)
    with pytest.raises(CascadeError, match=message):
        guarantee(chain, chain, frontier(chain, pass_costs(chain), "full-path", "P(T)"), pass_costs(chain), **flags)
