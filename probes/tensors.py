"""Files of a checkpoint, held against what they have to be before anything of their size is made.

A file may be made to harm whoever loads it: a few bytes of configuration can name sizes of many gigabytes. The
weights cannot lie about theirs, so that nothing here takes more memory than they do.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from probes.calibration import Calibrator
from probes.errors import ProbeError


def read_json(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
        ValueError: If it is no JSON, no text, or nested too deeply.
        OSError: If it cannot be read.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def check_tensors(member: nn.Module, members: int, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Refuses tensors that are not those of so many members of a probe; ``path`` names them in errors.

    Args:
        member: One of them, on torch's meta device.
        members: How many there have to be.
        tensors: Of the first by their own names, of the next after ``others.0.``, ``others.1.``, ….
        path: Where they are from.

    Raises:
        ProbeError: If one is missing, unexpected, of another shape, of mixed precision, or not finite, or a state
            would be divided by zero or less.
    """
    dtypes = {tensor.dtype for tensor in tensors.values()}
    if tensors and dtypes not in ({torch.float32}, {torch.float64}):
        raise ProbeError(
            f"Expected all tensors in {path} to be float32, or all float64, but got {sorted(map(str, dtypes))}"
        )
    names, seen = list(member.state_dict()), set()
    for place in range(members):  # the first tensor that is not there ends this, however many should follow
        prefix = f"others.{place - 1}." if place else ""
        if missing := [name for name in names if prefix + name not in tensors]:
            raise ProbeError(f"Expected tensor {prefix + missing[0]!r} in {path}, but it is missing")
        own = {name: tensors[prefix + name] for name in names}
        shape_calibrators(member, own, path)
        for name, expected in member.state_dict().items():
            _check(prefix + name, expected.shape, own[name], path)
            seen.add(prefix + name)
    if unexpected := sorted(set(tensors) - seen):
        raise ProbeError(f"Expected no tensor {unexpected[0]!r} in {path}, but it is there")


def _check(name: str, shape: torch.Size, tensor: Tensor, path: Path) -> None:
    if shape != tensor.shape:
        raise ProbeError(f"Expected tensor {name!r} in {path} to be {tuple(shape)}, but got {tuple(tensor.shape)}")
    if not bool(torch.isfinite(tensor).all()):
        raise ProbeError(f"Expected tensor {name!r} in {path} to be finite, but it holds NaN or infinity")
    if name.rpartition(".")[2] == "scale" and not bool((tensor > 0).all()):
        raise ProbeError(
            f"Expected tensor {name!r} in {path} to be positive, but it goes down to {float(tensor.min()):g}"
        )


def shape_calibrators(probe: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Gives a probe's calibrators the size that theirs have among ``tensors``; see `Calibrator.shape_like`.

    Raises:
        ProbeError: If they cannot be such a calibrator's.
    """
    for name, module in probe.named_modules():
        if isinstance(module, Calibrator):
            try:
                module.shape_like({own: tensors[f"{name}.{own}"] for own in module.state_dict()})
            except ProbeError as error:
                raise ProbeError(f"Probe checkpoint {path} is corrupt: {error}") from error
