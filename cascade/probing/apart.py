"""Scores with several processes that share nothing but a folder: a store's shards are taken by turns.

Nothing is sent from one process to another, and none waits for all to be there: one that was killed is started again by
itself.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from typing import NamedTuple

import torch

from cascade.errors import CascadeError
from cascade.probing.data import ScoredTaskDataModule
from cascade.scoring.scored import Scored, score_share

_GRACE_SECONDS = 5.0  # in which Ctrl-C, which they all hear, ends the others by themselves
# Who starts processes says which each is: torchrun, and srun for a step of its own.
_STARTERS = (("RANK", "WORLD_SIZE", "LOCAL_RANK"), ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"))


class Rank(NamedTuple):
    """Which of the processes this one is.

    Attributes:
        number, total: Among all, from 0 on, and how many they are.
        local: Among those of this machine, from 0 on.
        starts: Whether it starts the others of this machine.
    """

    number: int
    total: int
    local: int
    starts: bool = False


def rank_of(devices: int, num_nodes: int, environment: Mapping[str, str] = os.environ) -> Rank:
    """Which process this is, by what torchrun or srun says, or else by NODE_RANK, LOCAL_RANK and the numbers.

    Args:
        devices: Processes on a machine.
        num_nodes: Machines.
        environment: Variables.

    Raises:
        CascadeError: If these contradict each other, or are no such numbers.
    """
    if devices < 1 or num_nodes < 1:
        raise CascadeError(f"Expected `devices` and `num_nodes` of at least 1, but got {devices}, {num_nodes}")

    def number(name: str, below: int | None = None, default: str | None = None) -> int:
        text = environment.get(name, default)
        if text is None or not text.isdecimal() or (below is not None and int(text) >= below):
            limit = "" if below is None else f" below {below}"
            raise CascadeError(f"Expected {name} to be a number{limit}, but got {text!r}")
        return int(text)

    for place, count, local in _STARTERS:
        if {place, count} <= environment.keys():
            found = Rank(number(place, number(count)), number(count), number(local, default=environment[place]))
            if devices * num_nodes not in (1, found.total):
                raise CascadeError(
                    f"Expected {count}={found.total} processes, as were started, but got `devices` {devices} on "
                    f"{num_nodes} nodes"
                )
            return found
    node, local_rank = number("NODE_RANK", num_nodes, "0"), number("LOCAL_RANK", devices, "0")
    starts = devices > 1 and "LOCAL_RANK" not in environment
    return Rank(node * devices + local_rank, devices * num_nodes, local_rank, starts)


def score_apart(data: ScoredTaskDataModule, devices: int = 1, num_nodes: int = 1) -> Scored | None:
    """Scores with ``devices`` processes on each of ``num_nodes`` machines, all of which see the folder of stores.

    The processes of this machine are started here, by the command that this one was started by, unless torchrun or
    srun has started them, or LOCAL_RANK says which one this is.

    Args:
        data: What is asked of which model.
        devices: Processes on this machine, each with a GPU and a model of its own where there are GPUs.
        num_nodes: Machines; the same command is given on each, with NODE_RANK set to 0, 1, ….

    Returns:
        The whole in the process of rank 0; in the others ``None``.

    Raises:
        CascadeError: If the settings exclude each other, or a process that was started here ends with an error.
    """
    rank = rank_of(devices, num_nodes)
    if data.store is not None:
        raise CascadeError(f"Expected no `store`, which is one that is finished, but got {data.store}")
    data.settings.check_processes(rank.total)
    if torch.cuda.is_available():
        torch.cuda.set_device(rank.local % torch.cuda.device_count())
    if devices > 1 and "OMP_NUM_THREADS" not in os.environ:
        os.environ["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // devices))
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    others = _Others(devices if rank.starts else 1)
    try:
        scored = score_share(
            data.model,
            data.task,
            data.stores,
            batch_size=data.scoring_batch_size,
            rank=rank.number,
            ranks=rank.total,
            check=others.check,
        )
    except KeyboardInterrupt:
        others.end(_GRACE_SECONDS)
        raise
    except BaseException:
        others.end(0.0)
        raise
    others.end()
    return scored if rank.number == 0 else None


class _Others:
    """The other processes of this machine, which are started here.

    Args:
        devices: How many there are, this one among them.
    """

    def __init__(self, devices: int) -> None:
        spec = sys.modules["__main__"].__spec__
        command = [sys.executable, *((sys.argv[0],) if spec is None else ("-m", spec.name)), *sys.argv[1:]]
        self._processes = {
            rank: subprocess.Popen(command, env=os.environ | {"LOCAL_RANK": str(rank)}) for rank in range(1, devices)
        }

    def check(self) -> None:
        """Raises `CascadeError` if one has ended with an error: what it was to score would be waited for forever."""
        for rank, process in self._processes.items():
            if code := process.poll():
                raise CascadeError(
                    f"The process of LOCAL_RANK={rank} ended with code {code}; the same command goes on from what is "
                    f"there"
                )

    def end(self, grace: float | None = None) -> None:
        """Waits for their end; what has not ended after ``grace`` seconds, where there are any, is ended."""
        for process in self._processes.values():
            try:
                process.wait(grace)
            except subprocess.TimeoutExpired:
                process.terminate()
                process.wait()
