"""Every policy against a loop that decides one question after another, and calibration against scikit-learn."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.special import expit
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from cascade.errors import CascadeError
from cascade.policies.base import Thresholds
from cascade.policies.calibration import Calibrated, calibrate_model, fit_logistic, logits
from cascade.policies.expected_utility import ExpectedUtilityPolicy
from cascade.policies.file import policy_from_json, policy_json
from cascade.policies.fused import FusedPolicy, calibrations
from cascade.policies.oracle import OraclePolicy
from cascade.policies.outcome import Outcome
from cascade.policies.random_mixing import RandomPolicy
from cascade.policies.thresholds import ThresholdPolicy
from cascade.scores.arrays import ChainScores
from cascade.statistics.metrics import ece
from tests.cascade.scored import scored


def chain(questions: int = 500, models: int = 3, seed: int = 0) -> ChainScores:
    rng = np.random.default_rng(seed)
    ease, made = rng.normal(size=questions), []
    for i in range(models):
        odds = 2 * ease + i
        confidences = expit(odds + rng.normal(size=(3, questions)))
        right, (p_t, p_ik, reader) = rng.random(questions) < expit(odds), confidences
        made.append(scored(f"m{i}", right, p_t, p_ik, parameters=10**i, p_ik_reader=reader))
    return ChainScores(tuple(map(str, range(questions))), tuple(made))


def answered_by(outcome: np.ndarray) -> list[int]:
    assert (outcome == Outcome.ANSWERED).sum(axis=0).tolist() == [1] * outcome.shape[1]
    return (outcome == Outcome.ANSWERED).argmax(axis=0).tolist()


@pytest.mark.parametrize("places", [(0, 1, 2), (0, 2), (1, 2), (0, 1), (1,)])
def test_thresholds_with_a_reader_are_a_plain_loop(places):
    scores = chain()
    limits = [Thresholds(0.7, 0.4, 0.3), Thresholds(0.6, None, 0.5)][: len(places) - 1]
    outcome = ThresholdPolicy(places, tuple(limits)).route(scores)
    for q in range(len(scores)):
        expected = [Outcome.NOT_ASKED] * 3
        for place, limit in zip(places, [*limits, None], strict=True):
            model = scores.models[place]
            if limit is None:
                expected[place] = Outcome.ANSWERED
            elif model.signals.p_ik_reader[q] < limit.p_ik_reader:
                expected[place] = Outcome.PASSED_BY_READER
            elif limit.p_ik is not None and model.signals.p_ik[q] < limit.p_ik:
                expected[place] = Outcome.REJECTED_BY_P_IK
            elif model.signals.p_t[q] < limit.p_t:
                expected[place] = Outcome.REJECTED_BY_P_T
            else:
                expected[place] = Outcome.ANSWERED
            if expected[place] == Outcome.ANSWERED:
                break
        assert outcome[:, q].tolist() == expected


def test_the_oracle_asks_the_smallest_model_that_is_right():
    scores = chain()
    for q, who in enumerate(answered_by(OraclePolicy().route(scores))):
        right = [i for i in range(3) if scores.models[i].correct[q]]
        assert who == (right[0] if right else 0)


def test_random_mixing_keeps_its_shares_and_its_seed():
    scores, policy = chain(20_000), RandomPolicy((0.2, 0.5, 0.3), seed=1)
    who = answered_by(policy.route(scores))
    assert np.bincount(who) / 20_000 == pytest.approx([0.2, 0.5, 0.3], abs=0.02)
    assert answered_by(policy.route(scores)) == who
    # By lot: who answers says nothing of who is right.
    assert scores.models[0].correct[np.array(who) == 0].mean() == pytest.approx(
        scores.models[0].correct.mean(), abs=0.03
    )


def test_expected_utility_is_a_plain_loop_and_reaches_its_extremes():
    fitted_on, scores = chain(seed=1), chain(seed=2)
    policy = ExpectedUtilityPolicy.fit(fitted_on, (0.01, 0.1, 1.0), price=0.2)
    found = policy.route(scores)
    right = {(i, j): policy.right[i][j].predict(scores.models[i].signals) for i in range(2) for j in range(i, 3)}
    for q in range(len(scores)):
        at = 0
        while at < 2:
            worth = {j: right[at, j][q] - (0.2 * (0.01, 0.1, 1.0)[j] if j > at else 0) for j in range(at, 3)}
            best = max(worth, key=lambda j: worth[j])
            if best == at:
                break
            assert found[at, q] == Outcome.REJECTED_BY_P_T
            assert (found[at + 1 : best, q] == Outcome.NOT_ASKED).all()
            at = best
        assert found[at, q] == Outcome.ANSWERED
    dear = ExpectedUtilityPolicy.fit(fitted_on, (0.01, 0.1, 1.0), price=1e6)
    assert set(answered_by(dear.route(scores))) == {0}


def test_the_fused_policy_asks_one_probability():
    fitted_on, scores = chain(seed=1), chain(seed=2)
    fused = calibrations(fitted_on)
    who = answered_by(FusedPolicy((0, 1, 2), (0.8, 0.9), fused).route(scores))
    first, second = (fused[i].predict(scores.models[i].signals) for i in range(2))
    assert who == [0 if a >= 0.8 else 1 if b >= 0.9 else 2 for a, b in zip(first, second, strict=True)]


def test_logistic_regression_is_scikit_learns():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 2))
    y = (rng.random(400) < expit(x @ [1.5, -0.5] + 0.3)).astype(float)
    theirs = LogisticRegression(C=1 / 1e-3, tol=1e-10, max_iter=1000).fit(x, y)
    assert fit_logistic(x, y) == pytest.approx([*theirs.intercept_, *theirs.coef_[0]], abs=1e-4)


@pytest.mark.parametrize("labels", [np.ones(50), np.zeros(50), (np.arange(50) > 25).astype(float)])
def test_separable_and_one_sided_labels_have_an_answer(labels):
    weights = fit_logistic(np.linspace(-3, 3, 50)[:, None], labels)
    assert np.isfinite(weights).all()
    assert ((expit(weights[0] + weights[1] * np.linspace(-3, 3, 50)) > 0.5) == (labels > 0.5)).mean() > 0.95


def test_the_isotonic_map_passes_through_scikit_learns_steps():
    model = chain().models[0]
    fitted = calibrate_model(model, signals=("p_t",))
    odds = fitted.weights[0] + fitted.weights[1] * logits(model.signals.p_t)
    theirs = IsotonicRegression().fit(odds, model.correct.astype(float)).predict(odds)
    # Ours is linear between the middles of their steps: the same mean, and the same values at the knots.
    for centre, height in fitted.knots.T:
        nearest = np.abs(odds - centre).argmin()
        assert theirs[nearest] == pytest.approx(height, abs=0.12)
    assert np.unique(np.round(theirs, 9)).tolist() == pytest.approx(np.round(fitted.knots[1], 9).tolist())
    assert (np.diff(fitted.knots[1]) > 0).all() and (np.diff(fitted.knots[0]) > 0).all()


def test_calibration_heals_what_is_overconfident():
    rng = np.random.default_rng(0)
    truth = rng.random(4000)
    model = scored("m", rng.random(4000) < truth, truth**0.25)
    on, off = model.take(np.arange(2000)), model.take(np.arange(2000, 4000))
    after = calibrate_model(on, signals=("p_t",)).predict(off.signals)
    before, after = (ece(p_t, off.correct.astype(float)) for p_t in (off.signals.p_t, after))
    assert before > 0.2
    assert after < 0.05


def test_saturated_confidences_are_calibrated():
    model = scored("m", np.arange(40) % 4 > 0, np.where(np.arange(40) % 2, 1.0, 0.0))
    assert isinstance(found := calibrate_model(model), Calibrated)
    assert set(np.round(found.predict(model.signals), 6)) == {0.5, 1.0}


def test_a_model_without_confidences_cannot_be_calibrated():
    with pytest.raises(CascadeError, match="'m' to have one of p_ik, p_t"):
        calibrate_model(scored("m", np.ones(3, bool), None))


FITTED = {"signals": ["p_t"], "weights": [0.5, 1.0], "knots": [[-1.0, 1.0], [0.25, 0.75]]}
WRITTEN = {
    "P(IK) + P(T)": '{"thresholds": [{"p_t": 0.9, "p_ik": 0.5, "p_ik_reader": null}], "models": ["a", "c"]}',
    "fused P(IK), P(T)": '{"thresholds": [0.8], "fused": {"b": FITTED}, "models": ["b", "c"]}',
    "expected utility": (
        '{"models": ["a", "b", "c"], "price": 0.2, "costs": [0.1, 0.3, 1.0], "right": '
        '{"a": {"a": FITTED, "b": FITTED, "c": FITTED}, "b": {"b": FITTED, "c": FITTED}}}'
    ),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_each_kind_is_read_from_its_json_and_written_to_the_same_again(name):
    """By hand, in the form that files have: its keys and their order are an interface."""
    text = WRITTEN[name].replace("FITTED", json.dumps(FITTED))
    policy = policy_from_json(json.loads(text), ["a", "b", "c"])
    head = {"policy": name, "normalize": True}
    assert json.dumps(policy_json(policy, ["a", "b", "c"], True)) == json.dumps(head | json.loads(text))
    assert policy.places == {"P(IK) + P(T)": (0, 2), "fused P(IK), P(T)": (1, 2), "expected utility": (0, 1, 2)}[name]
