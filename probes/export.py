"""Probes for runtimes without torch."""

from __future__ import annotations

from pathlib import Path

import torch

from probes.errors import ProbeError
from probes.files import write_atomically
from probes.probe import Probe


def save_onnx(probe: Probe, path: str | Path) -> Path:
    """Writes a probe as an ONNX model: ``states`` ``[rows, hidden]`` in, ``p_ik`` ``[rows]`` out, any number of rows.

    Needs the packages onnx and onnxscript. Standardisation and calibration are in the model.

    Raises:
        ProbeError: If those packages are not installed.
    """
    example = torch.zeros(2, probe.config.hidden_size, dtype=probe.mean.dtype, device=probe.mean.device)
    try:
        program = torch.onnx.export(
            probe.eval(),
            (example,),
            input_names=["states"],
            output_names=["p_ik"],
            dynamic_shapes={"states": {0: torch.export.Dim("rows")}},
            dynamo=True,
            verbose=False,
        )
    except ImportError as error:
        raise ProbeError(f"Expected the packages onnx and onnxscript for this export, but {error}") from error
    assert program is not None  # without a file name the program is given back
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, program.model_proto.SerializeToString())
    return path
