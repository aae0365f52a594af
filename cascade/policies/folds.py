"""A policy for each part of some questions, so that none is measured on questions that chose it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cascade.policies.base import LivePolicy, Offers, Policy
from cascade.scores.arrays import ChainScores


@dataclass(frozen=True)
class Folds(Policy):
    """Policies of one kind, each for the questions that had no part in choosing it. To measure, and not to run.

    Attributes:
        policies: One a part.
        part: Each question's id to the place of its policy.
    """

    policies: tuple[LivePolicy, ...]
    part: Mapping[str, int]

    @property
    def name(self) -> str:
        """That of the policies; of the first that is not a single model."""
        return next((p.name for p in self.policies if len(p.places) > 1), self.policies[0].name)

    def pieces(self, chain: ChainScores) -> Iterator[tuple[np.ndarray, Policy]]:
        """For each policy its questions."""
        part = np.array([self.part[name] for name in chain.question_ids])
        for place, policy in enumerate(self.policies):
            yield np.flatnonzero(part == place), policy

    def route(self, chain: ChainScores) -> np.ndarray:
        """Each question by its own policy."""
        outcome = np.empty((len(chain.models), len(chain)), dtype=np.int8)
        for rows, policy in self.pieces(chain):
            outcome[:, rows] = policy.route(chain.take(rows))
        return outcome

    def asks(self, offers: Offers) -> tuple[frozenset[str], ...]:
        """What any of them asks."""
        return tuple(
            frozenset[str]().union(*each) for each in zip(*(p.asks(offers) for p in self.policies), strict=True)
        )

    def describe(self, names: Sequence[str]) -> str:
        """How many they are."""
        return f"{len(self.policies)} policies, each for questions that did not certify it"
