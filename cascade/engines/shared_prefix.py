"""What several prompts begin with (a few examples) is read once: its keys and values serve all of them.

A pass over the rest of each prompt goes on from there. The result is that of whole prompts beyond rounding, and hangs
on nothing but the prompts of the pass.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from torch import Tensor

LEAST = 32  # tokens: fewer are not worth a pass of their own


def shared_length(head: Sequence[int], rows: Sequence[Sequence[int]]) -> int:
    """How many tokens all rows begin with alike, as far as ``head`` goes, and with one left over in each; or 0.

    Args:
        head: Tokens of the text that prompts share; its last ones may be others in a prompt, where texts meet.
        rows: Tokens of each prompt.
    """
    count = min(len(head), *(len(row) - 1 for row in rows))
    for row in rows:
        while row[:count] != head[:count]:
            count = next(place for place in range(count) if row[place] != head[place])
    return count if count >= LEAST else 0


def is_shareable(cache: Any, keep: bool) -> bool:
    """Whether rows can share a cache: one of keys and values alone, and not of recurrent states.

    Args:
        cache: A new one of the model's.
        keep: Whether the rows are continued. They are padded on the left then, between what is shared and the rest,
            and a sliding window would count the padding.
    """
    from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

    kinds = (DynamicLayer,) if keep else (DynamicLayer, DynamicSlidingWindowLayer)
    return all(type(layer) in kinds for layer in cache.layers)


def shared_by(cache: Any, rows: int, keep: bool) -> Any:
    """A key-value cache for ``rows`` that begin alike.

    Args:
        cache: Of one row, which is left as it is.
        rows: How many.
        keep: Whether the rows are continued. If not, each block's keys and values go as soon as they have been used, so
            that a pass takes no more memory than one over whole prompts.
    """
    from transformers import DynamicCache

    class Passing(DynamicCache):  # type: ignore[misc]
        def update(self, key: Tensor, value: Tensor, layer_idx: int, *args: Any, **kwargs: Any) -> Any:
            found = super().update(key, value, layer_idx, *args, **kwargs)
            layer = self.layers[layer_idx]
            layer.keys, layer.values = key[..., :0, :].clone(), value[..., :0, :].clone()
            return found

    shared = (DynamicCache if keep else Passing)()
    shared.layers = [copy.copy(layer) for layer in cache.layers]
    for layer in shared.layers:
        layer.keys, layer.values = (tensor.expand(rows, -1, -1, -1) for tensor in (layer.keys, layer.values))
    return shared
