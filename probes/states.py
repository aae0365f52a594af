"""Hidden states of several layers as training data: in memory where they fit, read from the store where not.

Both give the same rows in the same order and the same numbers, so that a result does not depend on the memory
of the machine it was trained on.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from probes.errors import ProbeError
from probes.store import HiddenStateStore

# A batch, the optimiser and everything else need room too.
_SHARE_OF_MEMORY = 0.5
_MEMINFO, _CGROUP = Path("/proc/meminfo"), Path("/sys/fs/cgroup")


class LayerStates:
    """Hidden states of several layers in memory.

    Args:
        states: ``[layers, rows, hidden]``, any floating dtype.

    Raises:
        ProbeError: If the shape is another, or a state is NaN or infinite.
    """

    def __init__(self, states: Tensor) -> None:
        if states.ndim != 3:
            raise ProbeError(f"Expected `states` to be [layers, rows, hidden], but got {tuple(states.shape)}")
        for layer in states:  # one after another: the check must not need as much memory again
            # One NaN or infinity makes the sum one too; only then every number is looked at.
            if not bool(torch.isfinite(layer.sum())) and not bool(torch.isfinite(layer).all()):
                raise ProbeError("Expected finite hidden states, but some are NaN or infinite")
        self._states = states.contiguous()

    @property
    def shape(self) -> tuple[int, int, int]:
        """Layers, rows, width."""
        layers, rows, hidden = self._states.shape
        return layers, rows, hidden

    def gather(self, rows: Tensor) -> Tensor:
        """States of some rows, ``[layers, len(rows), hidden]``, float32, a copy; ``rows`` is int64."""
        layers, count, hidden = self.shape
        # Along the first dimension torch copies whole rows, on all cores; along the second it does not.
        places = torch.arange(layers)[:, None] * count + rows
        states = self._states.view(-1, hidden).index_select(0, places.flatten())
        return states.view(layers, len(rows), hidden).to(torch.float32, copy=False)


class StoredStates(LayerStates):
    """Hidden states of several layers, read from a store row by row as they are wanted.

    The shards are mapped read-only: what is read stays in the page cache as long as the machine has room, and no
    longer. Every tensor is held against its checksum once, in the beginning.

    Args:
        store: A finished store.
        layers: Layers to read.
    """

    def __init__(self, store: HiddenStateStore, layers: Sequence[int]) -> None:
        self._dtype = store.dtype
        self._maps = [store.verify(layer) for layer in layers]
        self._starts = np.array(store.starts)
        self._shape = len(layers), store.rows, store.hidden_size

    @property
    def shape(self) -> tuple[int, int, int]:
        """See `LayerStates.shape`."""
        return self._shape

    def gather(self, rows: Tensor) -> Tensor:
        """See `LayerStates.gather`."""
        order = torch.argsort(rows)  # in the order of the file: neighbouring rows share a page
        wanted = rows[order].numpy()
        shard_of = np.searchsorted(self._starts, wanted, side="right") - 1
        raw = np.empty((len(self._maps), len(wanted), self._shape[2]), dtype=self._maps[0][0].dtype)
        for shard in np.unique(shard_of):
            held = np.flatnonzero(shard_of == shard)
            local = wanted[held] - self._starts[shard]
            for place, maps in enumerate(self._maps):
                # Out of bounds cannot be; asked to check for it, numpy would make a copy first.
                np.take(maps[shard], local, axis=0, out=raw[place, held[0] : held[-1] + 1], mode="clip")
        states = torch.empty(*raw.shape, dtype=torch.float32)
        states[:, order] = torch.from_numpy(raw).view(self._dtype).float()
        return states


def open_states(store: HiddenStateStore, layers: Sequence[int], memory: int | None = None) -> LayerStates:
    """Layers of a store, in memory where they fit in half of it and streamed where they do not.

    Args:
        store: A finished store.
        layers: Layers to read.
        memory: Bytes that may be used; by default half of what is free.

    Raises:
        ProbeError: If a layer is not held or a shard is corrupt.
    """
    needed = len(layers) * store.rows * store.hidden_size * store.dtype.itemsize
    allowed = int(_SHARE_OF_MEMORY * available_memory()) if memory is None else memory
    if needed > allowed:
        return StoredStates(store, layers)
    whole = torch.empty(len(layers), store.rows, store.hidden_size, dtype=store.dtype)
    for place, layer in enumerate(layers):
        store.layer(layer, out=whole[place])
    return LayerStates(whole)


def available_memory() -> int:
    """Bytes that can still be used: what the system has free, or what is left of the control group's limit."""
    if not _MEMINFO.exists():  # not Linux: there is no telling what is free, only what there is
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    fields = dict(line.split(":") for line in _MEMINFO.read_text().splitlines())
    free = [int(fields["MemAvailable"].split()[0]) * 1024]
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        if (_CGROUP / limit).exists() and (text := (_CGROUP / limit).read_text().strip()) != "max":
            free.append(int(text) - int((_CGROUP / used).read_text()))
    return max(min(free), 0)
