from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from lightning import Trainer, seed_everything
from sklearn import metrics

from probes import ProbeConfig, ProbeError, build_calibrator
from probes.data import HiddenStateDataModule, LabelledStates
from probes.states import LayerStates
from probes.training import ProbeModule


class Synthetic(HiddenStateDataModule):
    """States whose first feature says how likely the answer is right; feature 5 is constant."""

    def __init__(
        self, rows: int = 1500, labels: torch.Tensor | None = None, layers: int = 1, targets: bool = False
    ) -> None:
        super().__init__(batch_size=128)
        self.count, self.fixed, self.layers, self.targets = rows, labels, layers, targets

    def load(self) -> LabelledStates:
        generator = torch.Generator().manual_seed(3)
        states = torch.randn(self.count, 6, generator=generator) * torch.tensor([3.0, 1, 1, 1, 1, 0]) + 2
        chance = torch.sigmoid(1.5 * (states[:, 0] - 2))
        labels = (torch.rand(self.count, generator=generator) < chance).float() if self.fixed is None else self.fixed
        ids = [f"q{i}" for i in range(self.count)]
        # Three layers, the later the noisier; the last one's first feature says nothing.
        noise = torch.randn(self.count, 6, generator=generator)
        layers = [states, states + noise, torch.cat([noise[:, :1], states[:, 1:]], dim=1)][: self.layers]
        origins = [ProbeConfig(6, layer, "base") for layer in range(1, self.layers + 1)]
        targets = chance if self.targets else None
        return LabelledStates(LayerStates(torch.stack(layers)), labels, ids, ["s"] * self.count, origins, targets)


def fit(module: ProbeModule, data: HiddenStateDataModule, **more: str) -> ProbeModule:
    seed_everything(0, verbose=False)
    trainer = Trainer(
        max_epochs=30, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0, **more,
    )  # fmt: skip
    trainer.fit(module, datamodule=data)
    trainer.test(module, datamodule=data, verbose=False)
    return module


def test_a_probe_finds_what_can_be_known_and_is_calibrated():
    data = Synthetic()
    module = fit(ProbeModule(learning_rate=5e-3), data)
    states, labels = data.part("test")
    best = metrics.roc_auc_score(labels, states[0, :, 0])  # the label depends on nothing else
    assert module.best_head().metrics["after"]["auroc"] > best - 0.02
    assert module.best_head().metrics["after"]["ece"] < 0.12
    assert bool(torch.isfinite(module.best_head().probe.scale).all())
    assert float(module.best_head().probe.scale[5]) == 1.0


def test_a_head_trained_towards_chances_finds_what_verdicts_only_hint_at():
    few, settings = 300, {"depth": 0, "learning_rate": 0.2, "weight_decay": 0.0, "calibration": "none"}
    heads = {
        targets: fit(ProbeModule(**settings), Synthetic(few, targets=targets)).best_head() for targets in (False, True)
    }
    states = Synthetic().load().states.gather(torch.arange(1500))[0]
    errors = {}
    for targets, head in heads.items():
        with torch.no_grad():
            found = head.probe.raw_logits(states).sigmoid()
        errors[targets] = float((found - torch.sigmoid(1.5 * (states[:, 0] - 2))).abs().mean())
    assert errors[True] < 0.02 < errors[False]


def test_targets_train_and_verdicts_calibrate_and_judge():
    data = Synthetic(targets=True)
    module = fit(ProbeModule(), data)
    head, labels = module.best_head(), data.data.labels[data.rows("test")]
    assert set(labels.tolist()) == {0.0, 1.0}
    assert head.metrics["after"]["brier"] == pytest.approx(
        float((head.p_ik["after"] - labels).square().mean()), abs=1e-6
    )
    states, targets = data.part("validation")[0], data.data.targets[data.rows("validation")]
    with torch.no_grad():
        logits = head.probe.raw_logits(states[0])
    loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, targets)
    assert head.val_loss == pytest.approx(float(loss), abs=1e-6)
    expected = build_calibrator("platt")
    expected.fit(logits, data.data.labels[data.rows("validation")])
    torch.testing.assert_close(head.probe.calibrator(logits), expected(logits))


def test_targets_of_another_length_or_range_are_refused():
    good = Synthetic().load()
    for targets, message in ((good.labels[:5], r"targets \[1500\], but got \(5,\)"), (good.labels + 1, "targets in")):
        with pytest.raises(ProbeError, match=message):
            replace(good, targets=targets)


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "64-true"])
def test_any_precision_that_lightning_trains_in_gives_about_the_same_probe(precision):
    expected, found = (fit(ProbeModule(), Synthetic(layers=2), **more) for more in ({}, {"precision": precision}))
    for ours, theirs in zip(found.heads, expected.heads, strict=True):
        assert ours.metrics["after"]["auroc"] == pytest.approx(theirs.metrics["after"]["auroc"], abs=0.01)
        assert (ours.probe.mean.dtype, ours.p_ik["after"].dtype) == (torch.float32, torch.float32)


def test_the_same_seed_gives_the_same_bytes(tmp_path):
    folders = [fit(ProbeModule(), Synthetic()).best_head().probe.save_pretrained(tmp_path / n) for n in "ab"]
    files = [sorted((f.name, f.read_bytes()) for f in folder.iterdir()) for folder in folders]
    assert files[0] == files[1]


def test_training_keeps_the_weights_of_the_best_epoch():
    data = Synthetic()
    module = fit(ProbeModule(learning_rate=0.05, patience=5, calibration="none"), data)
    states, labels = data.part("validation")
    with torch.no_grad():
        logits = module.best_head().probe.raw_logits(states[0])
    loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels)
    assert float(loss) == pytest.approx(module.best_head().val_loss, abs=1e-6)


def test_one_class_is_refused_before_training():
    with pytest.raises(ProbeError, match="right and wrong answers in the train part"):
        fit(ProbeModule(), Synthetic(labels=torch.ones(1500)))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"threshold": 1.5}, "threshold"),
        ({"calibration": "magic"}, "magic"),
        ({"activation": "step"}, "step"),
        ({"depth": -1}, "depth"),
        ({"learning_rate": 0.0}, "learning_rate"),
    ],
)
def test_settings_that_make_no_sense_are_named(flags, message):
    with pytest.raises(ProbeError, match=message):
        ProbeModule(**flags)
