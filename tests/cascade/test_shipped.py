"""The probes and scores that the miniatures ship with are those of the models that they ship with."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pytest
from sklearn.metrics import roc_auc_score

from cascade.engines.files import hash_folder
from cascade.engines.settings import DecoderConfig
from cascade.miniature.families import ASSETS, MODEL_NAMES
from cascade.miniature.shipped import PROBED, shipped_probe, validation_scores
from cascade.probing.data import default_layer
from cascade.scores.reading import read_scores
from cascade.scores.schema import validate_scores
from cascade.tasks.load import load_task
from experiments.miniature import shipped
from probes import Probe, stratified_split

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def split():
    questions = load_task("mini-mmlu").questions
    return stratified_split([q.id for q in questions], [q.subject for q in questions])


@pytest.mark.parametrize("name", PROBED)
def test_a_shipped_probe_knows_its_model_and_when_that_is_right(name, split):
    """Run afresh: its P(IK) on validation questions is the shipped table's, and on test questions it is any good."""
    task, model = load_task("mini-mmlu"), DecoderConfig(name).build()
    probe = Probe.from_pretrained(shipped_probe(name))
    config = probe.config
    assert (config.base_model, config.base_revision, config.dtype) == (name, model.revision, model.dtype)
    assert (config.template_hash, config.task_revision) == (task.template_hash, task.revision)
    assert config.split_fingerprint == split.fingerprint
    assert (config.layer, config.num_layers) == (default_layer(model.num_layers), model.num_layers)

    places = [*split.validation[::13], *split.test]
    asked = [task.questions[place] for place in places]
    output = model.decoder.run([task.prompt(question) for question in asked], [config.layer])
    p_ik = probe.predict(output.states[config.layer])
    table = {row["question_id"]: row for row in validation_scores([name]).to_pylist()}
    among = len(split.validation[::13])
    assert among > 60
    for question, value in zip(asked[:among], p_ik, strict=False):
        assert value == pytest.approx(table[question.id]["p_ik"], abs=1e-4)
        assert table[question.id]["probe_layer"] == config.layer

    letters = model.decoder.option_tokens(task.prompt(asked[0]), asked[0].letters)
    best = output.first_token[:, list(letters)].argmax(1).tolist()
    right = [task.judge(q, q.letters[i]) for q, i in zip(asked, best, strict=True)]
    assert right[:among] == [table[question.id]["correct"] for question in asked[:among]]
    assert roc_auc_score(right[among:], p_ik[among:]) >= 0.80


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_the_shipped_scores_are_of_the_validation_questions_and_no_others(name, split):
    table = validation_scores([name])
    questions = load_task("mini-mmlu").questions
    assert validate_scores(table, name).equals(table)
    assert table["question_id"].to_pylist() == [questions[place].id for place in split.validation]
    assert set(table["split"].to_pylist()) == {"validation"}
    assert not {"seconds", "prefill_seconds"} & set(table.column_names)
    assert ("p_ik" in table.column_names) == (name in PROBED)


def test_a_chains_scores_are_one_table_and_other_models_have_none():
    table = validation_scores(MODEL_NAMES[:3])
    assert table["model"].value_counts().to_pylist() == [{"values": n, "counts": 810} for n in MODEL_NAMES[:3]]
    last = table.filter(pc.equal(table["model"], MODEL_NAMES[2]))
    assert last["p_ik"].null_count == 810
    assert validation_scores([MODEL_NAMES[0], "someone/else"]) is None
    assert shipped_probe(MODEL_NAMES[2]) is None
    assert shipped_probe("../assets/mini-llama-small") is None


def test_what_is_shipped_is_small_and_does_not_make_its_model_another(tmp_path):
    for name in MODEL_NAMES:
        for file in (*(ASSETS / name).glob("probe/*"), ASSETS / name / "validation.parquet"):
            assert file.stat().st_size < 60_000
        bare = tmp_path / name
        bare.mkdir()
        for file in ("config.json", "model.safetensors"):
            (bare / file).write_bytes((ASSETS / name / file).read_bytes())
        assert hash_folder(bare) == hash_folder(ASSETS / name)


def test_what_is_shipped_is_made_again_by_its_entry_point(tmp_path):
    """On another machine rounding differs a little, and with it what training ends in."""
    name = "mini-llama-small"
    shipped.main(["--models", name, f"--runs={tmp_path / 'runs'}", f"--out={tmp_path / 'out'}"])
    assert {p.name for p in (tmp_path / "out" / name).iterdir()} == {"probe", "validation.parquet"}
    probe = Probe.from_pretrained(tmp_path / "out" / name / "probe")
    assert probe.config.base_revision == Probe.from_pretrained(shipped_probe(name)).config.base_revision
    made, there = read_scores([tmp_path / "out" / name / "validation.parquet"]), validation_scores([name])
    assert made.schema == there.schema
    assert made.drop_columns(["p_ik", "p_t", "p_t_normalized", "option_mass"]).equals(
        there.drop_columns(["p_ik", "p_t", "p_t_normalized", "option_mass"])
    )
    assert np.abs(made["p_ik"].to_numpy() - there["p_ik"].to_numpy()).mean() < 0.01


def test_reading_what_is_shipped_loads_no_torch():
    code = (
        "import sys; from cascade.miniature.shipped import shipped_probe, validation_scores;"
        "assert shipped_probe('mini-qwen3-small'); assert validation_scores(['mini-qwen3-small']).num_rows == 810;"
        "assert not {'torch', 'transformers', 'lightning'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_an_installed_package_has_all_of_it():
    """The patterns of pyproject.toml, read as setuptools reads them."""
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())
    patterns = config["tool"]["setuptools"]["package-data"]["cascade.miniature"]
    held = {file for pattern in patterns for file in ASSETS.parent.glob(pattern) if file.is_file()}
    wanted = {file for file in ASSETS.rglob("*") if file.is_file()}
    assert len([file for file in wanted if file.parent.name == "probe"]) == 4 * 3
    assert held == wanted
