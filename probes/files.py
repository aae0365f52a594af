"""Writing files so that a name never stands for half of one. Needs the standard library alone."""

from __future__ import annotations

import hashlib
import os
import re
import socket
from pathlib import Path

# A piece has no hyphen at its ends and no two in a row, so that "--" between pieces is read in one way only.
_PIECE = r"[A-Za-z0-9._]+(?:-[A-Za-z0-9._]+)*"
# One piece, `owner/name`, and a folder from the root that is at least three deep: no two of them have the same name.
_AS_IT_IS = re.compile(rf"{_PIECE}|{_PIECE}/{_PIECE}|(?:/{_PIECE}){{3,}}")
# Characters; a name on the Hub has at most 96. Files get an ending, stores a task and a digest, and 255 is the most.
_LONGEST = 100
_DIGEST = 12


def file_name(text: str) -> str:
    """A name of letters, digits, ``.``, ``_`` and ``-`` for a model or a task, another one for every other text.

    ``model`` stays as it is, ``owner/model`` becomes ``owner--model`` and ``/data/models/llama``
    ``data--models--llama``. Any other text loses something on the way; a short hash of it is added after ``---``,
    which the first three never hold. Two texts that stay as they are and differ in case alone have one file where the
    file system does not tell cases apart.
    """
    plain = re.sub(r"[^A-Za-z0-9._-]+", "--", text)
    stripped = plain.strip("-.")
    kept = plain.removeprefix("--") if text.startswith("/") else plain
    if _AS_IT_IS.fullmatch(text) and stripped == kept and len(stripped) <= _LONGEST:
        return stripped
    digest = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:_DIGEST]
    return f"{stripped[: _LONGEST - _DIGEST - 3].rstrip('-.') or 'unnamed'}---{digest}"


_HOST = file_name(socket.gethostname()).replace(".", "-")


def remove_stale(folder: Path) -> None:
    """Removes what processes of this machine left half written when they were killed.

    Other machines may be writing to the same folder, and only they know which of their processes are alive.
    """
    for partial in folder.glob(".*.partial"):
        *_, host, pid, _ = partial.name.split(".")
        if host == _HOST and not _alive(int(pid)):
            partial.unlink(missing_ok=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def write_atomically(path: Path, data: bytes) -> None:
    """Writes ``data`` to ``path`` so that the name never stands for half a file."""
    partial = path.with_name(f".{path.name}.{_HOST}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
