"""Models from the Hugging Face Hub: one commit of theirs, the Hub's troubles in a line, and the cache without it."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, save
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from cascade.engines.settings import DecoderConfig, EncoderConfig
from probes import Probe, ProbeConfig
from tests.cascade.fake_hub import EXPIRED, NOWHERE, FakeHub, ask, commit_of, model_files

PROMPT, TEXTS = "The answer is", ["a b", "c"]
NEW, OLD = model_files(), model_files()
NEW["model.safetensors"] = save({n: 2 * t for n, t in load(OLD["model.safetensors"]).items()}, {"format": "pt"})

LOAD = f"""
import json, os, sys, time
import transformers.models.auto.modeling_auto
from cascade.errors import CascadeError
from cascade.engines.settings import DecoderConfig, EncoderConfig
from cascade.engines.settings import DecoderConfig
for kind, name, revision in json.loads(sys.argv[1]):
    start, found = time.perf_counter(), {{}}
    os.environ["HF_TOKEN"] = kind if kind.startswith("hf_") else ""
    try:
        if kind == "reader":
            model = EncoderConfig(name, revision).build()
            found["states"] = {{layer: state.tolist() for layer, state in model.run({TEXTS}).items()}}
        else:
            model = DecoderConfig(name, revision).build()
            if kind == "run":
                found["first_token"] = model.decoder.run(["{PROMPT}"]).first_token[0].tolist()
        found["revision"] = model.revision
    except CascadeError as error:
        found["error"] = str(error)
    print(json.dumps(found | {{"seconds": time.perf_counter() - start}}))
