from __future__ import annotations

import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics
from sklearn.calibration import calibration_curve
from torchmetrics.functional.classification import binary_calibration_error

from probes import ProbeError
from probes.metrics import ECE_BINS, auroc, bootstrap_metrics, brier, ece, nll, probe_metrics, reliability


def draw(seed: int, rows: int = 300) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    p = rng.random(rows).astype(np.float32)
    p[: rows // 5] = p[rows // 5 : 2 * (rows // 5)]  # ties
    return p, (rng.random(rows) < 0.4).astype(np.float32)


def error_of(bins: list[np.ndarray], p: np.ndarray, y: np.ndarray) -> float:
    return sum(len(rows) / len(p) * abs(p[rows].mean() - y[rows].mean()) for rows in bins if len(rows))


@pytest.mark.parametrize("seed", range(3))
def test_metrics_are_those_of_scikit_learn(seed):
    p, y = draw(seed)
    found = probe_metrics(torch.tensor(p), torch.tensor(y), threshold=0.6)
    knows = p >= 0.6
    assert found["accuracy"] == pytest.approx(metrics.accuracy_score(y, knows))
    assert found["f1"] == pytest.approx(metrics.f1_score(y, knows))
    assert found["auroc"] == pytest.approx(metrics.roc_auc_score(y, p))
    assert found["brier"] == pytest.approx(metrics.brier_score_loss(y, p))
    assert found["nll"] == pytest.approx(metrics.log_loss(y, p), abs=1e-6)
    edges = np.arange(ECE_BINS + 1) / ECE_BINS
    wide = [np.flatnonzero((p > low) & (p <= high)) for low, high in pairwise(edges)]
    assert found["ece"] == pytest.approx(error_of(wide, p.astype(float), y), abs=1e-6)


def test_bins_of_equal_mass_are_scikit_learns_quantile_bins():
    p, y = draw(5)
    right, said = calibration_curve(y, p.astype(float), n_bins=ECE_BINS, strategy="quantile")
    edges = np.quantile(p.astype(float), np.arange(1, ECE_BINS) / ECE_BINS)
    counts = np.bincount(np.searchsorted(edges, p), minlength=ECE_BINS)
    expected = float((counts * np.abs(right - said)).sum() / len(p))
    assert probe_metrics(p, y)["ece_mass"] == pytest.approx(expected, abs=1e-9)
    assert counts.max() - counts.min() <= 3


def test_a_resample_is_the_metric_of_the_rows_drawn():
    p, y = draw(1, rows=60)
    resampled = bootstrap_metrics(p, y, 0.4, resamples=20, seed=9)
    counts = np.random.default_rng(9).multinomial(60, np.full(60, 1 / 60), size=20)
    for place, times in enumerate(counts):
        rows = np.repeat(np.arange(60), times)
        expected = probe_metrics(p[rows], y[rows], 0.4)
        for name in ("accuracy", "f1", "auroc", "brier", "nll", "ece"):
            assert resampled[name][place] == pytest.approx(expected[name], abs=1e-9)


def test_auroc_of_one_class_is_not_a_number_and_the_rest_is():
    found = probe_metrics(np.array([0.2, 0.9]), np.ones(2))
    assert np.isnan(found.pop("auroc"))
    assert np.isfinite(list(found.values())).all()


def test_shapes_that_differ_are_refused():
    with pytest.raises(ProbeError, match=r"\(3,\), \(2,\)"):
        probe_metrics(np.zeros(3), np.zeros(2))


def test_metrics_need_no_torch():
    check = "import sys, probes.metrics; raise SystemExit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0


@given(st.lists(st.tuples(st.sampled_from([0.0, 0.2, 0.5, 1.0]), st.booleans()), min_size=0, max_size=50))
def test_auroc_is_that_of_scikit_learn(pairs):
    scores, labels = np.array([s for s, _ in pairs]), np.array([y for _, y in pairs], bool)
    if labels.all() or not labels.any():
        assert np.isnan(auroc(scores, labels))
    else:
        assert auroc(scores, labels) == pytest.approx(metrics.roc_auc_score(labels, scores))


TIED = st.lists(st.tuples(st.integers(0, 20).map(lambda k: k / 20), st.booleans()), min_size=1, max_size=60)
SPREAD = st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=60)


def split(pairs) -> tuple[np.ndarray, np.ndarray]:
    return np.array([p for p, _ in pairs], float), np.array([y for _, y in pairs], float)


@given(TIED, st.integers(1, 12))
def test_bins_of_equal_width_are_those_of_scikit_learn(pairs, bins):
    p, y = split(pairs)
    found = reliability(p, y, bins)
    share, mean = calibration_curve(y, p, n_bins=bins, pos_label=1)
    assert found.count.sum() == len(p)
    assert found.share[found.count > 0] == pytest.approx(share)
    assert found.mean[found.count > 0] == pytest.approx(mean)


def test_bins_of_equal_width_are_closed_above():
    found = reliability(np.array([0.0, 0.25, 0.5, 0.51, 1.0]), np.zeros(5), bins=4)  # quarters are exact in binary
    assert found.count.tolist() == [2, 1, 1, 1]


@given(TIED | SPREAD, st.integers(1, 12))
def test_bins_of_equal_mass_lie_between_quantiles(pairs, bins):
    p, y = split(pairs)
    edges = [float(np.quantile(p, b / bins)) for b in range(1, bins)]
    found = reliability(p, y, bins, "mass")
    for b, (low, high) in enumerate(pairwise([-1.0, *edges, 2.0])):
        held = [i for i in range(len(p)) if low < p[i] <= high]
        assert found.count[b] == len(held)
        if held:
            expected = sum(p[i] for i in held) / len(held), sum(y[i] for i in held) / len(held)
            assert (found.mean[b], found.share[b]) == pytest.approx(expected)
        else:
            assert np.isnan(found.mean[b]) and np.isnan(found.share[b])


def test_bins_of_equal_mass_hold_as_many_questions_each():
    p = np.random.default_rng(0).random(60)
    assert reliability(p, (p > 0.5).astype(float), 12, "mass").count.tolist() == [5] * 12


@given(SPREAD, st.integers(1, 12), st.sampled_from(["width", "mass"]))
def test_ece_is_the_mean_over_questions_of_their_bins_gap(pairs, bins, equal):
    """The same sum, taken question by question over bins found one edge at a time."""
    p, y = split(pairs)
    edges = np.linspace(0, 1, bins + 1) if equal == "width" else np.quantile(p, np.arange(bins + 1) / bins)
    place = [next((b for b in range(bins - 1) if p_i <= edges[b + 1]), bins - 1) for p_i in p]
    gap = 0.0
    for own in place:
        held = [i for i in range(len(p)) if place[i] == own]
        gap += abs(sum(y[i] - p[i] for i in held)) / len(held)
    assert ece(p, y, bins, equal) == pytest.approx(gap / len(p))


@pytest.mark.parametrize("seed", range(3))
def test_ece_is_that_of_torchmetrics(seed):
    rng = np.random.default_rng(seed)
    p, y = rng.random(500), rng.random(500) < 0.6
    theirs = binary_calibration_error(torch.tensor(p), torch.tensor(y.astype(int)), n_bins=ECE_BINS)
    assert ece(p, y) == pytest.approx(float(theirs), abs=1e-6)


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
    with pytest.raises(ProbeError, match=f"`{named}`"):
        ece(*arguments)


@pytest.mark.parametrize("measure", [brier, nll])
def test_brier_and_nll_take_probabilities_only(measure):
    with pytest.raises(ProbeError, match="`p`"):
        measure(np.array([-0.5]), np.array([1]))
