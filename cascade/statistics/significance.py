"""How sure a difference between two columns of answers to the same questions is.

McNemar's test (is there a difference?), Tango's score test (is it smaller than a margin?) and intervals by
resampling questions (how large is it, and what does it buy?). Nothing here shows that two models are equal.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import nan

import numpy as np
from scipy import stats

from cascade.errors import CascadeError
from cascade.statistics.columns import columns
from cascade.statistics.tango import interval, score


def in_points(share: float) -> str:
    """A share as points in words: ``1 point``, ``2 points``."""
    return f"{100 * share:g} point{'s' * (share != 0.01)}"


@dataclass(frozen=True)
class McNemar:
    """McNemar's test on paired answers.

    Attributes:
        only_first, only_second: Questions that only one of the two got right.
        p_exact: Two-sided exact binomial p.
        chi2, p_chi2: Without continuity correction.
        chi2_corrected, p_chi2_corrected: With it (Edwards).
    """

    only_first: int
    only_second: int
    p_exact: float
    chi2: float
    p_chi2: float
    chi2_corrected: float
    p_chi2_corrected: float

    def to_json(self) -> dict[str, float]:
        """Plain values."""
        return asdict(self)


def mcnemar(only_first: int, only_second: int) -> McNemar:
    """McNemar's test from the two discordant counts. With none, every p is 1."""
    n = only_first + only_second
    if n == 0:
        return McNemar(0, 0, 1.0, 0.0, 1.0, 0.0, 1.0)
    difference = abs(only_first - only_second)
    chi2, corrected = difference**2 / n, max(difference - 1, 0) ** 2 / n
    exact = float(stats.binomtest(only_first, n, 0.5).pvalue)
    return McNemar(
        only_first,
        only_second,
        exact,
        chi2,
        float(stats.chi2.sf(chi2, 1)),
        corrected,
        float(stats.chi2.sf(corrected, 1)),
    )


def mcnemar_paired(first: np.ndarray, second: np.ndarray) -> McNemar:
    """McNemar's test from two ``[questions]`` arrays of right and wrong."""
    return mcnemar(int((first & ~second).sum()), int((~first & second).sum()))


@dataclass(frozen=True)
class NonInferiority:
    """Tango's score test and interval for the difference of two paired accuracies, first − second.

    Attributes:
        only_first, only_second: Questions that only one of the two got right.
        questions: How many in all.
        margin: The loss of accuracy to be ruled out, as a share.
        difference: Accuracy of the first minus that of the second.
        z, p: The score statistic, and one-sided p for H0: difference ≤ −margin.
        low, high: The two-sided score interval of the difference.
        confidence: Of the interval; the test's one-sided level is (1 − confidence) / 2.
    """

    only_first: int
    only_second: int
    questions: int
    margin: float
    difference: float
    z: float
    p: float
    low: float
    high: float
    confidence: float

    @property
    def shown(self) -> bool:
        """Whether H0 is rejected; so where `low` is above −margin."""
        return self.p < (1 - self.confidence) / 2

    @property
    def statement(self) -> str:
        """One line for a report. A test that fails shows nothing, and one that succeeds does not show equality."""
        p = "p < 0.001" if self.p < 0.001 else f"p = {self.p:.3f}"
        points = in_points(self.margin)
        return (
            f"not inferior by more than {points} ({p})" if self.shown else f"not shown to lose at most {points} ({p})"
        )

    def to_json(self) -> dict[str, float | bool | str]:
        """Plain values, with the statement."""
        return asdict(self) | {"shown": self.shown, "statement": self.statement}


def non_inferiority(
    only_first: int, only_second: int, n: int, margin: float, confidence: float = 0.95
) -> NonInferiority:
    """Whether the first model's accuracy is less than ``margin`` below the second's, from paired answers.

    Tango (1998), "Equivalence test and confidence interval for the difference in proportions for the
    paired-sample design". With a margin that tends to 0 its z² is McNemar's χ².

    Args:
        only_first: Questions that only the first got right.
        only_second: Questions that only the second got right.
        n: Questions in all.
        margin: The largest loss to accept, a share above 0: two points are 0.02. Chosen before looking.
        confidence: Of the interval. With 0.95 the test is at the one-sided level 0.025.

    Raises:
        CascadeError: If the counts are not those of n questions, or margin or confidence are not in (0, 1).
    """
    if not (only_first >= 0 and only_second >= 0 and n >= 1 and only_first + only_second <= n):
        raise CascadeError(
            f"Expected counts of `n` questions, but got {only_first} and {only_second} of {n} that only one got right"
        )
    if not 0 < margin < 1:
        raise CascadeError(f"Expected `margin` to be a share in (0, 1), two points being 0.02, but got {margin}")
    _check_confidence(confidence)

    z, found = float(score(only_first, only_second, n, -margin)), float((only_first - only_second) / n)
    low, high = interval(only_first, only_second, n, confidence)
    p = float(stats.norm.sf(z))
    return NonInferiority(int(only_first), int(only_second), int(n), margin, found, z, p, low, high, confidence)


