"""What is counted without weights, against what is loaded; and packed weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, GPT2Config, LlamaConfig, Qwen3Config
from transformers.models.gemma2 import Gemma2Config

from cascade.engines.settings import DecoderConfig
from cascade.engines.weights import count_parameters, weight_bytes
from cascade.errors import CascadeError
from cascade.miniature.families import MODEL_NAMES
from cascade.scoring.scored import store_key
from cascade.tasks.load import load_task

TINY = {
    "vocab_size": 100, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2,
}  # fmt: skip
PUBLISHED = json.loads((Path(__file__).parent / "published_models.json").read_text())["models"]


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_a_miniature_is_counted_as_it_is_loaded(name):
    model = DecoderConfig(name).build()
    assert "model" not in vars(model)
    counted = model.parameters
    assert "model" not in vars(model)  # nothing was loaded for it
    assert counted == sum(p.numel() for p in model.decoder.model.parameters())


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", [LlamaConfig, Qwen3Config, Gemma2Config, GPT2Config])
def test_shared_weights_are_counted_once_in_every_architecture(kind, tied, tmp_path):
    shape = {"vocab_size": 100, "n_embd": 32, "n_layer": 2, "n_head": 4} if kind is GPT2Config else TINY
    config = kind(**shape | {"tie_word_embeddings": tied, "bos_token_id": 0, "eos_token_id": 1})
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    written = {p.data_ptr(): p.numel() for p in loaded.parameters()}
    assert count_parameters(AutoConfig.from_pretrained(tmp_path)) == sum(written.values())
    assert weight_bytes(config, "float32") == 4 * sum(written.values())
    assert weight_bytes(config, "bfloat16") == 2 * sum(written.values())


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_papers_models_have_the_parameters_that_their_cards_say(name):
    published = PUBLISHED[name]
    config = AutoConfig.for_model(**published["config"])
    assert count_parameters(config) == pytest.approx(published["billions"] * 1e9, rel=0.01)
    # By hand, matrix by matrix.
    c = published["config"]
    heads, kv, width = (
        c["num_attention_heads"] * c["head_dim"],
        c["num_key_value_heads"] * c["head_dim"],
        c["hidden_size"],
    )
    norms = 2 * width + (2 * c["head_dim"] if c["model_type"] == "qwen3" else 0)
    block = 2 * width * heads + 2 * width * kv + 3 * width * c["intermediate_size"] + norms
    embeddings = c["vocab_size"] * width * (1 if c["tie_word_embeddings"] else 2)
    assert count_parameters(config) == c["num_hidden_layers"] * block + embeddings + width
    linear = c["num_hidden_layers"] * (block - norms)
    assert weight_bytes(config, "bfloat16", "8bit") == linear + 2 * (count_parameters(config) - linear)
    assert weight_bytes(config, "bfloat16", "4bit") == linear * 36 / 64 + 2 * (count_parameters(config) - linear)


def test_a_configuration_of_no_decoder_is_refused():
    from transformers import ViTConfig

    with pytest.raises(CascadeError, match="Expected the configuration of a decoder, but got 'vit'"):
        count_parameters(ViTConfig())


def test_quantised_weights_are_another_key_and_another_probe_base():
    task, plain = load_task("mini-gpqa"), DecoderConfig("mini-llama-small").build()
    keys = [store_key(plain, task)] + [
        store_key(DecoderConfig("mini-llama-small", quantization=kind).build(), task) for kind in ("4bit", "8bit")
    ]
    assert len({key.digest for key in keys}) == 3
    assert "quantization" not in keys[0].to_json()  # so that stores from before there was any are found
    assert [key.precision for key in keys] == ["float32", "float32, 4bit weights", "float32, 8bit weights"]
    assert [type(key).from_json(key.to_json()) for key in keys] == keys


def test_what_does_not_pack_is_said_in_one_line(monkeypatch):
    with pytest.raises(CascadeError, match="`quantization` to be one of 4bit, 8bit or none, but got '3bit'"):
        DecoderConfig("mini-llama-small", quantization="3bit").build()
    monkeypatch.setattr("cascade.engines.weights.find_spec", lambda name: None)
    model = DecoderConfig("mini-llama-small", quantization="4bit").build()
    with pytest.raises(CascadeError, match="Expected bitsandbytes to be installed .*pip install"):
        model.decoder.model  # noqa: B018


@pytest.mark.parametrize(("kind", "share"), [("8bit", 1 / 2), ("4bit", 9 / 32)])
def test_packed_weights_take_what_was_said_and_answer_nearly_as_the_plain_ones(kind, share, tmp_path):
    pytest.importorskip("bitsandbytes")
    source = DecoderConfig("mini-llama-small").build()
    torch.manual_seed(0)
    # On a CPU with AVX-512, bitsandbytes packs four bits of widths that 64 divides alone.
    shape = TINY | {"vocab_size": 1024, "hidden_size": 128, "intermediate_size": 256, "tie_word_embeddings": True}
    AutoModelForCausalLM.from_config(LlamaConfig(**shape)).save_pretrained(tmp_path)
    source.tokenizer.save_pretrained(tmp_path)
    plain = DecoderConfig(str(tmp_path), dtype="bfloat16").build()
    packed = DecoderConfig(str(tmp_path), dtype="bfloat16", quantization=kind).build()
    assert packed.parameters == plain.parameters
    names = {n for n, p in packed.model.named_parameters() if p.dtype in (torch.uint8, torch.int8)}
    assert len(names) == 2 * 7
    linear = sum(p.numel() for n, p in plain.model.named_parameters() if n in names)
    rest = 2 * (plain.parameters - linear)
    assert weight_bytes(plain.config, "bfloat16", kind) == rest + 2 * linear * share
    prompts = [load_task("mini-mmlu").prompt(q) for q in load_task("mini-mmlu").questions[:8]]
    first, second = (model.decoder.run(prompts).first_token.exp() for model in (plain, packed))
    assert 0 < float((first - second).abs().sum(1).mean()) < 0.1
