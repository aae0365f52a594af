from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import calibration, metrics

from cascade.errors import CascadeError
from cascade.statistics.metrics import auroc, binary_f1, brier, ece, macro_scores, nll, reliability


@given(st.lists(st.tuples(st.sampled_from("ABCD"), st.sampled_from("ABCD")), min_size=1, max_size=60))
def test_macro_scores_are_those_of_scikit_learn(pairs):
    answers, predictions = (np.array(part) for part in zip(*pairs, strict=True))
    labels = np.unique(answers)
    reference = metrics.precision_recall_fscore_support(
        answers, predictions, labels=labels, average="macro", zero_division=0
    )
    assert macro_scores(answers, predictions) == pytest.approx(reference[:3])


@given(st.lists(st.tuples(st.sampled_from([0.0, 0.2, 0.5, 1.0]), st.booleans()), min_size=2, max_size=50))
def test_auroc_and_f1_are_those_of_scikit_learn(pairs):
    scores, labels = np.array([s for s, _ in pairs]), np.array([y for _, y in pairs])
    assert binary_f1(scores >= 0.5, labels) == pytest.approx(metrics.f1_score(labels, scores >= 0.5, zero_division=0))
    if labels.all() or not labels.any():
        assert np.isnan(auroc(scores, labels))
    else:
        assert auroc(scores, labels) == pytest.approx(metrics.roc_auc_score(labels, scores))


TIED = st.lists(st.tuples(st.integers(0, 20).map(lambda k: k / 20), st.booleans()), min_size=1, max_size=60)
SPREAD = st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=60)


def split(pairs) -> tuple[np.ndarray, np.ndarray]:
    return np.array([p for p, _ in pairs], float), np.array([y for _, y in pairs], float)


def bins_by_loop(p, y, place, bins) -> list[tuple[float, float, int]]:
    """Mean, share and count of each bin, question after question; None where there is none."""
    found = []
    for b in range(bins):
        held = [i for i in range(len(p)) if place[i] == b]
        mean = sum(p[i] for i in held) / len(held) if held else None
        share = sum(y[i] for i in held) / len(held) if held else None
        found.append((mean, share, len(held)))
    return found


def assert_bins(found, expected):
    assert found.count.tolist() == [count for _, _, count in expected]
    for mean, share, (expected_mean, expected_share, count) in zip(found.mean, found.share, expected, strict=True):
        if count:
            assert (mean, share) == pytest.approx((expected_mean, expected_share))
        else:
            assert np.isnan(mean) and np.isnan(share)


@given(TIED, st.integers(1, 12))
def test_bins_of_equal_width_are_those_of_scikit_learn(pairs, bins):
    p, y = split(pairs)
    found = reliability(p, y, bins)
    share, mean = calibration.calibration_curve(y, p, n_bins=bins, pos_label=1)
    assert found.count.sum() == len(p)
    assert found.share[found.count > 0] == pytest.approx(share)
    assert found.mean[found.count > 0] == pytest.approx(mean)


def test_bins_of_equal_width_are_closed_above():
    found = reliability(np.array([0.0, 0.25, 0.5, 0.51, 1.0]), np.zeros(5), bins=4)  # quarters are exact in binary
    assert found.count.tolist() == [2, 1, 1, 1]


@given(TIED | SPREAD, st.integers(1, 12))
def test_bins_of_equal_mass_cut_the_sorted_questions_evenly_but_for_ties(pairs, bins):
    p, y = split(pairs)
    order = sorted(range(len(p)), key=lambda i: p[i])
    place = [0] * len(p)
    for rank, i in enumerate(order):
        tied = rank > 0 and p[order[rank - 1]] == p[i]
        place[i] = place[order[rank - 1]] if tied else int(rank / len(p) * bins + 1e-9)
    assert_bins(reliability(p, y, bins, "mass"), bins_by_loop(p, y, place, bins))


def test_bins_of_equal_mass_hold_as_many_questions_each():
    p = np.random.default_rng(0).random(60)
    assert reliability(p, p > 0.5, 12, "mass").count.tolist() == [5] * 12


@given(SPREAD, st.integers(1, 12), st.sampled_from(["width", "mass"]))
def test_ece_is_the_mean_over_questions_of_their_bins_gap(pairs, bins, equal):
    """The same sum, taken question by question over bins found one edge at a time."""
    p, y = split(pairs)
    edges = np.linspace(0, 1, bins + 1)
    if equal == "width":
        place = [next(b for b in range(bins) if p_i <= edges[b + 1]) for p_i in p]
    else:
        place = [int(sum(other < p_i for other in p) / len(p) * bins + 1e-9) for p_i in p]
    gap = 0.0
    for own in place:
        held = [i for i in range(len(p)) if place[i] == own]
        gap += abs(sum(y[i] - p[i] for i in held)) / len(held)
    assert ece(p, y, bins, equal) == pytest.approx(gap / len(p))


def test_ece_of_a_worked_example():
    """Two bins: 0.2 claimed and 0.5 right, 0.9 claimed and 0.5 right; half the questions in each."""
    p, y = np.array([0.1, 0.3, 0.8, 1.0]), np.array([0, 1, 0, 1])
    assert ece(p, y, bins=2) == pytest.approx(0.5 * 0.3 + 0.5 * 0.4)
    assert ece(p, y, bins=2, equal="mass") == pytest.approx(0.35)


@given(st.lists(st.tuples(st.floats(1e-9, 1 - 1e-9), st.booleans()), min_size=1, max_size=60))
def test_brier_and_nll_are_those_of_scikit_learn(pairs):
    p, y = split(pairs)
    assert brier(p, y) == pytest.approx(metrics.brier_score_loss(y, p, labels=[0, 1], pos_label=1))
    assert nll(p, y) == pytest.approx(metrics.log_loss(y, p, labels=[0, 1]))


def test_a_share_right_is_the_mean_over_its_answers():
    p, y = np.array([0.3, 0.9]), np.array([0.25, 0.5])  # of four answers to each question: 1 and 2 right
    answers_p, answers_y = np.repeat(p, 4), np.array([1, 0, 0, 0, 1, 1, 0, 0])
    assert nll(p, y) == pytest.approx(metrics.log_loss(answers_y, answers_p))
    assert ece(p, y) == pytest.approx(ece(answers_p, answers_y))


def test_a_sure_and_wrong_probability_costs_a_finite_nll():
    assert nll(np.array([0.0, 1.0]), np.array([1, 0])) == pytest.approx(12 * np.log(10), rel=1e-4)
    assert nll(np.array([0.0, 1.0]), np.array([0, 1])) == pytest.approx(0, abs=1e-11)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (([0.5, 1.5], [0, 1]), "p"),
        (([0.5, 0.5], [0, 2]), "y"),
        (([0.5, np.nan], [0, 1]), "p"),
        (([0.5, 0.5], [0, 1, 1]), "y"),
        (([[0.5]], [[1]]), "p"),
        (([], []), "p"),
        (([0.5], [1], 0), "bins"),
        (([0.5], [1], 5, "size"), "equal"),
    ],
)
def test_what_is_not_a_probability_is_named(arguments, named):
    with pytest.raises(CascadeError, match=f"`{named}`"):
        ece(*arguments)


@pytest.mark.parametrize("measure", [brier, nll])
def test_brier_and_nll_take_probabilities_only(measure):
    with pytest.raises(CascadeError, match="`p`"):
        measure(np.array([-0.5]), np.array([1]))
