"""Hidden states on disk: a folder of safetensors shards and a manifest, one folder for each key.

A shard holds consecutive rows, one contiguous tensor a layer (`layer.24`: rows × hidden), so one layer is read
without touching the others. Shards appear under their final name only when they are whole, so a killed
writer goes on where it stopped. What the rows mean (questions, answers) is not known here.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xxhash
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from probes.errors import ProbeError
from probes.files import file_name, remove_stale, write_atomically

FORMAT = 2
MANIFEST = "manifest.json"
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
# numpy has no bfloat16: states are mapped as integers of the same width.
_INTEGERS: dict[int, Any] = {2: np.int16, 4: np.int32}
_AS_TORCH = {np.int16: torch.int16, np.int32: torch.int32}


@dataclass(frozen=True)
class StoreKey:
    """What the states were computed from. Stores with different keys never share a folder.

    Attributes:
        model: Name or path of the model.
        model_revision: Commit on the Hub, or hash of the local weights.
        tokenizer_hash: Hash of the tokenizer.
        template_hash: Hash of the prompt's wording.
        task: Name of the task.
        task_revision: Hash of its questions.
        dtype: ``float32``, ``float16`` or ``bfloat16``: the states as computed and as stored.
        layers: Layer numbers (0 = embeddings).
        position: The token that was read.
        versions: Library versions the numbers depend on, such as ``{"torch": "2.13"}``.
        quantization: How the model's weights are packed, such as ``4bit``; ``None`` where they are not.
        trust_remote_code: Whether the model's own Python was run.
    """

    model: str
    model_revision: str
    tokenizer_hash: str
    template_hash: str
    task: str
    task_revision: str
    dtype: str
    layers: tuple[int, ...]
    position: str
    versions: Mapping[str, str]
    quantization: str | None = None
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ProbeError(f"Expected `dtype` to be one of {', '.join(DTYPES)}, but got {self.dtype!r}")

    @cached_property
    def digest(self) -> str:
        """Short hash of the whole key."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()[:12]

    def to_json(self) -> dict[str, object]:
        """The key as plain JSON values."""
        values = asdict(self) | {"layers": list(self.layers), "versions": dict(self.versions), "format": FORMAT}
        if self.quantization is None:
            del values["quantization"]  # keys from before there was any are the same
        if not self.trust_remote_code:
            del values["trust_remote_code"]  # so are these
        return values

    @property
    def precision(self) -> str:
        """See `precision_of`."""
        return precision_of(self.dtype, self.quantization)

    @classmethod
    def from_json(cls, values: Mapping[str, object]) -> StoreKey:
        """The inverse of `to_json`."""
        fields = {k: v for k, v in values.items() if k != "format"}
        fields["layers"] = tuple(fields["layers"])  # type: ignore[arg-type]
        return cls(**fields)  # type: ignore[arg-type]

    @property
    def folder_name(self) -> str:
        """``<model>--<task>--<digest>`` with nothing in it that a file system minds."""
        return f"{file_name(self.model)}--{self.task}--{self.digest}"


def precision_of(dtype: str, quantization: str | None) -> str:
    """What a model computes in, as probes say it: ``bfloat16``, or ``bfloat16, 4bit weights``."""
    return dtype if quantization is None else f"{dtype}, {quantization} weights"


def _checksum(values: np.ndarray) -> str:
    """XXH3 of the bytes: it finds what a CRC finds, and does not hold up the reading."""
    return xxhash.xxh3_64_hexdigest(values.data)


def _read_shard_header(path: Path) -> dict[str, object]:
    """The shard's own description of itself: key digest, row range, a checksum for each tensor."""
    try:
        with safe_open(path, framework="pt") as file:
            header: dict[str, object] = json.loads((file.metadata() or {})["shard"])
            if set(header) != {"key", "start", "stop", "xxh3"} or set(header["xxh3"]) != set(file.keys()):  # type: ignore[call-overload]
                raise ValueError("its header does not fit its tensors")
            return header
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ProbeError(f"Shard {path} is corrupt ({error}); delete it and score again, the rest is kept") from error


