from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from cascade.errors import CascadeError
from cascade.models.encoder import Encoder, read_texts
from cascade.scoring import score
from experiments.readers import FOLDS, Fold, Questions, cascade, load, saved
from experiments.transfer import main
from probes import Probe, ProbeConfig, stratified_split
from probes.states import LayerStates

MODELS = ["mini-llama-small", "mini-llama-medium", "mini-qwen3-small"]


def test_transfer_tests_every_probe_on_every_other_of_its_width(tmp_path):
    flags = [f"--models={','.join(MODELS)}", "--tasks=mini-gpqa", "--epochs=2", f"--runs={tmp_path}"]
    matrices = main(flags)
    written = json.loads((tmp_path / "transfer" / "transfer.json").read_text())
    order = [name.split(" · ")[0] for name in written["sources"]]
    assert (tmp_path / "transfer" / "transfer.png").stat().st_size > 10_000
    for row, source in enumerate(order):
        for column, target in enumerate(order):
            found = matrices["AUROC"][row, column]
            if ("medium" in source) != ("medium" in target):
                assert np.isnan(found)
                continue
            probe = Probe.from_pretrained(
                tmp_path / "probes" / f"{source}--mini-gpqa--layer-{2 + ('medium' in source)}/probe"
            )
            scored = score(target, "mini-gpqa", tmp_path / "stores")
            table = scored.table()
            split = stratified_split(table["question_id"].to_pylist(), table["subject"].to_pylist())
            p_ik = probe.predict(scored.store.layer(probe.config.layer)[list(split.test)])
            assert found == pytest.approx(roc_auc_score(table["correct"].to_numpy()[list(split.test)], p_ik))


def test_the_reader_is_asked_first_and_charged_everywhere():
    gate, p_t = np.array([0.1, 0.9, 0.9, 0.4]), np.array([0.9, 0.9, 0.2, 0.9])
    # By hand: question 0 goes straight to the large model, 1 and 3 stay with the small one, 2 is asked twice.
    cost = 4 * 1 + 3 * 10 + 2 * 100
    assert saved(gate, p_t, (0.3, 0.5), (1, 10, 100)) == pytest.approx(1 - cost / 400)
    assert saved(gate, p_t, (0.0, 0.5), (0, 10, 100)) == pytest.approx(1 - (4 * 10 + 100) / 400)


def test_thresholds_are_chosen_on_one_half_and_reported_on_the_other():
    rng = np.random.default_rng(0)
    knows = rng.random(4000) < 0.6
    p_t = np.where(knows, rng.uniform(0.4, 1, 4000), rng.uniform(0, 0.6, 4000))
    noise = rng.permutation(knows.astype(float))
    right = (knows, np.ones(4000, dtype=bool))
    plain, plain_drops = cascade(None, p_t, right, (0, 10, 100))
    perfect, drops = cascade(knows.astype(float), p_t, right, (1, 10, 100))
    # A perfect gate keeps the six tenths that the small model knows, and asks it nothing else.
    assert np.mean(perfect) == pytest.approx(0.6 - 0.06 - 0.01, abs=0.02)
    assert np.mean(perfect) > np.mean(plain) + 0.05
    assert np.mean(drops) > -0.015
    assert np.mean(plain_drops) > -0.015
    assert np.mean(cascade(noise, p_t, right, (1, 10, 100))[0]) < np.mean(plain) + 0.01


def test_every_question_is_tested_in_one_fold_and_never_trained_on_there():
    asked = Questions(
        ids=[f"q{i}" for i in range(1500)],
        texts=[],
        subjects=["s"] * 1500,
        right={"model": np.arange(1500) % 2 == 0},
        p_t={},
    )
    states, origins = LayerStates(torch.zeros(1, 1500, 2)), [ProbeConfig(2, 0, "reader")]
    tested: list[int] = []
    for fold in range(FOLDS):
        data = Fold(states, origins, asked, "model", fold)
        data.setup()
        parts = (data.split.train, data.split.validation, data.split.test)
        assert sorted(row for part in parts for row in part) == list(range(1500))
        tested += data.split.test
    assert sorted(tested) == list(range(1500))


def test_the_real_questions_join_their_models(shared_data):
    asked = load(shared_data)
    assert 9_700 < len(asked.ids) == len(set(asked.texts)) <= 9_971
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
    encoder = Encoder(str(tmp_path), "reader", max_tokens=5)
    texts = ["a b c", "d", "e f g h a b c d", "b a", "a a a"]
    store = read_texts(encoder, texts, "letters", "r", tmp_path / "stores", batch_size=2)
    for row, text in enumerate(texts):
        for layer, state in encoder.run([text]).items():
            torch.testing.assert_close(store.layer(layer)[row], state[0], rtol=0, atol=1e-5)
    assert read_texts(encoder, texts, "letters", "r", tmp_path / "stores").folder == store.folder
    cut, whole = encoder.run([texts[2]])[2], encoder.run(["e f g h a"])[2]
    assert torch.equal(cut, whole)
    with pytest.raises(CascadeError, match="could not be loaded"):
        Encoder(str(tmp_path / "nothing"))
