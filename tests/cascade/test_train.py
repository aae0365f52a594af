from __future__ import annotations

import json
import os
import random
import re
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import wandb
import yaml
from wandb.proto.wandb_internal_pb2 import Record

from cascade.engines.settings import DecoderConfig
from cascade.errors import CascadeError
from cascade.probing.chain import probe_for, with_p_ik
from cascade.probing.data import ScoredTaskDataModule
from cascade.scoring.scored import score
from cascade.train import main, train
from probes import Probe, stratified_split
from probes.files import locked

MODEL, EPOCHS = "mini-llama-small", 5


@pytest.fixture(scope="module")
def runs(made_once, tmp_path_factory) -> Path:
    """With the stores of two models."""
    stores = (made_once.store(name) for name in (MODEL, "mini-qwen3-small"))
    return made_once.copy(tmp_path_factory.mktemp("runs"), *stores)


def flags(runs: Path, *more: str) -> list[str]:
    return [f"--data.stores={runs / 'stores'}", f"--out={runs / 'probes'}", f"--trainer.max_epochs={EPOCHS}", *more]


@pytest.fixture(scope="module")
def trained(runs):
    return train(flags(runs))


def test_a_run_leaves_probe_metrics_config_and_plot(trained):
    folder = trained.run.folder
    names = {p.name for p in folder.iterdir()}
    assert {"probe", "metrics.json", "config.yaml", "reliability.png", "logs"} <= names
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics == trained.metrics
    assert set(metrics["after"]) == {"accuracy", "f1", "auroc", "ece", "ece_mass", "brier", "nll"}
    assert metrics["after"]["auroc"] > 0.65
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["data"]["model"] == MODEL
    assert config["trainer"]["max_epochs"] == EPOCHS


@pytest.fixture(scope="module")
def swept(runs):
    return train(flags(runs, "--data.layers=all", "--keep=all"))


def test_a_sweep_over_layers_gives_each_layer_what_it_gets_alone(swept, trained):
    alone = Probe.from_pretrained(trained.run.checkpoint)
    among = Probe.from_pretrained(swept.run.folder / "probes" / f"layer-{alone.config.layer}")
    states = torch.randn(50, alone.config.hidden_size)
    np.testing.assert_allclose(among.predict(states), alone.predict(states), atol=1e-5)


def test_a_sweep_writes_the_best_layer_the_table_and_the_plot(swept):
    folder = swept.run.folder
    table = json.loads((folder / "layers.json").read_text())
    assert [row["layer"] for row in table] == [0, 1, 2, 3]
    best = min(table, key=lambda row: row["val_loss"])["layer"]
    assert Probe.from_pretrained(folder / "probe").config.layer == best
    assert sorted(p.name for p in (folder / "probes").iterdir()) == [f"layer-{i}" for i in range(4)]
    assert (folder / "layers.png").stat().st_size > 10_000


def test_the_table_by_layer_is_printed(runs, capsys):
    main(flags(runs, "--data.layers=[1,3]", "--trainer.max_epochs=1", "--logger=none"))
    printed = capsys.readouterr().out
    assert "by layer on mini-mmlu test" in printed
    assert "layers-1,3" in printed


def test_which_of_several_heads_was_written_is_told(runs, tmp_path, capsys):
    rates = "[1e-30,2e-3,1e30]"  # one learns nothing, one diverges
    settings = ["--model.seeds=2", f"--model.learning_rate={rates}", "--seed_everything=5", "--data.layers=[2,3]"]
    main(flags(runs, *settings, f"--out={tmp_path}", "--trainer.max_epochs=3", "--logger=none"))
    out, err = capsys.readouterr()
    assert err.count("Left out: the head of layer ") == 4 and "learning_rate 1e+30, " in err
    (folder,) = tmp_path.iterdir()
    config = Probe.from_pretrained(folder / "probe").config
    with_ = config.trained_with
    assert with_["seed"] in (5, 6) and (with_["learning_rate"], with_["weight_decay"]) == (2e-3, 1e-2)
    rows = {row["layer"]: row for row in json.loads((folder / "layers.json").read_text())}
    best = min(rows.values(), key=lambda row: row["val_loss"])
    assert (best["layer"], best["learning_rate"]) == (config.layer, 2e-3)
    assert with_["val_loss"] <= best["val_loss"]
    told = f"seed {with_['seed']}, learning rate 0.002, weight decay 0.01"
    assert told in (folder / "probe" / "README.md").read_text()
    said = " ".join(out.split())
    assert "Means over 2 seeds" in said and f"that of seed {with_['seed']} was written" in said
    assert f"±{best['spread']['auroc']:.3f}" in out
    assert told in said


