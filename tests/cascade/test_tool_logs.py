"""Logs of other tools, as the tools write them (`tests/fixtures/logs`), become score tables and recommendations."""

from __future__ import annotations

import json
import math
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from cascade.engines.base import prompt_of
from cascade.engines.settings import DecoderConfig
from cascade.errors import CascadeError
from cascade.miniature.families import ASSETS
from cascade.scores import reading
from cascade.scores.reading import read_scores, read_table, remarks
from cascade.simulate import main
from cascade.tasks.load import load_task

LOGS = Path(__file__).parents[1] / "fixtures" / "logs"
LETTERS = LOGS / "lm_eval" / "mini_letters"


def rows(path: Path, **more) -> dict[tuple[str, str], dict]:
    return {(row["model"], row["question_id"]): row for row in read_scores([path], **more).to_pylist()}


@pytest.mark.parametrize("model", ["mini-llama-small", "mini-llama-large"])
def test_the_harness_own_accuracy_and_size_are_found_in_its_samples(model):
    (results,) = (LETTERS / model).glob("results_*.json")
    said = json.loads(results.read_text())
    found = [row for (name, _), row in rows(LETTERS).items() if name == model]
    assert len(found) == 80
    assert sum(row["correct"] for row in found) / 80 == pytest.approx(said["results"]["mini_letters"]["acc,none"])
    assert {row["parameters"] for row in found} == {said["config"]["model_num_parameters"]}


def test_p_t_of_the_harness_is_what_the_model_says_of_the_letters():
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = ASSETS / "mini-llama-small"
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    (file,) = (LETTERS / "mini-llama-small").glob("samples_*.jsonl")
    read = rows(LETTERS)
    # The weights are of half precision, in which another batch is another rounding.
    for line in file.read_text().splitlines()[:5]:
        sample = json.loads(line)
        prompt = sample["doc"]["prompt"]
        whole = [tokenizer(f"{prompt} {letter}")["input_ids"] for letter in "ABCD"]
        with torch.no_grad():
            logits = model(torch.tensor([whole[0][:-1]])).logits[0, -1].double()
        p = [float(logits.softmax(-1)[ids[-1]]) for ids in whole]
        row = read["mini-llama-small", f"mini_letters/{sample['doc_id']}"]
        assert row["p_t"] == pytest.approx(max(p), abs=2e-3)
        assert row["option_mass"] == pytest.approx(sum(p), abs=2e-3)
        assert row["p_t_normalized"] == pytest.approx(max(p) / sum(p), abs=2e-3)
        assert row["p_right"] == pytest.approx(p["ABCD".index(row["answer"])] / sum(p), abs=2e-3)
        assert row["prediction"] == "ABCD"[p.index(max(p))] and row["answer"] == sample["doc"]["right"]


def test_of_several_filters_one_is_read_and_the_others_are_named(tmp_path, capsys):
    (file,) = (LETTERS / "mini-llama-small").glob("samples_*.jsonl")
    samples = [json.loads(line) for line in file.read_text().splitlines()]
    both = [sample | {"filter": name} for sample in samples for name in ("strict-match", "flexible-extract")]
    both = [s | {"acc": 1 - s["acc"]} if s["filter"] == "flexible-extract" else s for s in both]
    (tmp_path / file.name).write_text("\n".join(map(json.dumps, both)))
    found = read_table(tmp_path / file.name)
    assert found["correct"].to_pylist() == [sample["acc"] == 1.0 for sample in samples]
    assert "the filter strict-match are read, those of flexible-extract are not" in capsys.readouterr().err


def test_p_t_of_longer_options_is_a_share_of_their_likelihood():
    path = LOGS / "lm_eval" / "mini_texts"
    (file,) = path.rglob("samples_*.jsonl")
    read = rows(path)
    for line in file.read_text().splitlines():
        sample = json.loads(line)
        p = [math.exp(float(logprob)) for logprob, _ in sample["filtered_resps"]]
        row = read["mini-llama-small", f"mini_texts/{sample['doc_id']}"]
        assert row["p_t"] == pytest.approx(max(p) / sum(p))
        assert row["correct"] == (sample["acc"] == 1.0)


def test_a_task_of_the_harness_that_writes_text_has_answers_and_no_probabilities():
    (file,) = (LOGS / "lm_eval" / "mini_written").rglob("samples_*.jsonl")
    read = rows(LOGS / "lm_eval" / "mini_written")
    samples = [json.loads(line) for line in file.read_text().splitlines()]
    assert len(read) == len(samples) == 6
    for sample in samples:
        row = read["mini-llama-small", f"mini_written/{sample['doc_id']}"]
        assert row.get("p_t") is None
        assert row["correct"] == (sample["exact_match"] == 1.0)
        assert row["prediction"] == sample["filtered_resps"][0].strip()


