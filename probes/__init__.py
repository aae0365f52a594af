"""Capture hidden states of any Hugging Face decoder, keep them on disk, and turn them into P(IK).

Names are loaded when they are first used; using them needs torch, numpy, safetensors and huggingface_hub, and
stores need xxhash. Training lives in `probes.data` and `probes.training`, which need lightning.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from probes.attachment import AttachedProbe, attach
    from probes.calibration import (
        BetaCalibrator,
        Calibrator,
        IsotonicCalibrator,
        PlattCalibrator,
        TemperatureCalibrator,
        build_calibrator,
    )
    from probes.capture import HiddenStateCapture, decoder_blocks, last_token_positions
    from probes.config import ProbeConfig
    from probes.early_exit import EarlyExit
    from probes.errors import ProbeError
    from probes.export import save_onnx
    from probes.foreign import probe_from_file, probe_from_sklearn, probe_from_tensors
    from probes.heads import HeadConfig
    from probes.probe import Probe
    from probes.split import Split, stratified_split
    from probes.store import HiddenStateStore, StoreKey, StoreWriter

__version__ = "0.1.0"

_ROOMS = {
    "attachment": ("AttachedProbe", "attach"),
    "calibration": (
        "BetaCalibrator",
        "Calibrator",
        "IsotonicCalibrator",
        "PlattCalibrator",
        "TemperatureCalibrator",
        "build_calibrator",
    ),
    "capture": ("HiddenStateCapture", "decoder_blocks", "last_token_positions"),
    "early_exit": ("EarlyExit",),
    "errors": ("ProbeError",),
    "export": ("save_onnx",),
    "foreign": ("probe_from_file", "probe_from_sklearn", "probe_from_tensors"),
    "heads": ("HeadConfig",),
    "config": ("ProbeConfig",),
    "probe": ("Probe",),
    "split": ("Split", "stratified_split"),
    "store": ("HiddenStateStore", "StoreKey", "StoreWriter"),
}
_ROOM_OF = {name: room for room, names in _ROOMS.items() for name in names}

__all__ = [
    "AttachedProbe",
    "BetaCalibrator",
    "Calibrator",
    "EarlyExit",
    "HeadConfig",
    "HiddenStateCapture",
    "HiddenStateStore",
    "IsotonicCalibrator",
    "PlattCalibrator",
    "Probe",
    "ProbeConfig",
    "ProbeError",
    "Split",
    "StoreKey",
    "StoreWriter",
    "TemperatureCalibrator",
    "attach",
    "build_calibrator",
    "decoder_blocks",
    "last_token_positions",
    "probe_from_file",
    "probe_from_sklearn",
    "probe_from_tensors",
    "save_onnx",
    "stratified_split",
]


def __getattr__(name: str) -> object:
    if name in _ROOM_OF:
        return getattr(importlib.import_module(f"probes.{_ROOM_OF[name]}"), name)
    raise AttributeError(f"module 'probes' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
