"""Errors a user can mend, and how entry points show them: one line, a non-zero exit code, no traceback."""

from __future__ import annotations

import functools
import json
import sys
from argparse import ArgumentError
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


class CascadeError(ValueError):
    """Something given to `cascade` is not what it has to be. The message is one line and says what was expected."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, once what was done is kept. The message is one line and says how to go on."""


def json_fault(error: ValueError) -> str:
    """What is wrong with a text that was meant as JSON, for an error that has said where the text is.

    A decoder counts lines from the text's first one, which is line 7 of a file, say.
    """
    return f"column {error.colno}: {error.msg}" if isinstance(error, json.JSONDecodeError) else str(error)


def one_line_errors(*kinds: type[Exception]) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorates a program's entry point: errors of these kinds and file errors end it with one line and code 2.

    Ctrl-C ends it with one line and code 130, as shells have it. Anything else is a bug of ours and keeps its
    traceback.
    """
    expected: tuple[type[Exception], ...] = (CascadeError, ArgumentError, *kinds)

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
            try:
                return function(*args, **kwargs)
            except expected as error:
                message = " ".join(str(error).split())
            except OSError as error:
                message = f"{error.strerror}: {error.filename}" if error.filename else " ".join(str(error).split())
            except UnicodeDecodeError as error:
                message = f"Expected a file of text (UTF-8), but one holds bytes that are none: {error}"
            except KeyboardInterrupt as stopped:
                print(str(stopped) or "Stopped.", file=sys.stderr)
                raise SystemExit(130) from None
            print(f"error: {message}", file=sys.stderr)
            raise SystemExit(2)

        return wrapper

    return decorate
