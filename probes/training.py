"""Trains and calibrates a P(IK) head with Lightning; the result is a plain `probes.Probe`.

The Lightning module ends here: others load the probe and never this.
"""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from lightning import LightningModule
from torch import Tensor, nn
from torchmetrics.functional.classification import (
    binary_accuracy,
    binary_auroc,
    binary_calibration_error,
    binary_f1_score,
)

from probes.calibration import build_calibrator
from probes.data import HiddenStateDataModule
from probes.errors import ProbeError
from probes.probe import HeadConfig, Probe

ECE_BINS = 15


def probe_metrics(p_ik: Tensor, labels: Tensor, threshold: float = 0.5) -> dict[str, float]:
    """How good P(IK) is: the paper's Table 14, and calibration.

    Args:
        p_ik: ``[rows]`` in [0, 1].
        labels: ``[rows]``, 0 or 1; a share of right answers counts as right from a half on, but for brier and nll.
        threshold: For accuracy and F1; reaching it counts as "knows".

    Returns:
        accuracy, f1, auroc (NaN where there is one class), ece (15 bins of equal width), brier, nll.
    """
    if p_ik.shape != labels.shape or p_ik.ndim != 1:
        raise ProbeError(
            f"Expected p_ik and labels of one shape [rows], but got {tuple(p_ik.shape)}, {tuple(labels.shape)}"
        )
    p, y = p_ik.double(), (labels >= 0.5).long()
    knows = (p >= threshold).long()
    return {
        "accuracy": float(binary_accuracy(knows, y)),
        "f1": float(binary_f1_score(knows, y)),
        "auroc": float(binary_auroc(p, y)) if y.min() < y.max() else float("nan"),
        "ece": float(binary_calibration_error(p, y, n_bins=ECE_BINS)),
        "brier": float(((p - labels) ** 2).mean()),
        "nll": float(nn.functional.binary_cross_entropy(p.clamp(1e-12, 1 - 1e-12), labels.double())),
    }


