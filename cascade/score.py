"""Asks a model a task: `python -m cascade.score`, with the flags (``--data.*``) and YAML files of `cascade.train`.

A model that shows hidden states fills a store, which `cascade.train` and `cascade.simulate` find. They score what is
missing by themselves, with one process; ``--devices`` is for many questions and more than one GPU or machine. The
processes, one a GPU, are started here, or by torchrun or srun. They share nothing but the folder: one that was killed
is started again and goes on, alone or with the others.

`--out FILE.parquet` writes the score table, of any engine (`--data.engine.endpoint gpt-4o`); `--confidences all`, or
some of them, asks these beside P(T), and prints how well each tells right from wrong. Then there is no store; what was
asked is kept in `OUT.parts`, and the same command goes on where it was stopped. `cascade.simulate` uses any confidence
in P(T)'s place: `--columns.p_t=confidence_margin`.
"""

from __future__ import annotations

from pathlib import Path

from jsonargparse import ArgumentParser

from cascade.commands import PLAN_HELP, show_kept_help, verb_parser
from cascade.errors import CascadeError, one_line_errors
from cascade.yaml_files import found_flags
from probes.errors import ProbeError
from probes.files import make_writable


def build_parser() -> ArgumentParser:
    """The command line: what `cascade.train` has under ``--data``, how many processes, and what is written."""
    from cascade.probing.data import ScoredTaskDataModule
    from cascade.runtime.tables import write_scores
    from cascade.scoring.confidence.asking import Asking

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
    show_kept_help("score", args)
    from cascade.planning.costs import plan_training
    from cascade.planning.table import print_plan
    from cascade.probing.apart import score_apart
    from cascade.report.base_models import of_table, print_base
    from cascade.report.confidence_table import print_confidences
    from cascade.runtime.tables import write_scores
    from cascade.scoring.confidence.asking import Asking

    parser = build_parser()
    values = parser.instantiate(parser.parse_args(found_flags(args)))
    if values.plan:
        print_plan(plan_training(values.data))
        return
    own = {name: values[name] for name in ("confidences", "probe", "limit")}
    if values.out is None:
        if given := [name for name, value in own.items() if value is not None]:
            raise CascadeError(f"Expected `out`, a file for the score table, where there is `{given[0]}`, but got none")
        scored = score_apart(values.data, values.devices, values.num_nodes)
        if scored is not None:
            print_base([of_table(scored.table())])
            print(f"{scored.store.rows:,} rows in {scored.store.folder}")
        return
    make_writable(values.out.parent)  # before anything is asked
    asking = Asking((), *(values[name] for name in ("samples", "temperature", "seed", "unreadable", "max_new_tokens")))
    table = write_scores(values.data, values.out, asking, **own, devices=values.devices, num_nodes=values.num_nodes)
    if table is not None:
        print_base([of_table(table)])
        print_confidences(table)
        print(f"Wrote {values.out}")


if __name__ == "__main__":
    main()
