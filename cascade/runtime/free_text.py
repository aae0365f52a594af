"""Free text: messages that are no question of a known form, and what stands in P(T)'s place for their answers.

P(T) is the probability of a letter, or of an answer that begins with "Answer". A free text has neither. There one of
the confidences that are made of its tokens' log-probabilities decides.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from cascade.engines.base import Reply
from cascade.errors import CascadeError
from cascade.policies.base import LivePolicy, Offers
from cascade.scores.schema import CONFIDENCES
from cascade.scoring.confidence.distributions import OF_TOKENS


@dataclass(frozen=True)
class FreeText:
    """How messages that are no question of a known form are asked and judged.

    Attributes:
        signal: What stands in P(T)'s place, of `cascade.scoring.confidence.distributions.OF_TOKENS`.
        policy: That decides by it.
        max_tokens: Of an answer, where a request does not say.
    """

    signal: str
    policy: LivePolicy
    max_tokens: int = 1024

    def __post_init__(self) -> None:
        if self.signal not in OF_TOKENS:
            raise CascadeError(
                f"Expected `signal` of `free_text` to be one of {', '.join(OF_TOKENS)}, but got {self.signal!r}"
            )
        if self.max_tokens < 1:
            raise CascadeError(f"Expected `max_tokens` of `free_text` to be at least 1, but got {self.max_tokens}")

    def check(self, offers: Offers) -> None:
        """Raises `CascadeError` where the policy asks for more than the signal: probes have read other prompts."""
        gated = any(self.policy.gates(place).p_ik_reader is not None for place in self.policy.places)
        if gated or frozenset[str]().union(*self.policy.asks(offers)) - {"p_t"}:
            raise CascadeError(
                f"Expected the policy of `free_text` to ask for {self.signal} alone, since probes have read prompts of "
                f"other forms, but it asks for P(IK)"
            )


def needs_answer(signal: str | None) -> bool:
    """Whether a signal is known only when the whole answer is there; P(T) itself, ``None``, is known before."""
    return signal is not None and CONFIDENCES[signal]


def with_signal(signal: str | None, reply: Reply) -> Reply:
    """A reply whose P(T) is another confidence of its tokens; ``None`` where these are not shown."""
    if signal is None or reply.rejected_by is not None:
        return reply
    logprobs = [token.logprob for token in reply.tokens]
    return replace(reply, p_t=OF_TOKENS[signal](logprobs) if logprobs else None)
