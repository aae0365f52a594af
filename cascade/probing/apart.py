"""Scores with several processes that share nothing but a folder: a store's shards are taken by turns."""

from __future__ import annotations

import contextlib
import sys

import torch
from lightning.fabric import Fabric
from lightning.fabric.strategies import DDPStrategy

from cascade.errors import CascadeError
from cascade.probing.data import ScoredTaskDataModule
from cascade.scoring.scored import Scored, score_share


class _Apart(DDPStrategy):
    """Lightning's launcher, ranks and devices without a process group: nothing is sent from rank to rank.

    A group would have to be formed by all ranks at once, and end with any of them.
    """

    def _setup_distributed(self) -> None:
        self._set_world_ranks()


def score_apart(data: ScoredTaskDataModule, devices: int = 1, num_nodes: int = 1) -> Scored | None:
    """Scores with ``devices`` processes on each of ``num_nodes`` machines, all of which see the folder of stores.

    Args:
        data: What is asked of which model.
        devices: Processes on this machine, each with a GPU and a model of its own where there are GPUs.
        num_nodes: Machines; the same command is given on each, with NODE_RANK set to 0, 1, ….

    Returns:
        The whole in the process of rank 0; in the others ``None``, unless all was there already.

    Raises:
        CascadeError: If the settings exclude each other.
    """
    if devices < 1 or num_nodes < 1:
        raise CascadeError(f"Expected `devices` and `num_nodes` of at least 1, but got {devices}, {num_nodes}")
    if data.store is not None:
        raise CascadeError(f"Expected no `store`, which is one that is finished, but got {data.store}")
    data.settings.check_processes(devices)
    accelerator = "cuda" if torch.cuda.is_available() else "cpu"
    fabric = Fabric(accelerator=accelerator, strategy=_Apart(), devices=devices, num_nodes=num_nodes)
    with contextlib.redirect_stdout(sys.stderr):
        fabric.launch()
    return score_share(
        data.model,
        data.task,
        data.stores,
        batch_size=data.scoring_batch_size,
        rank=fabric.global_rank,
        ranks=fabric.world_size,
    )
