"""A task of another kind is one file and one entry: scored, learnt from, simulated, asked live."""

from __future__ import annotations

import json

import pyarrow.parquet as pq
import pytest

from cascade.probing.data import ScoredTaskDataModule
from cascade.probing.fit import fit
from cascade.run import main as run
from cascade.simulate import main as simulate
from cascade.tasks.load import TASKS
from probes.training import ProbeModule
from tests.toys.toy_task import sums

CHAIN = "mini-llama-small,mini-llama-large"


@pytest.fixture
def toy(monkeypatch):
    monkeypatch.setitem(TASKS, "sums", sums)
    return sums()


def near(answer: str, question) -> bool:
    digits = answer.split()[0].rstrip(".") if answer.split() else ""
    a, b = (int(word.rstrip("?")) for word in question.text.split() if word.rstrip("?").isdigit())
    return digits.isdigit() and abs(int(digits) - (a + b)) <= 2


def test_a_toy_task_is_scored_probed_simulated_and_asked_live(toy, tmp_path):
    data = ScoredTaskDataModule("mini-llama-small", "sums", layer=2, stores=tmp_path / "runs" / "stores")
    trained = fit(data, ProbeModule(), out=tmp_path / "runs" / "probes")
    rows = data.scored.table().to_pylist()
    by_id = {question.id: question for question in toy.questions}
    assert [row["correct"] for row in rows] == [near(row["prediction"], by_id[row["question_id"]]) for row in rows]
    # Some are right that exact match would not take.
    assert any(row["correct"] and row["prediction"] != row["answer"] for row in rows)
    assert trained.probe.config.task == "sums"
    simulate(["--chain", CHAIN, "--task", "sums", "--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "out")])
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    test = toy.split().test
    assert report["questions"] == len(test)
    probe = tmp_path / "runs" / "probes" / "mini-llama-small--sums--layer-2" / "probe"
    config = tmp_path / "cascade.yaml"
    config.write_text(f"models:\n- {{model: mini-llama-small, probe: {probe}}}\n- {{model: mini-llama-large}}\n")
    run([f"--config={config}", "--questions=sums", f"--out={tmp_path / 'live'}"])
    live = pq.read_table(tmp_path / "live" / "answers.parquet").to_pylist()
    assert {row["question_id"] for row in live} == {toy.questions[row].id for row in test}
    assert all(row["correct"] == near(row["answer"], by_id[row["question_id"]]) for row in live)
    assert {row["model"] for row in live} <= {"mini-llama-small", "mini-llama-large"}