def test_the_checkpoint_gives_calibrated_p_ik_from_raw_states(trained, runs):
    """By hand: states from a plain forward pass of one test question, P(IK) from the saved folder."""
    probe = Probe.from_pretrained(trained.run.checkpoint)
    scored = score(MODEL, "mini-mmlu", runs / "stores")
    assert scored.reused
    table = with_p_ik(scored, probe, split_seed=0)
    test = [row for row in table.to_pylist() if row["split"] == "test"]
    assert len(test) == len(stratified_split(table["question_id"].to_pylist(), table["subject"].to_pylist()).test)
    from cascade.tasks.load import load_task

    task, model = load_task("mini-mmlu"), DecoderConfig(MODEL).build()
    questions = {q.id: q for q in task.questions}
    for row in test[:5]:
        captured = []
        block = model.decoder.model.model.layers[probe.config.layer - 1]
        handle = block.register_forward_hook(lambda m, i, o, to=captured: to.append(o if torch.is_tensor(o) else o[0]))
        ids = model.decoder.tokenizer(task.prompt(questions[row["question_id"]]), return_tensors="pt").input_ids
        with torch.no_grad():
            model.decoder.model(input_ids=ids)
        handle.remove()
        assert float(probe.predict(captured[0][0, -1])) == pytest.approx(row["p_ik"], abs=1e-4)
    labels = np.array([row["correct"] for row in test], float)
    p_ik = np.array([row["p_ik"] for row in test])
    assert np.mean((p_ik - labels) ** 2) == pytest.approx(trained.metrics["after"]["brier"], abs=1e-5)


def test_a_rerun_reuses_the_store_says_so_and_gives_the_same_probe(trained, runs, capsys):
    before = (trained.run.checkpoint / "model.safetensors").read_bytes()
    again = train(flags(runs))
    assert "Reusing 8,100 scored rows" in capsys.readouterr().err
    assert (again.run.checkpoint / "model.safetensors").read_bytes() == before


def test_the_written_config_reproduces_the_run(trained, runs, tmp_path):
    again = train(["--config", str(trained.run.folder / "config.yaml"), f"--out={tmp_path}"])
    assert again.metrics == trained.metrics


def test_wandb_logs_offline_without_an_account(runs, tmp_path, monkeypatch):
    for name in [n for n in os.environ if n.startswith("WANDB")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    settings = [f"--out={tmp_path}", "--trainer.max_epochs=2", "--logger=wandb", "--data.layers=[2,3]"]
    done = train([*flags(runs)[:1], *settings])
    (log,) = done.run.folder.glob("wandb/offline-run-*/*.wandb")
    kinds, artifact, summary, config = Counter(), None, {}, {}
    for record in records(log):
        kinds[record.WhichOneof("record_type")] += 1
        if record.HasField("artifact"):
            artifact = record.artifact if record.artifact.type == "probe" else artifact
        for item in record.summary.update:
            summary[item.key or "/".join(item.nested_key)] = json.loads(item.value_json)
        for item in (*record.run.config.update, *record.config.update):
            config[item.key or "/".join(item.nested_key)] = json.loads(item.value_json)
    best = done.probe.config.layer
    assert artifact.name == f"p-ik--{MODEL}--mini-mmlu"
    assert set(artifact.aliases) >= {"best", f"layer-{best}"}
    held = {entry.path for entry in artifact.manifest.contents}
    assert {"config.yaml", "probe/config.json", "probe/model.safetensors"} <= held
    assert (summary["best_layer"], summary["layer_table/nrows"]) == (best, 2)
    assert summary["plots/reliability/_type"] == summary["plots/layers/_type"] == "image-file"
    assert config["data"]["layers"] == [2, 3]
    assert kinds["history"] >= 3
    assert yaml.safe_load((done.run.folder / "config.yaml").read_text())["data"]["layers"] == [2, 3]


def test_a_run_folder_holds_one_run_and_a_retrain_takes_its_place_when_it_is_done(trained, runs, tmp_path, monkeypatch):
    """Layers have cards with pictures of their own; a rerun leaves nothing of the run before it."""
    settings = flags(runs, "--data.layers=[2,3]", f"--out={tmp_path}", "--trainer.max_epochs=1")
    folder = train([*settings, "--keep=all"]).run.folder
    pictures = [(folder / "probes" / f"layer-{layer}" / "reliability.png").read_bytes() for layer in (2, 3)]
    assert pictures[0] != pictures[1]
    assert (folder / "reliability.png").read_bytes() == (folder / "probe" / "reliability.png").read_bytes() in pictures
    for layer in (2, 3):
        assert "(reliability.png)" in (folder / "probes" / f"layer-{layer}" / "README.md").read_text()
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    for name in ("probes.training.ProbeModule.on_fit_end", "cascade.probing.fit.layer_table"):
        with monkeypatch.context() as patch:
            patch.setattr(name, _cut_off)
            with pytest.raises(KeyboardInterrupt):
                train([*settings, "--logger=none"])
        assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    train([*settings, "--logger=none"])
    names = {path.name for path in folder.iterdir()}
    assert names == {"probe", "metrics.json", "layers.json", "layers.png", "config.yaml", "reliability.png"}
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]


