"""Who answers: the policies, on columns of scores.

A policy says what becomes of every question at every model. The paper's asks P(IK) first, before anything is
generated, and then P(T); below either threshold the question escalates, and the last model always answers.
`>=` keeps. What a policy costs is `cascade.policies.ledgers`' to say.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Protocol

import numpy as np

from cascade.errors import CascadeError
from cascade.policies.calibration import Calibrated, calibrate_model
from cascade.scores.arrays import ChainScores, ModelScores


class Outcome(IntEnum):
    """What became of a question at a model."""

    NOT_ASKED = 0
    REJECTED_BY_P_IK = 1
    REJECTED_BY_P_T = 2
    ANSWERED = 3
    PASSED_BY_READER = 4


class Policy(Protocol):
    """Decides from the columns of a chain's scores; all policies see the same columns."""

    @property
    def name(self) -> str:
        """As tables show it."""
        ...

    def asks_p_ik(self, chain: ChainScores) -> tuple[bool, ...]:
        """For each model whether its probe is asked, and so charged."""
        ...

    def asks_reader(self, chain: ChainScores) -> tuple[int, ...]:
        """Places of the models whose reader reads every question first, and so is charged."""
        ...

    def route(self, chain: ChainScores) -> np.ndarray:
        """What becomes of every question: ``[models, questions]``, int8, of `Outcome`; each is answered once."""
        ...


class LivePolicy(Policy, Protocol):
    """A policy that can be run: at each model it decides by what is known there.

    Simulator and runtime both go from model to model by `decide`, so that what was simulated is what answers.
    """

    @property
    def places(self) -> tuple[int, ...]:
        """The models used, by their place in the chain, first to last."""
        ...

    def gates(self, place: int) -> Thresholds:
        """What may turn a question away from a model before its first token is known: no limit on P(T)."""
        ...

    def decide(self, place: int, model: ModelScores) -> tuple[np.ndarray, np.ndarray]:
        """What becomes of the questions that reached a model.

        Args:
            place: Of the model.
            model: Its columns for these questions. A column that is absent is not asked; NaN keeps nothing.

        Returns:
            Outcome, ``[questions]``, int8, and the place that each goes to, ``[questions]``, -1 where it is answered.
        """
        ...


def walk(policy: LivePolicy, chain: ChainScores) -> np.ndarray:
    """Every question from model to model: ``[models, questions]``, int8, of `Outcome`."""
    outcome = np.full((len(chain.models), len(chain)), Outcome.NOT_ASKED, dtype=np.int8)
    at = np.full(len(chain), policy.places[0])
    for place, model in enumerate(chain.models):
        here = np.flatnonzero(at == place)
        if here.size:
            outcome[place, here], at[here] = policy.decide(place, model.take(here))
    return outcome


