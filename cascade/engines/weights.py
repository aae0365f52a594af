"""How large a decoder's weights are, by its configuration alone, and how they are packed where they are quantised.

Counted on torch's meta device, where weights take no memory: shared ones once, packed ones as if they were not.
"""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cascade.engines.settings import Quantization
from cascade.errors import CascadeError
from probes.store import DTYPES

# Bytes a weight in bitsandbytes' linear layers: four bits and a float32 scale for each 64 weights; eight bits (the
# scale of each row is lost in the rounding).
_QUANTIZED_BYTES = {"4bit": 0.5 + 4 / 64, "8bit": 1.0}

# A plan asks for the size of one decoder many times, and building it takes about as long as the rest.
_EMPTY: dict[tuple[type, str, bool], nn.Module] = {}


def empty_model(config: Any, trust_remote_code: bool = False) -> nn.Module:
    """The decoder of a Hugging Face configuration, its weights tied where they are, none of them in memory.

    It is the same object for the same configuration.

    Raises:
        CascadeError: If `transformers` has no decoder for the configuration.
    """
    from transformers import AutoModelForCausalLM

    key = type(config), config.to_json_string(use_diff=False), trust_remote_code
    if key in _EMPTY:
        return _EMPTY[key]
    try:
        with torch.device("meta"):
            model: Any = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
    except ValueError as error:
        reason = str(error).strip().splitlines()[0]
        raise CascadeError(
            f"Expected the configuration of a decoder, but got {config.model_type!r}: {reason}"
        ) from error
    model.tie_weights()
    _EMPTY[key] = model
    return _EMPTY[key]


def count_parameters(config: Any, trust_remote_code: bool = False) -> int:
    """Number of parameters of a configuration's decoder, shared ones counted once; needs no weights."""
    return sum(parameter.numel() for parameter in empty_model(config, trust_remote_code).parameters())


def weight_bytes(
    config: Any, dtype: str, quantization: Quantization | None = None, trust_remote_code: bool = False
) -> int:
    """Memory of a decoder's weights, bytes.

    Args:
        config: Hugging Face configuration.
        dtype: One of `probes.store.DTYPES`.
        quantization: All linear layers but the last, which gives the logits, are packed.
        trust_remote_code: See `cascade.engines.huggingface.HuggingFaceModel`.
    """
    model: Any = empty_model(config, trust_remote_code)
    total = float(sum(p.numel() for p in model.parameters()) * DTYPES[dtype].itemsize)
    if quantization is not None:
        head = model.get_output_embeddings()
        for module in model.modules():
            if isinstance(module, nn.Linear) and module is not head:
                total += module.weight.numel() * (_QUANTIZED_BYTES[quantization] - DTYPES[dtype].itemsize)
    return round(total)


def packing(quantization: Quantization | None, dtype: str) -> dict[str, Any]:
    """Arguments of `from_pretrained` that pack the weights as they are loaded.

    Raises:
        CascadeError: If what does the packing is not installed.
    """
    if quantization is None:
        return {}
    for package in ("bitsandbytes", "accelerate"):
        if find_spec(package) is None:
            raise CascadeError(
                f"Expected {package} to be installed for `quantization` {quantization}, but it is not; "
                f"pip install 'confidence-cascade[quantization]'"
            )
    from transformers import BitsAndBytesConfig

    if quantization == "8bit":
        return {"quantization_config": BitsAndBytesConfig(load_in_8bit=True)}
    nf4 = {"bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": DTYPES[dtype]}
    return {"quantization_config": BitsAndBytesConfig(load_in_4bit=True, **nf4)}


def weight_files(source: str, revision: str | None) -> int | None:
    """Bytes of a model's weights on disk, in a folder or in the Hub's cache; ``None`` where they are not all there."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    folder = Path(source)
    if not folder.is_dir():
        try:
            folder = Path(snapshot_download(source, revision=revision, local_files_only=True))
        except (LocalEntryNotFoundError, HFValidationError):
            return None
    for index in ("model.safetensors.index.json", "pytorch_model.bin.index.json"):
        if (folder / index).exists():
            names = _indexed(folder / index)
            there = [folder / name for name in names if (folder / name).exists()]
            return sum(path.stat().st_size for path in there) if len(there) == len(names) else None
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (folder / name).exists():
            return (folder / name).stat().st_size
    return None


def _indexed(index: Path) -> set[str]:
    try:
        return set(json.loads(index.read_text())["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CascadeError(f"Expected {index} to name the weights' files, but reading it failed: {error!r}") from error
