"""What a plan says, against what a run then does, and against sums by hand for the paper's models."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from safetensors import safe_open

from cascade import run, simulate
from cascade import score as score_entry
from cascade.engines.base import Price
from cascade.engines.settings import DecoderConfig
from cascade.engines.weights import weight_files
from cascade.errors import CascadeError
from cascade.miniature.families import ASSETS
from cascade.planning.costs import UTILISATION, Planned, plan_cascade, plan_chain, plan_training
from cascade.planning.table import print_plan
from cascade.probing.data import ScoredTaskDataModule
from cascade.runtime.config import CascadeConfig, Member
from cascade.scoring.scored import score
from cascade.tasks.base import Question
from cascade.tasks.load import load_task
from cascade.tasks.task import MultipleChoice, Task
from cascade.train import main as train_main

MODEL, TASK = "mini-llama-small", "mini-gpqa"
PUBLISHED = json.loads((Path(__file__).parent / "published_models.json").read_text())["models"]


@pytest.fixture
def no_weights(monkeypatch):
    """Loading any weights is an error."""

    def refuse(*_, **__):
        raise AssertionError("weights were loaded")

    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", refuse)


def files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


def test_a_plan_is_what_the_run_then_writes_and_does(tmp_path):
    planned = plan_training(ScoredTaskDataModule(MODEL, TASK, stores=tmp_path)).work[0]
    assert not files(tmp_path)
    scored = score(MODEL, TASK, tmp_path)
    written = 0
    for path in scored.store.folder.glob("shard-*"):
        with safe_open(path, framework="pt") as file:
            written += sum(file.get_tensor(name).nbytes for name in file.keys())  # noqa: SIM118
    assert planned.store_bytes == planned.store_bytes_left == written
    assert planned.folder == scored.store.folder
    table = scored.table().to_pydict()
    assert planned.questions == len(table["question_id"])
    assert planned.prompt_tokens == sum(table["prompt_tokens"]) and planned.counted
    assert planned.completion_tokens == sum(table["completion_tokens"])
    n, layers, width = table["parameters"][0], table["num_layers"][0], scored.store.hidden_size
    assert planned.flops == 2 * n * planned.questions
    by_token = sum(2 * n + 2 * layers * width * at for t in table["prompt_tokens"] for at in range(1, t + 1))
    assert planned.flops_context == pytest.approx(by_token)
    assert planned.gpu_hours == pytest.approx(by_token / (38.7e12 * UTILISATION) / 3600)


def test_what_is_there_is_found_shard_by_shard_and_left_as_it_is(tmp_path):
    store = score(MODEL, TASK, tmp_path, shard_rows=1024).store.folder
    data = ScoredTaskDataModule(MODEL, TASK, stores=tmp_path)
    assert (plan_training(data).work[0].rows_there, plan_training(data).to_write) == (448, 0)
    assert plan_training(data).work[0].gpu_hours == 0
    (store / "scores-00000.parquet").unlink()
    before = {p: p.read_bytes() for p in files(tmp_path) if p.is_file()}
    planned = plan_training(data)
    assert (planned.work[0].rows_there, planned.to_write) == (0, planned.work[0].store_bytes)
    assert {p: p.read_bytes() for p in files(tmp_path) if p.is_file()} == before  # the manifest, too
    other = ScoredTaskDataModule(MODEL, TASK, stores=tmp_path, dtype="bfloat16")
    assert plan_training(other).work[0].rows_there == 0


def test_the_weights_are_neither_needed_nor_loaded(tmp_path, no_weights, capsys, monkeypatch):
    bare = tmp_path / "bare"
    shutil.copytree(ASSETS / MODEL, bare, ignore=shutil.ignore_patterns("*.safetensors", "probe"))
    monkeypatch.chdir(tmp_path)
    before = files(tmp_path)
    flags = [f"--data.model={bare}", f"--data.task={TASK}", "--plan"]
    train_main(flags)
    score_entry.main(flags)
    simulate.main([f"--chain={bare},mini-llama-medium", "--evaluate-on", "mini-popqa", "--plan"])
    (tmp_path / "c.yaml").write_text(yaml.safe_dump({"models": [{"model": str(bare)}, {"model": "mini-llama-large"}]}))
    run.main(["--config", "c.yaml", "--limit", "100", "--plan"])
    said = capsys.readouterr().out
    assert said.count("114,000") == 4
    assert said.count("to fetch") >= 4
    assert files(tmp_path) == sorted([*before, tmp_path / "c.yaml"])


def test_a_configuration_alone_is_enough_and_its_tokens_are_estimated(tmp_path, no_weights, capsys):
    (tmp_path / "only").mkdir()
    shutil.copy(ASSETS / MODEL / "config.json", tmp_path / "only")
    train_main([f"--data.model={tmp_path / 'only'}", f"--data.task={TASK}", "--plan"])
    said = capsys.readouterr().out
    task = load_task(TASK)
    assert f"≈ {sum(math.ceil(len(task.prompt(q)) / 4) for q in task.questions):,}" in said
    assert "tokenizer is not at hand" in said


def test_a_model_that_is_neither_here_nor_to_be_had_is_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(SystemExit) as stop:
        train_main(["--data.model=nobody/has-this-model", f"--data.task={TASK}", "--plan"])
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "a plan needs its config.json, and its tokenizer to count tokens; no weights" in line


def test_a_tokenizer_of_nothing_is_none(paper):
    """Without its files, transformers makes some tokenizers all the same, which give every text no token."""
    with pytest.raises(CascadeError, match="Expected the tokenizer of .*"):
        DecoderConfig(str(paper["Qwen/Qwen3-4B"])).build().decoder.tokenizer  # noqa: B018


@pytest.fixture(scope="module")
def paper(tmp_path_factory) -> dict[str, Path]:
    """Folders that hold the published configurations and nothing else."""
    root = tmp_path_factory.mktemp("published")
    for name, published in PUBLISHED.items():
        (root / name).mkdir(parents=True)
        (root / name / "config.json").write_text(json.dumps(published["config"]))
    return {name: root / name for name in PUBLISHED}


def one_task(count: int, letters: int) -> Task:
    """Questions whose prompts are all as long as each other."""
    questions = tuple(Question(f"{i:06d}", "x" * letters, "s", ("A",), ("a", "b", "c", "d")) for i in range(count))
    return MultipleChoice("mmlu", questions)


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_plan_of_the_papers_models_by_hand(name, paper, tmp_path, no_weights):
    config = PUBLISHED[name]["config"]
    decoder = Planned(DecoderConfig(str(paper[name]), dtype="bfloat16").build())
    task = one_task(14042, 80)
    tokens = math.ceil(len(task.prompt(task.questions[0])) / 4)
    work, weights = decoder.scoring(task, tmp_path), decoder.weights
    n, depth, width = weights.parameters, config["num_hidden_layers"], config["hidden_size"]
    assert n == pytest.approx(PUBLISHED[name]["billions"] * 1e9, rel=0.01)
    assert weights.memory == weights.disk == 2 * n and not weights.there
    assert work.store_bytes == 14042 * (depth + 1) * width * 2
    assert work.flops == 14042 * 2 * n
    by_token = 2 * n * tokens + 2 * depth * width * sum(range(1, tokens + 1))
    assert work.flops_context == pytest.approx(14042 * by_token)
    assert work.gpu_hours == pytest.approx(14042 * by_token / (154.8e12 * 0.3) / 3600)
    assert work.remark == "" and not files(tmp_path)


def test_70b_on_mmlu_is_what_one_expects(paper, tmp_path):
    """In round numbers: 141 GB of weights, 18.6 GB of states, and at 100 tokens a question four GPU hours and more."""
    decoder = Planned(DecoderConfig(str(paper["meta-llama/Llama-3.3-70B-Instruct"]), dtype="bfloat16").build())
    work, weights = decoder.scoring(one_task(14042, 208), tmp_path), decoder.weights
    assert weights.memory == pytest.approx(141.1e9, rel=0.001)
    assert work.store_bytes == pytest.approx(18.63e9, rel=0.001)
    assert 14042 * 90 < work.prompt_tokens < 14042 * 110
    assert work.gpu_hours == pytest.approx(2 * 70.6e9 * work.prompt_tokens / 46.4e12 / 3600, rel=0.01)
    packed = Planned(replace(decoder.engine.settings, quantization="4bit").build()).weights
    assert 0.25 < packed.memory / weights.memory < 0.31 and packed.parameters == weights.parameters


def test_the_real_questions_of_mmlu_are_planned_for(paper, shared_data, tmp_path):
    rows = pq.read_table(shared_data / "mmlu" / "questions.parquet").to_pylist()
    questions = tuple(
        Question(str(i), r["question"], r["subject"], ("ABCD"[r["answer"]],), (r["A"], r["B"], r["C"], r["D"]))
        for i, r in enumerate(rows)
        if r["split"] == "test"
    )
    assert len(questions) == 14042
    task = MultipleChoice("mmlu", questions)
    small = Planned(DecoderConfig(str(paper["Qwen/Qwen3-4B"]), dtype="bfloat16").build()).scoring(task, tmp_path)
    assert small.prompt_tokens == sum(math.ceil(len(task.prompt(q)) / 4) for q in questions)
    # A model with a context of 512 has no room for the longest of them, and the plan says so before it is run.
    tiny = Planned(DecoderConfig(str(shared_data / "stories260k_hf")).build()).scoring(task, tmp_path)
    assert tiny.counted and "there is room for 512" in tiny.remark


def test_a_chain_is_scored_on_its_task_and_its_probes_task(tmp_path):
    names = ["mini-llama-small", "mini-llama-large"]
    plan = plan_chain([DecoderConfig(name) for name in names], [TASK], tmp_path)
    assert [(w.model, w.task) for w in plan.work] == [
        ("mini-llama-small", TASK), ("mini-llama-small", "mini-mmlu"), ("mini-llama-large", TASK),
    ]  # fmt: skip
    assert [w.model for w in plan.weights] == names
    assert plan.to_fetch == 0


def test_what_the_disk_has_no_room_for_is_said(tmp_path, capsys, monkeypatch):
    names = ["mini-llama-small", "mini-llama-large"]
    plan = plan_chain([DecoderConfig(name) for name in names], [TASK], tmp_path)
    for free, fits in ((plan.to_write, True), (plan.to_write - 1, False)):
        monkeypatch.setattr(shutil, "disk_usage", lambda _, free=free: SimpleNamespace(free=free))
        print_plan(plan)
        assert ("it does not fit" in " ".join(capsys.readouterr().out.split())) != fits


def test_endpoints_cost_dollars_and_a_cap_that_is_too_low_is_said(tmp_path):
    members = [
        Member(model="mini-llama-small"),
        Member(endpoint="gpt-4o", price=Price(2.5, 10.0), spending_cap=0.001),
        Member(endpoint="mystery"),
    ]
    task = load_task(TASK).take(range(200))
    plan = plan_cascade(CascadeConfig(models=members), task, TASK, tmp_path / "journal.jsonl")
    local, priced, unknown = plan.work
    assert local.counted and not priced.counted
    assert priced.prompt_tokens == local.prompt_tokens  # by the tokenizer that is there
    assert priced.dollars == pytest.approx((priced.prompt_tokens * 2.5 + 200 * 10) / 1e6)
    assert "spending_cap of 0.001" in priced.remark
    assert unknown.dollars is None and local.dollars is None


def test_what_a_journal_has_is_not_planned_again(tmp_path):
    chain = {"chain": "mini-llama-small,mini-llama-medium"}
    flags = ["--chain", chain["chain"], f"--questions={TASK}", f"--out={tmp_path / 'run'}"]
    run.main([*flags, "--limit=20"])
    task = load_task(TASK).take(range(50))
    plan = plan_cascade(CascadeConfig(**chain), task, TASK, tmp_path / "run" / "journal.jsonl")
    assert [work.rows_there for work in plan.work] == [20, 20]
    alone = plan_cascade(CascadeConfig(**chain), task.take(range(20, 50)), TASK, tmp_path / "nothing")
    assert np.allclose([w.gpu_hours for w in plan.work], [w.gpu_hours for w in alone.work])


def test_score_tables_have_nothing_to_be_planned(capsys):
    table = ASSETS / MODEL / "validation.parquet"
    with pytest.raises(SystemExit):
        simulate.main(["--scores", str(table), "--plan"])
    assert "Expected `plan` for models that are run here" in capsys.readouterr().err


def test_files_of_weights_are_whole_or_not_there(tmp_path):
    names = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(names))
    (tmp_path / "model-1.safetensors").write_bytes(b"x" * 10)
    assert weight_files(str(tmp_path), None) is None
    (tmp_path / "model-2.safetensors").write_bytes(b"x" * 5)
    assert weight_files(str(tmp_path), None) == 15
    (tmp_path / "model.safetensors.index.json").write_text("[]")
    with pytest.raises(CascadeError, match="to name the weights' files"):
        weight_files(str(tmp_path), None)
    assert weight_files("nobody/has-this-model", None) is None
