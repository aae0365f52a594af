"""What is wrong with a command line, in words: unknown flags with the one that was meant, values with what they may be.

jsonargparse reads the flags. Its messages name Python types; these here name values.
"""

from __future__ import annotations

import difflib
import re
from argparse import ArgumentError
from collections.abc import Sequence

from jsonargparse import ArgumentParser

_UNKNOWN = re.compile(r"unrecognized arguments?: (?P<flags>.+)", re.IGNORECASE | re.DOTALL)
_NESTED = re.compile(r"Parser key \"(?P<key>[^\"]+)\":\s+(?P<rest>.+)", re.DOTALL)
_SUBTYPES = re.compile(r"Subtypes: \[(?P<kinds>.*?)\]\s*\n\s*Errors:", re.DOTALL)
_VALUE = re.compile(r"Given value: (?P<value>.*)$", re.DOTALL)
_SINGLE = re.compile(r"Expected an? (?P<kind>.+?)\. Got value: (?P<value>.*)$", re.DOTALL)
_WORDS = {
    "int": "a whole number",
    "float": "a number",
    "str": "a text",
    "bool": "true or false",
    "NoneType": "null",
    "list[int]": "whole numbers such as [1,2]",
    "list[float]": "numbers such as [0.1,0.2]",
    "list": "a list",
    "dict": "settings by their names",
}


def in_words(error: ArgumentError, parser: ArgumentParser) -> ArgumentError:
    """The same error as a person would say it; itself where nothing better is known.

    Args:
        error: As jsonargparse raises it.
        parser: Whose flags were read.
    """
    text = str(error)
    if unknown := _UNKNOWN.search(text):
        return ArgumentError(None, _unknown(unknown["flags"], parser))
    if nested := _NESTED.search(text):
        said = _expected(nested["key"], nested["rest"])
        return error if said is None else ArgumentError(None, said)
    return error


def _unknown(given: str, parser: ArgumentParser) -> str:
    known = [option for action in parser._actions for option in action.option_strings if option.startswith("--")]
    first = given.split()[0]
    flag = first.split("=", 1)[0]
    near = difflib.get_close_matches(flag, known, 1, 0.75)
    # Without the group before the dot: --layer for --data.layer.
    same = [option for option in known if option.rpartition(".")[2] == flag.lstrip("-")]
    meant = near or same[:1] or [option for option in known if flag != "--" and option.startswith(flag)][:1]
    hint = f"; did you mean {meant[0]}?" if meant else "; --help lists them"
    return f"Expected flags that there are, but got {first!r}{hint}"


def _expected(key: str, rest: str) -> str | None:
    if (union := _SUBTYPES.search(rest)) and (value := _VALUE.search(rest)):
        kinds = [_word(kind) for kind in _split(union["kinds"])]
        given = value["value"]
    elif single := _SINGLE.search(rest):
        kinds, given = [_word(single["kind"])], single["value"]
    else:
        return None
    if None in kinds:
        return None
    named = [word for word in kinds if word is not None]
    words = named[0] if len(named) == 1 else f"{', '.join(named[:-1])} or {named[-1]}"
    return f"Expected `{key}` to be {words}, but got {given.strip()!r}"


def _split(kinds: str) -> Sequence[str]:
    """Types of a union, parted at the commas that are in no bracket."""
    found, depth = [""], 0
    for sign in kinds:
        depth += (sign == "[") - (sign == "]")
        if sign == "," and not depth:
            found.append("")
        else:
            found[-1] += sign
    return [kind.strip() for kind in found]


def _word(kind: str) -> str | None:
    """A type as values; ``None`` for one that has no word."""
    kind = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", kind.strip())
    if literal := re.fullmatch(r"(?:typing\.)?Literal\[(.+)\]", kind, re.DOTALL):
        values = [value.strip().strip("'\"") for value in literal[1].split(",")]
        return " or ".join([", ".join(values[:-1]), values[-1]] if len(values) > 1 else values)
    if kind in ("Path", "PosixPath"):
        return "a path"
    return _WORDS.get(kind)
