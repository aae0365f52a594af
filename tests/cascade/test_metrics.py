from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics

from cascade.statistics.metrics import auroc, auroc_difference, binary_f1, macro_scores


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


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), st.booleans()), min_size=8, max_size=40))
def test_a_difference_of_areas_is_as_delong_defines_it(rows):
    first, second, labels = (np.array(column) for column in zip(*rows, strict=True))
    if min(labels.sum(), (~labels).sum()) < 2:
        return
    won = [
        np.array([[1.0 if a > b else 0.5 if a == b else 0.0 for b in scores[~labels]] for a in scores[labels]])
        for scores in (first, second)
    ]
    apart = won[0] - won[1]
    variance = np.var(apart.mean(1), ddof=1) / len(apart) + np.var(apart.mean(0), ddof=1) / apart.shape[1]
    difference, low, high = auroc_difference(first, second, labels)
    areas = [metrics.roc_auc_score(labels, scores) for scores in (first, second)]
    assert difference == pytest.approx(areas[0] - areas[1])
    assert (high - low) / 2 == pytest.approx(1.96 * np.sqrt(variance))
    assert (high + low) / 2 == pytest.approx(difference)


def test_its_interval_holds_the_truth_as_often_as_it_says():
    """Two confidences that share half of their noise, and are equally good."""
    draw, held = np.random.default_rng(0), 0
    for _ in range(600):
        labels = draw.random(120) < 0.4
        shared = draw.normal(size=120) + labels
        first, second = (shared + draw.normal(size=120) for _ in range(2))
        _, low, high = auroc_difference(first, second, labels)
        held += low <= 0 <= high
    assert 0.92 < held / 600 < 0.98
