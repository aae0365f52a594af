"""The cascade live: the same policy object as the simulator's, on live models. Starts without torch."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cascade.runtime.build import build_cascade
    from cascade.runtime.config import CascadeConfig, Member
    from cascade.runtime.engine import Answer, Cascade, Step

__all__ = ["Answer", "Cascade", "CascadeConfig", "Member", "Step", "build_cascade"]
_FILE_OF = {"build_cascade": "build", "CascadeConfig": "config", "Member": "config"}


def __getattr__(name: str) -> object:
    if name in __all__:
        return getattr(importlib.import_module(f"cascade.runtime.{_FILE_OF.get(name, 'engine')}"), name)
    raise AttributeError(f"module 'cascade.runtime' has no attribute {name!r}")