@dataclass(frozen=True)
class Thresholds:
    """Thresholds of one stage; ``None`` leaves a confidence out (``p_ik=None``: the paper's "w/o P(IK)").

    Attributes:
        p_t: For P(T).
        p_ik: For P(IK) of the model's own probe.
        p_ik_reader: For P(IK) read from another model's states, asked before the model is run at all.
    """

    p_t: float | None = 0.9
    p_ik: float | None = 0.5
    p_ik_reader: float | None = None

    def __post_init__(self) -> None:
        for name in ("p_t", "p_ik", "p_ik_reader"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise CascadeError(f"Expected threshold `{name}` to be in [0, 1], but got {value}")

    def __str__(self) -> str:
        asked = {"P(IK) by reader": self.p_ik_reader, "P(IK)": self.p_ik, "P(T)": self.p_t}
        limits = [f"{name} ≥ {threshold_text(value)}" for name, value in asked.items() if value is not None]
        return ", ".join(limits) or "keeps all"


NO_LIMITS = Thresholds(None, None, None)


def threshold_text(value: float) -> str:
    """Four digits, or as many as it takes for a threshold below 1 not to read as 1."""
    digits = next(d for d in range(4, 18) if value == 1 or float(f"{value:.{d}g}") < 1)
    return f"{value:.{digits}g}"


def route(chain: ChainScores, thresholds: Sequence[Thresholds]) -> np.ndarray:
    """What becomes of every question at every stage (the paper's §2.1).

    Args:
        chain: The scores of k models.
        thresholds: One for each of the first k − 1 stages. A stage that lacks a confidence cannot fail it.

    Returns:
        ``[models, questions]``, int8, of `Outcome`. Each question is answered exactly once.

    Raises:
        CascadeError: If there is not one threshold for each stage but the last.
    """
    if len(thresholds) != len(chain.models) - 1:
        raise CascadeError(
            f"Expected {len(chain.models) - 1} thresholds for {len(chain.models)} models, but got {len(thresholds)}"
        )
    return ThresholdPolicy.whole(thresholds).route(chain)


@dataclass(frozen=True)
class ThresholdPolicy:
    """Thresholds at each stage of a chain, some of whose models may be skipped.

    The paper's policy, P(T) alone, P(IK) alone (routing before generation), a reader's gate in front of them,
    and single models, by which thresholds are there.

    Attributes:
        places: The models used, by their place in the chain; the last of them always answers.
        thresholds: One for each of ``places`` but the last.
    """

    places: tuple[int, ...]
    thresholds: tuple[Thresholds, ...]

    @classmethod
    def whole(cls, thresholds: Sequence[Thresholds]) -> ThresholdPolicy:
        """Every model of a chain, with these thresholds at each but the last."""
        return cls(tuple(range(len(thresholds) + 1)), tuple(thresholds))

    @property
    def name(self) -> str:
        """Which confidences are asked."""
        asked = [
            name
            for name, on in (
                ("reader", any(t.p_ik_reader is not None for t in self.thresholds)),
                ("P(IK)", any(t.p_ik is not None for t in self.thresholds)),
                ("P(T)", any(t.p_t is not None for t in self.thresholds)),
            )
            if on
        ]
        return " + ".join(asked) or "single model"

    def asks_p_ik(self, chain: ChainScores) -> tuple[bool, ...]:
        """Where a stage has a threshold for P(IK), and its model a probe."""
        asked = {place for place, t in zip(self.places, self.thresholds, strict=False) if t.p_ik is not None}
        return tuple(place in asked and m.p_ik is not None for place, m in enumerate(chain.models))

    def asks_reader(self, chain: ChainScores) -> tuple[int, ...]:
        """Where a stage has a threshold for a reader's P(IK)."""
        pairs = zip(self.places, self.thresholds, strict=False)
        return tuple(i for i, t in pairs if t.p_ik_reader is not None and chain.models[i].p_ik_reader is not None)

    def gates(self, place: int) -> Thresholds:
        """The stage's thresholds but for P(T)'s."""
        stage = self.places.index(place)
        return replace(self.thresholds[stage], p_t=None) if stage < len(self.thresholds) else NO_LIMITS

    def decide(self, place: int, model: ModelScores) -> tuple[np.ndarray, np.ndarray]:
        """The reader's P(IK) first, then P(IK), then P(T); the last model always answers."""
        stage = self.places.index(place)
        outcome = np.full(len(model.correct), Outcome.ANSWERED, dtype=np.int8)
        after = np.full(len(outcome), -1)
        if stage < len(self.thresholds):
            limits = self.thresholds[stage]
            for values, limit, rejected in (
                (model.p_ik_reader, limits.p_ik_reader, Outcome.PASSED_BY_READER),
                (model.p_ik, limits.p_ik, Outcome.REJECTED_BY_P_IK),
                (model.p_t, limits.p_t, Outcome.REJECTED_BY_P_T),
            ):
                if values is not None and limit is not None:
                    outcome[(outcome == Outcome.ANSWERED) & ~(values >= limit)] = rejected
            after[outcome != Outcome.ANSWERED] = self.places[stage + 1]
        return outcome, after

    def route(self, chain: ChainScores) -> np.ndarray:
        """See `walk`; skipped models are not asked."""
        return walk(self, chain)


@dataclass(frozen=True)
class FusedPolicy:
    """Thresholds on one calibrated probability of being right, fused from P(IK) and P(T).

    Attributes:
        places: As in `ThresholdPolicy`.
        thresholds: On the fused probability, one for each of ``places`` but the last.
        fused: Model name to what `calibrate_model` fitted.
    """

    places: tuple[int, ...]
    thresholds: tuple[float, ...]
    fused: dict[str, Calibrated]
    name: str = "fused P(IK), P(T)"

    def asks_reader(self, chain: ChainScores) -> tuple[int, ...]:
        """Nowhere."""
        return ()

    def asks_p_ik(self, chain: ChainScores) -> tuple[bool, ...]:
        """Where P(IK) was there to be fused."""
        return tuple(
            place in self.places[:-1] and "p_ik" in self.fused[m.name].signals for place, m in enumerate(chain.models)
        )

    def gates(self, place: int) -> Thresholds:
        """Nothing: the fused probability needs P(T)."""
        return NO_LIMITS

    def decide(self, place: int, model: ModelScores) -> tuple[np.ndarray, np.ndarray]:
        """A question that its fused probability rejects has had its P(T) read."""
        limits = tuple(Thresholds(p_t=limit, p_ik=None) for limit in self.thresholds)
        return ThresholdPolicy(self.places, limits).decide(place, _fuse(model, self.fused))

    def route(self, chain: ChainScores) -> np.ndarray:
        """See `walk`."""
        return walk(self, chain)


def with_fused(chain: ChainScores, fused: dict[str, Calibrated]) -> ChainScores:
    """The chain with the fused probability in P(T)'s place, and no P(IK)."""
    return replace(chain, models=tuple(_fuse(m, fused) for m in chain.models))


def _fuse(model: ModelScores, fused: dict[str, Calibrated]) -> ModelScores:
    if model.name not in fused:
        return model
    return replace(model, p_t=fused[model.name].predict(model), p_ik=None, p_ik_reader=None)


@dataclass(frozen=True)
class ExpectedUtilityPolicy:
    """Goes on where a later model's expected gain is worth its price; may skip models.

    At model i with confidences x the question stays if P(i right | x) ≥ max over j > i of
    P(j right | x) − price · cost(j), and else goes to that j, which decides in its turn. That a later model may
    pass the question on again is not foreseen.

    Attributes:
        price: Accuracy that the whole cost of the chain's last model is worth (λ).
        costs: ``[models]``: each model's mean cost as a share of the last one's.
        right: ``right[i][j]``: what model i's confidences say of model j's being right, for j ≥ i.
    """

    price: float
    costs: tuple[float, ...]
    right: tuple[dict[int, Calibrated], ...]
    name: str = "expected utility"

    def asks_reader(self, chain: ChainScores) -> tuple[int, ...]:
        """Nowhere."""
        return ()

    @classmethod
    def fit(cls, chain: ChainScores, costs: Sequence[float], price: float) -> ExpectedUtilityPolicy:
        """Fits the probabilities on labelled questions; the policy is to be reported on others."""
        right = tuple(
            {j: calibrate_model(model, chain.models[j].correct) for j in range(i, len(chain.models))}
            for i, model in enumerate(chain.models[:-1])
        )
        return cls(price, tuple(costs), right)

    def asks_p_ik(self, chain: ChainScores) -> tuple[bool, ...]:
        """Where P(IK) was there to be fitted."""
        return (*("p_ik" in here[place].signals for place, here in enumerate(self.right)), False)

    @property
    def places(self) -> tuple[int, ...]:
        """All of them may be used."""
        return tuple(range(len(self.costs)))

    def gates(self, place: int) -> Thresholds:
        """Nothing: the probabilities need P(T)."""
        return NO_LIMITS

    def decide(self, place: int, model: ModelScores) -> tuple[np.ndarray, np.ndarray]:
        """Stays, or goes where the expected gain is worth most."""
        later = range(place, len(self.costs))
        if place == later[-1]:
            best = np.full(len(model.correct), place)
        else:
            prices = [self.price * self.costs[j] if j > place else 0.0 for j in later]
            worth = [self.right[place][j].predict(model) - price for j, price in zip(later, prices, strict=True)]
            # A confidence that is not known keeps nothing.
            worth[0] = np.where(np.isnan(worth[0]), -np.inf, worth[0])
            best = place + np.nan_to_num(np.stack(worth), nan=-1e9).argmax(axis=0)
        outcome = np.where(best == place, Outcome.ANSWERED, Outcome.REJECTED_BY_P_T).astype(np.int8)
        return outcome, np.where(best == place, -1, best)

    def route(self, chain: ChainScores) -> np.ndarray:
        """See `walk`."""
        return walk(self, chain)


@dataclass(frozen=True)
class OraclePolicy:
    """Knows beforehand: the smallest model that is right answers, alone; the smallest of all if none is."""

    name: str = "oracle"

    def asks_reader(self, chain: ChainScores) -> tuple[int, ...]:
        """Nowhere."""
        return ()

    def asks_p_ik(self, chain: ChainScores) -> tuple[bool, ...]:
        """Nowhere."""
        return (False,) * len(chain.models)

    def route(self, chain: ChainScores) -> np.ndarray:
        """Needs labels; a bound, not a policy that can be run."""
        return _answers(chain.correct.argmax(axis=0), len(chain.models))


@dataclass(frozen=True)
class RandomPolicy:
    """Sends each question to one model by lot: what any policy must beat.

    Attributes:
        shares: ``[models]``, of the questions; they sum to 1.
        seed: Of the lot.
    """

    shares: tuple[float, ...]
    seed: int = 0
    name: str = "random mixing"

    def asks_reader(self, chain: ChainScores) -> tuple[int, ...]:
        """Nowhere."""
        return ()

    def asks_p_ik(self, chain: ChainScores) -> tuple[bool, ...]:
        """Nowhere."""
        return (False,) * len(chain.models)

    def route(self, chain: ChainScores) -> np.ndarray:
        """A question goes straight to its model."""
        rng = np.random.default_rng(self.seed)
        return _answers(rng.choice(len(chain.models), size=len(chain), p=self.shares), len(chain.models))


def _answers(who: np.ndarray, models: int) -> np.ndarray:
    """Outcomes where model ``who[q]`` answers question q and no other is asked."""
    outcome = np.full((models, len(who)), Outcome.NOT_ASKED, dtype=np.int8)
    outcome[who, np.arange(len(who))] = Outcome.ANSWERED
    return outcome


def signals_of(policy: Policy, chain: ChainScores) -> dict[str, set[str]]:
    """Which columns a policy decides by, for each model of the chain that it was chosen on."""
    found: dict[str, set[str]] = {}
    if isinstance(policy, ThresholdPolicy):
        for place, limits in zip(policy.places, policy.thresholds, strict=False):
            asked = {c for c in ("p_t", "p_ik", "p_ik_reader") if getattr(limits, c) is not None}
            found[chain.names[place]] = {c for c in asked if getattr(chain.models[place], c) is not None}
    elif isinstance(policy, FusedPolicy):
        found = {chain.names[i]: set(policy.fused[chain.names[i]].signals) for i in policy.places[:-1]}
    elif isinstance(policy, ExpectedUtilityPolicy):
        found = {chain.names[i]: set(here[i].signals) for i, here in enumerate(policy.right)}
    return found
