"""GGUF files as models: `transformers` reads their configuration and tokenizer, and unpacks their weights once.

Unpacked weights lie in the folder of the Hub's libraries (``HF_HOME/cascade/gguf``), once for each dtype that is asked,
as an ordinary folder of safetensors. All projects of a machine share them.
"""

from __future__ import annotations

import fcntl
import hashlib
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

from huggingface_hub import constants, hf_hub_download

from cascade.engines.files import add_file
from cascade.errors import CascadeError
from probes.hub import locate
from probes.store import DTYPES

_ENDING = ".gguf"


def gguf_of(name: str, revision: str | None = None) -> Path | None:
    """The GGUF file that a model's name says: a path, or ``owner/name/FILE.gguf`` on the Hub; ``None`` of other names.

    Args:
        name: The model's.
        revision: Branch, tag or commit on the Hub.

    Raises:
        CascadeError: If there is no such file, or the package that reads it is not installed.
        ProbeError: If the Hub does not give it; see `probes.hub.locate`.
    """
    if not name.lower().endswith(_ENDING):
        return None
    if find_spec("gguf") is None:
        raise CascadeError(
            f"Expected the package gguf to be installed for {name}, but it is not: "
            f"pip install 'confidence-cascade[gguf]'"
        )
    if (path := Path(name)).is_file():
        return path
    owner, _, rest = name.partition("/")
    repo, _, file = rest.partition("/")
    if not file or path.is_absolute() or owner in ("", ".", ".."):
        raise CascadeError(
            f"Expected {name!r} to be a GGUF file, or one on the Hub (owner/name/FILE.gguf), but there is no such file"
        )
    found = locate(f"{owner}/{repo}", revision, file)
    whole = hf_hub_download(f"{owner}/{repo}", file, revision=found.commit, local_files_only=found.local_files_only)
    return Path(whole)


def hash_gguf(file: Path) -> str:
    """Hash of a GGUF file: whole up to 64 MiB, in 256 spread blocks above. Its name does not count."""
    digest = hashlib.sha256()
    add_file(digest, file)
    return digest.hexdigest()[:16]


def unpacked(file: Path, revision: str, dtype: str) -> Path:
    """The folder of a GGUF file's weights, which is made where it is not there. A process that comes second waits.

    Args:
        file: The file.
        revision: Its `hash_gguf`.
        dtype: Of the weights, one of `probes.store.DTYPES`.

    Raises:
        OSError, ValueError: If there is no room, or `transformers` does not know the architecture.
    """
    folder = cache_folder(file, revision, dtype)
    if folder.exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            print(f"Unpacking {file.name} in {dtype} to {folder}, once", file=sys.stderr, flush=True)
            with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
                _unpack(file, Path(scratch) / "model", dtype)
                (Path(scratch) / "model").rename(folder)
    return folder


def cache_folder(file: Path, revision: str, dtype: str) -> Path:
    """Where a GGUF file's weights are, once they are unpacked."""
    return Path(constants.HF_HOME) / "cascade" / "gguf" / f"{file.stem}--{revision}" / dtype


def _unpack(file: Path, folder: Path, dtype: str) -> None:
    from transformers import AutoModelForCausalLM

    packed = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=DTYPES[dtype])
    # It counts as quantised, and such a model is not written: the same weights in a model that does not.
    config = packed.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    plain = type(packed)(config).to(DTYPES[dtype])
    plain.load_state_dict(packed.state_dict(), assign=True)
    plain.tie_weights()
    plain.generation_config = packed.generation_config
    plain.save_pretrained(folder)
