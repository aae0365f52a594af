"""Calibrators: small modules that map a head's logit to a better one. Each is monotone and lives in the checkpoint.

Fitted on validation logits, never on the data the head was trained on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

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
            labels: ``[rows]``, in [0, 1]: right or wrong, or the share of right answers.

        Returns:
            The calibrator itself.

        Raises:
            ProbeError: If there is only one class: nothing can be calibrated on that.
        """
        return self

    def shape_like(self, tensors: Mapping[str, Tensor]) -> None:
        """Gives tensors whose size the fit decides the size they have in a checkpoint, before that is loaded.

        Raises:
            ProbeError: If they cannot be such a calibrator's.
        """


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


class BetaCalibrator(Calibrator):
    """``logit' = a ln p − b ln(1 − p) + c`` with a, b > 0 (Kull et al., 2017), fitted by maximum likelihood.

    Platt scaling bends both ends of the scale alike; this one bends each by its own amount.
    """

    log_slopes: Tensor
    bias: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("log_slopes", torch.zeros(2))
        self.register_buffer("bias", torch.zeros(()))

    def forward(self, logits: Tensor) -> Tensor:
        """See `Calibrator.forward`."""
        return _beta(torch.cat([self.log_slopes, self.bias[None]]), logits)

    def fit(self, logits: Tensor, labels: Tensor) -> Calibrator:
        """See `Calibrator.fit`."""
        fitted = _maximum_likelihood(_beta, 3, logits, labels)
        self.log_slopes.copy_(fitted[:2])
        self.bias.copy_(fitted[2])
        return self


def _beta(parameters: Tensor, logits: Tensor) -> Tensor:
    below, above = parameters[0].exp(), parameters[1].exp()
    # ln p = −softplus(−z) and −ln(1 − p) = softplus(z), which do not lose the ends of the scale.
    return above * nn.functional.softplus(logits) - below * nn.functional.softplus(-logits) + parameters[2]


class IsotonicCalibrator(Calibrator):
    """The non-decreasing step-and-slope function nearest to the labels (Zadrozny and Elkan, 2002).

    Fitted by pooling adjacent violators, linear between the knots and constant beyond them. Probabilities of 0 and
    1 are kept 1e-7 away from the ends, so that logits stay finite.

    Attributes:
        knots: Logits, increasing, ``[knots]``.
        values: P(IK) at the knots, not decreasing, ``[knots]``.
    """

    knots: Tensor
    values: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("knots", torch.tensor([-1.0, 1.0]))
        self.register_buffer("values", torch.tensor([-1.0, 1.0]).sigmoid())

    def shape_like(self, tensors: Mapping[str, Tensor]) -> None:
        """See `Calibrator.shape_like`."""
        knots, values = tensors["knots"], tensors["values"]
        sound = knots.ndim == 1 and len(knots) > 0 and knots.shape == values.shape
        if not sound or bool((knots.diff() <= 0).any()) or bool((values.diff() < 0).any()):
            raise ProbeError("Expected `knots` to increase and `values`, one each, not to decrease, but they do not")
        self.knots, self.values = torch.zeros_like(knots), torch.zeros_like(values)

    def forward(self, logits: Tensor) -> Tensor:
        """See `Calibrator.forward`."""
        # A sum of ramps, one between two knots: increasing whatever the rounding.
        ramps = ((logits[..., None] - self.knots[:-1]) / self.knots.diff()).clamp(0, 1)
        return torch.logit(self.values[0] + (ramps * self.values.diff()).sum(-1), eps=1e-7)

    def fit(self, logits: Tensor, labels: Tensor) -> Calibrator:
        """See `Calibrator.fit`."""
        _check_classes(labels)
        knots, place = torch.unique(logits.detach().double().cpu(), return_inverse=True)
        counts = torch.zeros_like(knots).index_add_(0, place, torch.ones_like(place, dtype=torch.float64))
        means = torch.zeros_like(knots).index_add_(0, place, labels.double().cpu()) / counts
        # Blocks of mean, weight and number of knots; one that is lower than the one before it is merged into it.
        blocks: list[tuple[float, float, int]] = []
        for mean, weight in zip(means.tolist(), counts.tolist(), strict=True):
            size = 1
            while blocks and blocks[-1][0] >= mean:
                other, other_weight, other_size = blocks.pop()
                mean = (other * other_weight + mean * weight) / (other_weight + weight)
                weight, size = weight + other_weight, size + other_size
            blocks.append((mean, weight, size))
        heights = torch.tensor([mean for mean, _, size in blocks for _ in range(size)], dtype=torch.float64)
        rises = heights.diff() > 0
        both = torch.ones(1, dtype=torch.bool)
        ends = torch.cat([both, rises]) | torch.cat([rises, both])  # the first and last knot of each block
        self.knots, self.values = (t[ends].float().to(logits.device) for t in (knots, heights))
        return self


CALIBRATORS: dict[str, Callable[[], Calibrator]] = {
    "none": Calibrator,
    "temperature": TemperatureCalibrator,
    "platt": PlattCalibrator,
    "isotonic": IsotonicCalibrator,
    "beta": BetaCalibrator,
}


def build_calibrator(kind: str) -> Calibrator:
    """A fresh calibrator of a named kind."""
    if kind not in CALIBRATORS:
        raise ProbeError(f"Expected `calibration` to be one of {', '.join(CALIBRATORS)}, but got {kind!r}")
    return CALIBRATORS[kind]()


def _check_classes(labels: Tensor) -> None:
    if labels.min() == labels.max():
        raise ProbeError(f"Expected labels of both classes to calibrate on, but all {len(labels)} are {labels[0]:g}")


def _maximum_likelihood(apply: Callable[[Tensor, Tensor], Tensor], size: int, logits: Tensor, labels: Tensor) -> Tensor:
    """The ``size`` parameters, starting at 0, under which ``apply(parameters, logits)`` is likeliest; in float64."""
    _check_classes(labels)
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