class StoreLayout:
    """Where a store of so many rows lies, how large it is, and what of it is there; nothing is written.

    Args:
        root: Folder that holds stores; this one gets a folder of its own, named by its key.
        key: What the states are computed from.
        rows: How many rows the whole store will have.
        hidden_size: Width of a state.
        shard_rows: Rows of a shard, all but the last.

    """

    def __init__(self, root: str | Path, key: StoreKey, rows: int, hidden_size: int, shard_rows: int = 1024) -> None:
        self.folder = Path(root) / key.folder_name
        self.key, self.rows, self.hidden_size = key, rows, hidden_size
        self.shards = [range(start, min(start + shard_rows, rows)) for start in range(0, rows, shard_rows)]
        self.bytes_per_row = len(key.layers) * hidden_size * DTYPES[key.dtype].itemsize

    @property
    def total_bytes(self) -> int:
        """Size of the finished store's tensors."""
        return self.rows * self.bytes_per_row

    def path(self, shard: int) -> Path:
        """The final name of a shard."""
        return self.folder / f"shard-{shard:05d}.safetensors"

    def missing(self) -> list[int]:
        """Numbers of the shards that are not there.

        Raises:
            ProbeError: If a shard is there but corrupt, or of another key or another number of rows.
        """
        missing: list[int] = []
        for number, rows in enumerate(self.shards):
            if not self.path(number).exists():
                missing.append(number)
                continue
            header = _read_shard_header(self.path(number))
            expected = {"key": self.key.digest, "start": rows.start, "stop": rows.stop}
            if {name: header.get(name) for name in expected} != expected:
                found = {name: header.get(name) for name in expected}
                raise ProbeError(
                    f"Expected shard {self.path(number)} to be {expected}, but got {found}; delete the folder"
                )
        return missing


class StoreWriter(StoreLayout):
    """Writes a store shard by shard; what is already there is kept.

    Several processes, on several machines, may write shards of one store, each its own; one of them finishes it.
    The arguments are those of `StoreLayout`.
    """

    def __init__(self, root: str | Path, key: StoreKey, rows: int, hidden_size: int, shard_rows: int = 1024) -> None:
        super().__init__(root, key, rows, hidden_size, shard_rows)
        self.folder.mkdir(parents=True, exist_ok=True)
        remove_stale(self.folder)

    def check_room(self) -> None:
        """Raises `ProbeError` if the disk cannot take what is still to be written."""
        missing = sum(len(self.shards[i]) for i in self.missing()) * self.bytes_per_row
        free = shutil.disk_usage(self.folder).free
        if missing > free:
            raise ProbeError(
                f"Expected {missing:,} free bytes in {self.folder} for the hidden states, but got {free:,}"
            )

    def pending(self) -> list[int]:
        """Numbers of the shards still to be written; see `StoreLayout.missing`."""
        if missing := self.missing():
            # A manifest speaks of shards that are there; until they are again, there is no finished store.
            (self.folder / MANIFEST).unlink(missing_ok=True)
        return missing

    def write(self, shard: int, states: Mapping[int, Tensor]) -> None:
        """Writes one shard: for each layer of the key ``[rows of the shard, hidden]``.

        Raises:
            ProbeError: If a layer is missing, has another shape, or holds NaN or infinity.
        """
        rows, dtype = self.shards[shard], DTYPES[self.key.dtype]
        tensors: dict[str, Tensor] = {}
        for layer in self.key.layers:
            state = states[layer].to(dtype).cpu().contiguous()
            if state.shape != (len(rows), self.hidden_size):
                raise ProbeError(
                    f"Expected layer {layer} of rows {rows.start}:{rows.stop} to be "
                    f"{(len(rows), self.hidden_size)}, but got {tuple(state.shape)}"
                )
            if not bool(torch.isfinite(state).all()):
                bad = rows.start + int((~torch.isfinite(state).all(dim=1)).nonzero()[0])
                raise ProbeError(f"Expected finite hidden states, but row {bad} of layer {layer} holds NaN or infinity")
            tensors[f"layer.{layer}"] = state
        header = {
            "key": self.key.digest,
            "start": rows.start,
            "stop": rows.stop,
            "xxh3": {name: _checksum(tensor.view(torch.uint8).numpy()) for name, tensor in tensors.items()},
        }
        # One metadata entry only: safetensors does not keep the order of several, and bytes must repeat.
        write_atomically(self.path(shard), save(tensors, metadata={"shard": json.dumps(header)}))

    def finish(self, beside: Sequence[str] = ()) -> HiddenStateStore:
        """Writes the manifest, once every shard is there, and opens the store.

        Args:
            beside: Names of files in the folder that belong to the store; the manifest has their checksums.
        """
        if missing := self.pending():
            raise ProbeError(f"Expected all {len(self.shards)} shards in {self.folder}, but {len(missing)} are missing")
        shards = []
        for number in range(len(self.shards)):
            header = _read_shard_header(self.path(number))
            shards.append({"file": self.path(number).name, **{k: header[k] for k in ("start", "stop", "xxh3")}})
        manifest = {
            "format": FORMAT,
            "key": self.key.to_json(),
            "rows": self.rows,
            "hidden_size": self.hidden_size,
            "shards": shards,
        }
        if beside:
            manifest["beside"] = {name: xxhash.xxh3_64_hexdigest((self.folder / name).read_bytes()) for name in beside}
        write_atomically(self.folder / MANIFEST, (json.dumps(manifest, indent=1) + "\n").encode())
        return HiddenStateStore(self.folder)


