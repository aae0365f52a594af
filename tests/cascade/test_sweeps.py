"""Every sweep file, from its YAML through W&B's own argument code to a run of ours."""

from __future__ import annotations

import itertools
import json
import warnings
from pathlib import Path

import pytest
import wandb
import yaml
from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

from cascade.probing.cli import TrainCLI
from cascade.probing.data import ScoredTaskDataModule
from cascade.simulate import build_parser
from cascade.simulate import main as simulate
from cascade.train import main as train
from probes import Probe
from probes.training import ProbeModule

SWEEPS = sorted((Path(__file__).parents[2] / "configs" / "sweeps").glob("*.yml"))


def faults(sweep: dict) -> list[str]:
    """What W&B's own schema finds wrong, and what its server refuses besides or never ends."""
    with warnings.catch_warnings(action="ignore"):  # of pydantic 2, for which it was not written
        from sweeps.config import schema_violations_from_proposed_config
    # The schema that installs beside numpy 2 is older than this key.
    found = list(schema_violations_from_proposed_config({k: v for k, v in sweep.items() if k != "run_cap"}))
    if sweep["method"] == "bayes" and "metric" not in sweep:
        found.append("bayes without a metric")
    if sweep["method"] == "grid" and any("distribution" in setting for setting in sweep["parameters"].values()):
        found.append("a grid of what is drawn")
    if sweep["method"] != "grid" and sweep.get("run_cap", 0) < 1:
        found.append("no run_cap")
    return found


def points(sweep: dict) -> list[dict]:
    """Every point of a grid; the corners of what is drawn."""
    names, choices = [], []
    for name, setting in sweep["parameters"].items():
        names.append(name)
        choices.append(
            [setting["value"]] if "value" in setting else setting.get("values") or [setting["min"], setting["max"]]
        )
    return [dict(zip(names, chosen, strict=True)) for chosen in itertools.product(*choices)]


def flags(sweep: dict, point: dict) -> list[str]:
    """The command line that an agent would run, from the module's name on."""
    rendered = create_sweep_command_args({"args": {name: {"value": value} for name, value in point.items()}})
    command = create_sweep_command(sweep["command"])
    words = [w for word in command for w in (rendered["args"] if word == "${args}" else [word])]
    start = words.index("-m") + 1
    assert f"{words[start].replace('.', '/')}.py" == sweep["program"]
    return words[start + 1 :]


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_a_sweep_file_says_what_wandb_asks_for(path):
    sweep = yaml.safe_load(path.read_text())
    assert faults(sweep) == []
    metrics = {"cascade/train.py": ("best_val_loss", "minimize"), "cascade/simulate.py": ("fixed/accuracy", "maximize")}
    assert tuple(sweep["metric"].values()) == metrics[sweep["program"]]
    assert (path.parents[2] / sweep["program"]).exists()


@pytest.mark.parametrize(
    ("changed", "fault"),
    [
        ({"method": "gridd"}, "'gridd' is not one of"),
        ({"method": "grid"}, "a grid of what is drawn"),
        ({"metric": {"goal": "minimize"}}, "'name' is a required property"),
        ({"metric": {"name": "loss", "goal": "down"}}, "'down' is not one of"),
        ({"metric": None}, "bayes without a metric"),
        ({"run_cap": None}, "no run_cap"),
        ({"parameters": None}, "'parameters' is a required property"),
        ({"parameters": {"x": {"distribution": "unifrom", "min": 0, "max": 1}}}, "not valid under any"),
        ({"parameters": {"x": {"distribution": "log_uniform_values", "min": 0, "max": 1}}}, "not valid under any"),
        ({"parameters": {"x": {"distribution": "uniform", "min": 2, "max": 1}}}, "min 2 is not less than max 1"),
        ({"parameters": {"x": {"valeus": [1]}}}, "not valid under any"),
        ({"prameters": {}}, "'prameters' was unexpected"),
    ],
)
def test_a_broken_sweep_file_is_found(changed, fault):
    whole = yaml.safe_load(next(path for path in SWEEPS if path.stem == "heads-bayes").read_text())
    broken = {key: value for key, value in (whole | changed).items() if value is not None}
    assert any(fault in found for found in faults(broken)), faults(broken)


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_every_point_is_a_command_line_of_ours(path):
    sweep = yaml.safe_load(path.read_text())
    every = points(sweep)
    for point in (every[0], every[len(every) // 2], every[-1]):
        if sweep["program"] == "cascade/simulate.py":
            values = build_parser().parse_args(flags(sweep, point)).as_dict()
            assert {name: values[name] for name in point} == point
            continue
        cli = TrainCLI(
            ProbeModule, ScoredTaskDataModule, run=False, args=flags(sweep, point), save_config_callback=None,
            auto_configure_optimizers=False,
        )  # fmt: skip
        for name, value in point.items():
            assert cli.config.as_dict()[name.split(".")[0]][name.split(".")[1]] == value


GRIDS = [path for path in SWEEPS if yaml.safe_load(path.read_text())["method"] == "grid"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.mark.parametrize("path", GRIDS, ids=lambda path: path.stem)
def test_the_first_and_last_point_of_a_grid_run_offline_each_in_a_folder_of_its_own(path, runs, monkeypatch, capsys):
    """On the small benchmark; a sweep of cascades trains its probes once."""
    sweep = yaml.safe_load(path.read_text())
    monkeypatch.chdir(runs)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SWEEP_ID", path.stem)
    every = points(sweep)
    for run_id, point in (("first", every[0]), ("last", every[-1])):
        wandb.teardown()  # an agent's runs are processes of their own, which read their surroundings anew
        monkeypatch.setenv("WANDB_RUN_ID", run_id)
        if sweep["program"] == "cascade/simulate.py":
            simulate([*flags(sweep, point), "--task=mini-gpqa", "--probes.task=mini-gpqa"])
            folder = Path("runs/simulations") / f"sweep-{path.stem}" / run_id
            asked = json.loads((folder / "report.json").read_text())["thresholds"]
            assert (asked["p_t"], asked["p_ik"]) == (point["p_t"], point["p_ik"])
            assert list(Path().glob(f"wandb/offline-run-*-{run_id}"))
            assert capsys.readouterr().err.count("training one") == (2 if run_id == "first" else 0)
            continue
        train([*flags(sweep, point), "--data.task=mini-gpqa", "--trainer.max_epochs=1"])
        (folder,) = (Path("runs/probes") / f"sweep-{path.stem}" / run_id).iterdir()
        config = Probe.from_pretrained(folder / "probe").config
        assert config.base_model == point["data.model"]
        if "model.depth" in point:
            assert (config.head.depth, config.head.activation) == (point["model.depth"], point["model.activation"])
        assert list(folder.glob(f"wandb/offline-run-*-{run_id}"))
    wandb.teardown()
