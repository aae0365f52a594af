from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics

from cascade.statistics.metrics import auroc, binary_f1, macro_scores


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
