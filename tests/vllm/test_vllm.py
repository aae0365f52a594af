"""vLLM as an engine, held against transformers: `make test-vllm` installs it in an environment of its own."""

from __future__ import annotations

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml

vllm = pytest.importorskip("vllm", reason="vLLM is not installed; `make test-vllm` installs it and runs this")

from cascade.engines.base import Prompt, prompt_of  # noqa: E402
from cascade.engines.settings import DecoderConfig  # noqa: E402
from cascade.engines.vllm import VllmConfig  # noqa: E402
from cascade.errors import CascadeError  # noqa: E402
from cascade.run import main as run  # noqa: E402
from cascade.scoring.scored import score, score_share  # noqa: E402
from cascade.tasks.load import load_task  # noqa: E402
from cascade.train import train  # noqa: E402
from probes import Probe  # noqa: E402

MODELS = ("mini-llama-large", "mini-qwen3-large")
LOG, STATE, P_IK = 2e-5, 1e-5, 1e-4


@pytest.fixture(scope="module", params=MODELS)
def engines(request):
    """The same model by transformers and by vLLM, which reads in chunks of 32 tokens and caches what prompts share."""
    ours = DecoderConfig(request.param).build()
    theirs = VllmConfig(request.param, max_num_batched_tokens=32, max_num_seqs=8).build()
    yield ours, theirs
    theirs.release()


def apart(first: torch.Tensor, second: torch.Tensor) -> float:
    """The largest relative distance of two rows."""
    return float((torch.linalg.norm(first - second, dim=1) / torch.linalg.norm(first, dim=1)).max())


@pytest.mark.parametrize("task", ["mini-mmlu", "mini-popqa"])
def test_a_scored_task_is_that_of_transformers_but_for_the_store(engines, task, tmp_path):
    ours, theirs = engines
    asked = load_task(task).take(range(96))
    first, second = (score(engine, asked, tmp_path) for engine in engines)
    assert first.store.folder != second.store.folder and ours.versions != theirs.versions
    one, other = first.table(), second.table()
    assert one.column_names == other.column_names
    for name in ("question_id", "correct", "prediction", "prompt_tokens", "completion_tokens"):
        assert one[name].equals(other[name])
    for name in ("p_t", "p_t_normalized", "option_mass", "p_right"):
        if name in one.column_names:
            assert np.log(other[name].to_numpy()) == pytest.approx(np.log(one[name].to_numpy()), abs=LOG)
    assert first.store.layers == second.store.layers == tuple(range(ours.num_layers + 1))
    assert all(apart(first.store.layer(layer), second.store.layer(layer)) <= STATE for layer in first.store.layers)


def test_prompts_of_any_length_are_read_alike_whether_in_chunks_or_from_the_prefix_cache(engines):
    ours, theirs = engines
    words = "Question: which of the colours of the house is the name of a town ?".split()
    prompts = [
        Prompt(f"q{n}", " ".join((words * 40)[:n]) + "\nAnswer:", tuple("ABCD")) for n in (1, 3, 12, 20, 21, 22, 40, 70)
    ]
    layers = [0, 1, ours.num_layers]
    replies, states = ours.read(prompts, layers)
    for _ in range(2):  # the second time from the prefix cache
        found, seen = theirs.read(prompts, layers)
        for reply, expected in zip(found, replies, strict=True):
            assert (reply.text, reply.prompt_tokens) == (expected.text, expected.prompt_tokens)
            assert np.log(reply.options) == pytest.approx(np.log(expected.options), abs=LOG)
        assert set(seen) == set(layers)
        assert all(apart(states[layer], seen[layer]) <= STATE for layer in layers)
    backwards, seen = theirs.read(prompts[::-1], layers[:2])
    assert [reply.prompt_tokens for reply in backwards] == [reply.prompt_tokens for reply in replies[::-1]]
    assert set(seen) == set(layers[:2]) and apart(states[1].flip(0), seen[1]) <= STATE


