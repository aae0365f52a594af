"""Many heads in one run against each alone, and against a loop written out by hand."""

from __future__ import annotations

import copy
import math
import sys
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning import Trainer, seed_everything
from sklearn.utils.class_weight import compute_class_weight

from probes import HeadConfig, HiddenStateStore, ProbeConfig, ProbeError, StoreKey, StoreWriter
from probes.data import HiddenStateDataModule, LabelledStates
from probes.heads import StackedHeads, build_head
from probes.layers import layer_table
from probes.states import LayerStates, StoredStates, open_states
from probes.training import ProbeModule
from tests.processes import Forked

ROWS, HIDDEN, LAYERS = 900, 10, (1, 2, 5)


def states_and_labels() -> tuple[torch.Tensor, torch.Tensor]:
    """Three layers of states: what can be known is clear in the second and noisy in the others."""
    generator = torch.Generator().manual_seed(7)
    hidden = torch.randn(ROWS, HIDDEN, generator=generator)
    labels = (torch.rand(ROWS, generator=generator) < torch.sigmoid(2 * hidden[:, 0] * hidden[:, 1] + 0.4)).float()
    noise = [torch.randn(ROWS, HIDDEN, generator=generator) * n for n in (1.0, 0.1, 3.0)]
    return torch.stack([3 * (hidden + n) + 1 for n in noise]), labels


class Data(HiddenStateDataModule):
    def __init__(self, layers: tuple[int, ...] = LAYERS, states: LayerStates | None = None, batch_size: int = 64):
        super().__init__(batch_size)
        self.layers, self.states = layers, states

    def load(self) -> LabelledStates:
        states, labels = states_and_labels()
        kept = LayerStates(states[[LAYERS.index(layer) for layer in self.layers]])
        origins = [ProbeConfig(HIDDEN, layer, "base") for layer in self.layers]
        return LabelledStates(self.states or kept, labels, [f"q{i}" for i in range(ROWS)], ["s"] * ROWS, origins)


def fit(
    data: HiddenStateDataModule, seed: int = 0, clip: float | None = None, epochs: int = 15, **settings
) -> ProbeModule:
    seed_everything(seed, verbose=False)
    module = ProbeModule(**({"width": 12, "patience": 3} | settings))
    trainer = Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0, gradient_clip_val=clip,
    )  # fmt: skip
    trainer.fit(module, datamodule=data)
    trainer.test(module, datamodule=data, verbose=False)
    return module


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_every_head_of_a_stack_is_the_head_trained_alone(depth):
    settings = {"depth": depth, "dropout": 0.2, "clip": 0.5}
    seeds, decays = (2, [0.0, 0.1]) if depth == 1 else (1, [0.1])
    together = fit(Data((1, 2)), 3, seeds=seeds, learning_rate=[1e-3, 1e-2], weight_decay=decays, **settings).heads
    assert len(together) == 2 * len(decays) * 2 * seeds
    assert len({head.epoch for head in together}) > 1  # they did not all stop together
    for head in together:
        data = Data((head.layer,))
        (alone,) = fit(
            data, head.seed, learning_rate=head.learning_rate, weight_decay=head.weight_decay, **settings
        ).heads
        assert (head.layer, head.seed, head.epoch) == (alone.layer, alone.seed, alone.epoch)
        assert head.val_loss == pytest.approx(alone.val_loss, abs=1e-5)
        states, _ = data.part("test")
        for stage in ("before", "after"):
            torch.testing.assert_close(head.p_ik[stage], alone.p_ik[stage], rtol=0, atol=1e-5)
        torch.testing.assert_close(
            torch.from_numpy(head.probe.predict(states[0])), alone.p_ik["after"], rtol=0, atol=1e-5
        )


class Wide(HiddenStateDataModule):
    """States of a real model's kind of width; what can be known is a product of features, which takes long to learn."""

    def __init__(self, layers: tuple[int, ...]):
        super().__init__(256)
        self.layers = layers

    def load(self) -> LabelledStates:
        generator = torch.Generator().manual_seed(1)
        states, noise = torch.randn(3, 2000, 48, generator=generator), torch.rand(2000, generator=generator)
        known = states.sum(0)
        labels = (noise < torch.sigmoid(known[:, 0] * known[:, 1] + known[:, 2] * known[:, 3])).float()
        origins = [ProbeConfig(48, layer, "base") for layer in self.layers]
        ids = [f"q{i}" for i in range(2000)]
        return LabelledStates(LayerStates(states[list(self.layers)]), labels, ids, ["s"] * 2000, origins)


