"""What a confidence is worth over all thresholds at once: the area metrics of routing and cascading papers.

Each is named as in its paper, takes plain arrays, and looks at two models at most. Some valid numbers leave a figure
undefined, such as two models without a gap between them, or one cost only: the figure is then NaN. Arrays that do not
fit together are an error.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cascade.errors import CascadeError
from cascade.statistics.columns import columns
from cascade.statistics.hull import upper_hull


@dataclass(frozen=True)
class DeferralCurve:
    """Accuracy of a small model that defers to a large one, at every threshold that makes a difference.

    Attributes:
        deferred: ``[points]``, the share of questions deferred (strong calls), rising from 0 to 1.
        accuracy: ``[points]``, the share then right.
    """

    deferred: np.ndarray
    accuracy: np.ndarray

    @property
    def weak(self) -> float:
        """Accuracy of the small model alone."""
        return float(self.accuracy[0])

    @property
    def strong(self) -> float:
        """Accuracy of the large model alone."""
        return float(self.accuracy[-1])

    def to_json(self) -> dict[str, list[float]]:
        """Plain values."""
        return {"deferred": self.deferred.tolist(), "accuracy": self.accuracy.tolist()}


def deferral_curve(scores: np.ndarray, small_right: np.ndarray, large_right: np.ndarray) -> DeferralCurve:
    """The deferral curve (Gupta et al. 2024, "Language Model Cascades: Token-level uncertainty and beyond").

    A question is deferred where its score is below the threshold, so questions of one score move together:
    the curve has a point more than there are distinct scores.

    Args:
        scores: ``[questions]``, the confidence in the small model; only its order counts.
        small_right: ``[questions]``, right and wrong of the small model, or a quality.
        large_right: The same of the large model.

    Raises:
        CascadeError: If the three are not columns of finite numbers of one length.
    """
    scores, small, large = columns(scores=scores, small_right=small_right, large_right=large_right)
    order = np.argsort(scores, kind="stable")
    last_of_score = np.flatnonzero(np.append(np.diff(scores[order]) > 0, True))
    gained = np.cumsum((large - small)[order])[last_of_score]
    right = small.sum() + np.concatenate([[0.0], gained])
    return DeferralCurve(np.concatenate([[0], last_of_score + 1]) / len(scores), right / len(scores))


def deferral_auc(curve: DeferralCurve) -> float:
    """Area under the deferral curve (AUC-DF; Gupta et al. 2024), by trapezoids over the deferral rate.

    The rate runs from 0 to 1, so this is the mean accuracy over it. Between two points the trapezoid is what
    deferring tied questions in random order gives in expectation.
    """
    return float(np.trapezoid(curve.accuracy, curve.deferred))


def pgr(quality: float, weak: float, strong: float) -> float:
    """Performance gap recovered, (quality − weak) / (strong − weak) (RouteLLM, Ong et al. 2024).

    NaN unless the strong model is the better one: there is no gap to recover.
    """
    return (quality - weak) / (strong - weak) if strong > weak else float("nan")


def apgr(curve: DeferralCurve) -> float:
    """Average PGR, ∫ PGR d(share of strong calls) (RouteLLM). Routing at random gives 0.5; no gap NaN.

    The paper approximates the integral by ten shares; this is the whole curve.
    """
    return pgr(deferral_auc(curve), curve.weak, curve.strong)


def cpt(curve: DeferralCurve, x: float) -> float:
    """Call-performance threshold CPT(x): the smallest share of strong calls whose PGR is x (RouteLLM).

    Args:
        curve: Interpolated linearly between its points.
        x: The share of the gap to recover, in [0, 1]; the paper's CPT(50%) is 0.5 here.

    Returns:
        A share of the questions; NaN where there is no gap to recover.

    Raises:
        CascadeError: If x is not in [0, 1].
    """
    if not 0 <= x <= 1:
        raise CascadeError(f"Expected `x` to be a share of the gap in [0, 1], but got {x}")
    if not curve.strong > curve.weak:
        return float("nan")
    gained, wanted = curve.accuracy - curve.weak, x * (curve.strong - curve.weak)
    reached = int(np.argmax(gained >= wanted - 1e-12))  # a peak that just touches counts, however it was rounded
    if reached == 0:
        return 0.0
    around = slice(reached - 1, reached + 1)
    return float(np.interp(wanted, gained[around], curve.deferred[around]))


def non_decreasing_hull(cost: np.ndarray, quality: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The non-decreasing convex hull of a router's points (RouterBench, Hu et al. 2024).

    What can be had by mixing two points at random, and by paying more for what is no better: concave, and
    flat from the best point to the dearest.

    Args:
        cost: ``[points]``, in any unit.
        quality: ``[points]``.

    Returns:
        Cost, rising, and quality at the corners of the hull; both ``[corners]``.

    Raises:
        CascadeError: If the two are not columns of finite numbers of one length.
    """
    cost, quality = columns(cost=cost, quality=quality)
    corners = upper_hull(cost, quality)
    rising = corners[: int(quality[corners].argmax()) + 1]
    along, height = cost[rising], quality[rising]
    if cost.max() > along[-1]:
        along, height = np.append(along, cost.max()), np.append(height, height[-1])
    return along, height


