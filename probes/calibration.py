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

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("log_slope", torch.zeros(()))
        self.register_buffer("bias", torch.zeros(()))

    def forward(self, logits: Tensor) -> Tensor:
        """See `Calibrator.forward`."""
        return logits * self.log_slope.exp() + self.bias

    def fit(self, logits: Tensor, labels: Tensor) -> Calibrator:
        """See `Calibrator.fit`."""
        _fit([self.log_slope, self.bias], self, logits, labels)
        return self


class TemperatureCalibrator(Calibrator):
    """``logit' = logit / T`` with T > 0 (Guo et al., 2017), fitted by maximum likelihood."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("log_temperature", torch.zeros(()))

    def forward(self, logits: Tensor) -> Tensor:
        """See `Calibrator.forward`."""
        return logits * torch.exp(-self.log_temperature)

    def fit(self, logits: Tensor, labels: Tensor) -> Calibrator:
        """See `Calibrator.fit`."""
        _fit([self.log_temperature], self, logits, labels)
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


def _fit(parameters: list[Tensor], calibrator: Calibrator, logits: Tensor, labels: Tensor) -> None:
    """Minimises the negative log-likelihood over the calibrator's few parameters, in float64."""
    if labels.min() == labels.max():
        raise ProbeError(f"Expected labels of both classes to calibrate on, but all {len(labels)} are {labels[0]:g}")
    target = labels.double()
    calibrator.double()
    for parameter in parameters:
        parameter.requires_grad_()
    # A tolerance on the gradient keeps separable data from running off for ever.
    optimizer = torch.optim.LBFGS(parameters, max_iter=200, tolerance_grad=1e-8, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = nn.functional.binary_cross_entropy_with_logits(calibrator(logits.double()), target)
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    for parameter in parameters:
        parameter.requires_grad_(False)
    calibrator.float()
