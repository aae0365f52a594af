"""The area metrics against loops over thresholds, enumerations of orders and brute-force hulls."""

from __future__ import annotations

import json
from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from sklearn import metrics

from cascade.errors import CascadeError
from cascade.statistics.curves import (
    DeferralCurve,
    aiq,
    apgr,
    cpt,
    deferral_auc,
    deferral_curve,
    ibc,
    ibc_lift,
    non_decreasing_hull,
    pgr,
    prr,
)
from cascade.statistics.hull import upper_hull

LEVELS = st.sampled_from([-1.0, 0.0, 0.25, 0.5, 0.9])


def answered(size: int):
    return st.lists(st.tuples(LEVELS, st.booleans(), st.booleans()), min_size=1, max_size=size)


def split(rows) -> tuple[np.ndarray, ...]:
    return tuple(np.array(column) for column in zip(*rows, strict=True))


@given(answered(40))
def test_the_curve_is_a_loop_over_thresholds(rows):
    points = []
    for threshold in [*sorted({score for score, _, _ in rows}), float("inf")]:
        right, deferred = 0, 0
        for score, small, large in rows:
            deferred += score < threshold
            right += large if score < threshold else small
        points.append((deferred / len(rows), right / len(rows)))
    curve = deferral_curve(*split(rows))
    assert list(zip(curve.deferred.tolist(), curve.accuracy.tolist(), strict=True)) == points
    assert deferral_auc(curve) == pytest.approx(metrics.auc(curve.deferred, curve.accuracy))
    assert (curve.weak, curve.strong) == (points[0][1], points[-1][1])


@given(answered(5))
def test_the_area_is_its_expectation_over_all_orders_of_tied_questions(rows):
    areas = []
    for order in permutations(rows):
        order = sorted(order, key=lambda row: row[0])  # stable: tied rows stay in the order of the permutation
        accuracy = [
            sum(large if i < deferred else small for i, (_, small, large) in enumerate(order)) / len(rows)
            for deferred in range(len(rows) + 1)
        ]
        areas.append(metrics.auc(np.linspace(0, 1, len(rows) + 1), accuracy))
    assert deferral_auc(deferral_curve(*split(rows))) == pytest.approx(np.mean(areas))


def test_a_worked_deferral_curve():
    """Deferring the least sure question mends it; the next two have one score, and deferring breaks one of them."""
    curve = deferral_curve(np.array([0.9, 0.1, 0.5, 0.5]), np.array([1, 0, 1, 0]), np.array([1, 1, 0, 0]))
    assert curve.to_json() == {"deferred": [0, 0.25, 0.75, 1], "accuracy": [0.5, 0.75, 0.5, 0.5]}
    assert deferral_auc(curve) == pytest.approx(0.25 * 0.625 + 0.5 * 0.625 + 0.25 * 0.5)
    json.dumps(curve.to_json())


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=40))
def test_a_score_that_tells_nothing_recovers_half_the_gap(rows):
    small, large = split(rows)
    curve = deferral_curve(np.full(len(rows), 0.3), small, large)
    if large.sum() > small.sum():
        assert apgr(curve) == pytest.approx(0.5)
        assert cpt(curve, 0.2) == pytest.approx(0.2)
    else:
        assert np.isnan(apgr(curve)) and np.isnan(cpt(curve, 0.2))


@given(answered(30))
def test_apgr_is_the_mean_recovered_gap_over_the_share_of_strong_calls(rows):
    curve = deferral_curve(*split(rows))
    if not curve.strong > curve.weak:
        assert np.isnan(apgr(curve))
        return
    recovered = 0.0  # the midpoint rule is exact for lines that break at multiples of 1/n
    for i in range(len(rows)):
        quality = np.interp((i + 0.5) / len(rows), curve.deferred, curve.accuracy)
        recovered += pgr(quality, curve.weak, curve.strong) / len(rows)
    assert apgr(curve) == pytest.approx(recovered)


def test_pgr_of_a_worked_example():
    assert pgr(0.7, weak=0.6, strong=0.8) == pytest.approx(0.5)
    assert pgr(0.9, weak=0.6, strong=0.8) == pytest.approx(1.5)
    assert np.isnan(pgr(0.7, weak=0.8, strong=0.6))


@given(answered(30), st.sampled_from([0.0, 0.2, 0.5, 0.8, 1.0]))
def test_cpt_is_the_first_share_of_a_fine_scan_to_recover_the_gap(rows, x):
    curve = deferral_curve(*split(rows))
    if not curve.strong > curve.weak:
        assert np.isnan(cpt(curve, x))
        return
    scan = np.linspace(0, 1, 1000 * len(rows) + 1)  # holds every corner of the curve
    quality = np.interp(scan, curve.deferred, curve.accuracy)
    enough = quality >= curve.weak + x * (curve.strong - curve.weak) - 1e-9
    assert cpt(curve, x) == pytest.approx(scan[enough][0], abs=1e-3 / len(rows))


