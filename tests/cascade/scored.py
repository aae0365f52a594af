"""A model's scores from plain columns, for tests: each goes to the part that has a field of its name."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np

from cascade.scores.arrays import ModelScores
from cascade.scores.columns import ModelInfo, Signals, Usage

_PARTS = {"info": ModelInfo, "signals": Signals, "usage": Usage}


def scored(name: str, correct, p_t=None, p_ik=None, **columns) -> ModelScores:
    """One model's scores."""
    n = len(correct)
    if columns.get("p_ik_reader") is not None:
        columns.setdefault("reader", "a reader")
    bare = ModelScores(ModelInfo(name), Signals(n), Usage(n), np.asarray(correct))
    return changed(bare, p_t=p_t, p_ik=p_ik, **columns)


def changed(model: ModelScores, **columns) -> ModelScores:
    """The same scores with some columns replaced."""
    for part, kind in _PARTS.items():
        own = {f.name: columns.pop(f.name) for f in fields(kind) if f.name in columns}
        model = replace(model, **{part: replace(getattr(model, part), **own)})
    return replace(model, **columns)
