"""P(IK) heads: one as a plain module, and many of one shape trained together.

`StackedHeads` gives every parameter a leading dimension, one slice a head, so that all heads cost one batched
matrix product a layer of theirs. Standardisation, calibration and the checkpoint are not here (`probes.probe`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor, nn

from probes.errors import ProbeError

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "tanh": nn.Tanh,
    "silu": nn.SiLU,
    "sigmoid": nn.Sigmoid,
    "identity": nn.Identity,
}


# Far more than any model has, and far less than would take a machine's memory before anything is held against it.
LARGEST_WIDTH, LARGEST_DEPTH = 2**20, 100


def whole_number(name: str, value: Any, least: int, most: int) -> int:
    """A setting that is a whole number in a range, as Python's int, which JSON can hold and numpy's it cannot.

    Raises:
        ProbeError: If it is none, or out of the range.
    """
    if not isinstance(value, Integral) or isinstance(value, bool) or not least <= int(value) <= most:
        raise ProbeError(f"Expected `{name}` to be a whole number from {least} to {most}, but got {value!r}")
    return int(value)


@dataclass(frozen=True)
class HeadConfig:
    """The shape of a head.

    Attributes:
        width: Units of each hidden layer: one number for all, or ``depth`` of them.
        depth: Hidden layers; 0 is a linear head.
        dropout: Dropout after each hidden layer, while training.
        activation: ``relu``, ``gelu``, ``tanh``, ``silu``, ``sigmoid`` or ``identity``.
    """

    width: int | tuple[int, ...] = 128
    depth: int = 1
    dropout: float = 0.1
    activation: str = "relu"

    def __post_init__(self) -> None:
        if not isinstance(self.activation, str) or self.activation not in ACTIVATIONS:
            raise ProbeError(
                f"Expected `activation` to be one of {', '.join(ACTIVATIONS)}, but got {self.activation!r}"
            )
        depth = whole_number("depth", self.depth, 0, LARGEST_DEPTH)
        object.__setattr__(self, "depth", depth)
        if isinstance(self.width, list | tuple):  # a list, as JSON has it
            if len(self.width) != depth:
                raise ProbeError(f"Expected `width` to be one number or {depth} of them, but got {self.width}")
            width: int | tuple[int, ...] = tuple(whole_number("width", one, 1, LARGEST_WIDTH) for one in self.width)
        else:
            width = whole_number("width", self.width, 1, LARGEST_WIDTH)
        object.__setattr__(self, "width", width)
        if not isinstance(self.dropout, Real) or isinstance(self.dropout, bool) or not 0 <= self.dropout < 1:
            raise ProbeError(f"Expected `dropout` to be a number, 0 or more and less than 1, but got {self.dropout!r}")

    @property
    def widths(self) -> tuple[int, ...]:
        """Units of each hidden layer."""
        return (self.width,) * self.depth if isinstance(self.width, int) else self.width


def build_head(config: HeadConfig, hidden_size: int) -> nn.Sequential:
    """A head from states to one logit: linear, or a multi-layer perceptron."""
    layers: list[nn.Module] = []
    before = hidden_size
    for width in config.widths:
        layers += [nn.Linear(before, width), ACTIVATIONS[config.activation](), nn.Dropout(config.dropout)]
        before = width
    return nn.Sequential(*layers, nn.Linear(before, 1))


def _linears(head: nn.Sequential) -> list[nn.Linear]:
    return [module for module in head if isinstance(module, nn.Linear)]


class DropoutMasks:
    """Dropout masks that depend on a head's seed and on nothing else.

    Heads of one seed share their masks, whichever layer they read, so that a head is trained alike alone and
    among others (and layers are compared under common random numbers).

    Args:
        config: Its dropout, depth and width are used.
        seeds: One stream of masks each.
        device: Where the masks are drawn.
    """

    def __init__(self, config: HeadConfig, seeds: Sequence[int], device: torch.device) -> None:
        self._config = config
        # Initial weights are drawn from the seed itself; masks must not repeat those very numbers.
        self._streams = [torch.Generator(device).manual_seed(seed + 1_000_003) for seed in seeds]

    def draw(self, batch: int) -> list[Tensor]:
        """For each hidden layer ``[seeds, batch, width]``, 0 or 1 / (1 − dropout); nothing where dropout is 0."""
        config = self._config
        if config.dropout == 0:
            return []
        keep = 1 - config.dropout
        return [
            torch.stack(
                [torch.empty(batch, width, device=g.device).bernoulli_(keep, generator=g) for g in self._streams]
            ).div_(keep)
            for width in config.widths
        ]


def _product(states: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """``[heads, batch, out]`` of states ``[heads, batch, in]``, weights ``[heads, out, in]``, bias ``[heads, out]``."""
    heads, out, _ = weight.shape
    if heads == out == 1:
        # A lone matrix times a vector is a routine of its own, which sums in another order than a batch of them. Such a
        # difference grows through training, so that one head is multiplied as one of two.
        states, weight, bias = (tensor.expand(2, *tensor.shape[1:]) for tensor in (states, weight, bias))
    return torch.baddbmm(bias[:, None], states, weight.transpose(1, 2))[:heads]


class StackedHeads(nn.Module):
    """Heads of one shape for several layers and seeds: head ``layer · len(seeds) + seed`` reads that layer.

    Nothing is shared between heads, so the gradient of a sum of losses is each head's own, and any optimiser
    that works element by element trains each as if it were alone. A head's initial weights are those of
    `build_head` after ``torch.manual_seed(seed)``.

    Args:
        config: The shape of every head.
        hidden_size: Width of the states.
        layers: How many layers are read.
        seeds: One head a layer for each.

    Attributes:
        weights: ``[heads, out, in]`` for each linear layer of the head.
        biases: ``[heads, out]`` for each.
    """

    def __init__(self, config: HeadConfig, hidden_size: int, layers: int, seeds: Sequence[int]) -> None:
        super().__init__()
        self.config, self.layers, self.seeds = config, layers, len(seeds)
        drawn = []
        for seed in seeds:
            with torch.random.fork_rng():
                torch.manual_seed(seed)
                drawn.append(_linears(build_head(config, hidden_size)))
        places = list(zip(*drawn, strict=True))
        self.weights = nn.ParameterList(self._tile([m.weight for m in place]) for place in places)
        self.biases = nn.ParameterList(self._tile([m.bias for m in place]) for place in places)
        self.activation = ACTIVATIONS[config.activation]()

    def _tile(self, of_seeds: Sequence[Tensor]) -> nn.Parameter:
        one_layer = torch.stack([tensor.detach() for tensor in of_seeds])
        return nn.Parameter(one_layer.repeat(self.layers, *(1 for _ in one_layer.shape[1:])))

    def forward(self, states: Tensor, masks: Sequence[Tensor] = ()) -> Tensor:
        """Logits ``[heads, batch]``.

        Args:
            states: Standardised, ``[layers, batch, hidden]``.
            masks: From `DropoutMasks.draw`, while training.
        """
        batch, heads = states.shape[1], self.layers * self.seeds
        # One product a head, not one for all that read a layer: what a head is multiplied with does not depend on
        # how many others there are.
        hidden = states if self.seeds == 1 else states.repeat_interleave(self.seeds, 0)
        for place, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            if place > 0:
                hidden = self.activation(hidden)
                if masks:
                    hidden = hidden.view(self.layers, self.seeds, batch, -1) * masks[place - 1]
                    hidden = hidden.view(heads, batch, -1)
            hidden = _product(hidden, weight, bias)
        return hidden.squeeze(-1)

    @torch.no_grad()
    def copy_to(self, index: int, head: nn.Sequential) -> None:
        """Copies one head's weights into a plain head of the same shape."""
        for linear, weight, bias in zip(_linears(head), self.weights, self.biases, strict=True):
            linear.weight.copy_(weight[index])
            linear.bias.copy_(bias[index])

    def clip_gradients(self, max_norm: float) -> None:
        """Scales each head's gradient down to ``max_norm``, as `clip_grad_norm_` does where there is one head."""
        gradients = [p.grad for p in self.parameters() if p.grad is not None]
        squares = torch.stack([g.flatten(1).square().sum(1) for g in gradients]).sum(0)
        factor = (max_norm / (squares.sqrt() + 1e-6)).clamp(max=1)
        for gradient in gradients:
            gradient.mul_(factor.view(-1, *(1 for _ in gradient.shape[1:])))