def test_cpt_counts_a_peak_that_only_touches():
    """Weak 2 of 11, strong 4, so half the gap is 3; 2/11, 3/11 and 4/11 are not exact in binary."""
    small = np.array([1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0])
    large = np.array([1, 0, 1, 1, 1, 0, 0, 0, 0, 0, 0])
    scores = np.array([9, 2, 1, 8, 8, 9, 9, 9, 9, 9, 9])
    curve = deferral_curve(scores, small, large)
    for x in np.arange(11) / 10:
        assert cpt(curve, x) * 11 == pytest.approx(2 * x if x <= 0.5 else 2 + 2 * x)


def test_cpt_takes_the_first_of_several_crossings():
    curve = DeferralCurve(np.array([0, 0.2, 0.4, 1.0]), np.array([0.5, 0.75, 0.5, 0.75]))
    assert cpt(curve, 0.5) == pytest.approx(0.1)
    with pytest.raises(CascadeError, match="`x`"):
        cpt(curve, 50)


@st.composite
def clouds(draw) -> list[tuple[int, float]]:
    """Points scattered about a concave curve, so that hulls have many corners, and some costs are equal."""
    rng = np.random.default_rng(draw(st.integers(0, 10**9)))
    size = rng.integers(1, 16)
    cost = rng.integers(1, 31, size)
    quality = np.round(20 * np.sqrt(cost) + rng.normal(0, 8, size))
    return list(zip(cost.tolist(), quality.tolist(), strict=True))


def height_by_brute_force(points, cost: float) -> float:
    """The best of every point that costs no more, and of every mixture of two points that costs as much."""
    best = max(q for c, q in points if c <= cost)
    for (c1, q1), (c2, q2) in product(points, points):
        if c1 < cost < c2:
            best = max(best, q1 + (q2 - q1) * (cost - c1) / (c2 - c1))
    return best


@given(clouds(), st.floats(0, 1), st.integers(0, 5))
def test_the_hull_and_aiq_are_those_of_brute_force(points, start, beyond):
    cost, quality = split(points)
    along, height = non_decreasing_hull(cost, quality)
    assert height.tolist() == pytest.approx([height_by_brute_force(points, c) for c in along])
    assert (np.diff(along) > 0).all() and (np.diff(height) >= 0).all()
    assert (np.diff(np.diff(height) / np.diff(along)) < 0).all()  # corners only, each flatter than the one before
    low, high = cost.min() + start * (cost.max() - cost.min()), cost.max() + beyond
    breaks = sorted({low, high, *(c for c in cost.tolist() if low < c)})  # the hull can only break at a point's cost
    if low == high:
        assert np.isnan(aiq(cost, quality, low, high))
        return
    area = metrics.auc(breaks, [height_by_brute_force(points, c) for c in breaks])
    assert aiq(cost, quality, low, high) == pytest.approx(area / (high - low))


def test_a_worked_aiq():
    """The point (2, 0.3) lies below the line from (1, 0.5) to (3, 0.9), and (5, 0.7) is dearer and worse."""
    cost, quality = np.array([5.0, 1.0, 3.0, 2.0]), np.array([0.7, 0.5, 0.9, 0.3])
    along, height = non_decreasing_hull(cost, quality)
    assert (along.tolist(), height.tolist()) == ([1, 3, 5], [0.5, 0.9, 0.9])
    assert aiq(cost, quality) == pytest.approx((2 * 0.7 + 2 * 0.9) / 4)
    assert aiq(cost, quality, c_max=9) == pytest.approx((2 * 0.7 + 6 * 0.9) / 8)
    assert np.isnan(aiq(np.array([1.0]), np.array([0.5])))


def test_points_on_or_below_a_line_are_no_corners():
    assert non_decreasing_hull(np.array([1, 2, 3]), np.array([0.5, 0.75, 1]))[0].tolist() == [1, 3]
    assert non_decreasing_hull(np.array([1, 2, 3, 4]), np.array([0, 3, 4, 10]))[0].tolist() == [1, 4]


def test_a_range_that_no_point_covers_is_named():
    cost, quality = np.array([1.0, 3.0]), np.array([0.5, 0.9])
    for c_min, c_max in ((0.5, None), (4, 3)):
        with pytest.raises(CascadeError, match="`c_min` and `c_max`"):
            aiq(cost, quality, c_min, c_max)


