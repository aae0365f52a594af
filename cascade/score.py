"""Asks a model a task with several processes at once: `python -m cascade.score --devices 4`.

`cascade.train` and `cascade.simulate` score what is missing by themselves, with one process; this is for many
questions and more than one GPU or machine, with the flags (``--data.*``) and YAML files of `cascade.train`, which then
finds everything there. Lightning starts the processes, one a GPU, or finds itself started by torchrun or SLURM. They
share nothing but the folder: one that was killed is started again and goes on, alone or with the others.
"""

from __future__ import annotations

import contextlib
import sys

import torch
from jsonargparse import ArgumentParser
from lightning.fabric import Fabric
from lightning.fabric.strategies import DDPStrategy
from lightning.fabric.utilities.rank_zero import rank_zero_only

from cascade.commands import PLAN_HELP, verb_parser
from cascade.errors import CascadeError, one_line_errors
from cascade.planning.costs import plan_training
from cascade.planning.table import print_plan
from cascade.probing.data import ScoredTaskDataModule
from cascade.scoring.scored import Scored, score_share
from probes.errors import ProbeError


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
    if devices > 1 and data.model.device_map is not None:
        raise CascadeError(
            f"Expected one device for `device_map` {data.model.device_map!r}, which spreads one model over all GPUs, "
            f"but got {devices}"
        )
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


def build_parser() -> ArgumentParser:
    """The command line: what `cascade.train` has under ``--data``, and how many processes."""
    parser = verb_parser("score", __doc__)
    parser.add_argument("--config", action="config", help="YAML file of these flags")
    parser.add_class_arguments(ScoredTaskDataModule, "data")
    parser.add_function_arguments(score_apart, skip={"data"})
    parser.add_argument("--plan", action="store_true", help=PLAN_HELP)
    return parser


@one_line_errors(ProbeError)
def main(args: list[str] | None = None) -> None:
    """The entry point."""
    parser = build_parser()
    values = parser.instantiate(parser.parse_args(args))
    if values.plan:
        print_plan(plan_training(values.data))
        return
    scored = score_apart(values.data, values.devices, values.num_nodes)
    if scored is not None:
        rank_zero_only(print)(f"{scored.store.rows:,} rows in {scored.store.folder}")


if __name__ == "__main__":
    main()