class HiddenStateStore:
    """A finished store, for reading.

    Args:
        folder: The store's folder.
        expect: If given, the key the store must have.

    Raises:
        ProbeError: If there is no finished store, it is of another format or key, or a shard is missing.
    """

    def __init__(self, folder: str | Path, expect: StoreKey | None = None) -> None:
        self.folder = Path(folder)
        path = self.folder / MANIFEST
        if not path.exists():
            raise ProbeError(f"Expected a finished hidden-state store in {self.folder}, but there is no {MANIFEST}")
        try:
            manifest = json.loads(path.read_text())
            if manifest["format"] != FORMAT:
                raise ProbeError(f"Expected {path} to be of format {FORMAT}, but got {manifest['format']!r}")
            self.key = StoreKey.from_json(manifest["key"])
            self.rows: int = manifest["rows"]
            self.hidden_size: int = manifest["hidden_size"]
            self._shards: Sequence[dict[str, Any]] = manifest["shards"]
            self._verified: set[int] = set()
            # Manifests from before there were any have none.
            self._beside: dict[str, str] = dict(manifest.get("beside", {}))
            names = {f"layer.{layer}" for layer in self.key.layers}
            if any(set(s) != {"file", "start", "stop", "xxh3"} or set(s["xxh3"]) != names for s in self._shards):
                raise KeyError("shards")
        except ProbeError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise ProbeError(f"Manifest {path} is corrupt ({error!r}); delete it and score again") from error
        if expect is not None and expect.to_json() != self.key.to_json():
            ours, theirs = expect.to_json(), self.key.to_json()
            differs = ", ".join(
                f"{k}={theirs.get(k)!r} instead of {v!r}" for k, v in ours.items() if theirs.get(k) != v
            )
            raise ProbeError(f"The store in {self.folder} is of something else: {differs}")
        for shard in self._shards:
            if not (self.folder / str(shard["file"])).exists():
                raise ProbeError(f"Shard {self.folder / str(shard['file'])} is missing; score again, the rest is kept")

    def read_beside(self, name: str) -> bytes:
        """A file that belongs to the store, held against its checksum where the manifest has one.

        Raises:
            ProbeError: If it is another than was written.
            OSError: If it cannot be read.
        """
        data = (self.folder / name).read_bytes()
        if name in self._beside and self._beside[name] != xxhash.xxh3_64_hexdigest(data):
            path = self.folder / name
            raise ProbeError(f"File {path} is corrupt (its checksum differs); delete it and score again")
        return data

    @property
    def num_shards(self) -> int:
        """How many shards the rows are spread over."""
        return len(self._shards)

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers held."""
        return self.key.layers

    @property
    def dtype(self) -> torch.dtype:
        """Of the states."""
        return DTYPES[self.key.dtype]

    @property
    def starts(self) -> list[int]:
        """First row of each shard."""
        return [shard["start"] for shard in self._shards]

    def map_layer(self, layer: int) -> list[np.memmap]:
        """One layer as read-only memory maps, one a shard: ``[rows, hidden]``, integers of the dtype's bytes.

        Nothing is read yet, and nothing held against its checksum: see `verify`.

        Raises:
            ProbeError: If the layer is not held, or a shard is corrupt.
        """
        if layer not in self.layers:
            raise ProbeError(f"Expected `layer` to be one of {list(self.layers)} in {self.folder}, but got {layer}")
        return [self._map(shard, f"layer.{layer}") for shard in self._shards]

    def _map(self, shard: Mapping[str, Any], name: str) -> np.memmap:
        path = self.folder / str(shard["file"])
        try:
            with safe_open(path, framework="numpy") as file:  # holds the header against the length of the file
                shape = tuple(file.get_slice(name).get_shape())
            with path.open("rb") as raw:
                length = int.from_bytes(raw.read(8), "little")
                start, stop = json.loads(raw.read(length))[name]["data_offsets"]
            rows = shard["stop"] - shard["start"]
            if shape != (rows, self.hidden_size) or stop - start != rows * self.hidden_size * self.dtype.itemsize:
                raise ValueError(f"{name} is {shape}")
        except (SafetensorError, KeyError, ValueError) as error:
            raise ProbeError(f"Shard {path} is corrupt ({error}); delete it and score again") from error
        return np.memmap(path, _INTEGERS[self.dtype.itemsize], "r", offset=8 + length + start, shape=shape)

    def verify(self, layer: int) -> list[np.memmap]:
        """The maps of one layer, held against their checksums; that is done once for each store that is opened.

        Raises:
            ProbeError: If the layer is not held, or a shard is corrupt.
        """
        maps = self.map_layer(layer)
        for shard, values in zip(self._shards, maps, strict=True):
            self._check(layer, shard, values)
        self._verified.add(layer)
        return maps

    def _check(self, layer: int, shard: Mapping[str, Any], values: np.ndarray) -> None:
        if layer not in self._verified and _checksum(values) != shard["xxh3"][f"layer.{layer}"]:
            path = self.folder / shard["file"]
            raise ProbeError(f"Shard {path} is corrupt (checksum of layer.{layer} differs); delete it and score again")

    def iter_layer(self, layer: int) -> Iterator[Tensor]:
        """The shards of one layer in row order, each a copy ``[rows, hidden]`` in the store's dtype.

        Raises:
            ProbeError: If the layer is not held, or a shard is corrupt.
        """
        for values in self.verify(layer):
            yield torch.from_numpy(np.array(values)).view(self.dtype)

    def layer(self, layer: int, out: Tensor | None = None) -> Tensor:
        """One layer whole: ``[rows, hidden]`` in the store's dtype, into ``out`` where that is given.

        Raises:
            ProbeError: If the layer is not held, or a shard is corrupt.
        """
        # numpy asks for huge pages, torch does not; a large layer's memory is there in half the time.
        integers = _INTEGERS[self.dtype.itemsize]
        raw = (
            np.empty((self.rows, self.hidden_size), integers) if out is None else out.view(_AS_TORCH[integers]).numpy()
        )
        for shard, values in zip(self._shards, self.map_layer(layer), strict=True):
            held = raw[shard["start"] : shard["stop"]]
            with Path(str(values.filename)).open("rb", buffering=0) as file:
                # Read and not copied out of the map, which would fault in each page of it first.
                file.seek(values.offset)
                if file.readinto(held.data.cast("B")) != held.nbytes:
                    raise ProbeError(
                        f"Shard {values.filename} is corrupt (it ends too early); delete it and score again"
                    )
            self._check(layer, shard, held)
        self._verified.add(layer)
        return torch.from_numpy(raw).view(self.dtype)