def test_other_settings_are_another_folder_and_the_defaults_have_the_plain_name(trained, runs, tmp_path):
    def folder(*more: str) -> str:
        return train([f"--data.stores={runs / 'stores'}", f"--out={tmp_path}", "--logger=none", *more]).run.folder.name

    plain = f"{MODEL}--mini-mmlu--layer-2"
    assert folder() == plain
    assert folder("--data.memory=1", "--keep=all") == plain  # how and not what
    quick = "--trainer.max_epochs=1"
    others = [folder(quick), folder(quick, "--model.depth=2"), folder(quick, "--data.split_seed=3")]
    others += [folder(quick, "--seed_everything=5"), folder(quick, "--model.optimizer=torch.optim.SGD")]
    assert len({plain, *others}) == 6
    assert all(name.startswith(f"{plain}--") for name in others)
    assert folder(quick, "--model.depth=2") == others[1]


def test_ctrl_c_while_heads_are_trained_is_one_line(runs, tmp_path, monkeypatch, capsys):
    handler = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr("probes.training.ProbeModule.on_train_epoch_start", _cut_off)
    try:
        with pytest.raises(SystemExit) as stop:
            main(flags(runs, f"--out={tmp_path}"))
    finally:
        signal.signal(signal.SIGINT, handler)  # which Lightning ignores from then on
    assert stop.value.code == 130
    assert capsys.readouterr().err.splitlines()[-1].startswith("Stopped: nothing was written to")