def aiq(cost: np.ndarray, quality: np.ndarray, c_min: float | None = None, c_max: float | None = None) -> float:
    """Average improvement in quality: the mean height of the hull over [c_min, c_max] (RouterBench).

    To compare routers, give all of them one range. The paper's equation divides by c_max − c_min, as is done
    here; the authors' code divides by c_max.

    Args:
        cost: ``[points]``, in any unit.
        quality: ``[points]``.
        c_min: Left out, the cheapest point.
        c_max: Left out, the dearest point; beyond it the hull goes on flat.

    Returns:
        In the unit of quality; NaN where c_min = c_max, as with one model only.

    Raises:
        CascadeError: For arrays as in `non_decreasing_hull`; if c_min is below every cost, or c_max below c_min.
    """
    along, height = non_decreasing_hull(cost, quality)
    low = float(along[0]) if c_min is None else c_min
    high = float(along[-1]) if c_max is None else c_max
    if not along[0] <= low <= high:
        raise CascadeError(
            f"Expected `c_min` and `c_max` to rise from at least the smallest cost, {along[0]}, but got {low}, {high}"
        )
    if low == high:
        return float("nan")
    grid = np.concatenate([[low], along[(along > low) & (along < high)], [high]])
    return float(np.trapezoid(np.interp(grid, along, height), grid) / (high - low))


def ibc(quality: float, cost: float, small_quality: float, small_cost: float) -> float:
    """Incremental benefit per cost (AutoMix, Aggarwal et al. 2024): quality gained over the small model per cost added.

    NaN where no cost is added.
    """
    return (quality - small_quality) / (cost - small_cost) if cost > small_cost else float("nan")


def ibc_lift(
    quality: float, cost: float, small_quality: float, small_cost: float, large_quality: float, large_cost: float
) -> float:
    """Lift in incremental benefit per cost, (IBC_method − IBC_base) / IBC_base (AutoMix; ΔIBC).

    IBC_base is that of always asking the large model, so mixing both at random has a lift of 0.

    Args:
        quality: Mean of the method.
        cost: Mean of the method, all that it asks included, in any unit.
        small_quality: Mean of the small model alone.
        small_cost: The same.
        large_quality: Mean of the large model alone.
        large_cost: The same.

    Returns:
        A share; the paper prints 100 times it. NaN unless the large model is better than the small one, and
        both it and the method cost more.
    """
    base = ibc(large_quality, large_cost, small_quality, small_cost)
    return ibc(quality, cost, small_quality, small_cost) / base - 1 if base > 0 else float("nan")


def prr(confidence: np.ndarray, quality: np.ndarray, max_rejection: float = 1.0) -> float:
    """Prediction-rejection ratio, (area − area_random) / (area_oracle − area_random), as LM-Polygraph computes it.

    An area is the mean, over ⌊max_rejection · n⌋ steps, of the mean quality of what is retained, while the least
    confident question is rejected at each step, beginning with none; the oracle rejects the worst. Random is
    the flat mean. LM-Polygraph takes tied questions in the order its sort leaves them in; here the ratio is its
    expectation over all their orders.

    Args:
        confidence: ``[questions]``; only its order counts.
        quality: ``[questions]``, right and wrong, or any quality.
        max_rejection: In (0, 1]; the largest share to reject.

    Returns:
        1 for the oracle, 0 for no better than random; NaN where no order is better than another: all of one
        quality, or fewer than two steps.

    Raises:
        CascadeError: If the two are not columns of finite numbers of one length; if max_rejection is not in (0, 1].
    """
    confidence, quality = columns(confidence=confidence, quality=quality)
    if not 0 < max_rejection <= 1:
        raise CascadeError(f"Expected `max_rejection` to be in (0, 1], but got {max_rejection}")
    steps = int(max_rejection * len(quality))
    if steps < 2 or quality.min() == quality.max():
        return float("nan")
    # What is retained of a tied group has in expectation the group's mean quality, wherever the cut falls.
    _, group, size = np.unique(-confidence, return_inverse=True, return_counts=True)
    expected = np.repeat(np.bincount(group, quality) / size, size)

    def area(best_first: np.ndarray) -> float:
        retained = np.cumsum(best_first) / np.arange(1, len(best_first) + 1)
        return float(retained[-steps:].mean())

    flat = float(quality.mean())
    return (area(expected) - flat) / (area(np.sort(quality)[::-1]) - flat)
