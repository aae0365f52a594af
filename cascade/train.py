"""Trains a P(IK) probe: `python -m cascade.train`, with `--data.*`, `--model.*` and `--trainer.*` flags.

Scores the task first where that is missing, fits, calibrates on validation, tests, and writes a run folder.
"""

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser

from cascade.commands import prog
from cascade.errors import one_line_errors
from probes.errors import ProbeError

if TYPE_CHECKING:
    from cascade.probing.fit import Trained

# What `--help` says: Lightning, which knows, takes seconds to load. A test holds it against the parser's own.
HELP = Path(__file__).with_name("train_help.txt")
_MADE_WITH = ("lightning", "jsonargparse")
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


def kept_help() -> str | None:
    """The help as it was kept; ``None`` where it is of other versions than those installed."""
    made_with, _, text = HELP.read_text().partition("\n")
    return text if made_with == versions() else None


def versions() -> str:
    """The packages that the flags come from."""
    return ", ".join(f"{name} {version(name)}" for name in _MADE_WITH)


@one_line_errors(ProbeError)
def main(args: list[str] | None = None) -> None:
    """The entry point."""
    if {"-h", "--help"} & set(sys.argv[1:] if args is None else args) and (text := kept_help()):
        print(text.replace("python -m cascade.train", prog("train")), end="")
        raise SystemExit(0)
    from cascade.planning.costs import plan_training
    from cascade.planning.table import print_plan
    from cascade.probing.cli import command_line, fit_from
    from cascade.report.probe_tables import layers_table, metrics_table
    from cascade.report.tables import wide_console
    from cascade.report.tracking import sweep_folder

    cli = command_line(args, prog("train"), __doc__)
    if cli.config.plan:
        print_plan(plan_training(cli.datamodule))
        return
    trained = fit_from(cli, sweep_folder(cli.config.out))
    if len(trained.layers) > 1:
        wide_console().print(layers_table(trained.probe.config, trained.layers).to_rich())
    wide_console().print(metrics_table(trained.probe.config, trained.metrics).to_rich())
    print(f"Run folder: {trained.run.folder}")


if __name__ == "__main__":
    main()
