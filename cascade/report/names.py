"""Short names for tables and plots: models' names without the part that all of a chain share."""

from __future__ import annotations

from collections.abc import Sequence


def short_names(models: Sequence[str]) -> dict[str, str]:
    """Each model's name without the beginning that all share; that ends at its last ``-``, ``/`` or ``_``.

    Example:
        >>> short_names(["mini-llama-small", "mini-llama-large"])
        {'mini-llama-small': 'small', 'mini-llama-large': 'large'}
    """
    first, last = min(models), max(models)
    same = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), 0)
    cut = max(first[:same].rfind(mark) for mark in "-/_") + 1
    return {name: name[cut:] for name in models}


def chain_label(models: Sequence[str], short: dict[str, str]) -> str:
    """``small → large``."""
    return " → ".join(short[name] for name in models)
