"""Hugging Face decoders: one forward pass gives the answer, P(T) and every layer's state at the last prompt token.

Loads by name from a folder, the Hub or the embedded miniature. Knows nothing of disks, tasks or thresholds.
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from huggingface_hub.utils import httpx
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from cascade.engines.base import Weights
from cascade.engines.files import find_model, hash_folder, resolve_model
from cascade.engines.generation import continue_greedily
from cascade.engines.gguf import cache_folder, gguf_of, hash_gguf, unpacked
from cascade.engines.prompts import Given, PromptForm
from cascade.engines.settings import QUANTIZATIONS, DecoderConfig
from cascade.engines.shared_prefix import is_shareable, shared_by, shared_length
from cascade.engines.weights import count_parameters, packing, weight_bytes, weight_files
from cascade.errors import CascadeError
from cascade.miniature.families import MODEL_NAMES
from probes.capture import HiddenStateCapture, last_token_positions
from probes.early_exit import EarlyExit
from probes.errors import ProbeError
from probes.store import DTYPES, precision_of


@dataclass(frozen=True)
class PromptOutput:
    """What one forward pass over a batch of prompts gives.

    Attributes:
        first_token: Log-probabilities of the token after the prompt, ``[batch, vocabulary]``, float32.
        states: For each layer ``[batch, hidden]`` at the last prompt token, on the CPU.
        prompt_tokens: Tokens of each prompt, ``[batch]``, int64.
        texts: Generated continuations, where some were asked for.
        completion_tokens: Tokens generated for each, ``[batch]``, int64.
    """

    first_token: Tensor
    states: dict[int, Tensor]
    prompt_tokens: Tensor
    texts: tuple[str, ...] = ()
    completion_tokens: Tensor | None = None


@dataclass(frozen=True)
class Prefill:
    """A batch of prompts that has been read.

    Attributes:
        logits: After the last token of each row that is left, ``[left, vocabulary]``.
        left: Their places in the batch, ``[left]``, int64.
        mask: Which of their positions are tokens, ``[left, time]``.
        prompt_tokens: Tokens of every prompt, ``[batch]``, int64.
        cache: Key-value cache of the rows that are left, where it was wanted.
    """

    logits: Tensor
    left: Tensor
    mask: Tensor
    prompt_tokens: Tensor
    cache: Any


class HuggingFaceModel:
    """A decoder and its tokenizer. The weights are loaded when they are first needed, and not before.

    Args:
        settings: Which, and how it is loaded.

    Raises:
        CascadeError: If there is no such model, or an argument is not known.

    Attributes:
        revision: Commit on the Hub, or hash of the local files.
        origin: See `find_model`.
    """

    def __init__(self, settings: DecoderConfig) -> None:
        from transformers import AutoConfig

        self.settings = settings
        self._last_head: tuple[list[int], Any] | None = None
        self.name, self.dtype, self.quantization = settings.model, settings.dtype, settings.quantization
        if self.dtype not in DTYPES:
            raise CascadeError(f"Expected `dtype` to be one of {', '.join(DTYPES)}, but got {self.dtype!r}")
        if self.quantization not in (None, *QUANTIZATIONS):
            raise CascadeError(
                f"Expected `quantization` to be one of {', '.join(QUANTIZATIONS)} or none, but got "
                f"{self.quantization!r}"
            )
        self.trust_remote_code = settings.trust_remote_code
        if self.trust_remote_code:
            red = ("\033[1;31m", "\033[0m") if sys.stderr.isatty() else ("", "")
            print(f"{red[0]}The Python that {self.name} brings with it is run{red[1]}", file=sys.stderr)
        self.source, self.device_map = resolve_model(self.name), settings.device_map
        self.origin: dict[str, Any] = {}
        with self._load_errors(" (a plan needs its config.json, and its tokenizer to count tokens; no weights)"):
            self.gguf = gguf_of(self.name, settings.revision)
            if self.gguf is None:
                self.origin = find_model(self.source, settings.revision)
            else:
                self.source, self.origin = str(self.gguf.parent), {"gguf_file": self.gguf.name}
            self.config = AutoConfig.from_pretrained(
                self.source, **self.origin, trust_remote_code=self.trust_remote_code
            )
        if self.gguf is None:
            self.revision: str = self.origin.get("revision") or hash_folder(Path(self.source))
        else:
            self.revision = hash_gguf(self.gguf)

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer; it pads with the end token where it has no padding token."""
        from transformers import AutoTokenizer

        with self._load_errors():
            tokenizer = AutoTokenizer.from_pretrained(
                self.source, **self.origin, trust_remote_code=self.trust_remote_code
            )
        # transformers makes one of nothing where files are missing
        if len(tokenizer) <= len(tokenizer.all_special_ids):
            raise CascadeError(f"Expected the tokenizer of {self.name!r} to have tokens, but its files are not there")
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token_id = tokenizer.eos_token_id
        if tokenizer.pad_token_id is None:
            raise CascadeError(
                f"Expected the tokenizer of {self.name!r} to have a padding or end token, but it has neither"
            )
        return tokenizer

    @cached_property
    def prompts(self) -> PromptForm:
        """How prompts become tokens."""
        return PromptForm(self.tokenizer, self.name, self.settings.prompt_style, self.settings.letters)

    @contextlib.contextmanager
    def _load_errors(self, hint: str = "") -> Iterator[None]:
        try:
            yield
        except CascadeError:
            raise
        except ProbeError as error:  # the Hub's answer, which says it all
            raise CascadeError(f"{error}{hint}") from error
        except (OSError, ValueError, httpx.HTTPError) as error:
            if "trust_remote_code" in str(error):
                raise CascadeError(
                    f"Expected {self.name!r} to need no Python of its own, but its files name some (auto_map); where "
                    f"you trust it, set `trust_remote_code` to true"
                ) from error
            reason = str(error).strip().splitlines()[0]
            if self.origin.get("local_files_only"):
                reason += " (only the cache was read: the Hub is out of reach, denies access, or is not to be asked)"
            raise CascadeError(
                f"Expected `model` to be one of {', '.join(MODEL_NAMES)}, a folder or a Hub id, but {self.name!r} "
                f"could not be loaded: {reason}{hint}"
            ) from error

    @cached_property
    def model(self) -> Any:
        """The decoder, in evaluation mode."""
        from transformers import AutoModelForCausalLM
        from transformers.utils import logging

        if not sys.stderr.isatty():
            logging.disable_progress_bar()
        with self._load_errors():
            source, origin = self.source, self.origin
            if self.gguf is not None:
                source, origin = str(unpacked(self.gguf, self.revision, self.dtype)), {}
            model = AutoModelForCausalLM.from_pretrained(
                source,
                **origin,
                trust_remote_code=self.trust_remote_code,
                dtype=DTYPES[self.dtype],
                device_map=self.device_map,
                **packing(self.quantization, self.dtype),
            )
        # Packed weights are put in their place as they are packed, and cannot be moved.
        if self.device_map is None and self.quantization is None and torch.cuda.is_available():
            model = model.to("cuda")
        return model.eval()

    def release(self) -> None:
        """Gives the weights' memory back; they are loaded again when they are next needed."""
        self._last_head = None
        if self.__dict__.pop("model", None) is not None and torch.cuda.is_available():
            torch.cuda.empty_cache()

    @property
    def depth(self) -> int:
        """Number of decoder blocks."""
        depth: int = self.config.get_text_config().num_hidden_layers
        return depth

    @property
    def hidden_size(self) -> int:
        """Width of a hidden state."""
        size: int = self.config.get_text_config().hidden_size
        return size

    @cached_property
    def parameters(self) -> int:
        """Number of parameters, shared ones counted once and packed ones unpacked; from the configuration alone."""
        return count_parameters(self.config, self.trust_remote_code)

    @property
    def tokenizer_hash(self) -> str:
        """Hash of everything the tokenizer does to text."""
        return hash_tokenizer(self.tokenizer)

    def option_tokens(self, prompt: str, letters: Sequence[str]) -> tuple[int, ...]:
        """The token that stands for each option letter right after a prompt; see `PromptForm.option_tokens`."""
        return self.prompts.option_tokens(prompt, letters)

    def answer_prefix_tokens(self) -> tuple[int, ...]:
        """Every token that can begin "Answer"; see `PromptForm.answer_prefix_tokens`."""
        return self.prompts.answer_prefix_tokens()

    @property
    def context(self) -> int | None:
        """Tokens of prompt and answer that the model has room for, where it says so."""
        context: int | None = getattr(self.config.get_text_config(), "max_position_embeddings", None)
        return context

    def count_tokens(self, prompts: Sequence[Given]) -> list[int]:
        """Tokens of each prompt."""
        return [len(ids) for ids in self.prompts.encode(prompts, verbose=False).input_ids]

    def weights(self) -> Weights:
        """Sizes of the weights, and whether they are on disk."""
        folder = self.source if self.gguf is None else str(cache_folder(self.gguf, self.revision, self.dtype))
        found = weight_files(folder, self.origin.get("revision"))
        stored = str(getattr(self.config, "dtype", None) or "float32").removeprefix("torch.")
        disk = found if found is not None else self.parameters * (DTYPES[stored].itemsize if stored in DTYPES else 4)
        memory = weight_bytes(self.config, self.dtype, self.quantization, self.trust_remote_code)
        shape = f"{self.depth} × {self.hidden_size:,}"
        precision = precision_of(self.dtype, self.quantization)
        return Weights(self.name, self.parameters, shape, self.dtype, precision, memory, disk, found is not None)

    @torch.inference_mode()
    def run(
        self,
        prompts: Sequence[str],
        layers: Sequence[int] | str = "all",
        max_new_tokens: int = 0,
        padding_side: Literal["left", "right"] = "left",
        shared: str = "",
    ) -> PromptOutput:
        """Runs a batch of prompts once.

        Args:
            prompts: Raw texts; rendered and tokenised as `prompts` of the model says.
            layers: Layers whose states are wanted.
            max_new_tokens: If positive, continues greedily from the same pass.
            padding_side: Makes no difference to the result; generation pads on the left.
            shared: What all of them begin with, which is read once for them and for the next batch.

        Returns:
            See `PromptOutput`. Only the last prompt position's logits are computed.
        """
        with HiddenStateCapture(self.model, layers) as capture:
            side: Literal["left", "right"] = "left" if max_new_tokens else padding_side
            read = self.prefill(prompts, side, bool(max_new_tokens), capture.arm, shared=shared)
        states = {layer: state.cpu() for layer, state in capture.states.items()}
        texts: tuple[str, ...] = ()
        counts = None
        if max_new_tokens:
            limits = [max_new_tokens] * len(prompts)
            found = continue_greedily(self.model, read.logits, read.cache, read.mask, limits, self.end_tokens)
            counts = torch.tensor([len(one.tokens) for one in found])
            texts = tuple(self.tokenizer.decode(one.tokens, skip_special_tokens=True) for one in found)
        return PromptOutput(read.logits.float().log_softmax(-1).cpu(), states, read.prompt_tokens, texts, counts)

    @torch.inference_mode()
    def prefill(
        self,
        prompts: Sequence[Given],
        padding_side: Literal["left", "right"] = "left",
        keep_cache: bool = False,
        arm: Callable[[Tensor], None] | None = None,
        exit_layer: int | None = None,
        keep: Callable[[Tensor], Tensor] | None = None,
        shared: str = "",
    ) -> Prefill:
        """Reads a batch of prompts, some of which may leave half way.

        Args:
            prompts: Raw texts; rendered and tokenised as `prompts` of the model says.
            padding_side: Left, where the rows are to be continued.
            keep_cache: Keep the key-value cache.
            arm: Told each row's last position, ``[batch]``, before the pass.
            exit_layer: Rows leave after this layer, by `keep`; see `probes.early_exit.EarlyExit`.
            keep: From that layer's states ``[batch, hidden]`` to the rows that stay.
            shared: What all of them begin with, which is read once; see `cascade.engines.shared_prefix`.

        Returns:
            See `Prefill`.
        """
        head, ids, own = self._tokens(prompts, padding_side, shared, keep_cache)
        mask = torch.cat([own.new_ones(len(own), len(head)), own], dim=1)
        positions = last_token_positions(own)
        cache = shared_by(self._read_head(head), len(own), keep_cache) if head else None
        if cache is None and keep_cache:
            cache = self._new_cache()
        if arm is not None:
            arm(positions)
        inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": mask, "use_cache": cache is not None}
        if cache is not None:
            inputs["past_key_values"] = cache
        if "position_ids" in self._accepts:
            inputs["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)[:, len(head) :]
        lengths = mask.sum(1).cpu()
        if exit_layer is None or keep is None:
            return Prefill(self._last_logits(inputs, positions), torch.arange(len(ids)), mask, lengths, cache)
        logits = None
        with EarlyExit(self.model, exit_layer, positions, keep) as early:
            logits = self._last_logits(inputs, positions, early)
        if logits is None:  # no row was left
            return Prefill(torch.empty(0, 0, device=ids.device), early.kept, mask[:0], lengths, None)
        if cache is not None:
            early.trim(cache)
        return Prefill(logits, early.kept, mask[early.kept.to(mask.device)], lengths, cache)

    def _tokens(
        self, prompts: Sequence[Given], padding_side: Literal["left", "right"], shared: str, keep_cache: bool
    ) -> tuple[list[int], Tensor, Tensor]:
        """The tokens that are read once for all; and of the rest of each row its ids and mask, ``[batch, time]``."""
        head: list[int] = []
        if shared and is_shareable(self._new_cache(), keep_cache):
            rows, whole = self.prompts.encode(prompts).input_ids, self.prompts.encode([shared]).input_ids[0]
            head = whole[: shared_length(whole, rows)]
        if head:
            rest, side = [torch.tensor(row[len(head) :]) for row in rows], "left" if keep_cache else "right"
            ids, own = (
                pad_sequence(tensors, batch_first=True, padding_side=side)
                for tensors in (rest, [torch.ones_like(ids) for ids in rest])
            )
        else:
            batch = self.prompts.encode(prompts, padding=True, padding_side=padding_side, return_tensors="pt")
            ids, own = batch.input_ids, batch.attention_mask
        return head, ids.to(self.model.device), own.to(self.model.device)

    def _read_head(self, head: list[int]) -> Any:
        """Keys and values of some tokens, ``[1, …]``; those read last are kept."""
        if self._last_head is None or self._last_head[0] != head:
            self._last_head = None  # its memory first
            cache = self._new_cache()
            ids = torch.tensor([head], device=self.model.device)
            self._last_logits(
                {"input_ids": ids, "past_key_values": cache, "use_cache": True}, torch.tensor([len(head) - 1])
            )
            self._last_head = head, cache
        return self._last_head[1]

    def _new_cache(self) -> Any:
        from transformers import DynamicCache

        return DynamicCache(config=self.config.get_text_config())

    @cached_property
    def _accepts(self) -> frozenset[str]:
        return frozenset(inspect.signature(self.model.forward).parameters)

    def _last_logits(self, inputs: dict[str, Any], positions: Tensor, early: EarlyExit | None = None) -> Tensor:
        """Logits at ``positions`` of the rows that are left; nowhere else where the architecture allows it."""
        wanted, place = torch.unique(positions, return_inverse=True)
        if "logits_to_keep" in self._accepts:
            logits = self.model(**inputs, logits_to_keep=wanted).logits
        else:
            logits, place = self.model(**inputs).logits, positions
        place = place.to(logits.device)
        if early is not None:
            place = place[early.kept.to(place.device)]
        picked: Tensor = logits[torch.arange(len(logits), device=logits.device), place]
        return picked

    @cached_property
    def end_tokens(self) -> Tensor:
        """Ids that end an answer, ``[ends]``, int64."""
        return torch.tensor(sorted(set(self._end_tokens())), dtype=torch.long)

    def _end_tokens(self) -> Iterator[int]:
        for end in (self.model.generation_config.eos_token_id, self.tokenizer.eos_token_id):
            if end is not None:
                yield from end if isinstance(end, list) else [end]


def hash_tokenizer(tokenizer: Any) -> str:
    """Hash of everything a Hugging Face tokenizer does to text."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    state = dict(tokenizer.get_vocab()) if backend is None else json.loads(backend.to_str())
    # Padding and truncation are left behind by the last call and say nothing of the tokens.
    state.pop("padding", None)
    state.pop("truncation", None)
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()[:16]
