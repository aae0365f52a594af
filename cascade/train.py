"""Trains a P(IK) probe: `python -m cascade.train`, with `--data.*`, `--model.*` and `--trainer.*` flags.

Scores the task first where that is missing, fits, calibrates on validation, tests, and writes a run folder.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser

from cascade.commands import prog, show_kept_help
from cascade.errors import one_line_errors
from probes.errors import ProbeError

if TYPE_CHECKING:
    from cascade.probing.fit import Trained

_ORDER = ("positional", "options", "A", "Fits", "Customize")  # how the titles of groups of flags begin


def train(args: list[str] | None = None) -> Trained:
    """What `cascade.train` makes of a list of flags; ``None`` takes the program's own."""
    from cascade.probing.cli import command_line, fit_from

    cli = command_line(args, prog("train"), __doc__)
    return fit_from(cli, cli.config.out)


def build_parser() -> ArgumentParser:
    """The command line: flags of data, heads and trainer."""
    from cascade.probing.cli import command_line

    parser: ArgumentParser = command_line([], prog("train"), __doc__).parser
    # Lightning's own hundred flags stand last, after ours.
    groups = sorted(parser._action_groups, key=lambda group: _ORDER.index(str(group.title).split(maxsplit=1)[0]))
    parser._action_groups = groups
    return parser


@one_line_errors(ProbeError)
def main(args: list[str] | None = None) -> None:
    """The entry point."""
    show_kept_help("train", args)
    from cascade.planning.costs import plan_training
    from cascade.planning.table import print_plan
    from cascade.probing.cli import command_line, fit_from
    from cascade.report.base_models import of_table, print_base
    from cascade.report.probe_tables import layers_table, metrics_table
    from cascade.report.tables import print_table, wide_console
    from cascade.report.tracking import sweep_folder

    cli = command_line(args, prog("train"), __doc__)
    if cli.config.plan:
        print_plan(plan_training(cli.datamodule))
        return
    trained = fit_from(cli, sweep_folder(cli.config.out))
    console = wide_console()
    if cli.datamodule.scored is not None:
        print_base([of_table(cli.datamodule.scored.table())])
    if len(trained.layers) > 1:
        print_table(layers_table(trained.probe.config, trained.layers), console)
    print_table(metrics_table(trained.probe.config, trained.metrics), console)
    print(f"Run folder: {trained.run.folder}")


if __name__ == "__main__":
    main()
