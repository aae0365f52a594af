"""A bound: who answers is known beforehand."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from cascade.policies.base import Policy, Tuner, answered_by
from cascade.policies.tuning import Option, Tried
from cascade.scores.arrays import ChainScores


@dataclass(frozen=True)
class OraclePolicy(Policy):
    """The smallest model that is right answers, alone; the smallest of all if none is."""

    remark: ClassVar[str] = "knows beforehand"

    @property
    def name(self) -> str:
        """The same for all of them."""
        return "oracle"

    def route(self, chain: ChainScores) -> np.ndarray:
        """Needs labels; a bound, not a policy that can be run."""
        return answered_by(chain.correct.argmax(axis=0), len(chain.models))

    @classmethod
    def options(cls, tuner: Tuner) -> Iterator[Option[Policy]]:
        """There is one."""
        yield Tried("oracle", [tuner.point(cls())])
