"""JSON that every reader takes: what is not a number is null. Needs the standard library alone."""

from __future__ import annotations

import json
import math


def strict_json(value: object) -> str:
    """``value`` as JSON, with null in the place of NaN and infinity, which are no JSON."""
    return json.dumps(finite(value), indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def finite(value: object) -> object:
    """``value`` with ``None`` in the place of NaN and infinity, tuples as lists."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