def test_a_head_stays_the_head_trained_alone_however_long_training_goes_on():
    """What rounds otherwise in one product is another head after hundreds of steps at a high rate."""
    settings = {"width": 128, "epochs": 60, "patience": 60, "learning_rate": 1e-2, "weight_decay": 3.0}
    together = fit(Wide((0, 1, 2)), 5, seeds=2, **settings).heads
    for head in together[3:5]:  # of two layers and two seeds; to train all six alone takes long
        (alone,) = fit(Wide((head.layer,)), head.seed, **settings).heads
        assert head.epoch == alone.epoch
        torch.testing.assert_close(head.p_ik["before"], alone.p_ik["before"], rtol=0, atol=1e-5)


def by_hand(data: Data, place: int, seed: int, clip: float | None, smoothing: float) -> tuple[torch.Tensor, int]:
    """One head, trained by a plain loop over torch's own parts: test P(IK) before calibration, and its best epoch."""
    data.setup()
    (x, _), (vx, vy), (tx, _) = (data.part(name) for name in ("train", "validation", "test"))
    mean, scale = x[place].mean(0), x[place].std(0, correction=0)
    torch.manual_seed(seed)
    head = build_head(HeadConfig(12, 1, 0.0, "relu"), HIDDEN)
    optimizer = torch.optim.AdamW(head.parameters(), lr=5e-3, weight_decay=1e-2)
    best, kept, at, stale = math.inf, copy.deepcopy(head), 0, 0
    loss_of = torch.nn.functional.binary_cross_entropy_with_logits
    loader = data.train_dataloader()
    for epoch in range(15):
        # Lightning does not run a loader to its very end, where the sampler would draw once more.
        for states, labels in islice(loader, len(loader)):
            logits = torch.nn.functional.pad(head((states[place] - mean) / scale), (1, 0))  # of wrong: 0; of right
            loss = torch.nn.functional.cross_entropy(logits, labels.long(), label_smoothing=smoothing)
            optimizer.zero_grad()
            loss.backward()
            if clip is not None:
                torch.nn.utils.clip_grad_norm_(head.parameters(), clip)
            optimizer.step()
        with torch.no_grad():
            loss = float(loss_of(head((vx[place] - mean) / scale).squeeze(-1), vy))
        stale += 1
        if loss < best:
            best, kept, at, stale = loss, copy.deepcopy(head), epoch, 0
        if stale == 3:
            break
    with torch.no_grad():
        return kept((tx[place] - mean) / scale).squeeze(-1).sigmoid(), at


@pytest.mark.parametrize(("clip", "smoothing"), [(None, 0.0), (0.05, 0.3)])
def test_a_stack_does_what_a_plain_loop_does(clip, smoothing):
    module = fit(Data(), 4, clip, dropout=0.0, learning_rate=5e-3, label_smoothing=smoothing)
    for place, head in enumerate(module.heads):
        p_ik, epoch = by_hand(Data(), place, 4, clip, smoothing)
        assert head.epoch == epoch
        torch.testing.assert_close(head.p_ik["before"], p_ik, rtol=0, atol=2e-5)


def test_balanced_classes_weigh_alike():
    data = Data()
    head = fit(data, class_weight="balanced", calibration="none").heads[1]
    train, (states, labels) = data.part("train")[1].numpy(), data.part("validation")
    weights = compute_class_weight("balanced", classes=np.array([0.0, 1.0]), y=train)
    p = head.probe.predict(states[1]).astype(float)
    loss = -np.where(labels == 1, weights[1] * np.log(p), weights[0] * np.log(1 - p)).mean()
    assert abs(weights[0] - weights[1]) > 0.01
    assert head.val_loss == pytest.approx(loss, abs=1e-5)


def test_a_schedule_is_followed_epoch_by_epoch():
    schedule = partial(torch.optim.lr_scheduler.MultiStepLR, milestones=[1], gamma=0.0)
    stopped, single = fit(Data(), schedule=schedule, epochs=5), fit(Data(), epochs=1)
    for ours, theirs in zip(stopped.heads, single.heads, strict=True):
        assert torch.equal(ours.p_ik["before"], theirs.p_ik["before"])  # nothing is learnt after the first epoch


