"""Writing files so that a name never stands for half of one. One run at a time in a folder."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import socket
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from probes.errors import ProbeError

# A piece has no hyphen at its ends and no two in a row, so that "--" between pieces is read in one way only.
_PIECE = r"[A-Za-z0-9._]+(?:-[A-Za-z0-9._]+)*"
# One piece, `owner/name`, and a folder from the root that is at least three deep: no two of them have the same name.
_AS_IT_IS = re.compile(rf"{_PIECE}|{_PIECE}/{_PIECE}|(?:/{_PIECE}){{3,}}")
# Characters; a name on the Hub has at most 96. Files get an ending, stores a task and a digest, and 255 is the most.
_LONGEST = 100
_DIGEST = 12
_HOLDER = ".lock.json"
REPLACED = ".replaced"


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
    """Writes ``data`` to ``path`` so that the name never stands for half a file, after a loss of power neither."""
    partial = path.with_name(f".{path.name}.{_HOST}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        _sync_folder(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def make_writable(folder: Path) -> Path:
    """The folder, made where it is missing, once a file could be written in it: asked before long work.

    Raises:
        OSError: Naming the folder, if none could.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(folder)) from error
    return folder


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds a folder for one process of this machine at a time; the lock ends with the process, however that ends.

    Raises:
        ProbeError: If another holds it, saying who.
    """
    descriptor = os.open(folder, os.O_RDONLY)  # the folder itself is locked: nothing is left in it
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ProbeError(
                f"Expected {folder} to be written by one run at a time, but {_holder(folder)} is at it; wait for its "
                f"end or give another `out`"
            ) from error
        holder = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "since": datetime.now(UTC).isoformat("T", "seconds"),
        }
        path = folder / _HOLDER
        path.write_text(json.dumps(holder))
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
    finally:
        os.close(descriptor)


def replace_folder(new: Path, old: Path) -> None:
    """Puts a finished folder in another's place, which is whole at every moment but one.

    In that one, between two renamings, the old one is called ``NAME.replaced``; `restore_folder` gives it its name
    back.
    """
    restore_folder(old)
    aside = old.with_name(f"{old.name}{REPLACED}")
    (new / _HOLDER).unlink(missing_ok=True)
    if old.exists():
        old.rename(aside)
    new.rename(old)
    _sync_folder(old.parent)
    if aside.exists():
        shutil.rmtree(aside)


def restore_folder(folder: Path) -> None:
    """Ends what a `replace_folder` began that was killed."""
    aside = folder.with_name(f"{folder.name}{REPLACED}")
    if aside.exists() and folder.exists():
        shutil.rmtree(aside)
    elif aside.exists():
        aside.rename(folder)


def _holder(folder: Path) -> str:
    try:
        said = json.loads((folder / _HOLDER).read_text())
        return f"process {said['pid']} on {said['host']}, since {said['since']},"
    except (OSError, ValueError, KeyError, TypeError):
        return "another one"  # which has not said yet who it is


def _sync_folder(folder: Path) -> None:
    """Has the names in a folder on disk: a file that is whole there may have no name yet."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
