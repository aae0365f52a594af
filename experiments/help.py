"""Writes the helps that `cascade.train --help` and `cascade.score --help` show without loading Lightning.

`python -m experiments.help`; eighty columns wide, as the parsers themselves say it.
"""

from __future__ import annotations

import os
from unittest.mock import patch

from cascade import score, train
from cascade.commands import HELP, help_versions
from probes.files import write_atomically


def parsers_help() -> dict[str, str]:
    """What the parsers say, by verb, after a line with the versions that it is of."""
    with patch.dict(os.environ, COLUMNS="80"):
        return _helps()


def _helps() -> dict[str, str]:
    parsers = {"score": score.build_parser(), "train": train.build_parser()}
    for verb, parser in parsers.items():
        parser.prog = f"python -m cascade.{verb}"
        parser.usage = f"{parser.prog} [flags]"
    return {verb: f"{help_versions()}\n{parser.format_help()}" for verb, parser in parsers.items()}


def main() -> None:
    """The entry point."""
    for verb, text in parsers_help().items():
        write_atomically(HELP / f"{verb}.txt", text.encode())
        print(f"Wrote {verb}.txt")


if __name__ == "__main__":
    main()
