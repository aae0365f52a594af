"""Errors a user can mend, and how entry points show them: one line, a non-zero exit code, no traceback."""

from __future__ import annotations

import functools
import json
import sys
from argparse import ArgumentError
from collections.abc import Callable
from typing import ParamSpec, TypeVar

# The extra that brings each package which a plain install leaves out. A test holds it against pyproject.toml.
EXTRAS = {
    "lightning": "train",
    "omegaconf": "train",
    "fastapi": "serve",
    "prometheus_client": "serve",
    "pydantic": "serve",
    "starlette": "serve",
    "uvicorn": "serve",
    "openai": "endpoints",
    "httpcore2": "endpoints",
    "httpx2": "endpoints",
    "tenacity": "endpoints",
    "datasets": "eval",
    "wandb": "wandb",
    "bitsandbytes": "quantization",
    "gguf": "gguf",
    "inspect_ai": "inspect",
    "vllm": "vllm",
}
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


def missing_extra(error: ImportError) -> str | None:
    """One line that names the package which is not installed, and how to install it; ``None`` if it is of no extra."""
    package = (error.name or "").partition(".")[0]
    if package not in EXTRAS:
        return None
    return (
        f"Expected the package {package} to be installed, but it is not: "
        f"pip install 'confidence-cascade[{EXTRAS[package]}]'"
    )


def one_line_errors(*kinds: type[Exception]) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorates a program's entry point: errors of these kinds and file errors end it with one line and code 2.

    So does a package of an extra that is not installed. Ctrl-C ends it with one line and code 130, as shells have it.
    Anything else is a bug of ours and keeps its traceback.
    """
    expected: tuple[type[Exception], ...] = (CascadeError, ArgumentError, *kinds)

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
            try:
                return function(*args, **kwargs)
            except expected as error:
                message = " ".join(str(error).split())
            except ModuleNotFoundError as error:
                if (missing := missing_extra(error)) is None:
                    raise
                message = missing
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
