"""A P(IK) at every forward and `generate` call of a loaded Hugging Face decoder, whose outputs stay as they are."""

from __future__ import annotations

from pathlib import PurePath
from typing import Any

import torch
from torch import Tensor, nn

from probes.capture import HiddenStateCapture, last_token_positions
from probes.errors import ProbeError
from probes.probe import Probe

_READ = "last_prompt_token"


class AttachedProbe:
    """A probe listening to a model; see `attach`.

    Attributes:
        p_ik: Of the prompts of the last forward or `generate` call, ``[batch]``, on the device of the probe's layer;
            ``None`` before the first. With several beams or sequences a prompt, one for each of them.
    """

    def __init__(self, model: nn.Module, probe: Probe) -> None:
        self.p_ik: Tensor | None = None
        self._model, self._probe = model, probe
        self._capture = HiddenStateCapture(model, [probe.config.layer])
        self._handles: list[Any] = []

    def __enter__(self) -> AttachedProbe:
        self._capture.__enter__()
        self._handles = [
            self._model.register_forward_pre_hook(self._before, with_kwargs=True),
            self._model.register_forward_hook(self._after),
        ]
        return self

    def __exit__(self, *error: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._capture.__exit__(*error)

    def _before(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._armed = False
        cache = kwargs.get("past_key_values")
        if cache is not None and cache.get_seq_length() > 0:
            return  # a token that is being generated: the prompt was read before it
        tokens = args[0] if args else kwargs.get("input_ids")
        tokens = kwargs.get("inputs_embeds") if tokens is None else tokens
        if tokens is None:
            raise ProbeError("Expected `input_ids` or `inputs_embeds` in a call of the model, but got neither")
        mask = args[1] if len(args) > 1 else kwargs.get("attention_mask")
        mask = torch.ones(tokens.shape[:2], dtype=torch.long, device=tokens.device) if mask is None else mask
        if mask.ndim != 2 or mask.shape[1] != tokens.shape[1]:
            raise ProbeError(
                f"Expected `attention_mask` to be {tuple(tokens.shape[:2])} to find the last token of each prompt, but "
                f"got {tuple(mask.shape)}"
            )
        self._capture.arm(last_token_positions(mask))
        self._armed = True

    def _after(self, *_: object) -> None:
        if not self._armed:
            return
        (state,) = self._capture.states.values()
        probe = self._probe.to(state.device).eval()
        with torch.no_grad():
            self.p_ik = probe(state)


def attach(model: nn.Module, probe: Probe, allow_base_mismatch: bool = False) -> AttachedProbe:
    """Gives a model a P(IK) at every call; a context manager, which takes its hooks away again.

    Example:
        >>> with attach(model, probe) as attached:
        ...     output = model.generate(**batch)
        >>> attached.p_ik  # [batch]

    Args:
        model: A Hugging Face decoder; its outputs do not change.
        probe: Reads the last prompt token of a decoder block of that model.
        allow_base_mismatch: Attach it to a model it was not trained on, as long as the widths agree.

    Raises:
        ProbeError: If the model is not the probe's base, or the probe reads another position.
    """
    config: Any = model.config
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    if text.hidden_size != probe.config.hidden_size:
        raise ProbeError(
            f"Expected a model of hidden size {probe.config.hidden_size} for the probe of {probe.config.base_model}, "
            f"but got {text.hidden_size}"
        )
    if probe.config.position != _READ:
        raise ProbeError(f"Expected a probe that reads the {_READ}, but got one that reads {probe.config.position}")
    differs = base_mismatch(
        probe, getattr(config, "_name_or_path", ""), getattr(config, "_commit_hash", None), text.num_hidden_layers
    )
    if differs and not allow_base_mismatch:
        raise ProbeError(
            f"Expected the model that the probe was trained on, but {differs}; allow_base_mismatch=True attaches it"
        )
    return AttachedProbe(model, probe)


def base_mismatch(probe: Probe, name: str, commit: str | None, num_layers: int) -> str:
    """What tells a loaded model from a probe's base, in words; empty where nothing does.

    A folder's name is compared without its place. Commits are compared where both are known.
    """
    base = probe.config
    if base.num_layers and base.num_layers != num_layers:
        return f"{base.base_model} has {base.num_layers} layers and this one {num_layers}"
    if PurePath(name).name != PurePath(base.base_model).name:
        return f"it is of {base.base_model} and this is {name or 'unnamed'}"
    if commit and len(base.base_revision) == len(commit) and commit != base.base_revision:
        return f"it is of revision {base.base_revision} of {base.base_model} and this is {commit}"
    return ""
