"""Says what a verb would cost, before anything is loaded: `python -m cascade.plan VERB ...`.

The same as the verb with `--plan`: train, score, simulate and run, with their flags and YAML files.
"""

from __future__ import annotations

import argparse
import importlib

from cascade.commands import prog
from cascade.errors import one_line_errors

PLANNED = ("train", "score", "simulate", "run")


def build_parser() -> argparse.ArgumentParser:
    """The command line: a verb, and what it takes."""
    parser = argparse.ArgumentParser(
        prog=prog("plan"),
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("verb", choices=PLANNED, metavar="VERB", help=", ".join(PLANNED))
    parser.add_argument("flags", nargs=argparse.REMAINDER, metavar="...", help="flags of the verb")
    return parser


@one_line_errors()
def main(args: list[str] | None = None) -> None:
    """The entry point."""
    values = build_parser().parse_args(args)
    importlib.import_module(f"cascade.{values.verb}").main([*values.flags, "--plan"])


if __name__ == "__main__":
    main()
