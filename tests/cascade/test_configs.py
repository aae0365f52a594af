"""Every YAML file under configs/ is one that an entry point takes, and says in its first line which."""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path

import pytest
import yaml

from cascade import judge, run, score, serve, simulate
from cascade.engines.base import EngineConfig
from cascade.engines.settings import DecoderConfig, read_settings
from cascade.errors import CascadeError
from cascade.judging.llm import JudgeConfig
from cascade.policies.ledgers import read_prices
from cascade.probing.cli import TrainCLI
from cascade.probing.data import ScoredTaskDataModule
from cascade.probing.runs import ProbeRun
from cascade.runtime.config import CascadeConfig
from probes.training import ProbeModule
from tests.cascade.test_sweeps import SWEEPS

ROOT = Path(__file__).parents[2]
FILES = sorted(path for path in (ROOT / "configs").rglob("*") if path.is_file())
FAMILIES = {"miniature", "llama3", "qwen3"}
PUBLISHED = json.loads((Path(__file__).parent / "published_models.json").read_text())["models"]


def claimed(path: Path) -> str | None:
    """The entry point that a file is for, by its folder; ``None`` for a file of no use."""
    kind, *deeper = path.relative_to(ROOT / "configs").parent.parts
    by_kind = {
        "cascades": "run",
        "models": "score",
        "prices": "prices",
        "sweeps": "sweep",
        "judges": "judge",
    }
    if kind == "monitoring":
        return kind  # tests/serving/test_monitoring.py
    if deeper or path.suffix != (".yml" if kind == "sweeps" else ".yaml"):
        return None
    return by_kind.get(kind) or ("train" if kind in FAMILIES else None)


def of(kind: str) -> list[Path]:
    return [path for path in FILES if claimed(path) == kind]


def named(path: Path) -> str:
    return f"{path.parent.name}/{path.stem}"


class Parsed(TrainCLI):
    """`cascade.train`'s command line, parsed and not acted upon: no model is looked for."""

    def instantiate_classes(self) -> None:
        pass


def parse_training(args: list[str]):
    return Parsed(
        ProbeModule, ScoredTaskDataModule, run=False, args=args, save_config_callback=None,
        auto_configure_optimizers=False,
    ).config  # fmt: skip


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_file_is_claimed_by_an_entry_point(path):
    assert claimed(path) is not None, f"{path} is parsed by no test"


def test_a_file_that_nothing_takes_would_be_found():
    for stray in ("notes.yaml", "cascades/deeper/x.yaml", "cascades/x.yml", "gemma/2b.yaml"):
        path = ROOT / "configs" / stray
        assert claimed(path) is None if path.parent.name != "configs" else not path.exists()
    assert {claimed(path) for path in FILES} == {"train", "score", "run", "prices", "sweep", "judge", "monitoring"}
    assert of("sweep") == SWEEPS  # each of which test_sweeps takes to a command line


def engine_of(data) -> EngineConfig:
    """What a training file trains a probe of."""
    return DecoderConfig(data.model) if data.engine is None else read_settings(data.engine)


@pytest.mark.parametrize("path", of("score"), ids=named)
def test_a_model_file_is_a_published_model_at_one_commit_which_stands_nowhere_else(path):
    settings = read_settings(str(path))
    published = PUBLISHED[settings.model]
    assert re.fullmatch("[0-9a-f]{40}", settings.revision)
    assert (settings.dtype, settings.quantization) == ("bfloat16", None)
    # Two bytes a parameter: what is larger than the paper's GPU is spread over several.
    assert (settings.device_map == "auto") == (2e9 * published["billions"] > 48e9)
    stands = [file for file in FILES if settings.revision in file.read_text()]
    assert stands == [path]


@pytest.mark.parametrize("path", of("train"), ids=named)
def test_a_training_file_is_one_of_training_and_of_scoring(path):
    data = parse_training([f"--config={path}"]).data
    values = score.build_parser().parse_args([f"--config={path}"]).data
    assert (values.model, values.engine, values.task, values.layer) == (data.model, data.engine, data.task, data.layer)
    if path.parent.name == "miniature":
        assert data.model == f"mini-{path.stem}" and data.engine is None
        return
    name = engine_of(data).name
    assert path.stem in name.lower() and name in PUBLISHED
    assert (data.task, data.layer) == ("mmlu", 24)
    assert data.layer <= PUBLISHED[name]["config"]["num_hidden_layers"]


@pytest.mark.parametrize("path", of("run"), ids=named)
def test_a_cascade_is_read_by_simulate_run_serve_and_plan_alike(path, monkeypatch):
    """Each takes the same file for the same models, thresholds and prices."""
    own = CascadeConfig.read(path)
    values = run.build_parser().parse_args([f"--config={path}"])
    assert [member["settings"] if isinstance(member, dict) else member.settings for member in values.models] == [
        member.settings for member in own.members
    ]
    taken: list[CascadeConfig] = []
    keep = functools.wraps(simulate.simulate)(lambda data, thresholds, goal, cascade, *_: _keep(taken, cascade))
    monkeypatch.setattr(simulate, "simulate", keep)
    with pytest.raises(Kept):
        simulate.main([f"--cascade={path}"])
    monkeypatch.setattr("cascade.runtime.build.build_cascade", lambda config: _keep(taken, CascadeConfig.read(config)))
    with pytest.raises(Kept):
        serve.main([f"--config={path}", "--port=0"])
    assert taken == [own, own]


