"""Writes the lock files that `make demo` and `make test` install from: `python -m experiments.lock`.

Every package at the version of constraints.txt, with the hashes of its files, so that no other file is installed under
its name. Four files: what a run needs, what a developer needs, torch, of which either build will do, and the CUDA
libraries, which PyPI's torch asks for on Linux and its CPU build does not. Needs uv and the package index.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from pathlib import Path

from cascade.errors import CascadeError, one_line_errors
from probes.files import write_atomically

ROOT = Path(__file__).parents[1]
RUN, DEV, TORCH, CUDA = (ROOT / f"requirements{end}.lock" for end in ("", "-dev", "-torch", "-cuda"))
# PyTorch's own CPU build of the pinned version (CPython 3.11, Linux, x86-64), which is on its index and not on PyPI.
CPU_TORCH = "sha256:6746dbcbeb526eb61330b76b41ff1b4eb848951103a892eeb080dfa2b264667b"
_CUDA = re.compile(r"(nvidia|cuda|triton)(-|==)")
_APART = re.compile(rf"torch==|{_CUDA.pattern}")
# Builds the package itself, and is not fetched at that moment.
_BUILD = "setuptools"
PYTHON = "3.11.5"  # the lowest that all of them work with


def resolve(extras: list[str]) -> list[str]:
    """One entry a package: its pin and the hashes of its files, as pip reads them.

    Args:
        extras: Of pyproject.toml.
    """
    with tempfile.NamedTemporaryFile("w", suffix=".in") as more:
        more.write(f"{_BUILD}\n")
        more.flush()
        command = ["uv", "pip", "compile", "--quiet", "--generate-hashes", "--no-header", "--no-annotate"]
        command += ["--python-version", PYTHON, "--constraint", "constraints.txt", "pyproject.toml", more.name]
        command += [flag for extra in extras for flag in ("--extra", extra)]
        done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        raise CascadeError(f"Expected uv to find versions that go together, but {done.stderr}")
    return re.findall(r"^\S+==.*?(?=^\S|\Z)", done.stdout, re.MULTILINE | re.DOTALL)


def with_cpu_build(entry: str) -> str:
    """Torch's entry with the hash of its CPU build."""
    return f"{entry.rstrip()} \\\n    --hash={CPU_TORCH}\n"


@one_line_errors()
def main() -> None:
    """The entry point."""
    written = "# Written by `python -m experiments.lock` from pyproject.toml and constraints.txt.\n"
    dev = resolve(["dev", "docs"])
    parts = {
        RUN: [entry for entry in resolve(["all"]) if not _APART.match(entry)],
        DEV: [entry for entry in dev if not _APART.match(entry)],
        TORCH: [with_cpu_build(entry) for entry in dev if entry.startswith("torch==")],
        CUDA: [entry for entry in dev if _CUDA.match(entry)],
    }
    for path, entries in parts.items():
        write_atomically(path, (written + "".join(entries)).encode())
        print(f"{path.name}: {len(entries)} packages")


if __name__ == "__main__":
    main()
