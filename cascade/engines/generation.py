"""Continuation of prompts that have been read, from their key-value cache: greedy unless a sampler picks.

Each row ends by itself (end token, its own limit, a stop text) and leaves the batch then. Reading the prompts, and
who is continued at all, is `cascade.engines.huggingface`'s and `cascade.engines.local`'s.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass
class Continuation:
    """What was generated after one prompt.

    Attributes:
        tokens: Ids, the end token included.
        logprobs: Natural log-probability of each.
        top: For each token its best alternatives, ids and log-probabilities, best first.
        ended: Whether an end token or a stop text ended it, and not the limit.
    """

    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    top: list[list[tuple[int, float]]] = field(default_factory=list)
    ended: bool = False


@torch.inference_mode()
def continue_greedily(
    model: Any,
    logits: Tensor,
    cache: Any,
    mask: Tensor,
    limits: Sequence[int],
    ends: Tensor,
    top: int = 0,
    on_token: Callable[[int, list[int]], bool] | None = None,
    pick: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> list[Continuation]:
    """The most probable token, again and again; or another, where one is picked.

    Args:
        model: A Hugging Face decoder.
        logits: After each prompt, ``[rows, vocabulary]``.
        cache: Of the prompts, padded on the left; it is used up.
        mask: Which of the cached positions are tokens, ``[rows, time]``.
        limits: The most tokens for each row, at least 1.
        ends: Ids that end a row, ``[ends]``, on the CPU.
        top: How many alternatives to keep for each token.
        on_token: Called with a row's place and its tokens so far; what it says is whether that row is done.
        pick: From some rows' places, ``[some]``, and log-probabilities, ``[some, vocabulary]``, to a token each.
    """
    placed = "position_ids" in inspect.signature(model.forward).parameters
    found = [Continuation() for _ in limits]
    rows = torch.arange(len(limits))
    while True:
        chances = logits.float().log_softmax(-1)
        picked = chances.argmax(-1) if pick is None else pick(rows, chances)
        sure = chances.gather(-1, picked[:, None])[:, 0].tolist()
        best = chances.topk(top, -1) if top else None
        going = []
        for place, (row, token) in enumerate(zip(rows.tolist(), picked.tolist(), strict=True)):
            one = found[row]
            one.tokens.append(token)
            one.logprobs.append(sure[place])
            if best is not None:
                one.top.append(list(zip(best.indices[place].tolist(), best.values[place].tolist(), strict=True)))
            one.ended = bool((ends == token).any())
            if on_token is not None and on_token(row, one.tokens):
                one.ended = True
            if not one.ended and len(one.tokens) < limits[row]:
                going.append(place)
        if not going:
            return found
        left = torch.tensor(going)
        if len(left) < len(rows):
            cache.batch_select_indices(left.to(logits.device))
            rows, mask = rows[left], mask[left.to(mask.device)]
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        inputs = picked[left.to(picked.device)][:, None]
        position = {"position_ids": mask.sum(1, keepdim=True) - 1} if placed else {}
        output = model(input_ids=inputs, attention_mask=mask, past_key_values=cache, use_cache=True, **position)
        logits = output.logits[:, -1]