@pytest.mark.parametrize("wrong", ["labels", "questions"])
def test_what_cannot_be_trained_on_is_found_before_anything_is_scored(wrong, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("cascade.probing.data.score", _cut_off)
    few = tmp_path / "few.jsonl"
    lines = [{"question": f"Is it {i}?", "choices": ["yes", "no"], "answer": "A"} for i in range(100)]
    few.write_text("".join(json.dumps(line) + "\n" for line in lines))
    given = {"labels": f"--data.labels={tmp_path / 'none.parquet'}", "questions": f"--data.task={few}"}[wrong]
    with pytest.raises(SystemExit) as stop:
        main([given, f"--out={tmp_path / 'probes'}", f"--data.stores={tmp_path / 'stores'}"])
    assert stop.value.code == 2
    message = {"labels": "none.parquet", "questions": r"at least `batch_size` = 256 .*has 80, of 100"}[wrong]
    assert re.search(f"^error: Expected .*{message}", capsys.readouterr().err.splitlines()[-1])


def test_a_run_folder_that_another_run_writes_to_is_refused_and_left_as_it_is(tmp_path, capsys):
    folder = tmp_path / f"{MODEL}--mini-mmlu--layer-2.unfinished"
    folder.mkdir()
    (folder / "config.yaml").write_text("the other run's")
    with locked(folder), pytest.raises(SystemExit):
        main([f"--out={tmp_path}", f"--data.stores={tmp_path / 'stores'}"])
    assert {path.name for path in folder.iterdir()} == {"config.yaml"}
    assert (folder / "config.yaml").read_text() == "the other run's"
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(f"error: Expected {folder} to be written by one run at a time, but process {os.getpid()} on")


def test_what_is_wrong_with_the_data_costs_no_earlier_run(trained, runs, tmp_path):
    settings = flags(runs, f"--data.labels={tmp_path / 'l.parquet'}", f"--out={tmp_path}", "--trainer.max_epochs=1")
    table = score(MODEL, "mini-mmlu", runs / "stores").table().select(["question_id", "correct"])
    pq.write_table(table, tmp_path / "l.parquet")
    folder = train(settings).run.folder
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    pq.write_table(table.slice(1), tmp_path / "l.parquet")
    with pytest.raises(CascadeError, match="1 have none"):
        train(settings)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_tracked_run_that_was_cut_off_goes_on_under_its_id(runs, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    settings = [*flags(runs)[:1], f"--out={tmp_path}", "--trainer.max_epochs=1", "--logger=wandb"]
    with monkeypatch.context() as patch:
        patch.setattr("cascade.probing.fit.layer_table", _cut_off)
        with pytest.raises(KeyboardInterrupt):
            train(settings)
    (first,) = tmp_path.glob("*.unfinished/wandb/offline-run-*")
    wandb.finish()
    assert yaml.safe_load((first.parents[1] / "config.yaml").read_text())["trainer"]["max_epochs"] == 1
    folder = train(settings).run.folder
    ids = {path.name.split("-")[3] for path in folder.glob("wandb/offline-run-*")}
    assert ids == {first.name.split("-")[3]}  # a second run of the same second gets a suffix
    assert not (folder / "wandb-run-id").exists()  # it ended: the next one is another run


def test_a_run_with_other_settings_does_not_go_on_under_the_id_of_one_that_was_cut_off(runs, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    settings = [*flags(runs)[:1], f"--out={tmp_path}", "--trainer.max_epochs=1", "--logger=wandb"]
    with monkeypatch.context() as patch:
        patch.setattr("cascade.probing.fit.layer_table", _cut_off)
        with pytest.raises(KeyboardInterrupt):
            train(settings)
    wandb.finish()
    train([*settings, "--model.dropout=0.5"])
    assert len({path.name.split("-")[3] for path in tmp_path.glob("*/wandb/offline-run-*")}) == 2


def records(log: Path) -> Iterator[Record]:
    """W&B's offline file: seven bytes of its own, then LevelDB's log format of protobuf records."""
    data, place, whole = log.read_bytes(), 7, b""
    while place + 7 <= len(data):
        if 32768 - place % 32768 < 7:  # no header fits in the rest of a block
            place += 32768 - place % 32768
            continue
        length, kind = int.from_bytes(data[place + 4 : place + 6], "little"), data[place + 6]
        whole += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # a full record, or the last piece of one
            record = Record()
            record.ParseFromString(whole)
            yield record
            whole = b""


def _cut_off(*_):
    raise KeyboardInterrupt


def test_the_label_of_a_question_asked_several_times_is_its_share_of_right_answers(trained, runs, tmp_path):
    ids = score(MODEL, "mini-mmlu", runs / "stores").table()["question_id"].to_pylist()
    answers = [(i, (number * 7 + sample) % 5 < 2) for number, i in enumerate(ids) for sample in range(3)]
    random.Random(0).shuffle(answers)
    pq.write_table(
        pa.table({"question_id": [i for i, _ in answers], "correct": [c for _, c in answers]}), tmp_path / "l"
    )
    data = ScoredTaskDataModule(MODEL, stores=runs / "stores", labels=tmp_path / "l")
    data.setup()
    for number in random.Random(1).sample(range(len(ids)), 50):
        shares = [right for i, right in answers if i == ids[number]]
        assert float(data.data.labels[number]) == pytest.approx(sum(shares) / 3)
    assert "share of right answers" in data.data.origins[0].label


def test_a_probe_reads_one_model_and_predicts_another(trained, runs, tmp_path):
    other = score("mini-qwen3-small", "mini-mmlu", runs / "stores").table()
    pq.write_table(other.take(list(reversed(range(other.num_rows)))), tmp_path / "other.parquet")
    done = train(
        flags(runs, f"--data.labels={tmp_path / 'other.parquet'}", f"--out={tmp_path}", "--trainer.max_epochs=2")
    )
    assert done.probe.config.base_model == MODEL
    assert done.probe.config.label == "the answer of mini-qwen3-small is correct"
    right = dict(zip(other["question_id"].to_pylist(), other["correct"].to_pylist(), strict=True))
    own = score(MODEL, "mini-mmlu", runs / "stores")
    table = own.table()
    rows = stratified_split(table["question_id"].to_pylist(), table["subject"].to_pylist()).test
    p_ik = done.probe.predict(own.store.layer(done.probe.config.layer)[list(rows)])
    labels = np.array([right[table["question_id"][row].as_py()] for row in rows], float)
    assert done.metrics["after"]["brier"] == pytest.approx(np.mean((p_ik - labels) ** 2), abs=1e-5)


def test_what_predicts_something_else_is_never_taken_for_the_models_own_p_ik(trained, runs, tmp_path, capsys):
    """Another model's answers have a folder of their own, and a probe that lies in the wrong one is not used."""
    other = score("mini-qwen3-small", "mini-mmlu", runs / "stores").table()
    pq.write_table(other, tmp_path / "other.parquet")
    own = (trained.run.checkpoint / "model.safetensors").read_bytes()
    wrong = flags(runs, f"--data.labels={tmp_path / 'other.parquet'}", "--trainer.max_epochs=1")
    done = {targets: train([*wrong, f"--data.targets={targets}"]) for targets in ("correct", "p_right")}
    assert done["correct"].run.folder.name.startswith(f"{MODEL}--mini-mmlu--labels-other--layer-2")
    assert done["p_right"].run.folder.name.startswith(f"{MODEL}--mini-mmlu--labels-other--p_right--layer-2")
    assert (trained.run.checkpoint / "model.safetensors").read_bytes() == own

    model = DecoderConfig(MODEL).build()
    scored = score(model, "mini-mmlu", runs / "stores")
    assert probe_for(model, "mini-mmlu", scored, runs, trained.probe.config.layer).config == trained.probe.config
    said = f"Reusing the probe in {trained.run.folder}, AUROC {trained.metrics['after']['auroc']:.3f}"
    assert said in capsys.readouterr().err
    (tmp_path / "stores").symlink_to(runs / "stores")
    done["correct"].probe.save_pretrained(tmp_path / "probes" / trained.run.folder.name / "probe")
    assert probe_for(model, "mini-mmlu", scored, tmp_path).config.label == trained.probe.config.label
    assert "1 there is of something else; training one" in capsys.readouterr().err


def test_heads_are_trained_towards_the_probability_of_the_right_option(trained, runs, tmp_path, capsys):
    table = score(MODEL, "mini-mmlu", runs / "stores").table()
    data = ScoredTaskDataModule(MODEL, stores=runs / "stores", targets="p_right")
    data.setup()
    np.testing.assert_array_equal(data.data.targets, table["p_right"].to_numpy().astype(np.float32))
    np.testing.assert_array_equal(data.data.labels, table["correct"].to_numpy())
    assert data.data.origins[0].label.endswith("learnt from p_right")
    with pytest.raises(SystemExit):
        main(flags(runs, "--data.targets=p_right", "--data.task=mini-popqa", f"--out={tmp_path}"))
    assert "Expected" in (last := capsys.readouterr().err.splitlines()[-1])
    assert "p_right" in last


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"question_id": ["a"]}, "'correct'. missing"),
        ({"question_id": ["a"], "correct": [True]}, "8100 have none"),
        ({"question_id": ["a", "b"], "correct": [True, True], "model": ["x", "y"]}, "one model .* got x, y"),
        ({"question_id": ["a"], "correct": ["yes"]}, "numbers, but got string"),
    ],
)
def test_labels_that_do_not_fit_end_with_one_line(trained, runs, tmp_path, capsys, table, message):
    pq.write_table(pa.table(table), tmp_path / "labels")
    with pytest.raises(SystemExit):
        main(flags(runs, f"--data.labels={tmp_path / 'labels'}", f"--out={tmp_path}"))
    assert re.search(f"^error: Expected .*{message}", capsys.readouterr().err.splitlines()[-1])


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--data.model=mini-llama-huge"], "but got 'mini-llama-huge'"),
        (["--data.layer=9"], r"from 0 \(embeddings\) to 3 \(last block\), but got \[9\]"),
        (["--data.task=mmmlu"], "mini-mmlu, mini-gpqa, mini-popqa, mmlu.*but got 'mmmlu'"),
        (["--model.threshold=1.5"], "Expected `threshold` to be in"),
        (["--model.calibration=magic"], "none, temperature, platt, isotonic, beta, but got 'magic'"),
        (["--data.dtype=int3"], "float32, float16, bfloat16, but got 'int3'"),
        (["--data.layer=abc"], "data.layer"),
        (["--data.layers=[1,9]"], r"from 0 \(embeddings\) to 3 \(last block\), but got \[1, 9\]"),
        (["--data.layer=1", "--data.layers=all"], "`layer` or `layers`, but got both"),
        (["--data.nonsense=1"], "nonsense"),
        (["--data.memory=-1"], "Expected `memory` to be at least 0 GiB, but got -1"),
        (["--trainer.fast_dev_run=true"], "`trainer.fast_dev_run` to be off, .*validation"),
        (["--trainer.overfit_batches=2"], "`trainer.overfit_batches` to be off"),
        (["--trainer.limit_val_batches=2"], r"`trainer.limit_val_batches` to be 1.0, .* but got 2(\.0)?;"),
        (["--trainer.limit_test_batches=0.5"], "`trainer.limit_test_batches` to be 1.0, .* but got 0.5;"),
        (["--trainer.devices=2", "--trainer.accelerator=cpu"], "Expected one device, .*`trainer.devices` 2 "),
        (["--trainer.accelerator=bogus"], "`trainer.accelerator` bogus .*invalid accelerator name"),
    ],
)
def test_bad_flags_end_with_one_line(runs, capsys, more, message):
    with pytest.raises(SystemExit) as stop:
        main(flags(runs, *more))
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert re.search(message, line)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
def test_a_gpu_that_is_not_there_is_one_line(runs, capsys):
    with pytest.raises(SystemExit):
        main(flags(runs, "--trainer.accelerator=gpu"))
    (line,) = capsys.readouterr().err.splitlines()
    assert re.match("error: Expected .*`trainer.accelerator` gpu .*gpu", line)


