"""Reads hidden states out of any Hugging Face decoder or encoder while it runs, at one token a row or their mean.

Forward hooks slice the wanted token out of each block's output, or average them, so that `batch × hidden` numbers
a layer are held and not `batch × time × hidden`. Nothing is run here: the caller makes the forward pass it needs
anyway.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from probes.errors import ProbeError


def decoder_blocks(model: nn.Module) -> nn.ModuleList:
    """The decoder blocks of a Hugging Face model, in order.

    Found by their count, so that no list of architectures has to be kept.

    Raises:
        ProbeError: If there is not exactly one list of ``num_hidden_layers`` modules.
    """
    config: Any = model.config
    depth = (config.get_text_config() if hasattr(config, "get_text_config") else config).num_hidden_layers
    found = [(name, m) for name, m in model.named_modules() if isinstance(m, nn.ModuleList) and len(m) == depth]
    # A list inside a block (of experts, say) is not the list of blocks.
    found = [(n, m) for n, m in found if not any(n.startswith(other + ".") for other, _ in found)]
    if len(found) != 1:
        raise ProbeError(
            f"Expected `model` to hold one list of {depth} decoder blocks, but got {[n for n, _ in found] or 'none'} "
            f"in {type(model).__name__}"
        )
    return found[0][1]


def resolve_layers(layers: Iterable[int] | str, depth: int) -> tuple[int, ...]:
    """Layer numbers, sorted: 0 is the embeddings, ``depth`` the last block; ``"all"`` is every one of them.

    Raises:
        ProbeError: If a layer lies outside 0 … ``depth``.
    """
    if isinstance(layers, str):
        if layers != "all":
            raise ProbeError(f"Expected `layers` to be 'all' or a list of numbers, but got {layers!r}")
        return tuple(range(depth + 1))
    wanted = tuple(sorted(set(layers)))
    if not wanted or wanted[0] < 0 or wanted[-1] > depth:
        raise ProbeError(
            f"Expected `layers` to be numbers from 0 (embeddings) to {depth} (last block), but got {list(wanted)}"
        )
    return wanted


def last_token_positions(attention_mask: Tensor) -> Tensor:
    """Index of each row's last real token, whichever side is padded.

    Args:
        attention_mask: ``[batch, time]``, 1 where there is a token.

    Returns:
        ``[batch]``, int64.

    Raises:
        ProbeError: If a row has no token.
    """
    if not bool(attention_mask.any(dim=1).all()):
        raise ProbeError("Expected every row of `attention_mask` to hold at least one token, but one is empty")
    time = attention_mask.shape[1]
    return time - 1 - attention_mask.bool().flip(1).int().argmax(dim=1)


class HiddenStateCapture:
    """Captures the state of one token a row at every wanted layer, during the caller's own forward pass.

    Layer ℓ is the raw output of the ℓ-th decoder block, counted from 1; 0 is the embeddings. This is not
    `output_hidden_states`, whose last entry comes after the final norm.

    Example:
        >>> with HiddenStateCapture(model, layers=[0, 24]) as capture:
        ...     capture.arm(last_token_positions(batch["attention_mask"]))
        ...     model(**batch)
        >>> capture.states[24]  # [batch, hidden]

    Only the first forward pass after `arm` is captured, so that of a `generate` call the prompt is read and
    the generated tokens are not.

    Args:
        model: A Hugging Face decoder.
        layers: Layer numbers, or ``"all"``.

    Attributes:
        layers: The resolved layer numbers.
        states: For each layer ``[batch, hidden]``, in the model's dtype, on the device of that layer.
    """

    def __init__(self, model: nn.Module, layers: Iterable[int] | str = "all") -> None:
        self._blocks = decoder_blocks(model)
        self.layers = resolve_layers(layers, len(self._blocks))
        self.states: dict[int, Tensor] = {}
        self._positions: Tensor | None = None
        self._weights: Tensor | None = None
        self._handles: list[torch.utils.hooks.RemovableHandle] = []

    def __enter__(self) -> HiddenStateCapture:
        for layer in self.layers:
            if layer == 0:
                hook = self._blocks[0].register_forward_pre_hook(self._embeddings_hook, with_kwargs=True)
            else:
                hook = self._blocks[layer - 1].register_forward_hook(self._block_hook(layer))
            self._handles.append(hook)
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._positions = self._weights = None

    def arm(self, positions: Tensor) -> None:
        """Captures the next forward pass at ``positions`` (``[batch]``, int64), forgetting earlier states."""
        self.states, self._positions, self._weights = {}, positions, None

    def disarm(self) -> None:
        """Captures nothing until it is armed again, forgetting earlier states."""
        self.states, self._positions, self._weights = {}, None, None

    def arm_mean(self, attention_mask: Tensor) -> None:
        """Captures the mean over each row's tokens in the next forward pass, as encoders are read.

        Args:
            attention_mask: ``[batch, time]``, 1 where there is a token.

        Raises:
            ProbeError: If a row has no token.
        """
        last_token_positions(attention_mask)  # refuses an empty row
        mask = attention_mask.float()
        self.states, self._positions, self._weights = {}, None, mask / mask.sum(1, keepdim=True)

    def _take(self, layer: int, hidden: Tensor) -> None:
        if layer in self.states:
            return
        if self._weights is not None:
            weights = self._weights.to(hidden.device, hidden.dtype)
            self.states[layer] = (weights[:, None] @ hidden.detach()).squeeze(1)
        if self._positions is None:
            return
        rows = torch.arange(hidden.shape[0], device=hidden.device)
        self.states[layer] = hidden.detach()[rows, self._positions.to(hidden.device)]

    def _embeddings_hook(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._take(0, args[0] if args else kwargs["hidden_states"])

    def _block_hook(self, layer: int) -> Any:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            self._take(layer, output if isinstance(output, Tensor) else output[0])

        return hook
