"""Trains and calibrates P(IK) heads with Lightning, one or hundreds in a run; the results are plain `probes.Probe`.

There is one path for one head and for many: heads of all layers, seeds, learning rates and weight decays are
stacked, and each comes out as it would alone. The Lightning module ends here: others load a probe and never this.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from typing import Any, Literal

import torch
from lightning import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from probes.calibration import build_calibrator
from probes.data import HiddenStateDataModule
from probes.errors import ProbeError
from probes.heads import DropoutMasks, HeadConfig, StackedHeads
from probes.layers import TrainedHead, best_head
from probes.metrics import probe_metrics
from probes.probe import Probe

_STATISTICS_ROWS = 64
# Their update of a number depends on that number's own history alone, so stacked heads do not feel each other.
_ELEMENTWISE = ("Adadelta", "Adagrad", "Adam", "AdamW", "Adamax", "ASGD", "NAdam", "RAdam", "RMSprop", "Rprop", "SGD")


class ProbeModule(LightningModule):
    """Fits P(IK) heads: binary cross-entropy, the best weights of each by its own validation loss, calibration.

    One head for each layer of the data, seed, learning rate and weight decay. Each has its early stopping and its
    best weights, and comes out as it would alone with the same seed; the order of the batches follows the data's
    ``split_seed``.

    Args:
        width: Units of each hidden layer of a head; a list gives each its own.
        depth: Hidden layers; 0 is a linear head.
        dropout: While training.
        activation: relu, gelu, tanh, silu, sigmoid or identity.
        learning_rate: Of the optimiser; a list trains a head with each.
        weight_decay: Of the optimiser; a list trains a head with each.
        seeds: Heads that differ in the seed alone, counted up from the run's.
        optimizer: Any of torch's that works element by element; it is given parameter groups with ``lr`` and
            ``weight_decay`` set.
        schedule: Of the learning rate, a step an epoch.
        class_weight: ``balanced`` weighs right and wrong answers alike (n / 2 nᵧ), in training and early stopping.
        label_smoothing: ε: a label y is trained towards y (1 − ε) + ε / 2.
        calibration: Kind of calibrator; fitted on the validation part.
        threshold: P(IK) below this is taken for "does not know"; kept in the checkpoint.
        patience: Epochs without a better validation loss after which a head is done.

    Attributes:
        heads: After testing, every head: by learning rate and weight decay, then layer, then seed.
        diverged: After fitting, in words, the heads that never had a finite validation loss; `heads` lacks them.
    """

    mean: Tensor
    scale: Tensor

    def __init__(
        self,
        width: int | list[int] = 128,
        depth: int = 1,
        dropout: float = 0.2,
        activation: str = "relu",
        learning_rate: float | list[float] = 1e-3,
        weight_decay: float | list[float] = 1e-2,
        seeds: int = 1,
        optimizer: OptimizerCallable = lambda p: torch.optim.AdamW(p, fused=True),
        schedule: LRSchedulerCallable | None = None,
        class_weight: Literal["none", "balanced"] = "none",
        label_smoothing: float = 0.0,
        calibration: str = "platt",
        threshold: float = 0.5,
        patience: int = 8,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False)  # what a run's config.yaml says
        if not 0 <= threshold <= 1:
            raise ProbeError(f"Expected `threshold` to be in [0, 1], but got {threshold}")
        if not 0 <= label_smoothing < 1:
            raise ProbeError(f"Expected `label_smoothing` to be in [0, 1), but got {label_smoothing}")
        rates, decays = _several("learning_rate", learning_rate), _several("weight_decay", weight_decay)
        if min(rates) <= 0 or min(decays) < 0 or patience < 1 or seeds < 1:
            raise ProbeError(
                f"Expected learning_rate > 0, weight_decay ≥ 0, patience ≥ 1 and seeds ≥ 1, but got {learning_rate}, "
                f"{weight_decay}, {patience}, {seeds}"
            )
        self.head_config = HeadConfig(tuple(width) if isinstance(width, list) else width, depth, dropout, activation)
        build_calibrator(calibration)  # an unknown kind is refused before anything is computed
        self.rates_and_decays, self.num_seeds = list(product(rates, decays)), seeds
        self.optimizer, self.schedule = optimizer, schedule
        self.class_weight, self.label_smoothing = class_weight, label_smoothing
        self.calibration, self.threshold, self.patience = calibration, threshold, patience
        self.groups = nn.ModuleList()
        self.heads: list[TrainedHead] = []
        self.diverged: list[str] = []
        self._seen: list[Tensor] = []

    @property
    def _data(self) -> HiddenStateDataModule:
        data: HiddenStateDataModule = self.trainer.datamodule  # type: ignore[attr-defined]
        return data

    def configure_model(self) -> None:
        """Builds the heads once the data is known; its standardisation is that of the training part."""
        if self.groups:
            return
        layers, _, hidden = self._data.data.states.shape
        first = torch.initial_seed()
        self.seed_numbers = [first + i for i in range(self.num_seeds)]
        # Heads of one learning rate and weight decay are one parameter group, which any optimiser understands.
        self.groups.extend(
            StackedHeads(self.head_config, hidden, layers, self.seed_numbers) for _ in self.rates_and_decays
        )
        mean, scale = _statistics(self._data)
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("scale", scale, persistent=False)
        count = len(self.rates_and_decays) * layers * self.num_seeds
        self._best_loss = torch.full((count,), float("inf"))
        self._best_epoch = torch.zeros(count, dtype=torch.long)
        self._stale = torch.zeros(count, dtype=torch.long)
        self._best_logits = torch.empty(0)
        self._best: list[Tensor] = []
        labels = self._data.data.trained_towards[self._data.rows("train")]
        shares = torch.stack([1 - labels.mean(), labels.mean()])
        self._weights = (0.5 / shares).tolist() if self.class_weight == "balanced" else [1.0, 1.0]
        self._masks: DropoutMasks | None = None

    def configure_optimizers(self) -> Any:
        """The optimiser over one parameter group for each learning rate and weight decay."""
        groups = [
            {"params": list(heads.parameters()), "lr": rate, "weight_decay": decay}
            for heads, (rate, decay) in zip(self.groups, self.rates_and_decays, strict=True)
        ]
        optimizer = self.optimizer(groups)
        if type(optimizer).__name__ not in _ELEMENTWISE:
            raise ProbeError(
                f"Expected `optimizer` to be one of {', '.join(_ELEMENTWISE)}, which train stacked heads apart, but "
                f"got {type(optimizer).__name__}"
            )
        if self.schedule is None:
            return optimizer
        schedule = self.schedule(optimizer)
        if isinstance(schedule, torch.optim.lr_scheduler.ReduceLROnPlateau):
            raise ProbeError(
                "Expected `schedule` to follow the epoch, but ReduceLROnPlateau would follow all the heads"
            )
        return {"optimizer": optimizer, "lr_scheduler": schedule}

    def configure_gradient_clipping(
        self,
        optimizer: Any,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clips each head's own norm, not that of all."""
        if gradient_clip_val and gradient_clip_algorithm in (None, "norm"):
            for heads in self.groups:
                heads.clip_gradients(gradient_clip_val)  # type: ignore[operator]
        else:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def _standardise(self, states: Tensor) -> Tensor:
        """States of a batch, which were gathered for it alone, where they are."""
        return states.sub_(self.mean).div_(self.scale)

    def forward(self, states: Tensor, masks: Sequence[Tensor] = ()) -> Tensor:
        """Uncalibrated logits of all the heads, ``[heads, batch]``, from standardised ``[layers, batch, hidden]``."""
        return torch.cat([heads(states, masks) for heads in self.groups])

    def _losses(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Weighted binary cross-entropy of each head, ``[heads]``."""
        wrong, right = self._weights
        weights = wrong + (right - wrong) * targets
        losses = nn.functional.binary_cross_entropy_with_logits(
            logits, targets.expand_as(logits), weights.expand_as(logits), reduction="none"
        )
        return losses.mean(1)

    def training_step(self, batch: list[Tensor], _: int) -> Tensor:
        """The sum of the heads' losses: each head's gradient is that of its own."""
        states, targets = batch
        if self._masks is None:
            self._masks = DropoutMasks(self.head_config, self.seed_numbers, states.device)
        smoothed = targets * (1 - self.label_smoothing) + self.label_smoothing / 2
        losses = self._losses(self(self._standardise(states), self._masks.draw(len(targets))), smoothed)
        self.log("train_loss", losses.detach().mean(), on_step=False, on_epoch=True, batch_size=len(targets))
        return losses.sum()

    def validation_step(self, batch: list[Tensor], _: int) -> None:
        """Collects logits."""
        self._collect(batch)

    def test_step(self, batch: list[Tensor], _: int) -> None:
        """Collects logits."""
        self._collect(batch)

    def _collect(self, batch: list[Tensor]) -> None:
        self._seen.append(self(self._standardise(batch[0])).float().cpu())

    def _collected(self) -> Tensor:
        logits = torch.cat(self._seen, dim=1)
        self._seen.clear()
        return logits

    def on_validation_epoch_end(self) -> None:
        """Keeps each head's best weights so far; a head is done when it has not got better for `patience` epochs."""
        logits = self._collected()
        if self.trainer.sanity_checking:
            return
        losses = self._losses(logits, self._data.data.trained_towards[self._data.rows("validation")])
        better = (losses < self._best_loss) & (self._stale < self.patience)
        self._stale = torch.where(better, 0, self._stale + (self._stale < self.patience))
        self._best_loss = torch.where(better, losses, self._best_loss)
        self._best_epoch[better] = self.current_epoch
        if not self._best:
            self._best = [p.detach().clone() for p in self.groups.parameters()]
            self._best_logits = logits.clone()
        self._best_logits[better] = logits[better]
        for group, chosen in zip(self.groups, better.to(self.device).chunk(len(self.groups)), strict=True):
            for parameter, best in self._with_best(group):
                best[chosen] = parameter.detach()[chosen]
        # Done heads go on being trained, since that costs nothing; what they become is not looked at.
        self.trainer.should_stop = bool((self._stale >= self.patience).all())
        # One that diverges is left out, of the curve as of the heads.
        self.log("val_loss", losses[losses.isfinite()].mean(), prog_bar=True)
        if len(self._data.data.origins) > 1:
            by_layer = losses.view(len(self.groups), -1, self.num_seeds).mean((0, 2))
            for origin, loss in zip(self._data.data.origins, by_layer, strict=True):
                self.log(f"val_loss/layer-{origin.layer}", loss)

    def _with_best(self, group: nn.Module) -> list[tuple[Tensor, Tensor]]:
        best_of = {id(p): best for p, best in zip(self.groups.parameters(), self._best, strict=True)}
        return [(parameter, best_of[id(parameter)]) for parameter in group.parameters()]

    def on_fit_end(self) -> None:
        """Restores each head's best weights and calibrates it on the validation part."""
        if not self._best:
            raise ProbeError("Expected at least one epoch with validation, but there was none")
        with torch.no_grad():
            for parameter, best in zip(self.groups.parameters(), self._best, strict=True):
                parameter.copy_(best)
        labels = self._data.data.labels[self._data.rows("validation")]
        finite = torch.isfinite(self._best_loss).tolist()
        self.diverged = [self._named(index) for index, good in enumerate(finite) if not good]
        if not any(finite):
            raise ProbeError(
                f"Expected a finite validation loss, but {self._named(0)}{', as every other,' * (len(finite) > 1)} had "
                f"none in {self.current_epoch} epochs"
            )
        self._probes = {index: self._probe(index, labels) for index, good in enumerate(finite) if good}

    def _place(self, index: int) -> tuple[int, int, int]:
        """Group, layer (a place in the data, not a number) and seed of a head."""
        layers = len(self._data.data.origins)
        group, rest = divmod(index, layers * self.num_seeds)
        return group, *divmod(rest, self.num_seeds)

    def _named(self, index: int) -> str:
        group, layer, seed = self._place(index)
        rate, decay = self.rates_and_decays[group]
        return (
            f"the head of layer {self._data.data.origins[layer].layer} with learning_rate {rate:g}, weight_decay "
            f"{decay:g} and seed {self.seed_numbers[seed]}"
        )

    def _probe(self, index: int, validation_labels: Tensor) -> Probe:
        group, layer, seed = self._place(index)
        rate, decay = self.rates_and_decays[group]
        origin = self._data.data.origins[layer]
        probe = Probe(
            replace(
                origin,
                head=self.head_config,
                threshold=self.threshold,
                calibration=self.calibration,
                split_fingerprint=self._data.split.fingerprint,
                trained_with={
                    "seed": self.seed_numbers[seed],
                    "learning_rate": rate,
                    "weight_decay": decay,
                    "val_loss": float(self._best_loss[index]),
                },
            )
        )
        probe.mean.copy_(self.mean[layer, 0])
        probe.scale.copy_(self.scale[layer, 0])
        self.groups[group].copy_to(layer * self.num_seeds + seed, probe.head)  # type: ignore[operator]
        probe.calibrator.fit(self._best_logits[index], validation_labels)
        return probe.eval()

    def on_test_epoch_end(self) -> None:
        """Metrics of every head on the test part before and after calibration, in `heads` and the checkpoints."""
        logits, labels = self._collected(), self._data.data.labels[self._data.rows("test")]
        self.heads = []
        for index, probe in self._probes.items():
            with torch.no_grad():
                p_ik = {"before": logits[index].sigmoid(), "after": probe.calibrator(logits[index]).sigmoid()}
            metrics = {stage: probe_metrics(p, labels, self.threshold) for stage, p in p_ik.items()}
            probe.config = replace(probe.config, metrics=metrics["after"])
            group, _, seed = self._place(index)
            rate, decay = self.rates_and_decays[group]
            loss, epoch = float(self._best_loss[index]), int(self._best_epoch[index])
            self.heads.append(TrainedHead(probe, self.seed_numbers[seed], rate, decay, loss, epoch, p_ik, metrics))
        self.log_dict({f"test_{name}": value for name, value in self.best_head().metrics["after"].items()})

    def best_head(self) -> TrainedHead:
        """The head to keep, as `probes.layers.best_head` has it."""
        if not self.heads:
            raise ProbeError("Expected trained and tested heads, but `trainer.fit` and `trainer.test` were not called")
        return best_head(self.heads)


def _several(name: str, value: float | list[float]) -> list[float]:
    values = value if isinstance(value, list) else [value]
    if not values or len(set(values)) != len(values):
        raise ProbeError(f"Expected `{name}` to be a number or different numbers, but got {value}")
    return values


def _statistics(data: HiddenStateDataModule) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each feature over the training part, each ``[layers, 1, hidden]``, float32."""
    layers, _, hidden = data.data.states.shape
    chunks = data.rows("train").split(_STATISTICS_ROWS)
    mean, seen = torch.zeros(layers, 1, hidden, dtype=torch.float64), 0
    squares = torch.zeros_like(mean)
    for rows in chunks:  # merged chunk by chunk (Chan et al., 1983): the part need not fit in memory
        states = data.data.states.gather(rows)
        own = states.mean(1, keepdim=True)
        spread = states.sub_(own).square_().sum(1, keepdim=True)
        shift, total = own - mean, seen + len(rows)
        squares += spread + shift.square() * (seen * len(rows) / total)
        mean += shift * (len(rows) / total)
        seen = total
    scale = (squares / seen).sqrt()
    # A constant feature says nothing; scaling it by 1 keeps it at 0.
    return mean.float(), torch.where(scale > 1e-8, scale, 1.0).float()
