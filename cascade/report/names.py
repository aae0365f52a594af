"""Short names for tables and plots: models' names without the parts that all of a chain share."""

from __future__ import annotations

from collections.abc import Sequence

_MARKS = "-/_"


def short_names(models: Sequence[str]) -> dict[str, str]:
    """Each model's name without the beginning and the end that all share, which are cut at a ``-``, ``/`` or ``_``.

    Example:
        >>> short_names(["mini-llama-small", "mini-llama-large"])
        {'mini-llama-small': 'small', 'mini-llama-large': 'large'}
        >>> short_names(["Qwen/Qwen3-4B-Instruct", "Qwen/Qwen3-8B-Instruct"])
        {'Qwen/Qwen3-4B-Instruct': '4B', 'Qwen/Qwen3-8B-Instruct': '8B'}
    """
    begin = _shared(models)
    rest = {name: name[begin:] for name in models}
    end = _shared([name[::-1] for name in rest.values()])
    cut = {name: short[: len(short) - end] for name, short in rest.items()}
    return cut if len(set(models)) > 1 and all(cut.values()) else rest


def _shared(names: Sequence[str]) -> int:
    """How many letters at the beginning, a mark the last of them, all names have in common."""
    first, last = min(names), max(names)
    same = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), 0)
    return max(first[:same].rfind(mark) for mark in _MARKS) + 1


def chain_label(models: Sequence[str], short: dict[str, str]) -> str:
    """``small → large``."""
    return " → ".join(short[name] for name in models)
