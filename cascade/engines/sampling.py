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

    Each row has a stream of random numbers of its own, by its seed and `Prompt.draws`, and uses one a token.
    Another batch changes probabilities by rounding only, and so a draw about once in a million.

    Args:
        prompts: One a row.
    """

    def __init__(self, prompts: Sequence[Prompt]) -> None:
        self._temperatures = [prompt.temperature for prompt in prompts]
        self._top_p = [prompt.top_p for prompt in prompts]
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
                weights = nucleus((chances[place].double() / temperature).softmax(-1), self._top_p[row]).cumsum(-1)
                draw = self._streams[row].random() * float(weights[-1])
                picked[place] = int(torch.searchsorted(weights, draw, right=True).clamp(max=len(weights) - 1))
        return picked


def nucleus(probabilities: Tensor, top_p: float) -> Tensor:
    """Those probabilities that belong to the fewest tokens with ``top_p`` of the mass; the others are 0.

    Holtzman et al., *The Curious Case of Neural Text Degeneration* (2020). The most probable token always stays.

    Args:
        probabilities: ``[vocabulary]``.
        top_p: In [0, 1]; 1 leaves all of them.
    """
    if top_p >= 1:
        return probabilities
    found, order = probabilities.sort(descending=True)
    before = found.cumsum(-1) - found
    found[1:] = found[1:].where(before[1:] < top_p * found.sum(), 0.0)
    return torch.zeros_like(probabilities).scatter(-1, order, found)


def _seed(prompt: Prompt) -> int:
    draws = prompt.question_id if prompt.draws is None else prompt.draws
    return int.from_bytes(hashlib.sha256(f"sample {prompt.seed} {draws}".encode()).digest()[:16], "big")
