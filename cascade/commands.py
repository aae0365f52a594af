"""What the verbs' command lines have in common."""

from __future__ import annotations

import sys
from argparse import ArgumentError
from importlib.metadata import version
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser

from cascade.flags import in_words

# What `--help` says of verbs whose flags come from Lightning, which takes seconds to load. A test holds each against
# its parser, and `python -m experiments.help` writes them.
HELP = Path(__file__).parent / "help"
PLAN_HELP = "say what it would cost and stop: no weights are loaded or fetched, nothing is written"


def prog(verb: str) -> str:
    """What help calls a verb: as it was started."""
    program = Path(sys.argv[0])
    above = program.name == "cascade" or program.match("cascade/__main__.py")
    return f"cascade {verb}" if above else f"python -m cascade.{verb}"


class VerbParser(ArgumentParser):
    """Reads flags by their whole names, and says in words what is wrong with one."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **{"exit_on_error": False, "allow_abbrev": False} | settings)

    def parse_args(self, *args: Any, **settings: Any) -> Any:
        """As jsonargparse's."""
        try:
            return super().parse_args(*args, **settings)
        except ArgumentError as error:
            raise in_words(error, self) from error


def verb_parser(verb: str, description: str | None) -> ArgumentParser:
    """An empty command line of a verb, to which its flags are added; what is wrong with flags is raised.

    Args:
        verb: Which.
        description: What the help says above the flags.
    """
    name = prog(verb)
    return VerbParser(prog=name, usage=f"{name} [flags]", description=description)


def help_versions() -> str:
    """The packages that kept helps are of."""
    return ", ".join(f"{name} {version(name)}" for name in ("lightning", "jsonargparse"))


def kept_help(verb: str) -> str | None:
    """A verb's help as it was kept; ``None`` where it is of other versions than those installed."""
    made_with, _, text = (HELP / f"{verb}.txt").read_text().partition("\n")
    return text if made_with == help_versions() else None


def show_kept_help(verb: str, args: list[str] | None) -> None:
    """Ends the program with a verb's kept help, where that is what is asked for.

    Args:
        verb: Which.
        args: Flags; ``None`` takes the program's own.
    """
    asked = {"-h", "--help"} & set(sys.argv[1:] if args is None else args)
    if asked and (text := kept_help(verb)) is not None:
        print(text.replace(f"python -m cascade.{verb}", prog(verb)), end="")
        raise SystemExit(0)
