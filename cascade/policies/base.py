"""What a policy is: who answers, decided from columns of scores.

A policy says itself what it asks, how it decides, how it is tuned, told in words, written and read: a new one is one
file with a subclass of `LivePolicy`, and one entry in `cascade.policies.registry`. What it costs is
`cascade.policies.ledgers`' to say.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol, Self, TypeVar

import numpy as np

from cascade.errors import CascadeError
from cascade.policies.calibration import Calibrated
from cascade.policies.ledgers import PassCosts
from cascade.policies.outcome import Outcome
from cascade.policies.tuning import Goal, Ladder, Option, Point
from cascade.scores.arrays import ChainScores
from cascade.scores.columns import CONFIDENCES, Signals

Offers = Mapping[str, frozenset[str]]
"""Each model's name to the confidences that it has, of `CONFIDENCES`; smallest model first."""


@dataclass(frozen=True)
class Thresholds:
    """Thresholds of one stage; ``None`` leaves a confidence out (``p_ik=None``: the paper's "w/o P(IK)").

    Attributes:
        p_t: Of P(T); below it a question moves on.
        p_ik: Of P(IK) by the model's own probe; below it a question moves on.
        p_ik_reader: Of P(IK) read from another model's states, asked before the model is run at all.
    """

    p_t: float | None = 0.9
    p_ik: float | None = 0.5
    p_ik_reader: float | None = None

    def __post_init__(self) -> None:
        for name in CONFIDENCES:
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise CascadeError(f"Expected threshold `{name}` to be in [0, 1], but got {value}")

    def __str__(self) -> str:
        asked = {"P(IK) by reader": self.p_ik_reader, "P(IK)": self.p_ik, "P(T)": self.p_t}
        limits = [f"{name} ≥ {threshold_text(value)}" for name, value in asked.items() if value is not None]
        return ", ".join(limits) or "keeps all"

    @property
    def asked(self) -> frozenset[str]:
        """The confidences that have a threshold."""
        return frozenset(name for name in CONFIDENCES if getattr(self, name) is not None)


NO_LIMITS = Thresholds(None, None, None)


def threshold_text(value: float) -> str:
    """Four digits, or as many as it takes for a threshold below 1 not to read as 1."""
    digits = next(d for d in range(4, 18) if value == 1 or float(f"{value:.{d}g}") < 1)
    return f"{value:.{digits}g}"


P = TypeVar("P", bound="Policy")


class Policy(ABC):
    """Decides who answers. This much is enough to be simulated and reported."""

    remark: ClassVar[str] = ""
    """What a figure has to say of the policy beside its name."""

    @property
    @abstractmethod
    def name(self) -> str:
        """As tables show it."""

    @abstractmethod
    def route(self, chain: ChainScores) -> np.ndarray:
        """What becomes of every question: ``[models, questions]``, int8, of `Outcome`; each is answered once."""

    def asks(self, offers: Offers) -> tuple[frozenset[str], ...]:
        """For each model of a chain the confidences that are asked there, and so charged; by default none."""
        return (frozenset(),) * len(offers)

    def pieces(self, chain: ChainScores) -> Iterable[tuple[np.ndarray, Policy]]:
        """Policies and the questions that they are for, so that each is charged for what it asks; itself for all."""
        return ((np.arange(len(chain)), self),)

    def shown(self, outcome: np.ndarray) -> list[int]:
        """Places of the models that a table's row is of: those that some question came to, in ``outcome``."""
        return [place for place, row in enumerate(outcome) if (row != Outcome.NOT_ASKED).any()]

    def describe(self, names: Sequence[str]) -> str:
        """In a line, as ``a (P(T) ≥ 0.9) → b``; ``names`` are the chain's models. Empty where the name says it all."""
        return ""

    def in_words(self, names: Sequence[str]) -> str:
        """What to do with a question, as a clause."""
        return f"{self.name} {self.describe(names)}".strip()

    def to_json(self, names: Sequence[str]) -> dict[str, object]:
        """What `cascade.policies.file.policy_json` writes beside the name; plain values."""
        return {}

    @classmethod
    def options(cls, tuner: Tuner) -> Iterable[Option[Policy]]:
        """The policies of this kind that the questions allow, to take the best from; none if it cannot be tuned."""
        return ()


