"""Sampling at a temperature, so that a question's samples are the same in whatever batch it is asked.

Which rows are continued, and when they end, is `cascade.engines.generation`'s.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from cascade.engines.base import Prompt


class Sampler:
    """Picks a token for each of some rows: the most probable one at temperature 0, else one drawn by its probability.

    Each row has a stream of random numbers of its own, from its question's id and its seed, and uses one a token.
    Another batch changes probabilities by rounding only, and so a draw about once in a million.

    Args:
        prompts: One a row.
    """

    def __init__(self, prompts: Sequence[Prompt]) -> None:
        self._temperatures = [prompt.temperature for prompt in prompts]
        self._streams = [np.random.default_rng(_seed(prompt)) for prompt in prompts]

    def __call__(self, rows: Tensor, chances: Tensor) -> Tensor:
        """One token a row.

        Args:
            rows: ``[some]``, int64, places of the rows.
            chances: ``[some, vocabulary]``, natural logarithms of their probabilities.
        """
        picked = chances.argmax(-1)
        for place, row in enumerate(rows.tolist()):
            if temperature := self._temperatures[row]:
                weights = (chances[place].double() / temperature).softmax(-1).cumsum(-1)
                draw = self._streams[row].random() * float(weights[-1])
                picked[place] = int(torch.searchsorted(weights, draw, right=True).clamp(max=len(weights) - 1))
        return picked


def _seed(prompt: Prompt) -> int:
    return int.from_bytes(hashlib.sha256(f"sample {prompt.seed} {prompt.question_id}".encode()).digest()[:16], "big")
