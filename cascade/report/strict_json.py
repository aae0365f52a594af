"""JSON that every reader takes: what is not a number is null. Needs the standard library alone."""

from __future__ import annotations

import json
import math


def strict_json(value: object) -> str:
    """``value`` as JSON, with null in the place of NaN and infinity, which are no JSON."""
    return json.dumps(_finite(value), indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def _finite(value: object) -> object:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