def test_the_harness_folder_goes_to_a_recommendation_in_one_command(tmp_path, capsys):
    main(["--scores", str(LETTERS), "--out", str(tmp_path / "out")])
    assert "small → large" in capsys.readouterr().out
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [row["chain"] for row in report["singles"]] == ["mini-llama-small", "mini-llama-large"]


def test_a_line_of_the_harness_that_is_broken_is_named(tmp_path):
    shutil.copytree(LETTERS, tmp_path / "logs")
    (file,) = (tmp_path / "logs" / "mini-llama-small").glob("samples_*.jsonl")
    lines = file.read_text().splitlines()
    file.write_text("\n".join([lines[0], lines[1][:40], *lines[2:]]) + "\n")
    with pytest.raises(CascadeError, match="line 2"):
        read_scores([tmp_path / "logs"])


def test_inspect_logs_say_what_inspect_says_of_them():
    log = pytest.importorskip("inspect_ai.log")
    read = rows(LOGS / "inspect")
    for file in sorted((LOGS / "inspect").glob("*.eval")):
        said = log.read_eval_log(str(file))
        name = said.eval.model.removeprefix("hf/")  # a folder, whose name is the model's
        mine = [row for (model, _), row in read.items() if model == name]
        (scorer,) = said.results.scores
        assert sum(row["correct"] for row in mine) / len(mine) == pytest.approx(scorer.metrics["accuracy"].value)
        assert sum(row["prompt_tokens"] for row in mine) == said.stats.model_usage[said.eval.model].input_tokens
        for sample in said.samples[:10]:
            row = next(row for row in mine if row["question_id"].endswith(str(sample.id)))
            assert row["p_t"] == pytest.approx(math.exp(sample.output.choices[0].logprobs.content[0].logprob))