def test_a_stack_of_heads_is_each_head():
    config = HeadConfig(width=5, depth=2, dropout=0.0, activation="gelu")
    stack = StackedHeads(config, 7, layers=3, seeds=[4, 9])
    states = torch.randn(3, 11, 7)
    for index in range(6):
        head = build_head(config, 7)
        stack.copy_to(index, head)
        torch.testing.assert_close(stack(states)[index], head(states[index // 2]).squeeze(-1))
        torch.manual_seed([4, 9][index % 2])
        for ours, plain in zip(head.parameters(), build_head(config, 7).parameters(), strict=True):
            assert torch.equal(ours, plain)


def test_where_every_head_runs_off_one_of_them_is_named():
    calm = {"optimizer": torch.optim.SGD, "dropout": 0.0, "weight_decay": 0.0, "calibration": "none"}
    with pytest.raises(ProbeError, match=r"finite validation loss, but the head of layer 1 .* as every other"):
        fit(Data(), learning_rate=1e30, **calm, activation="silu")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"optimizer": torch.optim.LBFGS}, "optimizer"),
        ({"schedule": torch.optim.lr_scheduler.ReduceLROnPlateau}, "ReduceLROnPlateau"),
        ({"learning_rate": [0.1, 0.1]}, "different numbers"),
        ({"seeds": 0}, "seeds ≥ 1"),
        ({"label_smoothing": 1.0}, "label_smoothing"),
    ],
)
def test_what_would_mix_the_heads_is_refused(settings, message):
    with pytest.raises((ProbeError, ValueError), match=message):
        fit(Data(), **settings)


def test_fewer_rows_than_a_batch_are_refused():
    with pytest.raises(ProbeError, match="at least `batch_size` = 800 rows in the train part, but got 720"):
        fit(Data(batch_size=800))


def test_the_table_has_a_row_a_layer_and_the_best_is_that_of_the_lowest_validation_loss():
    module = fit(Data(), seeds=2, learning_rate=[1e-4, 2e-2])
    labels = module._data.part("test")[1]
    rows = layer_table(module.heads, labels, resamples=100)
    assert [row.layer for row in rows] == list(LAYERS)
    assert min(rows, key=lambda row: row.val_loss).layer == module.best_head().layer == 2
    for row in rows:
        assert row.learning_rate == 2e-2  # the other one learns next to nothing
        same = [h for h in module.heads if (h.layer, h.learning_rate) == (row.layer, 2e-2)]
        assert row.seeds == len(same) == 2
        for name, interval in row.after.items():
            assert interval.value == pytest.approx(sum(h.metrics["after"][name] for h in same) / 2)
            assert interval.low <= interval.value <= interval.high


def test_one_lucky_seed_chooses_neither_layer_nor_settings():
    module, heads = fit(Data(), seeds=2, learning_rate=[1e-3, 2e-2]), []
    for head in module.heads:  # layer 1 at 1e-3 is the best on average; the one best head is of layer 2
        losses = {(1, 1e-3): (0.40, 0.39), (2, 2e-2): (0.90, 0.10)}.get((head.layer, head.learning_rate), (0.9, 0.9))
        heads.append(replace(head, val_loss=losses[head.seed]))
    module.heads, best = heads, 1
    found, rows = module.best_head(), layer_table(heads, module._data.part("test")[1], resamples=20)
    assert (found.layer, found.learning_rate, found.seed) == (1, 1e-3, best)
    row = min(rows, key=lambda row: row.val_loss)
    assert (row.layer, row.learning_rate) == (found.layer, found.learning_rate)
    first, second = (h.metrics["after"]["auroc"] for h in heads if (h.layer, h.learning_rate) == (1, 1e-3))
    assert row.spread["auroc"] == pytest.approx(abs(first - second) / 2**0.5)


def test_a_head_that_diverges_is_left_out_and_the_others_are_as_without_it():
    rates = [2e-2, 1e30]
    module, alone = fit(Data(), learning_rate=rates, patience=2), fit(Data(), learning_rate=2e-2, patience=2)
    assert len(module.diverged) == len(LAYERS)
    assert "layer 2 with learning_rate 1e+30" in " ".join(module.diverged)
    for head, same in zip(module.heads, alone.heads, strict=True):
        assert (head.layer, head.learning_rate) == (same.layer, same.learning_rate)
        np.testing.assert_allclose(head.p_ik["after"], same.p_ik["after"], atol=1e-5)


