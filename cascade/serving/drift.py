"""Drift: whether live confidences still look like those that the policy was chosen on.

For each model and confidence the Kolmogorov-Smirnov distance, the largest difference of the two distribution functions,
between the last live values and the calibration scores of the same model. A later model sees only what earlier ones
pass on, and P(T) is known only where P(IK) did not reject; so the calibration questions are taken that the cascade's
own policy brings as far, and live questions that it decided. Requests with thresholds of their own are left out.
"""

from __future__ import annotations

from collections import deque

import numpy as np

from cascade.policies.outcome import Outcome
from cascade.runtime.engine import Cascade, Journey, Step

FEWEST = 50
"""Live values below which no distance is told: chance alone makes it large."""


def ks_distance(live: np.ndarray, calibration: np.ndarray) -> float:
    """The Kolmogorov-Smirnov distance of two samples, 0 to 1.

    Args:
        live: ``[n]``, n at least 1.
        calibration: ``[m]``, m at least 1.
    """
    live, calibration = np.sort(live), np.sort(calibration)
    values = np.concatenate([live, calibration])
    below = (np.searchsorted(sample, values, side="right") / len(sample) for sample in (live, calibration))
    return float(np.abs(np.subtract(*below)).max())


class Drift:
    """Keeps the last live confidences of each model.

    Args:
        cascade: Whose calibration scores are compared with; without any there is nothing to measure.
        window: How many values of each.
    """

    def __init__(self, cascade: Cascade, window: int) -> None:
        self._cascade = cascade
        self._expected: dict[tuple[str, str], np.ndarray] = {}
        if (calibration := cascade.calibration) is not None:
            outcomes = cascade.policy.route(calibration)
            for model, became in zip(calibration.models, outcomes, strict=True):
                run = ~np.isin(became, [Outcome.NOT_ASKED, Outcome.PASSED_BY_READER])
                reached = {"p_ik": run, "p_t": run & (became != Outcome.REJECTED_BY_P_IK)}
                for confidence, rows in reached.items():
                    column = getattr(model.signals, confidence)
                    known = np.zeros(0) if column is None else column[rows & np.isfinite(column)]
                    if known.size:
                        self._expected[model.name, confidence] = known
        self._live = {key: deque[float](maxlen=window) for key in self._expected}

    def add(self, journey: Journey, step: Step) -> None:
        """A stage is over."""
        if journey.policy is not self._cascade.policy or step.reply is None or step.best_effort:
            return
        p_t = self._cascade.decisive_p_t(journey.prompt, step.reply)
        for confidence, value in (("p_ik", step.reply.p_ik), ("p_t", p_t)):
            kept = self._live.get((step.model, confidence))
            if kept is not None and value is not None and np.isfinite(value):
                kept.append(value)

    def measured(self) -> list[tuple[str, str, float, int]]:
        """Model, confidence, distance, and the number of live values, where these are enough."""
        return [
            (*key, ks_distance(np.array(live), self._expected[key]), len(live))
            for key, live in self._live.items()
            if len(live) >= FEWEST
        ]
