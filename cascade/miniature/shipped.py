"""What the miniatures ship with beside their weights, so that a chain of them starts without training anything.

The P(IK) probes of the smaller ones, and every model's scores of mini-mmlu's validation questions, on which a
chain's thresholds are chosen. `python -m experiments.miniature.shipped` makes both.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from cascade.miniature.families import ASSETS, MODEL_NAMES
from cascade.scores.reading import read_scores

TASK, PROBE, VALIDATION = "mini-mmlu", "probe", "validation.parquet"
# The large ones are last in their chains, and nobody asks them whether they know.
PROBED = tuple(name for name in MODEL_NAMES if not name.endswith("-large"))


def shipped_probe(name: str) -> Path | None:
    """The checkpoint folder of a miniature's probe; ``None`` for a large one, or a model that is no miniature."""
    folder = ASSETS / name / PROBE
    return folder if name in PROBED else None


def validation_scores(names: Sequence[str]) -> pa.Table | None:
    """The score tables of miniatures on mini-mmlu's validation split, as one; ``None`` if one is no miniature.

    P(IK) is the shipped probe's, which was calibrated on these very questions; null where there is no probe. There
    are no measured seconds, which would be another machine's, and no p_right, since nothing is trained on these.
    """
    if not set(names) <= set(MODEL_NAMES):
        return None
    return read_scores([ASSETS / name / VALIDATION for name in names])
