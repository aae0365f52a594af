"""Stores and probes of the miniatures, made once a session and shared by all of its workers.

A test that reads them, or that tests what comes after them, copies them into a folder of its own; a test of scoring or
of training itself makes its own.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch
from filelock import FileLock

from cascade.engines.settings import DecoderConfig
from cascade.probing.chain import probe_for
from cascade.scoring.scored import score
from cascade.simulate import main

TASK = "mini-mmlu"


class MadeOnce:
    """A folder of runs on mini-mmlu that all workers see.

    Args:
        folder: Where it lies; empty when the session begins.
    """

    def __init__(self, folder: Path) -> None:
        self.runs, self._alone, self._locks = folder / "runs", folder / "main-job", folder / "locks"
        self._locks.mkdir(parents=True, exist_ok=True)

    @contextlib.contextmanager
    def _making(self, what: str) -> Iterator[bool]:
        """One worker at a time: whether it is still to be made. On one thread, as each number of them rounds anew."""
        done, threads = self._locks / f"{what}.done", torch.get_num_threads()
        with FileLock(self._locks / f"{what}.lock"):
            torch.set_num_threads(1)
            try:
                yield not done.exists()
                done.touch()
            finally:
                torch.set_num_threads(threads)

    def main_job(self) -> Path:
        """The folder of runs that `python -m cascade.simulate` leaves where there was nothing."""
        with self._making("main-job") as missing:
            if missing:
                main([f"--runs={self._alone}"])
                shutil.copytree(self._alone, self.runs)
        return self._alone

    def store(self, model: str) -> Path:
        """The folder of a miniature's store, within that of runs."""
        self.main_job()
        with self._making(f"store-{model}"):
            return score(model, TASK, self.runs / "stores").store.folder.relative_to(self.runs)

    def probe(self, model: str, layer: int | None = None) -> Path:
        """The folder of a miniature's run of training, within that of runs."""
        self.store(model)
        with self._making(f"probe-{model}-{layer}"):
            scored = score(model, TASK, self.runs / "stores")
            config = probe_for(DecoderConfig(model).build(), TASK, scored, self.runs, layer).config
        return Path("probes") / f"{model}--{TASK}--layer-{config.layer}"

    def copy(self, to: Path, *parts: Path) -> Path:
        """Copies what `store` and `probe` name into another folder of runs."""
        for part in parts:
            shutil.copytree(self.runs / part, to / part, dirs_exist_ok=True)
        return to
