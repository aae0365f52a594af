from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from sklearn import metrics
from sklearn.calibration import calibration_curve

from probes import ProbeError
from probes.metrics import ECE_BINS, bootstrap_metrics, probe_metrics


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