def test_the_store_of_another_model_is_refused(trained, runs, capsys):
    other = score(MODEL, "mini-gpqa", runs / "stores").store.folder
    with pytest.raises(SystemExit):
        main(flags(runs, f"--data.store={other}"))
    assert "is of something else: task='mini-gpqa' instead of 'mini-mmlu'" in capsys.readouterr().err


def test_a_probe_of_another_split_is_never_tested_on_what_it_saw(runs):
    trained = train(flags(runs, "--data.split_seed=7", f"--out={runs / 'other'}"))
    with pytest.raises(CascadeError, match="split of seed 0"):
        with_p_ik(score(MODEL, "mini-mmlu", runs / "stores"), trained.probe, split_seed=0)


def test_a_probe_of_another_model_is_refused_unless_that_is_meant(trained, runs):
    other = score("mini-qwen3-small", "mini-gpqa", runs / "stores")
    with pytest.raises(CascadeError, match="base mini-llama-small .*is of mini-qwen3-small"):
        with_p_ik(other, trained.probe)
    p_ik = with_p_ik(other, trained.probe, allow_base_mismatch=True)["p_ik"].to_numpy()
    expected = trained.probe.predict(other.store.layer(trained.probe.config.layer))
    np.testing.assert_allclose(p_ik, expected, rtol=1e-6)


@pytest.mark.parametrize("damage", ["flip", "truncate", "delete"])
def test_a_damaged_shard_ends_with_one_line(runs, tmp_path, capsys, damage):
    store = score(MODEL, "mini-gpqa", tmp_path / "stores").store.folder
    path = store / "shard-00000.safetensors"
    data = bytearray(path.read_bytes())
    for place in range(len(data) // 2, len(data), 1000):  # in every layer of the second half
        data[place] ^= 16
    if damage == "delete":
        path.unlink()
    else:
        path.write_bytes(data if damage == "flip" else data[:-9])
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main([*flags(runs), "--data.task=mini-gpqa", f"--data.store={store}"])
    assert stop.value.code == 2
    *before, last = capsys.readouterr().err.splitlines()
    assert last.startswith("error: Shard ")
    assert [line for line in before if not line.startswith("Reusing ")] == []


def test_an_output_folder_that_cannot_be_written_is_named(runs, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit) as stop:
        main([*flags(runs), f"--out={tmp_path / 'file' / 'deeper'}"])
    assert stop.value.code == 2
    assert str(tmp_path / "file") in capsys.readouterr().err
