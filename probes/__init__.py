"""Capture hidden states of any Hugging Face decoder, keep them on disk, and turn them into P(IK).

Importing this package needs torch, numpy and safetensors only. Training lives in `probes.data` and
`probes.training`, which need lightning and torchmetrics.
"""

from probes.calibration import Calibrator, PlattCalibrator, TemperatureCalibrator, build_calibrator
from probes.capture import HiddenStateCapture, decoder_blocks, last_token_positions
from probes.errors import ProbeError
from probes.probe import HeadConfig, Probe, ProbeConfig
from probes.split import Split, stratified_split
from probes.store import HiddenStateStore, StoreKey, StoreWriter

__all__ = [
    "Calibrator",
    "HeadConfig",
    "HiddenStateCapture",
    "HiddenStateStore",
    "PlattCalibrator",
    "Probe",
    "ProbeConfig",
    "ProbeError",
    "Split",
    "StoreKey",
    "StoreWriter",
    "TemperatureCalibrator",
    "build_calibrator",
    "decoder_blocks",
    "last_token_positions",
    "stratified_split",
]
