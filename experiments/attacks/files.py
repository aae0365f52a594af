"""Harm done to a store's files: every flip is found or harmless, and what was cut off goes on to the same bytes.

    python -m experiments.attacks.files

Flips every bit of a small store's files, one after another; kills a writer again and again; lets the disk run full.
Ends with an error at the first thing that does not hold. About a minute.
"""

from __future__ import annotations

import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from jsonargparse import ArgumentParser

from probes import HiddenStateStore, ProbeError, StoreKey, StoreWriter

KEY = StoreKey("model", "r", "t", "p", "task", "q", "float32", (0, 1), "last_prompt_token", {})
ROWS, WIDTH, SHARD = 40, 64, 2


def write(root: Path, pause: float = 0.0) -> HiddenStateStore:
    """A whole store whose states are known, going on where another process stopped."""
    writer = StoreWriter(root, KEY, ROWS, WIDTH, SHARD)
    for number in writer.pending():
        # What lies beside a shard is written before it, as scoring does: where the shard is, all of it is there.
        (writer.folder / f"scores-{number:05d}").write_bytes(str(number).encode() * 50)
        rows = torch.tensor(writer.shards[number])[:, None]
        writer.write(number, {layer: (rows + layer + torch.arange(WIDTH) / WIDTH) for layer in KEY.layers})
        time.sleep(pause)
    return writer.finish([f"scores-{number:05d}" for number in range(len(writer.shards))])


def read(folder: Path) -> list[object]:
    """All that a store holds, every checksum looked at."""
    store = HiddenStateStore(folder, expect=KEY)
    beside = [store.read_beside(f"scores-{number:05d}") for number in range(store.num_shards)]
    return [*beside, *(store.layer(layer).tolist() for layer in KEY.layers)]


def flips(folder: Path, name: str, most: int) -> int:
    """Flips bits of one file, each alone; none may change what is read. Returns how many were refused."""
    path, sound, refused = folder / name, read(folder), 0
    whole = path.read_bytes()
    places = random.Random(0).sample(range(8 * len(whole)), min(most, 8 * len(whole)))
    for place in places:
        data = bytearray(whole)
        data[place // 8] ^= 1 << place % 8
        path.write_bytes(data)
        try:
            if read(folder) != sound:
                raise SystemExit(f"bit {place} of {name} was flipped, and other values were read")
        except ProbeError:
            refused += 1
    path.write_bytes(whole)
    return refused


def contents(folder: Path) -> dict[str, bytes]:
    """Every file's bytes."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def killed(root: Path, shards: int) -> Path:
    """The folder of a store whose writer was killed (SIGKILL) once so many shards were there."""
    code = f"from pathlib import Path\nfrom experiments.attacks.files import write\nwrite(Path({str(root)!r}), 0.05)"
    with subprocess.Popen([sys.executable, "-c", code]) as process:
        while process.poll() is None and len(list(root.glob("*/shard-*.safetensors"))) < shards:
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
    if process.returncode != -signal.SIGKILL:
        raise SystemExit("a writer that was to be killed had ended by itself")
    return next(root.iterdir())


def full_disk(root: Path) -> None:
    """A file may not grow beyond 600 bytes: less than a shard."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (600, before[1]))
    try:
        write(root)
    except OSError:
        return
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    raise SystemExit("a disk that is full was not noticed")


def main(args: list[str] | None = None, say: Callable[[str], None] = print) -> None:
    """The entry point."""
    parser = ArgumentParser(prog="python -m experiments.attacks.files", description=__doc__)
    parser.add_argument("--flips", type=int, default=300, help="bits of each file, at most")
    parser.add_argument("--kills", type=int, default=40)
    values = parser.parse_args(args)
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        whole = write(root / "whole").folder
        expected = contents(whole)
        for name in ("manifest.json", "shard-00001.safetensors", "scores-00001"):
            say(f"{name}: {flips(whole, name, values.flips)} flips refused, none read")
        full_disk(root / "full")
        if any(path.name.endswith(("safetensors", "partial")) for path in (root / "full").rglob("*")):
            raise SystemExit("a full disk left half a file")
        if contents(write(root / "full").folder) != expected:
            raise SystemExit("after a full disk the bytes are others")
        say("a full disk: nothing half written, the same bytes afterwards")
        clock = random.Random(0)
        for number in range(values.kills):
            folder = killed(root / f"killed-{number}", clock.randint(1, ROWS // SHARD - 2))
            if (folder / "manifest.json").exists():
                raise SystemExit("a store whose writer was killed says that it is whole")
            if contents(write(root / f"killed-{number}").folder) != expected:
                raise SystemExit("after a kill the bytes are others")
        say(f"{values.kills} writers killed: each goes on to the same bytes")


if __name__ == "__main__":
    main()
