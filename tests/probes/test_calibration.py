from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from sklearn.linear_model import LogisticRegression

from probes import ProbeError, build_calibrator


def data(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    logits = rng.normal(0.4, 3, 800)
    labels = rng.random(800) < 1 / (1 + np.exp(-(0.45 * logits - 0.3)))
    return torch.tensor(logits, dtype=torch.float32), torch.tensor(labels, dtype=torch.float32)


def test_platt_is_logistic_regression_on_the_logit():
    logits, labels = data()
    ours = build_calibrator("platt").fit(logits, labels)(logits)
    reference = LogisticRegression(C=np.inf, tol=1e-10).fit(logits[:, None], labels)
    np.testing.assert_allclose(ours, reference.decision_function(logits[:, None].numpy()), atol=1e-3)


def test_temperature_minimises_the_negative_log_likelihood():
    logits, labels = data(1)

    def nll(log_t: float) -> float:
        z = logits.double().numpy() / np.exp(log_t)
        return float(np.mean(np.logaddexp(0, z) - labels.numpy() * z))

    best = minimize_scalar(nll, bounds=(-5, 5), method="bounded", options={"xatol": 1e-9}).x
    fitted = build_calibrator("temperature").fit(logits, labels)
    assert float(fitted.log_temperature) == pytest.approx(best, abs=1e-4)


@pytest.mark.parametrize("kind", ["none", "temperature", "platt"])
def test_every_calibrator_is_increasing(kind):
    logits, labels = data(2)
    grid = torch.linspace(-8, 8, 101)
    # Labels against the logits would make an unconstrained slope negative.
    calibrated = build_calibrator(kind).fit(logits, 1 - labels)(grid)
    assert bool((calibrated.diff() >= 0).all())


def test_one_class_cannot_be_calibrated_on():
    with pytest.raises(ProbeError, match="both classes"):
        build_calibrator("platt").fit(torch.randn(5), torch.ones(5))


def test_an_unknown_calibrator_is_named():
    with pytest.raises(ProbeError, match="none, temperature, platt, but got 'isotone'"):
        build_calibrator("isotone")
