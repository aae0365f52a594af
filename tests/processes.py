"""Processes forked from one that has imported everything, so that a test of a process does not pay for imports.

For tests in which a process itself is tested: it is killed, signalled, or raced with others. Not for what is read
while libraries are imported, such as the Hub's address, and not for what is imported at all: `subprocess` is.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.forkserver
import os
import runpy
import subprocess
import sys
import tempfile
import time
from pathlib import Path

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    [
        "pytest",
        *(f"cascade.{name}" for name in ("confidences", "run", "score", "serve", "train")),
        *(f"transformers.models.{name}.modeling_{name}" for name in ("llama", "qwen3")),
    ]
)


def end_server() -> None:
    """Ends the process that forks, and waits for it, so that its time and its children's are counted as the tests'."""
    multiprocessing.forkserver._forkserver._stop()


def _become(command: tuple[str, ...], environment: dict[str, str], folder: str, outputs: tuple[str, str]) -> None:
    """What a new interpreter would do: `python -m NAME …` or `python -c CODE …`."""
    for number, path in enumerate(("/dev/null", *outputs)):
        opened = os.open(path, os.O_RDWR | os.O_APPEND)
        os.dup2(opened, number)
        os.close(opened)
    sys.stdout, sys.stderr = (open(number, "w", buffering=1, closefd=False) for number in (1, 2))  # noqa: SIM115
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    kind, what, *rest = command
    sys.argv = [what if kind == "-m" else kind, *rest]
    if kind == "-m":
        sys.modules.pop(what, None)  # imported already, which `runpy` would warn of
        runpy.run_module(what, run_name="__main__", alter_sys=True)
    else:
        exec(compile(what, "<string>", "exec"), {"__name__": "__main__"})


class Forked:
    """`python -m NAME …` or `python -c CODE …` as a process; used as `subprocess.Popen` is, its output kept in files.

    Args:
        command: As after `python`.
        environment: Instead of this process's own.
        folder: To work in; by default this process's own.
    """

    def __init__(
        self, *command: str, environment: dict[str, str] | None = None, folder: str | Path | None = None
    ) -> None:
        self._files = [tempfile.NamedTemporaryFile("r", prefix="forked-") for _ in range(2)]  # noqa: SIM115
        names = tuple(file.name for file in self._files)
        made = (command, dict(os.environ if environment is None else environment), str(folder or Path.cwd()), names)
        self._process = FORKS.Process(target=_become, args=made)
        self._process.start()
        self.stdout, self.stderr = self._files

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("a forked process", timeout)
        return self._process.exitcode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        self.wait(timeout)
        return self.stdout.read(), self.stderr.read()

    def first_line(self) -> str:
        """The first line that it prints; empty if it ends before."""
        while not (line := self.stdout.readline()).endswith("\n"):
            if self.poll() is not None:
                return ""
            self.stdout.seek(0)
            time.sleep(0.01)
        return line

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self._process.kill()
