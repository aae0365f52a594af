"""GGUF files as models, against the same weights in a folder of safetensors."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import gguf
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from cascade.engines.huggingface import HuggingFaceModel
from cascade.engines.settings import DecoderConfig
from cascade.errors import CascadeError
from cascade.score import main
from cascade.scoring.scored import score
from tests.cascade.fake_hub import FakeHub, ask
from tests.cascade.test_scoring import some

SHAPE = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    """A folder with one and the same Qwen2 as `tiny.gguf` and as the folder `tiny`."""
    folder = tmp_path_factory.mktemp("gguf")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = ["<|endoftext|>", *letters, *(f"Ġ{letter}" for letter in "ABCD")]
    merges = [("Ġ", letter) for letter in "ABCD"]
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer, tokenizer.decoder = byte_level, decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=tokens[0], pad_token=tokens[0])
    fast.save_pretrained(folder / "tiny")
    torch.manual_seed(0)
    config = Qwen2Config(vocab_size=len(tokens), num_key_value_heads=2, tie_word_embeddings=True, **SHAPE)
    model = Qwen2ForCausalLM(config)
    model.save_pretrained(folder / "tiny")
    write(folder / "tiny.gguf", model, tokens, merges)
    return folder


def write(path: Path, model: Qwen2ForCausalLM, tokens: list[str], merges: list[tuple[str, str]]) -> None:
    """As llama.cpp's own converter does."""
    writer, config = gguf.GGUFWriter(path, "qwen2"), model.config
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_token_types([gguf.TokenType.CONTROL, *[gguf.TokenType.NORMAL] * (len(tokens) - 1)])
    writer.add_eos_token_id(0)
    writer.add_pad_token_id(0)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN2, config.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        if name != "lm_head.weight":  # the embeddings
            writer.add_tensor(names.get_name(name, (".weight", ".bias")), tensor.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_its_answers_and_states_are_those_of_the_same_weights_in_a_folder(tiny, home, tmp_path, capsys):
    task = some("mini-mmlu", 12)
    packed, plain = (
        score(str(tiny / name), task, tmp_path / "stores", layers="all", batch_size=4) for name in ("tiny.gguf", "tiny")
    )
    ours, theirs = packed.table(), plain.table()
    for column in ("p_t", "option_mass", "prediction", "prompt_tokens", "parameters"):
        assert ours[column].to_pylist() == theirs[column].to_pylist(), column
    for layer in range(3):
        assert torch.equal(packed.store.layer(layer), plain.store.layer(layer))
    assert packed.store.folder != plain.store.folder
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("Unpacking")]
    (unpacked,) = (home / "cascade" / "gguf").glob("tiny--*/float32")
    assert said == [f"Unpacking tiny.gguf in float32 to {unpacked}, once"]


def test_it_is_unpacked_once_for_each_dtype_and_a_plan_unpacks_nothing(tiny, home, capsys):
    weights = sum(p.numel() for p in Qwen2ForCausalLM.from_pretrained(tiny / "tiny").parameters())
    for _ in range(2):
        model = HuggingFaceModel(DecoderConfig(str(tiny / "tiny.gguf")))
        assert model.weights().parameters == model.parameters == weights
        assert model.count_tokens(["Answer: B"]) == [8]
    assert not (home / "cascade").exists()
    for dtype in ("float32", "bfloat16", "float32"):
        loaded = HuggingFaceModel(DecoderConfig(str(tiny / "tiny.gguf"), dtype=dtype)).model
        assert {str(weight.dtype) for weight in loaded.parameters()} == {f"torch.{dtype}"}
    assert capsys.readouterr().err.count("Unpacking tiny.gguf") == 2


def test_what_ends_while_it_unpacks_leaves_nothing_that_is_taken_for_whole(tiny, home, monkeypatch, capsys):
    save = Qwen2ForCausalLM.save_pretrained

    def full(model, folder):
        save(model, folder)
        raise OSError(28, "No space left on device", str(folder))

    monkeypatch.setattr(Qwen2ForCausalLM, "save_pretrained", full)
    with pytest.raises(CascadeError, match="No space left on device"):
        HuggingFaceModel(DecoderConfig(str(tiny / "tiny.gguf"))).model  # noqa: B018
    (folder,) = (home / "cascade" / "gguf").iterdir()
    assert [path.name for path in folder.iterdir()] == [".lock"]
    monkeypatch.undo()
    assert HuggingFaceModel(DecoderConfig(str(tiny / "tiny.gguf"))).model.config.num_hidden_layers == 2


LOAD = """
import json
from cascade.engines.huggingface import HuggingFaceModel
from cascade.engines.settings import DecoderConfig

model = HuggingFaceModel(DecoderConfig("nobody/packed/q/tiny.gguf"))
print(json.dumps([model.revision, model.model.config.num_hidden_layers]))
try:
    HuggingFaceModel(DecoderConfig("nobody/packed/q/tiny.gguf", revision="v0"))
except ValueError as error:
    print(error)
"""


def test_one_on_the_hub_is_that_of_its_revision(tiny, tmp_path):
    data = (tiny / "tiny.gguf").read_bytes()
    hub = FakeHub(models={"nobody/packed": {"main": {"q/tiny.gguf": data}, "v0": {"README.md": b"none yet"}}})
    done = ask(hub.url, tmp_path / "home", "-c", LOAD)
    hub.close()
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert json.loads(first) == [HuggingFaceModel(DecoderConfig(str(tiny / "tiny.gguf"))).revision, 2]
    assert second.startswith("Expected q/tiny.gguf in nobody/packed, but the Hub has no such file")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "none.gguf",
            "Expected 'none.gguf' to be a GGUF file, or one on the Hub (owner/name/FILE.gguf), but there",
        ),
        ("../none/x.gguf", "but there is no such file"),
        ("noise.gguf", "'noise.gguf' could not be loaded: "),
        ("cut.gguf", "'cut.gguf' could not be loaded: "),
        ("other.gguf", "'other.gguf' could not be loaded: GGUF model with architecture strange is not supported yet."),
    ],
    ids=["none", "elsewhere", "noise", "cut", "strange"],
)
def test_what_is_no_model_is_said_in_one_line(tiny, tmp_path, monkeypatch, capsys, name, said):
    monkeypatch.chdir(tmp_path)
    data = (tiny / "tiny.gguf").read_bytes()
    Path("noise.gguf").write_bytes(b"noise" * 99)
    Path("cut.gguf").write_bytes(data[: len(data) // 3])
    strange = gguf.GGUFWriter("other.gguf", "strange")
    for step in (strange.write_header_to_file, strange.write_kv_data_to_file, strange.close):
        step()
    with pytest.raises(SystemExit) as ended:
        main([f"--data.model={name}", "--data.task=mini-mmlu"])
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert ended.value.code == 2 and len(lines) == 1 and said in lines[0]


def test_without_the_package_the_extra_is_named(tiny, monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    monkeypatch.setattr("cascade.engines.gguf.find_spec", lambda name: None)
    with pytest.raises(CascadeError, match=r"package gguf to be installed .* pip install 'confidence-cascade\[gguf\]'"):
        HuggingFaceModel(DecoderConfig(str(tiny / "tiny.gguf")))
