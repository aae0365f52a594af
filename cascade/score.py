"""Asks a model a task: `python -m cascade.score`, with the flags (``--data.*``) and YAML files of `cascade.train`.

A model that shows hidden states fills a store, which `cascade.train` and `cascade.simulate` find. They score what is
missing by themselves, with one process; ``--devices`` is for many questions and more than one GPU or machine. Lightning
starts the processes, one a GPU, or finds itself started by torchrun or SLURM. They share nothing but the folder: one
that was killed is started again and goes on, alone or with the others.

`--out FILE.parquet` writes the score table, of any engine (`--data.engine.endpoint gpt-4o`); `--confidences all`, or
some of them, asks these beside P(T), and prints how well each tells right from wrong. Then there is no store; what was
asked is kept in `OUT.parts`, and the same command goes on where it was stopped. `cascade.simulate` uses any confidence
in P(T)'s place: `--columns.p_t=confidence_margin`.
"""

from __future__ import annotations

import contextlib
import sys
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import torch
from jsonargparse import ArgumentParser
from lightning.fabric import Fabric
from lightning.fabric.strategies import DDPStrategy
from lightning.fabric.utilities.rank_zero import rank_zero_only

from cascade.commands import PLAN_HELP, verb_parser
from cascade.engines.states import showing_states
from cascade.errors import CascadeError, one_line_errors
from cascade.planning.costs import plan_training
from cascade.planning.table import print_plan
from cascade.probing.chain import with_p_ik
from cascade.probing.data import ScoredTaskDataModule
from cascade.report.confidence_table import print_confidences
from cascade.runtime.build import build_model
from cascade.runtime.config import Member
from cascade.scores.schema import CONFIDENCES
from cascade.scoring.answers import write_answers, write_table
from cascade.scoring.confidence.asking import Asking
from cascade.scoring.scored import Scored, score_share
from probes.errors import ProbeError

ALL = "all"


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


def write_scores(
    data: ScoredTaskDataModule,
    out: Path,
    asking: Asking,
    confidences: str | None = None,
    probe: str | None = None,
    limit: int | None = None,
    devices: int = 1,
    num_nodes: int = 1,
) -> pa.Table | None:
    """Writes the score table of any engine.

    Args:
        data: What is asked of which model.
        out: Parquet file for the score table.
        asking: How confidences are asked.
        confidences: Which are asked beside P(T), separated by commas, or all that go with the questions.
        probe: Folder or Hub id of the model's P(IK) probe, or none; by default a miniature has the one shipped with it.
        limit: Only so many questions, from the first on.
        devices: See `score_apart`.
        num_nodes: See `score_apart`.

    Returns:
        The table; ``None`` in other processes than that of rank 0.
    """
    if out.suffix != ".parquet":
        raise CascadeError(f"Expected `out` to end in .parquet, but got {out}")
    engine = build_model(Member(data.settings, probe=probe))
    if confidences is None and limit is None and data.settings.shows_states:
        scored = score_apart(data, devices, num_nodes)
        return None if scored is None else write_table(with_p_ik(scored, showing_states(engine).probe), data.task, out)
    if devices > 1 or num_nodes > 1:
        raise CascadeError(
            f"Expected one process for `confidences`, `limit` and models that show no hidden states, but got {devices} "
            f"on {num_nodes} nodes"
        )
    names = [name.strip() for name in (confidences or "").split(",") if name.strip()]
    if names == [ALL]:
        lettered = all(question.choices for question in data.task.questions)
        names = [name for name in CONFIDENCES if lettered or name != "entropy"]
    return write_answers(engine, data.task, out, replace(asking, methods=tuple(names)), limit)


def build_parser() -> ArgumentParser:
    """The command line: what `cascade.train` has under ``--data``, how many processes, and what is written."""
    parser = verb_parser("score", __doc__)
    parser.add_argument("--config", action="config", help="YAML file of these flags")
    parser.add_class_arguments(ScoredTaskDataModule, "data")
    parser.add_function_arguments(write_scores, skip={"data", "out", "asking"})
    parser.add_argument("--out", type=Path | None, help="Parquet file for the score table; without it there is none")
    parser.add_class_arguments(Asking, skip={"methods"})
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
    own = {name: values[name] for name in ("confidences", "probe", "limit")}
    if values.out is None:
        if given := [name for name, value in own.items() if value is not None]:
            raise CascadeError(f"Expected `out`, a file for the score table, where there is `{given[0]}`, but got none")
        scored = score_apart(values.data, values.devices, values.num_nodes)
        if scored is not None:
            rank_zero_only(print)(f"{scored.store.rows:,} rows in {scored.store.folder}")
        return
    asking = Asking((), *(values[name] for name in ("samples", "temperature", "seed", "unreadable", "max_new_tokens")))
    table = write_scores(values.data, values.out, asking, **own, devices=values.devices, num_nodes=values.num_nodes)
    if table is not None:
        print_confidences(table)
        print(f"Wrote {values.out}")


if __name__ == "__main__":
    main()
