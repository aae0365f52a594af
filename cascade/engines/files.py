"""Where a model's files are, a folder, the embedded miniature or the Hub, and which they are."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from cascade.miniature.families import ASSETS, size_of
from probes.hub import locate

_WHOLE_FILE_BYTES = 64 * 2**20
_BLOCK_BYTES, _BLOCKS = 2**16, 256


def resolve_model(name: str) -> str:
    """The folder of a miniature by its name; any other name as it is."""
    if name.startswith("mini-") and "/" not in name and not Path(name).is_dir():
        size_of(name)  # a name of ours that is misspelt is not asked for at the Hub
        return str(ASSETS / name)
    return name


def find_model(source: str, revision: str | None = None) -> dict[str, Any]:
    """What `from_pretrained` of transformers is told beside a Hub id, so that all files are of one commit.

    Args:
        source: A folder, which nothing is to be told of, or a Hub id.
        revision: Branch, tag or commit on the Hub.

    Raises:
        ProbeError: If the Hub does not give the model's config.json; see `probes.hub.locate`.
    """
    if Path(source).is_dir():
        return {}
    found = locate(source, revision)
    return {"revision": found.commit, "local_files_only": found.local_files_only}


def hash_folder(folder: Path) -> str:
    """Hash of a local model: configuration whole, weights whole up to 64 MiB and in 256 spread blocks above."""
    digest = hashlib.sha256()
    files = [folder / "config.json", *sorted(folder.glob("*.safetensors")), *sorted(folder.glob("*.bin"))]
    for path in files:
        digest.update(f"{path.name}:{path.stat().st_size}".encode())
        add_file(digest, path)
    return digest.hexdigest()[:16]


def add_file(digest: hashlib._Hash, path: Path) -> None:
    """Adds a file to a hash: whole up to 64 MiB, and in 256 spread blocks above."""
    size = path.stat().st_size
    with path.open("rb") as file:
        if size <= _WHOLE_FILE_BYTES:
            digest.update(file.read())
            return
        for block in range(_BLOCKS):
            file.seek(block * (size - _BLOCK_BYTES) // (_BLOCKS - 1))
            digest.update(file.read(_BLOCK_BYTES))
