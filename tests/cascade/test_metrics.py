from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics

from cascade.simulation.metrics import auroc, binary_f1, macro_scores, mcnemar, mcnemar_paired


def test_mcnemar_gives_the_papers_table_9():
    test = mcnemar(9, 41)  # the one discordant table behind two of its rows
    assert round(test.chi2, 2) == 20.48
    assert round(test.chi2_corrected, 2) == 19.22
    assert round(test.p_chi2, 5) == round(test.p_chi2_corrected, 5) == 0.00001
    assert mcnemar(9, 14).p_exact == pytest.approx(0.4048, abs=1e-4)  # 8B → 70B: five questions fewer right
    assert mcnemar(0, 4).chi2 == 4.0
    assert mcnemar(0, 4).p_chi2 == pytest.approx(0.0455, abs=5e-5)


def test_mcnemar_of_equal_answers_is_one():
    same = np.array([True, False, True])
    test = mcnemar_paired(same, same)
    assert (test.p_exact, test.p_chi2, test.p_chi2_corrected) == (1.0, 1.0, 1.0)


def test_mcnemar_counts_the_discordant_pairs():
    test = mcnemar_paired(np.array([1, 1, 1, 0, 0], bool), np.array([1, 0, 0, 1, 0], bool))
    assert (test.only_first, test.only_second) == (2, 1)


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