def test_a_cascade_that_decides_by_normalized_p_t_is_simulated_so(tmp_path, monkeypatch):
    file, found = tmp_path / "cascade.yaml", []
    file.write_text("chain: mini-llama-small,mini-llama-large\nnormalize: true\n")
    keep = functools.wraps(simulate.simulate)(lambda data, *_: _keep(found, data.normalize))
    monkeypatch.setattr(simulate, "simulate", keep)
    for flags, normalized in (([f"--cascade={file}"], True), ([], False), (["--normalize=true"], True)):
        with pytest.raises(Kept):
            simulate.main(flags)
        assert found.pop() is normalized


class Kept(Exception):
    """What was looked for is known."""


def _keep(taken: list, config: object) -> None:
    taken.append(config)
    raise Kept


@pytest.mark.parametrize("path", of("judge"), ids=named)
def test_a_judge_file_is_one_of_judging(path):
    assert JudgeConfig.read(path).endpoint == yaml.safe_load(path.read_text())["endpoint"]


@pytest.mark.parametrize("path", of("run"), ids=named)
def test_a_cascade_file_is_one_of_running_and_serving(path):
    config = CascadeConfig.read(path)
    assert run.build_parser().parse_args([f"--config={path}"]).name == config.name
    assert len(config.members) >= 2
    trained = {}
    for file in of("train"):
        data = parse_training([f"--config={file}"]).data
        layer = data.layer if data.layer is not None else 0
        engine = engine_of(data)
        checkpoint = ProbeRun.of(Path("runs/probes"), engine.name, data.task, layer).checkpoint
        trained[engine.name] = (checkpoint, engine.dtype, engine.revision)
    for member in config.members:
        if member.name in PUBLISHED:
            assert (member.settings.dtype, member.settings.revision) == trained[member.name][1:]
        if member.probe is not None:  # lies where training with our own file puts it
            assert Path(member.probe) == trained[member.name][0]


@pytest.mark.parametrize("path", of("prices"), ids=named)
def test_a_price_file_is_read_and_holds_the_models_of_our_chains(path):
    prices = read_prices(path).models
    for name in PUBLISHED:
        if name.startswith("meta-llama/"):
            assert prices[name] == prices[name.split("/")[1]]
    for file in of("run"):
        for member in CascadeConfig.read(file).members:
            if member.price is not None:
                assert (member.price.input, member.price.output) == prices[member.name]


@pytest.mark.parametrize("path", [path for path in FILES if claimed(path) not in ("sweep", "monitoring")], ids=named)
def test_the_commands_in_a_files_comments_are_commands(path):
    text = path.read_text()
    commands = re.findall(r"^# python -m cascade\.(\w+) (.*?)(?:    \(.*)?$", text, re.MULTILINE)
    assert commands, f"{path} does not say what it is for"
    for entry, flags in commands:
        assert str(path.relative_to(ROOT)) in flags
        words = [str(ROOT / word) if word.startswith("configs/") else word for word in flags.split() if word != "…"]
        words = [word for word in words if word != "--scores"]
        if entry == "train":
            parse_training(words)
        elif entry == "judge":
            assert words == ["--judge", str(path)] and callable(judge.main)
        elif entry == "serve":
            assert words == ["--config", str(path)]
            assert callable(serve.serve)
        else:
            {"simulate": simulate, "run": run, "score": score}[entry].build_parser().parse_args(words)


def test_a_flag_that_there_is_not_is_found(tmp_path):
    (tmp_path / "x.yaml").write_text("models:\n  - model: mini-llama-small\n    quantisation: 4bit\n")
    with pytest.raises(CascadeError, match="quantisation"):
        CascadeConfig.read(tmp_path / "x.yaml")


def test_what_stands_beside_a_file_of_settings_counts_more_and_a_file_that_is_not_there_is_named(tmp_path, monkeypatch):
    (tmp_path / "deeper").mkdir()
    (tmp_path / "engine.yaml").write_text("model: mini-llama-small\nbatch_size: 8\ndtype: bfloat16\n")
    path = tmp_path / "deeper" / "cascade.yaml"
    path.write_text("models:\n  - {engine: engine.yaml, dtype: float16, probe: none}\n  - model: mini-llama-large\n")
    monkeypatch.chdir(tmp_path)
    member = CascadeConfig.read(path).members[0]
    assert member.settings == DecoderConfig("mini-llama-small", dtype="float16", batch_size=8)
    (tmp_path / "engine.yaml").rename(tmp_path / "other.yaml")
    with pytest.raises(CascadeError, match="settings of an engine at engine.yaml, but there is no such file"):
        CascadeConfig.read(path)