def test_inspect_without_its_package_says_which_extra(monkeypatch):
    for module in ("inspect_ai", "inspect_ai.log"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(CascadeError, match=r"inspect"):
        read_table(next((LOGS / "inspect").glob("*.eval")))


def test_a_batch_of_openai_is_judged_by_its_key():
    model = "gpt-4o-mini-2024-07-18"
    read = rows(LOGS / "openai_batch")
    first, second, third = (read[model, f"request-{number}"] for number in (1, 2, 3))
    assert (first["correct"], second["correct"], third["correct"]) == (True, False, False)
    assert first["p_t"] == pytest.approx(math.exp(-0.02)) and second["p_t"] == pytest.approx(math.exp(-0.5))
    assert (first["prompt_tokens"], third["completion_tokens"]) == (25, 5)
    assert third["attempted"] is False  # "I do not know."


def test_a_batch_without_a_key_says_what_is_missing(tmp_path):
    shutil.copy(LOGS / "openai_batch" / "gpt-4o-mini.jsonl", tmp_path)
    with pytest.raises(CascadeError, match=r"key"):
        read_scores([tmp_path / "gpt-4o-mini.jsonl"])


@pytest.mark.parametrize("model", ["mini-llama-large", "mini-qwen3-large"])
def test_a_batch_that_vllm_ran_says_what_the_model_says(model):
    read = rows(LOGS / "vllm_run_batch")
    mine = {name: row for (of, name), row in read.items() if of == model}
    asked = [question for question in load_task("mini-mmlu").questions if question.id in mine]
    free = {"letters": (), "answer_prefix": False, "max_new_tokens": 1}
    prompts = [replace(prompt_of(question), **free) for question in asked]
    assert len(mine) == len(asked) == 40
    for question, reply in zip(asked, DecoderConfig(model).build().answer(prompts), strict=True):
        row = mine[question.id]
        assert row["prediction"] == reply.text.strip()[:1] and row["prompt_tokens"] == reply.prompt_tokens
        assert row["p_t"] == pytest.approx(reply.p_t, abs=1e-5)
        assert row["correct"] == (row["prediction"] == question.answers[0])


def test_both_forms_of_vllms_batches_are_read():
    read = rows(LOGS / "vllm_batch")
    model = "meta-llama/Meta-Llama-3-8B-Instruct"
    assert read[model, "q/1"]["correct"] and not read[model, "q/2"]["correct"]
    assert read[model, "q/1"]["p_t"] == pytest.approx(math.exp(-0.25))
    assert read[model, "q/2"]["p_t"] == pytest.approx(math.exp(-1.0))


def test_langfuse_gives_dollars_seconds_and_scores_of_observations_and_traces():
    read = rows(LOGS / "langfuse")
    assert len(read) == 4  # generations; the span is none
    small, large = read["gpt-4o-mini", "q1"], read["gpt-4o", "q1"]
    assert (small["cost_usd"], small["seconds"], small["p_t"]) == (1e-5, 1.0, 0.91)
    assert (large["cost_usd"], large["seconds"], large["correct"]) == (2e-4, 3.0, True)  # its score is the trace's
    by_input = [row for (model, question), row in read.items() if question != "q1" and model == "gpt-4o-mini"]
    assert [(row["correct"], row["p_t"], row["cost_usd"]) for row in by_input] == [(False, 0.32, 2e-5)]


WITHOUT = ("routerbench", "llm_router_bench", "every_eval_ever")


@pytest.mark.parametrize("tool", WITHOUT)
def test_a_format_without_probabilities_says_so_and_its_models_can_only_be_last(tool, tmp_path, capsys):
    assert len(remarks([LOGS / tool])) == 1 and "no probabilities" in remarks([LOGS / tool])[0]
    main(["validate", str(LOGS / tool)])
    printed = capsys.readouterr().out
    assert "records no probabilities" in printed and "it can only be the last of a chain" in printed
    names = sorted({model for model, _ in rows(LOGS / tool)})
    with pytest.raises(SystemExit):
        main(["--scores", str(LOGS / tool), "--chain", ",".join(names), "--out", str(tmp_path / "out")])
    assert "to have a confidence" in capsys.readouterr().err


def test_routerbench_has_dollars_and_a_score_below_1_is_not_right():
    read = rows(LOGS / "routerbench")
    small = read["WizardLM/WizardLM-13B-V1.2", "mtbench.7"]
    assert (small["correct"], small["cost_usd"], small["task"]) == (False, 0.00012, "mtbench")
    assert read["gpt-4-1106-preview", "mtbench.7"]["correct"]


def test_every_eval_ever_has_tokens_and_what_is_right():
    found = rows(LOGS / "every_eval_ever")
    read = {(model, question.rpartition("/")[2]): row for (model, question), row in found.items()}
    assert [read["openai/gpt2", f"id{n}"]["correct"] for n in (44874, 45277)] == [True, False]
    assert [read["eleutherai/pythia-1b-v0", f"id{n}"]["correct"] for n in (44874, 45277)] == [False, True]
    assert read["openai/gpt2", "id44874"]["prompt_tokens"] == 718


@pytest.mark.parametrize("form", ["correct_{}", "{}|correct", "{}"])
def test_a_wide_table_has_a_row_a_question_and_columns_a_model(tmp_path, form):
    small, large = form.format("small"), form.format("large")
    lines = [f"question_id,{small},p_t_small,{large}", "a,1,0.5,1", "b,0,0.25,1"]
    if form == "{}|correct":
        lines[0] = f"question_id,{small},small|p_t,{large}"
    (tmp_path / "wide.csv").write_text("\n".join(lines) + "\n")
    read = rows(tmp_path / "wide.csv")
    assert {key: row["correct"] for key, row in read.items()} == {
        ("small", "a"): True,
        ("small", "b"): False,
        ("large", "a"): True,
        ("large", "b"): True,
    }
    assert (read["small", "b"]["p_t"], read["large", "b"].get("p_t")) == (0.25, None)


ANOTHER = """
import pyarrow as pa
from cascade.scores.readers.base import LogFormat

def read(path):
    return pa.Table.from_pylist([{"question_id": "q", "model": path.read_text().strip(), "correct": True}])

FORMAT = LogFormat("a log of another tool", (".another",), read)
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Installs a package whose entry point names something of its module."""

    def install(named: str):
        (tmp_path / "another_tool.py").write_text(ANOTHER)
        info = tmp_path / "another_tool-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: another-tool\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[cascade.log_formats]\nanother = another_tool:{named}\n")
        monkeypatch.syspath_prepend(tmp_path)
        reading._installed.cache_clear()
        (tmp_path / "my.another").write_text("theirs\n")
        return tmp_path / "my.another"

    yield install
    monkeypatch.undo()
    reading._installed.cache_clear()


def test_another_package_adds_a_format_by_an_entry_point(package):
    assert read_scores([package("FORMAT")])["model"].to_pylist() == ["theirs"]


@pytest.mark.parametrize(("named", "said"), [("read", "to be a LogFormat"), ("nothing", "to load")])
def test_an_entry_point_that_is_no_format_is_named(package, named, said):
    with pytest.raises(CascadeError, match=rf"'another' \(another_tool:{named}\) {said}"):
        read_table(package(named))