@given(st.floats(0.01, 1), st.floats(0, 0.6), st.floats(0.61, 1), st.floats(0, 1), st.floats(2, 100))
def test_mixing_at_random_has_no_lift(share, small, large, small_cost, large_cost):
    cost = (1 - share) * small_cost + share * large_cost
    quality = (1 - share) * small + share * large
    assert ibc_lift(quality, cost, small, small_cost, large, large_cost) == pytest.approx(0, abs=1e-6)


def test_a_worked_lift():
    """20 points for 50 more cost is 0.4 a unit; the method's 8 points for 10 more are 0.8, twice as much."""
    assert ibc(58, 11, 50, 1) == pytest.approx(0.8)
    assert ibc_lift(58, 11, 50, 1, 70, 51) == pytest.approx(1.0)
    assert ibc_lift(48, 11, 50, 1, 70, 51) == pytest.approx(-1.5)


@pytest.mark.parametrize(
    "case",
    [
        (58, 1, 50, 1, 70, 51),  # the method adds no cost
        (58, 0.5, 50, 1, 70, 51),  # or is cheaper
        (58, 11, 50, 1, 50, 51),  # the base has no slope
        (58, 11, 50, 1, 40, 51),  # or falls
        (58, 11, 50, 1, 70, 1),  # the large model adds no cost
    ],
)
def test_a_lift_over_nothing_is_nan(case):
    assert np.isnan(ibc_lift(*case))


def area_by_rejection(ordered_quality, max_rejection) -> float:
    """The most confident come last; rejects the first at each step."""
    steps = int(max_rejection * len(ordered_quality))
    return sum(sum(ordered_quality[k:]) / len(ordered_quality[k:]) for k in range(steps)) / steps


@given(
    st.lists(st.tuples(LEVELS, st.sampled_from([0.0, 0.1, 0.5, 1.0])), min_size=2, max_size=6),
    st.sampled_from([0.5, 0.8, 1.0]),
)
def test_prr_is_its_expectation_over_all_orders_of_tied_questions(rows, max_rejection):
    confidence, quality = split(rows)
    if len(set(quality)) == 1 or int(max_rejection * len(rows)) < 2:
        assert np.isnan(prr(confidence, quality, max_rejection))
        return
    areas = []
    for order in permutations(rows):
        order = sorted(order, key=lambda row: row[0])  # stable: tied rows stay in the order of the permutation
        areas.append(area_by_rejection([q for _, q in order], max_rejection))
    every = [area_by_rejection(order, max_rejection) for order in permutations(quality)]
    expected = (np.mean(areas) - np.mean(every)) / (max(every) - np.mean(every))
    assert prr(confidence, quality, max_rejection) == pytest.approx(expected)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=60), st.sampled_from([0.5, 1.0]))
def test_prr_of_the_oracle_is_one_and_of_one_confidence_for_all_zero(quality, max_rejection):
    quality = np.round(quality, 3)
    assume(quality.min() < quality.max() and int(max_rejection * len(quality)) >= 2)
    assert prr(quality, quality, max_rejection) == pytest.approx(1)
    assert prr(np.ones(len(quality)), quality, max_rejection) == pytest.approx(0, abs=1e-9)
    assert prr(-quality, quality, max_rejection) < 0


@pytest.mark.parametrize("max_rejection", [0, 1.1, float("nan")])
def test_a_rejection_outside_of_0_to_1_is_named(max_rejection):
    with pytest.raises(CascadeError, match="`max_rejection`"):
        prr(np.array([0.1, 0.2]), np.array([0, 1]), max_rejection)


@pytest.mark.parametrize(
    ("columns", "named"),
    [
        (([0.5], [1, 0], [1, 0]), "small_right"),
        (([0.5, 0.6], [1, 0], [1]), "large_right"),
        (([0.5, float("nan")], [1, 0], [1, 1]), "scores"),
        (([], [], []), "scores"),
        (([[0.5]], [1], [1]), "scores"),
    ],
)
def test_columns_that_do_not_fit_are_named(columns, named):
    with pytest.raises(CascadeError, match=f"`{named}`"):
        deferral_curve(*columns)


def test_the_hull_is_scipys():
    from scipy.spatial import ConvexHull

    rng = np.random.default_rng(0)
    x, y = rng.random((2, 200))
    full = ConvexHull(np.column_stack([x, y])).vertices
    left, right = np.argmin(x), np.argmax(x)
    chord = y[left] + (y[right] - y[left]) * (x - x[left]) / (x[right] - x[left])
    assert set(upper_hull(x, y)) == {i for i in full if y[i] >= chord[i] - 1e-12}