class ProbeModule(LightningModule):
    """Fits one P(IK) head to one layer: binary cross-entropy, the best weights by validation loss, calibration.

    Args:
        width: Units of each hidden layer of the head.
        depth: Hidden layers; 0 is a linear head.
        dropout: While training.
        activation: relu, gelu, tanh or silu.
        learning_rate: Of AdamW.
        weight_decay: Of AdamW.
        calibration: none, temperature or platt; fitted on the validation part.
        threshold: P(IK) below this is taken for "does not know"; kept in the checkpoint.
        patience: Epochs without a better validation loss after which training stops.
    """

    def __init__(
        self,
        width: int = 128,
        depth: int = 1,
        dropout: float = 0.2,
        activation: str = "relu",
        learning_rate: float = 1e-3,
        weight_decay: float = 1e-2,
        calibration: str = "platt",
        threshold: float = 0.5,
        patience: int = 8,
    ) -> None:
        super().__init__()
        if not 0 <= threshold <= 1:
            raise ProbeError(f"Expected `threshold` to be in [0, 1], but got {threshold}")
        if learning_rate <= 0 or weight_decay < 0 or patience < 1:
            raise ProbeError(
                f"Expected learning_rate > 0, weight_decay ≥ 0 and patience ≥ 1, but got {learning_rate}, "
                f"{weight_decay}, {patience}"
            )
        self.head_config = HeadConfig(width, depth, dropout, activation)
        build_calibrator(calibration)  # an unknown kind is refused before anything is computed
        self.learning_rate, self.weight_decay = learning_rate, weight_decay
        self.calibration, self.threshold, self.patience = calibration, threshold, patience
        self.probe: Probe | None = None
        self.test_results: dict[str, dict[str, float]] = {}
        self._best_loss, self._stale = float("inf"), 0
        self._best_state: dict[str, Tensor] = {}
        self._seen: list[tuple[Tensor, Tensor]] = []

    @property
    def _data(self) -> HiddenStateDataModule:
        data: HiddenStateDataModule = self.trainer.datamodule  # type: ignore[attr-defined]
        return data

    def configure_model(self) -> None:
        """Builds the probe once the data is known; its standardisation is that of the training part."""
        if self.probe is not None:
            return
        origin = replace(
            self._data.data.origin,
            head=self.head_config,
            threshold=self.threshold,
            split_fingerprint=self._data.split.fingerprint,
        )
        self.probe = Probe(origin)
        states, _ = self._data.part("train")
        self.probe.mean.copy_(states.double().mean(0))
        # A constant feature says nothing; scaling it by 1 keeps it at 0.
        scale = states.double().std(0, correction=0)
        self.probe.scale.copy_(torch.where(scale > 1e-8, scale, 1.0))

    def trained_probe(self) -> Probe:
        """The probe; before training it has random weights."""
        if self.probe is None:
            raise ProbeError("Expected a trained probe, but `trainer.fit` has not been called")
        return self.probe

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW on the head alone."""
        head = self.trained_probe().head
        return torch.optim.AdamW(head.parameters(), lr=self.learning_rate, weight_decay=self.weight_decay)

    def training_step(self, batch: list[Tensor], _: int) -> Tensor:
        """Binary cross-entropy of uncalibrated logits."""
        states, labels = batch
        loss = nn.functional.binary_cross_entropy_with_logits(self.trained_probe().raw_logits(states), labels)
        self.log("train_loss", loss, on_step=False, on_epoch=True, batch_size=len(labels))
        return loss

    def validation_step(self, batch: list[Tensor], _: int) -> None:
        """Collects logits."""
        self._collect(batch)

    def test_step(self, batch: list[Tensor], _: int) -> None:
        """Collects logits."""
        self._collect(batch)

    def _collect(self, batch: list[Tensor]) -> None:
        states, labels = batch
        self._seen.append((self.trained_probe().raw_logits(states), labels))

    def _collected(self) -> tuple[Tensor, Tensor]:
        logits, labels = (torch.cat(parts) for parts in zip(*self._seen, strict=True))
        self._seen.clear()
        return logits, labels

    def on_validation_epoch_end(self) -> None:
        """Keeps the best weights so far and stops when they have not got better for `patience` epochs."""
        logits, labels = self._collected()
        if self.trainer.sanity_checking:
            return
        loss = float(nn.functional.binary_cross_entropy_with_logits(logits, labels))
        self.log("val_loss", loss, prog_bar=True)
        self.log("val_auroc", float(binary_auroc(logits, (labels >= 0.5).long())), prog_bar=True)
        if loss < self._best_loss:
            self._best_loss, self._stale = loss, 0
            self._best_state = copy.deepcopy(self.trained_probe().state_dict())
        else:
            self._stale += 1
            self.trainer.should_stop = self._stale >= self.patience

    def on_fit_end(self) -> None:
        """Restores the best weights and calibrates them on the validation part."""
        probe = self.trained_probe()
        if not self._best_state:
            raise ProbeError("Expected at least one epoch with validation, but there was none")
        probe.load_state_dict(self._best_state)
        probe.eval()
        states, labels = (t.to(self.device) for t in self._data.part("validation"))
        with torch.no_grad():
            logits = probe.raw_logits(states)
        probe.calibrator = build_calibrator(self.calibration).to(self.device).fit(logits, labels)
        probe.config = replace(probe.config, calibration=self.calibration)

    def on_test_epoch_end(self) -> None:
        """Metrics on the test part before and after calibration, in `test_results` and in the checkpoint."""
        logits, labels = (t.cpu() for t in self._collected())
        probe = self.trained_probe()
        with torch.no_grad():
            calibrated = probe.calibrator(logits.to(self.device)).cpu()
        self.test_results = {
            "before": probe_metrics(torch.sigmoid(logits), labels, self.threshold),
            "after": probe_metrics(torch.sigmoid(calibrated), labels, self.threshold),
        }
        self.log_dict({f"test_{name}": value for name, value in self.test_results["after"].items()})
        probe.config = replace(probe.config, metrics=self.test_results["after"])
