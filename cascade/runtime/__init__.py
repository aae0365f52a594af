"""The cascade live: the same policy object as the simulator's, on live models."""

from cascade.runtime.build import build_cascade
from cascade.runtime.config import CascadeConfig, Member
from cascade.runtime.engine import Answer, Cascade, Step

__all__ = ["Answer", "Cascade", "CascadeConfig", "Member", "Step", "build_cascade"]