KEY = StoreKey("m", "r", "t", "p", "task", "q", "float32", LAYERS, "last_prompt_token", {})


def store_of(folder: Path, states: torch.Tensor, dtype: str = "float32", shard_rows: int = 500) -> HiddenStateStore:
    key = StoreKey(**{**KEY.__dict__, "dtype": dtype, "layers": LAYERS[: len(states)]})
    writer = StoreWriter(folder, key, states.shape[1], states.shape[2], shard_rows)
    for number, rows in enumerate(writer.shards):
        writer.write(number, {layer: s[rows.start : rows.stop] for layer, s in zip(key.layers, states, strict=True)})
    return writer.finish()


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_streamed_rows_are_those_in_memory(tmp_path, dtype):
    states, _ = states_and_labels()
    store = store_of(tmp_path, states, dtype)
    rows = torch.randperm(ROWS)[:333]
    expected = states.to(store.dtype)[:, rows].float()
    streamed, held = open_states(store, LAYERS, memory=1000), open_states(store, LAYERS)
    assert isinstance(streamed, StoredStates)
    assert not isinstance(held, StoredStates)
    assert torch.equal(streamed.gather(rows), expected)
    assert torch.equal(held.gather(rows), expected)


def test_training_from_disk_gives_the_same_bits(tmp_path):
    store = store_of(tmp_path, states_and_labels()[0])
    held, streamed = (fit(Data(states=open_states(store, LAYERS, memory))) for memory in (None, 1000))
    for ours, theirs in zip(held.heads, streamed.heads, strict=True):
        assert torch.equal(ours.p_ik["after"], theirs.p_ik["after"])


LIMITED = """
import re, resource, sys
import numpy, torch
torch.set_num_threads(1)
numpy.ones((500, 500)) @ numpy.ones((500, 500))  # its library keeps tens of megabytes from now on
from tests.probes.test_stacked import Data, fit, store_of
from probes import HiddenStateStore, ProbeConfig
from probes.data import HiddenStateDataModule, LabelledStates
from probes.states import open_states

class Big(HiddenStateDataModule):
    def load(self):
        labels = (torch.arange(store.rows) % 2).float()
        ids = [str(i) for i in range(store.rows)]
        origins = [ProbeConfig(store.hidden_size, layer, "base") for layer in store.layers]
        return LabelledStates(open_states(store, store.layers, memory), labels, ids, ["s"] * store.rows, origins)

store = HiddenStateStore(sys.argv[1])
fit(Data(), epochs=1)  # whatever is loaded or compiled at first use
used = int(re.search(r"VmData:\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024
resource.setrlimit(resource.RLIMIT_DATA, (used + int(sys.argv[2]), resource.RLIM_INFINITY))
for memory in (2**40, 0):
    try:
        print(len(fit(Big(batch_size=64), epochs=1).heads), "heads")
    except RuntimeError as error:
        print(str(error).splitlines()[0])
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits memory through RLIMIT_DATA and /proc")
def test_a_store_four_times_the_memory_trains_where_reading_it_whole_cannot(tmp_path):
    limit = 40 * 2**20
    store = store_of(tmp_path, torch.randn(3, 4 * limit // (3 * 2048 * 4) + 1, 2048), shard_rows=1000)
    assert sum(p.stat().st_size for p in store.folder.glob("*.safetensors")) >= 4 * limit
    process = Forked("-c", LIMITED, str(store.folder), str(limit))
    said, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors[-2000:]
    whole, streamed = said.splitlines()
    assert "can't allocate memory" in whole
    assert streamed == "3 heads"


def test_states_that_are_not_numbers_are_refused():
    states, _ = states_and_labels()
    states[1, 5, 3] = float("inf")
    with pytest.raises(ProbeError, match="finite hidden states"):
        LayerStates(states)
    LayerStates(torch.full((1, 2, 3), 3e38))  # large, and finite all the same


def test_standardisation_is_that_of_the_training_part():
    data = Data()
    heads = fit(data, epochs=1).heads
    states = data.part("train")[0].double()
    for place, head in enumerate(heads):
        torch.testing.assert_close(head.probe.mean.double(), states[place].mean(0), rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(head.probe.scale.double(), states[place].std(0, correction=0), rtol=1e-6, atol=1e-6)
