"""Writes the help that `cascade.train --help` shows without loading Lightning: `python -m experiments.help`.

Eighty columns wide, as the parser itself says it.
"""

from __future__ import annotations

import os

from cascade.train import HELP, build_parser, versions
from probes.files import write_atomically


def parsers_help() -> str:
    """What the parser says, after a line with the versions that it is of."""
    os.environ["COLUMNS"] = "80"
    parser = build_parser()
    parser.prog = "python -m cascade.train"
    return f"{versions()}\n{parser.format_help()}"


def main() -> None:
    """The entry point."""
    write_atomically(HELP, parsers_help().encode())
    print(f"Wrote {HELP.name}")


if __name__ == "__main__":
    main()
