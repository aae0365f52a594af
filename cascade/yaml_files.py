"""Where a YAML file lies: in the working folder, or among the `configs/…` that come with the package.

What such a file holds is for those who read it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

# An installed package has them in itself, a checkout beside it.
_SHIPPED_IN = (Path(__file__).parent, Path(__file__).parents[1])


def find_yaml(name: Path | str) -> Path:
    """The file of that name. A `configs/…` that the working folder has not is the one that comes with the package.

    Args:
        name: As it was given. A name that is found nowhere comes back as it is.
    """
    path = Path(name)
    if path.parts[:1] != ("configs",) or path.exists():
        return path
    return next((found for folder in _SHIPPED_IN if (found := folder / path).is_file()), path)


def found_flags(args: Sequence[str] | None) -> list[str]:
    """A command line's words, in which every `configs/…` is a file that is there, as `find_yaml` finds it.

    Args:
        args: ``None`` takes the program's own.
    """
    return [_found(word) for word in (sys.argv[1:] if args is None else args)]


def _found(word: str) -> str:
    flag, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
    return f"{flag}{equals}{find_yaml(value)}" if value.startswith("configs/") else word
