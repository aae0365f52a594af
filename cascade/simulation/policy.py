"""Who answers: the paper's two-threshold policy, on columns of scores.

Stage i keeps a question if P(IK) reaches its threshold (asked first, before anything is generated) and then
P(T) reaches its own; else the question escalates. The last model always answers. `>=` keeps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from cascade.errors import CascadeError
from cascade.simulation.scores import ChainScores


class Outcome(IntEnum):
    """What became of a question at a stage."""

    NOT_ASKED = 0
    REJECTED_BY_P_IK = 1
    REJECTED_BY_P_T = 2
    ANSWERED = 3


@dataclass(frozen=True)
class Thresholds:
    """Thresholds of one stage. ``p_ik=None`` leaves P(IK) out (the paper's "w/o P(IK)")."""

    p_t: float = 0.9
    p_ik: float | None = 0.5

    def __post_init__(self) -> None:
        for name, value in (("p_t", self.p_t), ("p_ik", self.p_ik)):
            if value is not None and not 0 <= value <= 1:
                raise CascadeError(f"Expected threshold `{name}` to be in [0, 1], but got {value}")


def route(chain: ChainScores, thresholds: Sequence[Thresholds]) -> np.ndarray:
    """What becomes of every question at every stage (the paper's §2.1).

    Args:
        chain: The scores of k models.
        thresholds: One for each of the first k − 1 stages. A stage with no probe has no P(IK) to fail.

    Returns:
        ``[models, questions]``, int8, of `Outcome`. Each question is answered exactly once.

    Raises:
        CascadeError: If there is not one threshold for each stage but the last.
    """
    if len(thresholds) != len(chain.models) - 1:
        raise CascadeError(
            f"Expected {len(chain.models) - 1} thresholds for {len(chain.models)} models, but got {len(thresholds)}"
        )
    outcome = np.full((len(chain.models), len(chain.question_ids)), Outcome.NOT_ASKED, dtype=np.int8)
    asked = np.ones(len(chain.question_ids), dtype=bool)
    for stage, (model, threshold) in enumerate(zip(chain.models, thresholds, strict=False)):
        knows = np.ones_like(asked)
        if threshold.p_ik is not None and model.p_ik is not None:
            knows = model.p_ik >= threshold.p_ik
        sure = model.p_t >= threshold.p_t
        outcome[stage, asked & ~knows] = Outcome.REJECTED_BY_P_IK
        outcome[stage, asked & knows & ~sure] = Outcome.REJECTED_BY_P_T
        outcome[stage, asked & knows & sure] = Outcome.ANSWERED
        asked = asked & ~(knows & sure)
    outcome[-1, asked] = Outcome.ANSWERED
    return outcome