"""
ACCESS = "`hf auth login` or put a token (https://huggingface.co/settings/tokens) in HF_TOKEN"
GATED = (
    "Expected access to nobody/gated, but it is gated: ask for it at https://huggingface.co/nobody/gated, then "
    + ACCESS
)
TROUBLES = {
    ("config", "nobody/gated", None): GATED,
    ("hf_of-somebody-without-access", "nobody/gated", None): GATED,
    (
        EXPIRED,
        "nobody/bare",
        None,
    ): "Expected access to nobody/bare, but the Hub does not take the token (Client error '401",
    ("config", "nobody/none", None): f"but it is not there, or it is private: {ACCESS}",
    ("reader", "nobody/none", None): "Expected a folder 'nobody/none', or nobody/none at http://127.0.0.1",
    ("config", "nobody/tiny", "v9"): "Expected revision v9 in nobody/tiny, but the Hub has none such",
    ("config", "nobody/tiny", "0" * 40): f"Expected commit {'0' * 40} in nobody/tiny, but the Hub has none such",
    ("config", "nobody/bare", None): "Expected config.json in nobody/bare, but the Hub has no such file there",
    ("config", "no/such/folder", None): "there is no folder 'no/such/folder' and it is no id",
    ("config", "./tiny", None): "there is no folder './tiny' and it is no id",
}
MODELS = {
    ("run", "nobody/tiny", None): NEW,
    ("run", "nobody/tiny", "v1"): OLD,
    ("run", "nobody/tiny", commit_of(OLD)): OLD,
}
READER = ("reader", "nobody/reader", None)
PART = ("config", "nobody/part", None)


def load_from(url: str, home: Path, wanted, **environment: str) -> dict[tuple, dict]:
    done = ask(url, home, "-c", LOAD, json.dumps(list(wanted)), **environment)
    assert done.returncode == 0, done.stderr
    return dict(zip(wanted, map(json.loads, done.stdout.splitlines()), strict=True))


@pytest.fixture(scope="module")
def reader(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("reader")
    words = Tokenizer(models.WordLevel({"[PAD]": 0, "[UNK]": 1, "a": 2, "b": 3, "c": 4}, "[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(folder)
    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(vocab_size=5, **shape)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def loaded(reader, home) -> dict[tuple, dict]:
    """What a process that reaches the Hub gets, and leaves in the cache."""
    hub = FakeHub(
        models={
            "nobody/tiny": {"main": NEW, "v1": OLD},
            "nobody/reader": {"main": {path.name: path.read_bytes() for path in reader.iterdir()}},
            "nobody/part": {"main": OLD},
            "nobody/gated": {"main": OLD},
            "nobody/bare": {"main": {"README.md": b"# Nothing\n"}},
        },
        gated=("nobody/gated",),
    )
    found = load_from(hub.url, home, [*MODELS, READER, PART, *TROUBLES])
    hub.close()
    return found


def test_a_model_is_that_of_the_revision_asked_for(loaded, reader):
    here = DecoderConfig("mini-llama-small").build().decoder.run([PROMPT]).first_token[0]
    for name, files in MODELS.items():
        assert loaded[name]["revision"] == commit_of(files)
        assert torch.equal(torch.tensor(loaded[name]["first_token"]), here) == (files is OLD)
    assert loaded[READER]["revision"] == commit_of({path.name: path.read_bytes() for path in reader.iterdir()})
    states = EncoderConfig(str(reader)).build().run(TEXTS)
    assert loaded[READER]["states"] == {str(layer): state.tolist() for layer, state in states.items()}


@pytest.mark.parametrize("name", TROUBLES)
def test_each_trouble_with_the_hub_is_one_line_that_says_what_to_do(name, loaded):
    said = loaded[name]["error"]
    assert TROUBLES[name] in said and said.startswith("Expected ") and "\n" not in said
    assert loaded[name]["seconds"] < 10


@pytest.mark.parametrize("offline", [False, True])
def test_without_the_hub_the_cache_is_read_and_what_it_has_not_is_said_both_at_once(offline, loaded, home):
    absent, whole = ("config", "nobody/absent", None), ("run", "nobody/part", None)
    wanted = [*MODELS, READER, PART, whole, absent]
    found = load_from(NOWHERE, home, wanted, **({"HF_HUB_OFFLINE": "1"} if offline else {}))
    for name in (*MODELS, READER, PART):
        assert found[name] | {"seconds": 0} == loaded[name] | {"seconds": 0}
    said = f"Expected to reach {NOWHERE} for nobody/absent, but [Errno 111] Connection refused; what was loaded once"
    assert found[absent]["error"].startswith(
        "Expected nobody/absent in the Hub's cache (HF_HOME), but it is not there and offline" if offline else said
    )
    assert "'nobody/part' could not be loaded: " in found[whole]["error"]
    assert "(only the cache was read: the Hub is out of reach" in found[whole]["error"]
    # A file that is asked for in vain is tried for 24 s.
    assert max(one["seconds"] for one in found.values()) < 15


def test_a_network_that_swallows_everything_is_waited_for_once(tmp_path):
    wanted = ("config", "nobody/tiny", None)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        found = load_from(url, tmp_path, [wanted], HF_HUB_ETAG_TIMEOUT="2")[wanted]
    assert found["error"].startswith(f"Expected to reach {url} for nobody/tiny, but timed out; what was loaded once")
    assert found["seconds"] < 15


def test_an_entry_point_without_a_network_ends_with_one_line(tmp_path):
    done = ask(NOWHERE, tmp_path, "-m", "cascade.score", "--data.model=meta-llama/Llama-3.2-3B-Instruct")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: Expected to reach {NOWHERE} for meta-llama/Llama-3.2-3B-Instruct, but ")
    assert done.stderr.count("\n") == 1


READ = """
import json, sys
from cascade.runtime.build import build_cascade
from cascade.tasks.base import Question
cascade = build_cascade(sys.argv[1])
cascade.answer_many([Question("q", "Who?", "author", ("Nobody",))], progress=False)
print(json.dumps(cascade.readers[0].identity["revision"]))
"""


@pytest.mark.parametrize("kind", ["model", "encoder"])
def test_a_reader_is_of_the_revision_that_its_cascade_names(kind, reader, tmp_path):
    """Of the branch that is named, and its probe of that commit: the Hub's main branch is another."""
    files = {path.name: path.read_bytes() for path in reader.iterdir()} if kind == "encoder" else OLD
    other = files | {"config.json": files["config.json"] + b"\n"}
    name = f"nobody/{kind}"
    shape = {"hidden_size": 16, "num_layers": 2, "position": "mean_of_tokens"} if kind == "encoder" else {}
    shape = shape or {"hidden_size": 48, "num_layers": 3, "position": "last_prompt_token"}
    probe = ProbeConfig(layer=1, base_model=name, base_revision=commit_of(files), **shape)
    Probe(probe).save_pretrained(tmp_path / "probe")
    reading = {kind: name, "probe": str(tmp_path / "probe")}
    members = [{"model": "mini-llama-small"}, {"model": "mini-llama-medium"}]
    hub = FakeHub(models={name: {"main": other, "v1": files}})
    for revision in ({"revision": "v1"}, {"revision": commit_of(files)}, {}):
        config = {"models": [members[0] | {"reader": reading | revision}, members[1]], "p_ik_reader": 0.5}
        (tmp_path / "cascade.yaml").write_text(json.dumps(config))
        done = ask(hub.url, tmp_path / "home", "-c", READ, str(tmp_path / "cascade.yaml"))
        if revision:
            assert done.returncode == 0, done.stderr
            assert json.loads(done.stdout) == commit_of(files)
        else:
            assert f"base_revision={commit_of(files)}), but this is {name}" in done.stderr
    hub.close()
