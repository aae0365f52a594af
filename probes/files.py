"""Writing files so that a name never stands for half of one. Needs the standard library alone."""

from __future__ import annotations

import os
import re
from pathlib import Path


def file_name(text: str) -> str:
    """``text`` with everything replaced that a file system might mind; different models keep different names."""
    return re.sub(r"[^A-Za-z0-9._-]+", "--", text).strip("-.") or "unnamed"


def write_atomically(path: Path, data: bytes) -> None:
    """Writes ``data`` to ``path`` so that the name never stands for half a file."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
