"""What the verbs' command lines have in common."""

from __future__ import annotations

import sys
from pathlib import Path

from jsonargparse import ArgumentParser

PLAN_HELP = "say what it would cost and stop: no weights are loaded or fetched, nothing is written"


def prog(verb: str) -> str:
    """What help calls a verb: as it was started."""
    program = Path(sys.argv[0])
    above = program.name == "cascade" or program.match("cascade/__main__.py")
    return f"cascade {verb}" if above else f"python -m cascade.{verb}"


def verb_parser(verb: str, description: str | None) -> ArgumentParser:
    """An empty command line of a verb, to which its flags are added; what is wrong with flags is raised.

    Args:
        verb: Which.
        description: What the help says above the flags.
    """
    name = prog(verb)
    return ArgumentParser(prog=name, usage=f"{name} [flags]", description=description, exit_on_error=False)
