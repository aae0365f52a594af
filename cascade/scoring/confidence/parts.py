"""What was asked of a long list of questions, kept part by part until the whole is there.

A folder with `run.json`, which says what the parts are of, and a score table for each part, whole or not there; its
name ends in the checksum of its bytes.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from cascade.errors import CascadeError
from cascade.scores.schema import parquet_bytes
from probes.files import remove_stale, write_atomically

_RUN = "run.json"


class Parts:
    """Tables of a run's questions, on disk as soon as they are known.

    Args:
        folder: Made with the first part.
        identity: What the tables depend on, as JSON values.

    Raises:
        CascadeError: If the folder's parts are of another run.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        self.folder, run = folder, folder / _RUN
        self._identity = wanted = json.loads(json.dumps(identity))
        if not run.exists():
            return
        try:
            found = dict(json.loads(run.read_text()))
        except (OSError, ValueError, TypeError) as error:
            raise CascadeError(f"Expected {run} to say what the parts beside it are of, but {error}") from error
        if differs := sorted(name for name in {*wanted, *found} if found.get(name) != wanted.get(name)):
            raise CascadeError(
                f"Expected the parts in {folder} to be of this run, but {', '.join(differs)} differ; delete them, or "
                f"give another `out`"
            )

    def read(self, number: int, ids: Sequence[str]) -> pa.Table | None:
        """A part, or ``None`` where it is not there yet.

        Raises:
            CascadeError: If it is corrupt, or not of these questions.
        """
        path = next(iter(sorted(self.folder.glob(f"part-{number:05d}-*.parquet"))), None)
        if path is None:
            return None
        try:
            data = path.read_bytes()
            if path != self._path(number, data):
                raise ValueError("its checksum differs")
            table = pq.read_table(pa.BufferReader(data))
            if table["question_id"].to_pylist() != list(ids):
                raise ValueError("it is of other questions")
        except (OSError, KeyError, ValueError) as error:
            raise CascadeError(f"Part {path} is corrupt ({error}); delete it, the rest is kept") from error
        return table

    def write(self, number: int, table: pa.Table) -> None:
        """Keeps a part."""
        if not (self.folder / _RUN).exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            write_atomically(self.folder / _RUN, (json.dumps(self._identity, indent=1) + "\n").encode())
        remove_stale(self.folder)
        data = parquet_bytes(table)
        write_atomically(self._path(number, data), data)

    def _path(self, number: int, data: bytes) -> Path:
        return self.folder / f"part-{number:05d}-{xxhash.xxh3_64_hexdigest(data)}.parquet"

    def remove(self) -> None:
        """Deletes the folder, once the whole lies elsewhere."""
        shutil.rmtree(self.folder)
