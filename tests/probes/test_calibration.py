from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from probes import ProbeError, build_calibrator
from probes.calibration import CALIBRATORS


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


@pytest.mark.parametrize("seed", range(3))
def test_temperature_is_scikit_learns(seed):
    pytest.importorskip("sklearn", minversion="1.8", reason="scikit-learn has temperature scaling from 1.8 on")
    logits, labels = data(seed)
    columns, right = logits.double().numpy()[:, None], labels.numpy()
    head = LogisticRegression().fit(columns, right)
    head.coef_, head.intercept_ = np.ones((1, 1)), np.zeros(1)  # its decision is the logit itself
    reference = CalibratedClassifierCV(FrozenEstimator(head), method="temperature").fit(columns, right)
    ours = torch.sigmoid(build_calibrator("temperature").fit(logits, labels)(logits))
    np.testing.assert_allclose(ours, reference.predict_proba(columns)[:, 1], rtol=0, atol=3e-5)


@pytest.mark.parametrize("ties", [False, True])
def test_isotonic_is_scikit_learns(ties):
    logits, labels = data(3)
    logits = logits.mul(4).round().div(4) if ties else logits
    fitted = build_calibrator("isotonic").fit(logits, labels)
    reference = IsotonicRegression(out_of_bounds="clip").fit(logits.double().numpy(), labels.numpy())
    grid = torch.cat([logits, torch.linspace(-20, 20, 500)])
    ours = torch.sigmoid(fitted(grid))
    np.testing.assert_allclose(ours, reference.predict(grid.double().numpy()), atol=5e-6)


def test_beta_is_logistic_regression_on_the_two_logarithms():
    logits, labels = data(4)
    z = logits.double().numpy()
    features = np.stack([-np.logaddexp(0, -z), np.logaddexp(0, z)], axis=1)
    reference = LogisticRegression(C=np.inf, tol=1e-10).fit(features, labels)
    assert (reference.coef_ > 0).all()  # else the unconstrained fit would be another
    ours = build_calibrator("beta").fit(logits, labels)(logits)
    np.testing.assert_allclose(ours, reference.decision_function(features), atol=2e-3)


@pytest.mark.parametrize("kind", ["temperature", "platt", "isotonic", "beta"])
def test_shares_of_right_answers_are_fitted_as_the_single_answers_are(kind):
    logits, _ = data(5)
    right = torch.randint(0, 5, (len(logits),), generator=torch.Generator().manual_seed(1))
    shares = build_calibrator(kind).fit(logits, right / 4)
    # Four answers a question, one by one.
    single = torch.cat([(right > place).float() for place in range(4)])
    one_by_one = build_calibrator(kind).fit(logits.repeat(4), single)
    torch.testing.assert_close(shares(logits).sigmoid(), one_by_one(logits).sigmoid(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", CALIBRATORS)
def test_every_calibrator_is_increasing(kind):
    logits, labels = data(2)
    grid = torch.linspace(-8, 8, 101)
    # Labels against the logits would make an unconstrained slope negative.
    calibrated = build_calibrator(kind).fit(logits, 1 - labels)(grid)
    assert bool((calibrated.diff() >= 0).all())


@pytest.mark.parametrize("kind", [kind for kind in CALIBRATORS if kind != "none"])
def test_one_class_cannot_be_calibrated_on(kind):
    with pytest.raises(ProbeError, match="both classes"):
        build_calibrator(kind).fit(torch.randn(5), torch.ones(5))


def test_an_unknown_calibrator_is_named():
    with pytest.raises(ProbeError, match="none, temperature, platt, isotonic, beta, but got 'isotone'"):
        build_calibrator("isotone")
