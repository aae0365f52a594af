"""A new engine is a file and an entry: it is scored, probed, simulated, run and planned, and nobody is told of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from cascade import run, score
from cascade.engines import ENGINES
from cascade.engines.settings import read_settings
from cascade.policies.base import Thresholds
from cascade.probing.chain import own_scores
from cascade.runtime.build import build_cascade
from cascade.scoring.scored import score as score_task
from cascade.simulation.data import Data
from cascade.studies import simulate
from cascade.tasks.load import load_task
from cascade.train import train
from tests.toys import toy_engine

TASK = "mini-mmlu"


@pytest.fixture(scope="module", autouse=True)
def entry():
    ENGINES["toy"] = "tests.toys.toy_engine:ToyConfig"
    yield
    del ENGINES["toy"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def trained(runs, entry):
    return train(
        [
            "--data.engine.engine=toy", f"--data.task={TASK}", "--data.layer=1", f"--data.stores={runs / 'stores'}",
            f"--out={runs / 'probes'}", "--trainer.max_epochs=5",
        ]
    )  # fmt: skip


@pytest.fixture
def config(trained, tmp_path) -> Path:
    path = tmp_path / "cascade.yaml"
    small = {"engine": "toy", "probe": str(trained.run.checkpoint), "price": {"input": 1.0, "output": 1.0}}
    large = {"engine": "toy", "model": "toy-large", "knows": 1.0}
    path.write_text(yaml.safe_dump({"models": [small, large], "p_ik": 0.5, "p_t": None}))
    return path


def test_it_is_one_short_file():
    assert len(Path(toy_engine.__file__).read_text().splitlines()) <= 60


def test_its_store_holds_its_states_and_its_table_its_answers(runs, trained):
    engine = read_settings({"engine": "toy"}).build()
    scored = score_task(engine, TASK, runs / "stores")
    assert scored.reused  # training scored it
    states, correct = scored.store.layer(1).numpy(), scored.table()["correct"].to_numpy()
    assert np.array_equal(states[:, 0] > 0, correct) and 0.45 < correct.mean() < 0.55


def test_a_probe_learns_what_it_knows(trained):
    assert trained.metrics["after"]["auroc"] > 0.99 and trained.probe.config.base_model == "toy"
    data = yaml.safe_load((trained.run.folder / "config.yaml").read_text())["data"]
    assert data["engine"] == {"engine": "toy"}


def test_a_chain_of_it_is_simulated(runs, trained, tmp_path):
    chain = [read_settings({"engine": "toy"}), read_settings({"engine": "toy", "model": "toy-large", "knows": 1.0})]
    table = tmp_path / "scores.parquet"
    pq.write_table(own_scores(chain, TASK, runs), table)
    report = simulate(Data(scores=[table]), Thresholds(p_t=0.5), out=tmp_path / "out").report
    alone, (both,) = [row.accuracy for row in report.singles], report.chains
    assert alone == [pytest.approx(0.5, abs=0.05), 1.0] and both.accuracy > 0.97
    assert both.saved["flops"]["answered-only"] == pytest.approx(0.25, abs=0.03)  # half of them at half the price


def test_the_live_cascade_asks_it_first_and_the_larger_one_where_it_does_not_know(config):
    cascade = build_cascade(config)
    questions = load_task(TASK).questions[:400]
    answers = cascade.answer_many(questions, progress=False)
    right = np.array([answer.text == question.answers[0] for answer, question in zip(answers, questions, strict=True)])
    first = np.array([answer.model == "toy" for answer in answers])
    assert right.mean() > 0.97 and 0.4 < first.mean() < 0.6


def test_it_is_run_planned_and_written_as_a_table(config, tmp_path, capsys):
    flags = [f"--config={config}", f"--questions={TASK}", "--limit=40", f"--out={tmp_path / 'run'}"]
    run.main([*flags, "--plan"])
    assert "toy-large" in capsys.readouterr().out
    run.main(flags)
    assert len(pq.read_table(tmp_path / "run" / "answers.parquet")) == 40
    out = tmp_path / "toy.parquet"
    score.main(["--data.engine.engine=toy", f"--out={out}", "--confidences=entropy", "--limit=50"])
    rows = pq.read_table(out).to_pylist()
    entropy = 1 + (0.7 * np.log(0.7) + 3 * 0.1 * np.log(0.1)) / np.log(4)
    assert [row["confidence_entropy"] for row in rows] == pytest.approx([entropy] * 50)
