"""A P(IK) at every forward and `generate` call of a loaded Hugging Face decoder, whose outputs stay as they are.

Nothing that the model is asked is refused here: where a call does not show which token of a prompt is its last, it has
no P(IK).
"""

from __future__ import annotations

import functools
import inspect
import warnings
import weakref
from pathlib import PurePath
from typing import Any

import torch
from torch import Tensor, nn

from probes.capture import HiddenStateCapture
from probes.errors import ProbeError
from probes.probe import Probe

_READ = "last_prompt_token"
_UNKNOWN = -1


class AttachedProbe:
    """A probe listening to a model; see `attach`.

    The prompt of a `generate` call is what it was given, with whatever cache and in however many passes that is read.
    The prompt of a call of the model itself is what it brings; but a single token that follows what was read just
    before is taken for a generated one.

    Attributes:
        p_ik: Of the prompts of the last forward or `generate` call, ``[batch]``, on the device of the probe's layer;
            ``None`` before the first, and where that call does not show the last token of each prompt, of which a
            warning tells once. With several beams or sequences a prompt, one for each of them.
    """

    def __init__(self, model: nn.Module, probe: Probe) -> None:
        self.p_ik: Tensor | None = None
        self._model: Any = model
        self._probe = probe
        self._capture = HiddenStateCapture(model, [probe.config.layer])
        self._arguments = list(inspect.signature(model.forward).parameters)
        self._handles: list[Any] = []
        self._prompt: int | None = None  # tokens a row of the prompt, cached ones included, during a `generate` call
        self._drafting = self._warned = False
        self._read = 0  # tokens a row that were read, or were in the cache before them
        self._cache: weakref.ref[Any] | None = None  # where they are, if the model said so
        self._found: Tensor | None = None  # rows of a pass with a token of their prompt
        self._rows: Tensor | None = None  # P(IK) by the last token of each prompt so far; NaN where there was none

    def __enter__(self) -> AttachedProbe:
        self._capture.__enter__()
        self._handles = [
            self._model.register_forward_pre_hook(self._before, with_kwargs=True),
            self._model.register_forward_hook(self._after),
        ]
        self._own_generate = self._model.__dict__.get("generate")
        if hasattr(self._model, "generate"):
            self._model.generate = self._listening(self._model.generate)
        return self

    def __exit__(self, *error: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._capture.__exit__(*error)
        self._model.__dict__.pop("generate", None)
        if self._own_generate is not None:
            self._model.generate = self._own_generate

    def _listening(self, generate: Any) -> Any:
        """`generate` that says where its prompt ends: hooks alone cannot tell that from the passes."""

        @functools.wraps(generate)
        def listening(*args: Any, **kwargs: Any) -> Any:
            if self._prompt is not None:  # a model that drafts for itself, by fewer layers
                self._drafting = True
                try:
                    return generate(*args, **kwargs)
                finally:
                    self._drafting = False
            self._prompt, self._read = _prompt_length(*args, **kwargs), 0
            self._rows = self.p_ik = None
            try:
                result = generate(*args, **kwargs)
            finally:
                self._prompt, self._read = None, _UNKNOWN
            if self.p_ik is None:
                self._warn()
            return result

        return listening

    def _before(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._found = None
        self._capture.disarm()
        if self._drafting or (self._prompt is not None and self._read >= self._prompt):
            return  # the prompt was read before
        call = dict(zip(self._arguments, args, strict=False)) | kwargs
        tokens: Any = call.get("input_ids") if call.get("inputs_embeds") is None else call["inputs_embeds"]
        brought = tokens.shape[1] if isinstance(tokens, Tensor) and tokens.ndim > 1 else 0
        cache = call.get("past_key_values")
        cached = _length(cache)
        if self._prompt is not None:
            cached = self._read if cached == _UNKNOWN else cached
        else:
            follows = cached == self._read > 0 and (self._cache is None or self._cache() is cache)
            if follows and brought == 1:
                self._read += 1
                return  # a token that is being generated
            if not follows:
                self._rows = None
        self.p_ik, self._read = None, _UNKNOWN if cached == _UNKNOWN else cached + brought
        # Of one token behind those of an unknown cache there is no telling whether it is a prompt's or generated.
        told = brought > 1 or (brought == 1 and (self._prompt is not None or cached == 0))
        real = _real_tokens(call.get("attention_mask"), max(cached, 0), tokens) if told else None
        if real is None:
            self._rows = None
        else:
            if self._prompt is not None:  # assisted generation brings candidate tokens after the prompt
                real = real & (torch.arange(brought, device=real.device) < self._prompt - cached)
            self._found = real.any(1)
            self._capture.arm(brought - 1 - real.flip(1).int().argmax(1))

    def _after(self, _: nn.Module, __: tuple[Any, ...], output: Any) -> None:
        cache = getattr(output, "past_key_values", None)
        self._cache = weakref.ref(cache) if hasattr(cache, "get_seq_length") else None
        if self._found is not None and self._capture.states:
            (state,) = self._capture.states.values()
            with torch.no_grad():
                p_ik = self._probe.to(state.device).eval()(state)
            if self._rows is None or self._rows.shape != p_ik.shape:
                self._rows = torch.full_like(p_ik, torch.nan)
            self._rows = torch.where(self._found.to(p_ik.device), p_ik, self._rows)
            self.p_ik = None if bool(self._rows.isnan().any()) else self._rows
        if self._prompt is None and self.p_ik is None:
            self._warn()

    def _warn(self) -> None:
        if not self._warned:
            warnings.warn(
                "Expected the last token of each prompt and a finite state there, but a call of the model does not "
                "show them: p_ik is None",
                stacklevel=3,
            )
        self._warned = True


def _prompt_length(inputs: Tensor | None = None, *_: Any, **call: Any) -> int:
    """Tokens a row of the prompt of a `generate` call, those in its cache included."""
    mask = call.get("attention_mask")
    if isinstance(mask, Tensor) and mask.ndim == 2:  # covers the whole prompt; ids may cover only what is not cached
        return mask.shape[1]
    given = next((call[name] for name in ("inputs_embeds", "input_ids") if call.get(name) is not None), inputs)
    # Without a prompt, `generate` starts from one token of the model's own.
    return given.shape[1] if isinstance(given, Tensor) and given.ndim > 1 else 1


def _length(cache: Any) -> int:
    """Tokens a row in a cache; `_UNKNOWN` where it does not count them, as those of recurrent models do not."""
    if cache is None:
        return 0
    try:
        return int(cache.get_seq_length())
    except (AttributeError, TypeError, ValueError):
        return _UNKNOWN


def _real_tokens(mask: Any, cached: int, tokens: Tensor) -> Tensor | None:
    """Which tokens of a pass are no padding, ``[batch, brought]``; ``None`` where the mask does not say.

    Args:
        mask: Of the call: ``[batch, keys]``, ``[batch, 1, brought, keys]`` (bool, or 0 where it is open), a dict of
            these by the kind of layer, or none.
        cached: Tokens in the cache.
        tokens: ``[batch, brought]``, or embeddings ``[batch, brought, hidden]``.
    """
    batch, brought = tokens.shape[:2]
    if isinstance(mask, dict):
        mask = next((one for one in mask.values() if one is not None), None)
    if mask is None:
        return torch.ones(batch, brought, dtype=torch.bool, device=tokens.device)
    if not isinstance(mask, Tensor) or mask.ndim not in (2, 4) or mask.shape[-1] < brought:
        return None
    # The mask's keys begin with the first cached token and may go on after the new ones. With a sliding window they end
    # with the new ones.
    start = min(cached, mask.shape[-1] - brought)
    if mask.ndim == 2:
        real = mask[:, start : start + brought] != 0
    else:  # a padding token does not attend even to itself
        itself = mask[:, 0].diagonal(start, 1, 2)
        real = itself > torch.finfo(itself.dtype).min / 2 if itself.is_floating_point() else itself != 0
    return real.expand(batch, brought) if real.shape in ((1, brought), (batch, brought)) else None


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
