"""Whether a prompt can fit in a model at all, by its length in bytes: before it is tokenised, which takes time and much
memory. How many tokens a prompt has is the model's own to say.
"""

from __future__ import annotations

from cascade.engines.base import Prompt
from cascade.runtime.engine import Cascade


class Room:
    """How many bytes the prompts of a cascade's models may have.

    Args:
        cascade: Whose models are asked.
        bytes_per_token: For each token of a model's context, and of its reader's. What does not say its context (an
            endpoint) is asked anything.
    """

    def __init__(self, cascade: Cascade, bytes_per_token: int) -> None:
        self._names = cascade.names
        self._contexts: list[int | None] = []
        for place, model in enumerate(cascade.models):
            reader = getattr(cascade.readers.get(place), "model", None)
            found = [model.context, getattr(reader, "context", None)]
            self._contexts.append(min((context for context in found if context is not None), default=None))
        self._bytes_per_token = bytes_per_token

    def refusal(self, place: int, prompt: Prompt) -> str:
        """Why a model need not be asked; empty where it may be."""
        context = self._contexts[place]
        size = len(prompt.text.encode())
        if context is None or size <= context * self._bytes_per_token:
            return ""
        return (
            f"Expected a prompt of at most {context} tokens for {self._names[place]!r}, and of at most "
            f"{self._bytes_per_token} bytes for each of them, but it has {size:,} bytes"
        )
