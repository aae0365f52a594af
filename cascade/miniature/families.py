"""The miniature's model families: the shapes of `mini-llama` and `mini-qwen3`, and where their files lie."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from cascade.errors import CascadeError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

ASSETS = Path(__file__).parent / "assets"


@dataclass(frozen=True)
class Size:
    """The shape of one model and how long it is trained."""

    layers: int
    hidden: int
    heads: int
    steps: int
    learning_rate: float
    in_context: float = 0.0  # see `experiments.miniature.stream`


_SIZES = {
    "small": Size(layers=3, hidden=48, heads=3, steps=2500, learning_rate=3e-3),
    "medium": Size(layers=4, hidden=96, heads=4, steps=4500, learning_rate=2e-3),
    "large": Size(layers=5, hidden=160, heads=5, steps=5000, learning_rate=1.2e-3, in_context=0.6),
}
FAMILIES: dict[str, dict[str, Size]] = {
    "mini-llama": _SIZES,
    # Qwen3's normalised queries and keys learn faster: at equal steps the medium one comes too near to the large.
    "mini-qwen3": _SIZES | {"medium": replace(_SIZES["medium"], steps=3000)},
}
MODEL_NAMES = tuple(f"{family}-{size}" for family, sizes in FAMILIES.items() for size in sizes)


def size_of(model: str) -> tuple[str, Size]:
    """Family and shape of a miniature model by its name, such as ``mini-llama-small``."""
    family, _, size = model.rpartition("-")
    if family not in FAMILIES or size not in FAMILIES[family]:
        raise CascadeError(f"Expected `model` to be one of {', '.join(MODEL_NAMES)}, but got {model!r}")
    return family, FAMILIES[family][size]


def model_config(model: str, vocabulary: int) -> PreTrainedConfig:
    """The `transformers` configuration of a miniature model."""
    from transformers import LlamaConfig, Qwen3Config

    family, size = size_of(model)
    shape = {
        "vocab_size": vocabulary,
        "hidden_size": size.hidden,
        "intermediate_size": size.hidden * 8 // 3 // 16 * 16,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "num_key_value_heads": size.heads,
        "max_position_embeddings": 128,
        "tie_word_embeddings": True,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 2,
    }
    if family == "mini-qwen3":
        return Qwen3Config(head_dim=size.hidden // size.heads, **shape)
    return LlamaConfig(**shape)