class LivePolicy(Policy):
    """A policy that can be run: at each model it decides by what is known there.

    Simulator and runtime both go from model to model by `decide`, so that what was simulated is what answers.

    Attributes:
        key: The name in JSON that tells policies of this kind: one that `to_json` writes.
    """

    key: ClassVar[str]
    places: tuple[int, ...]
    """The models used, by their place in the chain, first to last; the last of them always answers."""

    @abstractmethod
    def decide(self, place: int, signals: Signals) -> tuple[np.ndarray, np.ndarray]:
        """What becomes of the questions that reached a model.

        Args:
            place: Of the model.
            signals: What it says of these questions. A column that is absent is not asked; NaN keeps nothing.

        Returns:
            Outcome, ``[questions]``, int8, and the place that each goes to, ``[questions]``, -1 where it is answered.
        """

    @classmethod
    @abstractmethod
    def from_json(cls, values: Mapping[str, Any], places: tuple[int, ...], names: Sequence[str], source: str) -> Self:
        """The inverse of `to_json`.

        Args:
            values: As they were written.
            places: Of the models that the policy uses.
            names: The models of the chain that it is to run on.
            source: Names the values in errors.

        Raises:
            CascadeError, KeyError, TypeError, ValueError: If they are not that.
        """

    def limits(self, place: int) -> Thresholds | None:
        """What a stage's confidences have to reach; ``None`` for the last, and where not thresholds decide."""
        return None

    def gates(self, place: int) -> Thresholds:
        """What may turn a question away before a model's first token is known: `limits` without that on P(T)."""
        limits = self.limits(place)
        return NO_LIMITS if limits is None else replace(limits, p_t=None)

    @classmethod
    def options(cls, tuner: Tuner) -> Iterable[Option[LivePolicy]]:
        """As for any policy; the best of these may be recommended where nothing is promised."""
        return ()

    @classmethod
    def ladders(cls, tuner: Tuner) -> Iterable[Ladder[LivePolicy]]:
        """Ladders along which policies of this kind can be certified, on other questions than the tuner's.

        The tuner's chain says which confidences there are. Its labels may be looked at where `Tuner.labelled` says so.
        """
        return ()

    def route(self, chain: ChainScores) -> np.ndarray:
        """See `walk`."""
        return walk(self, chain)


class Tuner(Protocol):
    """What policies are tuned with: labelled questions, their costs, and what is wanted."""

    @property
    def chain(self) -> ChainScores:
        """The questions that choose."""
        ...

    @property
    def costs(self) -> PassCosts:
        """What the models' passes cost for these questions, in the goal's unit."""
        ...

    @property
    def goal(self) -> Goal:
        """What is wanted."""
        ...

    @property
    def seed(self) -> int:
        """Of what is done by lot."""
        ...

    @property
    def part(self) -> np.ndarray:
        """``[questions]``, int: the part of the questions that each is in, to fit on the rest and measure on it."""
        ...

    @property
    def rests(self) -> Sequence[ChainScores]:
        """For each part all questions that are not in it."""
        ...

    def point(self, policy: P, apart: Sequence[P] = ()) -> Point[P]:
        """A policy with its accuracy and cost on these questions.

        Args:
            policy: As it may be chosen.
            apart: The same as fitted on each of ``rests``, to be measured on the parts; none where nothing was fitted.
        """
        ...

    def frontier(
        self, signals: str, fused: Mapping[int, Calibrated] | None = None, out_of_fold: ChainScores | None = None
    ) -> Option[LivePolicy]:
        """The thresholds worth having on some confidences; see `cascade.simulation.frontier.frontier`."""
        ...

    def note(self, line: str) -> None:
        """Says in the report what the scores do not allow."""
        ...


def walk(policy: LivePolicy, chain: ChainScores) -> np.ndarray:
    """Every question from model to model: ``[models, questions]``, int8, of `Outcome`."""
    outcome = np.full((len(chain.models), len(chain)), Outcome.NOT_ASKED, dtype=np.int8)
    at = np.full(len(chain), policy.places[0])
    for place, model in enumerate(chain.models):
        here = np.flatnonzero(at == place)
        if here.size:
            outcome[place, here], at[here] = policy.decide(place, model.signals.take(here))
    return outcome


def answered_by(who: np.ndarray, models: int) -> np.ndarray:
    """Outcomes where model ``who[q]`` answers question q and no other is asked: ``[models, questions]``, int8."""
    outcome = np.full((models, len(who)), Outcome.NOT_ASKED, dtype=np.int8)
    outcome[who, np.arange(len(who))] = Outcome.ANSWERED
    return outcome


def stages_in_words(names: Sequence[str], places: Sequence[int], limits: Sequence[str]) -> str:
    """A clause for stages with a limit each but the last; an empty limit keeps every answer."""
    if not limits:
        return f"ask {names[places[0]]} alone"
    steps: list[str] = []
    for place, limit in zip(places, limits, strict=False):
        kept = f"and keep its answer where {limit}" if limit else "and keep its answer"
        steps.append(f"{'then ask' if steps else 'ask'} {names[place]} {kept}")
    return f"{', '.join(steps)}, and let {names[places[-1]]} answer the rest"
