"""What is known of a shard that is not whole yet, so that a run that ends early loses a minute and not a shard.

A shard's batches are always the same ones in the same order, whenever a run is stopped and goes on. About once a minute
those that are done are kept in a part beside the shards. A run that goes on reads the parts, asks the rest, writes the
shard and removes them. The finished store has the bytes of a run that was never stopped, and nothing in it depends on
the clock.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import xxhash
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from probes.files import write_atomically

SECONDS = 60.0
"""About so much work is lost where a run is killed."""

Row = tuple[dict[int, Tensor], dict[str, object]]
"""A row's states by layer, each ``[hidden]``, and its score row."""


class UnfinishedShard:
    """The rows of one shard that are known already, in memory and, part by part, on disk.

    Args:
        folder: Of the store.
        number: Of the shard.
        rows: That it will have.
        layers: Whose states are kept.
        clock: In seconds.
    """

    def __init__(
        self,
        folder: Path,
        number: int,
        rows: range,
        layers: Sequence[int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder, self._name, self._rows, self._layers = folder, f"part-{number:05d}", rows, tuple(layers)
        self._clock, self._kept = clock, clock()
        self._new: list[int] = []
        self.states: dict[int, Tensor] = {}
        self.records: dict[int, dict[str, object]] = {}
        for path in sorted(folder.glob(f"{self._name}-*.safetensors")):
            self._read(path)

    def add(self, rows: Sequence[int], states: Mapping[int, Tensor], records: Sequence[dict[str, object]]) -> None:
        """Takes what a batch gave, and keeps what is new on disk once a minute is gone.

        Args:
            rows: Of the batch.
            states: For each layer ``[batch, hidden]``.
            records: One score row each.
        """
        self._take(rows, states, records)
        self._new += rows
        if self._clock() - self._kept >= SECONDS and len(self.records) < len(self._rows):
            self.keep()

    def keep(self) -> None:
        """Writes a part of what is not on disk yet."""
        if not self._new:
            return
        places = torch.tensor(self._new) - self._rows.start
        tensors = {f"layer.{layer}": self.states[layer][places] for layer in self._layers}
        records = json.dumps([self.records[row] for row in self._new]).encode()
        tensors |= {"rows": torch.tensor(self._new), "records": torch.frombuffer(bytearray(records), dtype=torch.uint8)}
        data = save(tensors)
        write_atomically(self._folder / f"{self._name}-{xxhash.xxh3_64_hexdigest(data)}.safetensors", data)
        self._new, self._kept = [], self._clock()

    def remove(self) -> None:
        """Removes the parts, once the shard is there."""
        for path in self._folder.glob(f"{self._name}-*.safetensors"):
            path.unlink(missing_ok=True)

    def _take(self, rows: Sequence[int], states: Mapping[int, Tensor], records: Sequence[dict[str, object]]) -> None:
        places = torch.tensor(rows) - self._rows.start
        for layer in self._layers:
            if layer not in self.states:
                width = states[layer].shape[1]
                self.states[layer] = torch.empty(len(self._rows), width, dtype=states[layer].dtype)
            self.states[layer][places] = states[layer]
        self.records |= dict(zip(rows, records, strict=True))

    def _read(self, path: Path) -> None:
        """Takes a part. One that is not what was written is said and left out: its questions are asked again."""
        try:
            data = path.read_bytes()
            if path.stem.rpartition("-")[2] != xxhash.xxh3_64_hexdigest(data):
                raise ValueError("its checksum differs")
            tensors = load(data)
            rows: list[int] = tensors["rows"].tolist()
            records: list[dict[str, Any]] = json.loads(tensors["records"].numpy().tobytes())
            states = {layer: tensors[f"layer.{layer}"] for layer in self._layers}
            if not rows or not all(row in self._rows for row in rows):
                raise ValueError("it is of other rows")
        except (OSError, KeyError, ValueError, SafetensorError) as error:
            print(f"Left out {path}, whose questions are asked again: {error}", file=sys.stderr)
            return
        self._take(rows, states, records)
