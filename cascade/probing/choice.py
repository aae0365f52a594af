"""Which probes read the models of a chain. Starts without torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ProbeChoice:
    """Which probes read a chain's models, where the models do not name theirs; trained where they are missing.

    Attributes:
        layer: Layer that they read; by default that of the best one on validation among those that are trained, and
            three quarters of the way up where there is none.
        task: Task that they are trained on; by default the task itself, or for one that is out of distribution the
            one that it belongs to (mini-mmlu for mini-gpqa and mini-popqa, mmlu for gpqa).
    """

    layer: int | None = None
    task: str | None = None
