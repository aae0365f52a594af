"""One index of trained probes: training, simulation and a live run meet there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from cascade.engines.settings import DecoderConfig
from cascade.miniature.families import ASSETS
from cascade.probing.chain import probe_for
from cascade.run import main as run_main
from cascade.scoring.scored import score
from cascade.train import train

MODEL = "mini-llama-small"


@pytest.fixture(scope="module")
def own(tmp_path_factory) -> Path:
    """Two models of one's own, which are no miniatures by their names, and a file of questions."""
    folder = tmp_path_factory.mktemp("own")
    for name, of in (("little", "mini-llama-small"), ("big", "mini-llama-medium")):
        shutil.copytree(ASSETS / of, folder / name)
    return folder


@pytest.fixture(scope="module")
def swept(own):
    """A sweep over all layers of the smaller one."""
    flags = [f"--data.model={own / 'little'}", f"--data.stores={own / 'runs' / 'stores'}", "--data.layers=all"]
    return train([*flags, f"--out={own / 'runs' / 'probes'}", "--trainer.max_epochs=5", "--keep=all"])


def run(own: Path, out: Path, *more: str) -> dict:
    chain = f"--chain={own / 'little'},{own / 'big'}"
    run_main([chain, "--questions=mini-mmlu", "--limit=60", f"--runs={own / 'runs'}", f"--out={out}", *more])
    return json.loads((out / "summary.json").read_text())


def test_a_live_run_reads_p_ik_by_the_probe_that_was_trained_for_the_model(own, swept, tmp_path, capsys):
    summary = run(own, tmp_path)
    steps = pq.read_table(tmp_path / "steps.parquet").to_pylist()
    asked = [step for step in steps if step["model"] == str(own / "little")]
    assert len(asked) == 60
    assert all(0 <= step["p_ik"] <= 1 for step in asked)
    assert summary["policy"]["policy"] == "P(IK) + P(T)"
    # P(IK) by hand, from the states that the run's questions have in the store.
    scored = score(str(own / "little"), "mini-mmlu", own / "runs" / "stores")
    rows = {id: row for row, id in enumerate(scored.table()["question_id"].to_pylist())}
    p_ik = swept.probe.predict(scored.store.layer(swept.probe.config.layer))
    for step in asked:
        assert step["p_ik"] == pytest.approx(float(p_ik[rows[step["question_id"]]]), abs=1e-4)
    assert f"layer {swept.probe.config.layer}" in capsys.readouterr().err


def test_a_live_run_without_a_trained_probe_is_refused_in_one_line(own, swept, tmp_path, capsys):
    chain = f"--chain={own / 'big'},{own / 'little'}"
    with pytest.raises(SystemExit) as stopped:
        run_main(
            [
                chain,
                "--any_order=true",
                "--questions=mini-mmlu",
                "--limit=9",
                f"--runs={own / 'runs'}",
                f"--out={tmp_path / 'o'}",
            ]
        )
    assert stopped.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(f"error: Expected {str(own / 'big')!r} to have a probe, as `p_ik` 0.5 asks one")
    assert not (tmp_path / "o").exists()


def test_a_live_run_without_p_ik_says_that_it_asked_p_t_alone(own, tmp_path):
    summary = run(own, tmp_path, "--p_ik=null")
    assert summary["policy"]["policy"] == "P(T)"
    assert [limits["p_ik"] for limits in summary["policy"]["thresholds"]] == [None]
    assert set(pq.read_table(tmp_path / "steps.parquet")["p_ik"].to_pylist()) == {None}


def test_a_model_that_is_to_have_no_probe_is_not_said_to_be_asked_for_p_ik(own, tmp_path):
    config = tmp_path / "c.yaml"
    config.write_text(f"models:\n- {{model: {own / 'little'}, probe: none}}\n- {{model: {own / 'big'}}}\n")
    run_main([f"--config={config}", "--questions=mini-mmlu", "--limit=9", f"--out={tmp_path / 'o'}"])
    policy = json.loads((tmp_path / "o" / "summary.json").read_text())["policy"]
    assert (policy["policy"], policy["thresholds"][0]["p_ik"]) == ("P(T)", None)


def test_a_simulation_takes_the_best_probe_of_a_sweep_and_trains_none(own, swept, capsys):
    runs = own / "runs"
    before = sorted((runs / "probes").iterdir())
    model = DecoderConfig(str(own / "little")).build()
    scored = score(model, "mini-mmlu", runs / "stores")
    losses = {row.layer: row.val_loss for row in swept.layers}
    assert probe_for(model, "mini-mmlu", scored, runs).config.layer == min(losses, key=losses.get)
    for layer in losses:
        assert probe_for(model, "mini-mmlu", scored, runs, layer).config.layer == layer
    assert sorted((runs / "probes").iterdir()) == before
    assert "training one" not in capsys.readouterr().err