@dataclass(frozen=True)
class Interval:
    """An estimate and the ends of its interval."""

    estimate: float
    low: float
    high: float


@dataclass(frozen=True)
class PairedBootstrap:
    """A cascade beside a reference that answered the same questions. Intervals are percentiles, but for one.

    Attributes:
        accuracy: Of the cascade, a share.
        difference: Accuracy of the cascade minus that of the reference, a share. Where answers are right or wrong its
            interval is Tango's (1998): resampling covers too little where the two seldom disagree.
        cost_ratio: Total cost over the reference's total cost; NaN where the reference costs nothing.
        trade: Points of accuracy lost for the whole of the reference's cost saved, in proportion:
            100 · (accuracy_reference − accuracy) / (1 − cost ratio). Losing 1 point for 40 % of the cost is
            2.5; negative is a gain. NaN where no cost is saved; its ends are NaN if that is so in any
            replicate, since a ratio whose denominator may be 0 has no percentile interval.
        questions, replicates, confidence: What the intervals rest on.
    """

    accuracy: Interval
    difference: Interval
    cost_ratio: Interval
    trade: Interval
    questions: int
    replicates: int
    confidence: float

    def to_json(self) -> dict[str, object]:
        """Plain values."""
        return asdict(self)


def paired_bootstrap(
    correct: np.ndarray,
    reference: np.ndarray,
    cost: np.ndarray,
    reference_cost: np.ndarray,
    replicates: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> PairedBootstrap:
    """Percentile intervals by resampling questions (Efron and Tibshirani 1993, chapter 13).

    A question is drawn with both models' answers and costs. One replicate is in memory at a time.

    Args:
        correct: ``[questions]``, right and wrong of the cascade, or a quality in [0, 1].
        reference: The same of what it is compared to, as its last model alone.
        cost: ``[questions]``, what the cascade spent on each question, in any unit.
        reference_cost: The same of the reference.
        replicates: How many resamples.
        confidence: Of each interval by itself.
        seed: Of the resampling; the same seed gives the same intervals.

    Raises:
        CascadeError: If the four are not columns of finite numbers of one length; for fewer than one replicate
            or a confidence outside of (0, 1).
    """
    table = np.stack(columns(correct=correct, reference=reference, cost=cost, reference_cost=reference_cost), axis=1)
    if replicates < 1:
        raise CascadeError(f"Expected `replicates` to be at least 1, but got {replicates}")
    _check_confidence(confidence)
    n, rng = len(table), np.random.default_rng(seed)
    sums = np.empty((replicates, 4))
    for replicate in sums:
        replicate[:] = np.bincount(rng.integers(n, size=n), minlength=n) @ table
    estimates, found = _comparison(table.sum(axis=0, keepdims=True) / n)[0], _comparison(sums / n)
    ends = (1 - confidence) / 2, (1 + confidence) / 2
    low, high = np.quantile(found, ends, axis=0)  # NaN as soon as one replicate is
    accuracy, difference, ratio, trade = (
        Interval(*map(float, each)) for each in zip(estimates, low, high, strict=True)
    )
    first, second = table[:, 0], table[:, 1]
    if np.isin(table[:, :2], (0, 1)).all():
        only_first, only_second = int((first > second).sum()), int((second > first).sum())
        difference = Interval(difference.estimate, *interval(only_first, only_second, n, confidence))
    return PairedBootstrap(accuracy, difference, ratio, trade, n, replicates, confidence)


def _comparison(means: np.ndarray) -> np.ndarray:
    """Accuracy, difference, cost ratio and trade of ``[replicates, 4]`` means of the columns."""
    accuracy, reference, cost, reference_cost = means.T
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(reference_cost > 0, cost / reference_cost, nan)
        saved = 1 - ratio
        trade = np.where(saved > 1e-9, 100 * (reference - accuracy) / saved, nan)  # rounding is no saving
    return np.stack([accuracy, accuracy - reference, ratio, trade], axis=1)


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise CascadeError(f"Expected `confidence` to be in (0, 1), but got {confidence}")
