"""What a policy's file says for those who watch it: the promise, and how the signals of its questions were distributed.

Beside the thresholds in report.json, or in a file of one policy. Both may be missing, as in files of before. Watching
itself is `cascade.runtime.watch`'s.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from cascade.errors import CascadeError
from cascade.policies.base import LivePolicy
from cascade.policies.outcome import Outcome
from cascade.scores.arrays import ChainScores
from cascade.statistics.sequential import Histogram

WATCHED = ("p_ik", "p_t")
"""The confidences that are watched."""


@dataclass(frozen=True)
class Promise:
    """At most ``epsilon`` accuracy lost against the last model, with probability 1 − ``delta``.

    Attributes:
        epsilon: A share.
        delta: That the promise is wrong, at most.
        questions: That certified it.
        accuracy, reference_accuracy: Of the cascade and of the last model alone on these, shares.
    """

    epsilon: float
    delta: float
    questions: int
    accuracy: float
    reference_accuracy: float

    def __post_init__(self) -> None:
        for name in ("epsilon", "delta", "accuracy", "reference_accuracy"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
                raise CascadeError(f"Expected `{name}` of a promise to be in [0, 1], but got {value!r}")
        if type(self.questions) is not int or self.questions < 1:
            raise CascadeError(f"Expected `questions` of a promise to be at least 1, but got {self.questions!r}")


@dataclass(frozen=True)
class Watched:
    """What a policy is watched by.

    Attributes:
        promise: What was promised; ``None`` where nothing was.
        signals: By model and confidence, how it was distributed over the questions that the policy brought there.
        missing: Why something of it is not there, in a line; empty where all is.
    """

    promise: Promise | None = None
    signals: Mapping[tuple[str, str], Histogram] = field(default_factory=dict)
    missing: str = ""

    def to_json(self) -> dict[str, object]:
        """What is written beside the thresholds."""
        signals = [
            {"model": model, "confidence": confidence, "histogram": one.to_json()}
            for (model, confidence), one in self.signals.items()
        ]
        return ({} if self.promise is None else {"promise": asdict(self.promise)}) | {"signals": signals}

    @classmethod
    def from_json(cls, values: Any, source: str) -> Watched:
        """The inverse of `to_json`; what is not there is missing.

        Raises:
            CascadeError: If something is there that is not what it has to be.
        """
        try:
            promise, signals = ({} if values is None else values).get("promise"), (values or {}).get("signals")
            found = {
                (str(one["model"]), str(one["confidence"])): Histogram.from_json(one["histogram"])
                for one in signals or ()
            }
            promised = None if promise is None else Promise(**promise)
        except (KeyError, TypeError, AttributeError, CascadeError) as error:
            raise CascadeError(
                f"Expected a promise and signals as cascade.simulate writes them in {source}, but {error}"
            ) from error
        lacks = [name for name, there in (("promise", promised), ("signals", found)) if not there]
        missing = f"{source} has no {' and no '.join(lacks)} to watch" if lacks else ""
        return cls(promised, found, missing)


def reference(policy: LivePolicy, chain: ChainScores) -> dict[tuple[str, str], Histogram]:
    """How each confidence is distributed over the questions that a policy brings to it.

    A later model sees only what earlier ones pass on, and P(T) is known only where P(IK) did not reject. Live
    questions are exchangeable with these where these did not choose the policy; where they did, all but the first
    model's confidences are nearly so.

    Args:
        policy: That is watched.
        chain: Scores of the questions of reference.
    """
    found = {}
    for place, (model, became) in enumerate(zip(chain.models, policy.route(chain), strict=True)):
        run = ~np.isin(became, [Outcome.NOT_ASKED, Outcome.PASSED_BY_READER])
        asked = policy.asks(chain.offers)[place]
        reached = {"p_ik": run & ("p_ik" in asked), "p_t": run & (became != Outcome.REJECTED_BY_P_IK)}
        last = place == policy.places[-1]
        for confidence in () if last else WATCHED:
            column = getattr(model.signals, confidence)
            if column is None:
                continue
            known = column[reached[confidence] & np.isfinite(column)]
            if known.size:
                found[model.name, confidence] = Histogram.of(np.clip(known, 0, 1))
    return found


def watched_of(policy: LivePolicy, chain: ChainScores, promise: Promise | None = None) -> Watched:
    """What a policy is watched by, from the scores of questions; see `reference`."""
    return Watched(promise, reference(policy, chain))