def test_a_run_that_was_stopped_goes_on_where_it_was(engines, tmp_path):
    _, theirs = engines
    asked = load_task("mini-mmlu", 2).take(range(60))  # with examples, which vLLM reads once
    whole = score(theirs, asked, tmp_path / "whole", [2], batch_size=16)
    passes = iter(range(9))

    def stop() -> None:
        if next(passes) == 1:
            raise CascadeError("enough")

    with pytest.raises(CascadeError, match="enough"):
        score_share(theirs, asked, tmp_path / "stopped", [2], batch_size=16, check=stop)
    read = []
    theirs_read, theirs.read = theirs.read, lambda prompts, layers: read.extend(prompts) or theirs_read(prompts, layers)
    try:
        gone_on = score(theirs, asked, tmp_path / "stopped", [2], batch_size=16)
    finally:
        del theirs.read
    assert len(read) == 60 - 32
    assert gone_on.table()["prediction"].equals(whole.table()["prediction"])
    assert apart(whole.store.layer(2), gone_on.store.layer(2)) <= STATE


def test_a_probe_of_one_engine_reads_the_others_states_and_chains_of_both_answer_alike(tmp_path):
    asked = load_task("mini-mmlu").questions[::10]
    mine = tmp_path / "mine.jsonl"
    lines = [{"id": q.id, "question": q.text, "choices": q.choices, "answer": q.answers[0]} for q in asked]
    mine.write_text("".join(json.dumps(line) + "\n" for line in lines))
    trained = train(
        [
            "--data.engine.engine=vllm", f"--data.engine.model={MODELS[0]}", f"--data.task={mine}", "--data.layer=3",
            f"--data.stores={tmp_path / 'stores'}", f"--out={tmp_path / 'probes'}", "--trainer.max_epochs=3",
        ]
    )  # fmt: skip
    probe = Probe.from_pretrained(trained.run.checkpoint)
    prompts = [prompt_of(question) for question in asked[:64]]
    ours, theirs = DecoderConfig(MODELS[0]).build(probe), VllmConfig(MODELS[0]).build(probe)
    states = [engine.states_at(prompts, 3) for engine in (ours, theirs)]
    theirs.release()
    p_ik = [probe.predict(rows) for rows in states]
    assert p_ik[0] == pytest.approx(p_ik[1], abs=P_IK)
    made = []
    for engine in ("decoder", "vllm"):
        small = {"engine": engine, "model": MODELS[0], "probe": str(trained.run.checkpoint)}
        chain = tmp_path / f"{engine}.yaml"
        thresholds = {"p_ik": float(np.median(p_ik[0])), "p_t": 0.5}
        chain.write_text(yaml.safe_dump({"models": [small, {"model": MODELS[1]}], "any_order": True, **thresholds}))
        run(["--config", str(chain), "--questions", str(mine), "--limit", "60", f"--out={tmp_path / engine}"])
        made.append(pq.read_table(tmp_path / engine / "answers.parquet"))
    assert len(set(made[0]["model"].to_pylist())) == 2
    for name in ("question_id", "model", "answer", "correct", "flops, full-path"):
        assert made[0][name].equals(made[1][name])


def test_what_vllm_cannot_run_is_refused_in_one_line(tmp_path):
    with pytest.raises(CascadeError, match="heads of 32, .* of 'mini-llama-small' are 16 wide; `engine: decoder` runs"):
        VllmConfig("mini-llama-small").build().llm  # noqa: B018
    from transformers import AutoTokenizer, GPTNeoXJapaneseConfig

    from cascade.miniature.families import ASSETS

    GPTNeoXJapaneseConfig(architectures=["GPTNeoXJapaneseForCausalLM"]).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(ASSETS / MODELS[0]).save_pretrained(tmp_path)
    with pytest.raises(CascadeError, match=r"an architecture that vLLM has .* got \['GPTNeoXJapaneseForCausalLM'\]"):
        VllmConfig(str(tmp_path)).build().llm  # noqa: B018
