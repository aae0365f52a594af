"""Calibrators: small modules that map a head's logit to a better one. Each is monotone and lives in the checkpoint.

Fitted on validation logits, never on the data the head was trained on.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from probes.errors import ProbeError


class Calibrator(nn.Module):
    """No calibration, and the interface of the others: `fit` once, then logits in, logits out."""

    def forward(self, logits: Tensor) -> Tensor:
        """Calibrated logits, of the shape and dtype of ``logits``."""
        return logits

    def fit(self, logits: Tensor, labels: Tensor) -> Calibrator:
        """Fits the calibrator.

        Args:
            logits: ``[rows]``, uncalibrated.
            labels: ``[rows]``, 0 or 1.

        Returns:
            The calibrator itself.

        Raises:
            ProbeError: If there is only one class: nothing can be calibrated on that.
        """
        return self


class PlattCalibrator(Calibrator):
    """``logit' = exp(a) · logit + b`` (Platt, 1999), fitted by maximum likelihood; the slope stays positive."""

    log_slope: Tensor
    bias: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("log_slope", torch.zeros(()))
        self.register_buffer("bias", torch.zeros(()))

    def forward(self, logits: Tensor) -> Tensor:
        """See `Calibrator.forward`."""
        return logits * self.log_slope.exp() + self.bias

    def fit(self, logits: Tensor, labels: Tensor) -> Calibrator:
        """See `Calibrator.fit`."""
        fitted = _maximum_likelihood(lambda p, z: z * p[0].exp() + p[1], 2, logits, labels)
        self.log_slope.copy_(fitted[0])
        self.bias.copy_(fitted[1])
        return self


class TemperatureCalibrator(Calibrator):
    """``logit' = logit / T`` with T > 0 (Guo et al., 2017), fitted by maximum likelihood."""

    log_temperature: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("log_temperature", torch.zeros(()))

    def forward(self, logits: Tensor) -> Tensor:
        """See `Calibrator.forward`."""
        return logits * torch.exp(-self.log_temperature)

    def fit(self, logits: Tensor, labels: Tensor) -> Calibrator:
        """See `Calibrator.fit`."""
        fitted = _maximum_likelihood(lambda p, z: z * torch.exp(-p[0]), 1, logits, labels)
        self.log_temperature.copy_(fitted[0])
        return self


CALIBRATORS: dict[str, Callable[[], Calibrator]] = {
    "none": Calibrator,
    "temperature": TemperatureCalibrator,
    "platt": PlattCalibrator,
}


def build_calibrator(kind: str) -> Calibrator:
    """A fresh calibrator of a named kind."""
    if kind not in CALIBRATORS:
        raise ProbeError(f"Expected `calibration` to be one of {', '.join(CALIBRATORS)}, but got {kind!r}")
    return CALIBRATORS[kind]()


def _maximum_likelihood(apply: Callable[[Tensor, Tensor], Tensor], size: int, logits: Tensor, labels: Tensor) -> Tensor:
    """The ``size`` parameters, starting at 0, under which ``apply(parameters, logits)`` is likeliest; in float64."""
    if labels.min() == labels.max():
        raise ProbeError(f"Expected labels of both classes to calibrate on, but all {len(labels)} are {labels[0]:g}")
    parameters = torch.zeros(size, dtype=torch.float64, device=logits.device, requires_grad=True)
    source, target = logits.detach().double(), labels.double()
    # Separable data would run off for ever; the bound on the steps ends that.
    optimizer = torch.optim.LBFGS([parameters], max_iter=200, tolerance_grad=1e-9, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = nn.functional.binary_cross_entropy_with_logits(apply(parameters, source), target)
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    return parameters.detach().float()
