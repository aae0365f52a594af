from __future__ import annotations

import numpy as np
import pytest

from cascade.simulation.significance import mcnemar, mcnemar_paired


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
