"""Processes forked from one that has imported everything, so that a test of a process does not pay for imports.

For tests in which a process itself is tested: it is killed, signalled, or raced with others, or it asks a Hub. Not for
what is read while libraries are imported, other than the Hub's address and home, and not for what is imported at all:
`subprocess` is.
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
from typing import Any
from unittest import mock

from tests import hub_address

_POPEN = subprocess.Popen
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    [
        *(
            "pytest",
            "datasets",
            "lightning.pytorch",
            "matplotlib.pyplot",
            "openai",
            "pyarrow.parquet",
            "torch",
            "uvicorn",
        ),
        *(f"cascade.{name}" for name in ("run", "score", "serve", "simulate", "train")),
        *("cascade.probing.fit", "cascade.runtime.build", "cascade.scoring.scored", "cascade.serving.server"),
        *("experiments.attacks.endpoints", "experiments.benchmarks.serving", "sklearn.linear_model", "skops.io"),
        *(f"transformers.models.{name}.modeling_{name}" for name in ("auto", "bert", "llama", "qwen3")),
    ]
)


def start_server() -> None:
    """Starts the process that forks, if there is none: it reads the address and the home of the tests' Hub."""
    with mock.patch.dict(os.environ, hub_address.environment(), clear=True):
        multiprocessing.forkserver.ensure_running()


def end_server() -> None:
    """Ends the process that forks, and waits for it, so that its time and its children's are counted as the tests'."""
    multiprocessing.forkserver._forkserver._stop()


def _become(command: tuple[str, ...], environment: dict[str, str], folder: str, ends: tuple[str, str, str]) -> None:
    """What a new interpreter would do: `python -m NAME …` or `python -c CODE …`."""
    for number, path in enumerate(ends):
        opened = os.open(path, os.O_RDWR | os.O_APPEND)
        os.dup2(opened, number)
        os.close(opened)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
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


class Output:
    """What a process has printed so far, read as a pipe is."""

    def __init__(self, process: Forked) -> None:
        self._file = tempfile.NamedTemporaryFile("r", prefix="forked-")  # noqa: SIM115
        self._process, self.name = process, self._file.name

    def readline(self) -> str:
        """The next whole line, which is waited for; what there is where the process ends before."""
        line = ""
        while not line.endswith("\n"):
            alive = self._process.poll() is None
            line += (more := self._file.readline())
            if not more and not alive:
                return line
            if not more:
                time.sleep(0.01)
        return line

    def read(self) -> str:
        """The rest, once the process has ended."""
        self._process.wait()
        return self._file.read()

    def close(self) -> None:
        self._file.close()


class Forked:
    """`python -m NAME …` or `python -c CODE …` as a process; used as `subprocess.Popen` is.

    Args:
        command: As after `python`.
        environment: Instead of this process's own.
        stderr: A file to write errors to, or a named pipe.
        stdin: A file to read from.
    """

    def __init__(
        self,
        *command: str,
        environment: dict[str, str] | None = None,
        stderr: str | None = None,
        stdin: str = "/dev/null",
    ) -> None:
        outside = dict(os.environ if environment is None else environment)
        outside.pop("COLUMNS", None)  # of whoever's terminal: a process of a test has none
        self.stdout, self.stderr = Output(self), Output(self)
        ends = (stdin, self.stdout.name, stderr or self.stderr.name)
        start_server()
        self._process = FORKS.Process(target=_become, args=(command, outside, str(Path.cwd()), ends))
        self._process.start()

    def __enter__(self) -> Forked:
        return self

    def __exit__(self, *_: object) -> None:
        self.wait()

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

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self._process.kill()


def instead_of_popen(command: list[str], **options: Any) -> Forked | subprocess.Popen:
    """For `subprocess.Popen` where the code under test starts one of our own commands by it."""
    if command[0] != sys.executable or command[1] not in ("-c", "-m"):
        return _POPEN(command, **options)
    return Forked(*command[1:], environment=options.get("env"), stderr=getattr(options.get("stderr"), "name", None))


def instead_of_run(command: list[str], env: dict[str, str], **options: Any) -> subprocess.CompletedProcess[str]:
    """For `subprocess.run` likewise; a process that fails is an error."""
    done = Forked(*command[1:], environment=env)
    out, err = done.communicate()
    assert done.returncode == 0, err
    return subprocess.CompletedProcess(command, 0, out, err)
