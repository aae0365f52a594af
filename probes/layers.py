"""From the heads of one run to a table by layer: figures on the test part, with bootstrap intervals."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from torch import Tensor

from probes.metrics import RESAMPLES, bootstrap_metrics
from probes.probe import Probe

CONFIDENCE = 0.95


@dataclass(frozen=True)
class TrainedHead:
    """One head of a run.

    Attributes:
        probe: Calibrated, with the test metrics in its configuration.
        seed, learning_rate, weight_decay: What it was trained with.
        val_loss: Of the best epoch, before calibration, against what heads are trained towards.
        epoch: The best one, from 0.
        p_ik: On the test part before and after calibration, each ``[rows]``, float32.
        metrics: Of those.
    """

    probe: Probe
    seed: int
    learning_rate: float
    weight_decay: float
    val_loss: float
    epoch: int
    p_ik: dict[str, Tensor]
    metrics: dict[str, dict[str, float]]

    @property
    def layer(self) -> int:
        """The layer it reads."""
        return self.probe.config.layer


@dataclass(frozen=True)
class Interval:
    """A figure with its 95 % confidence interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class LayerRow:
    """One layer.

    Attributes:
        layer: Its number.
        learning_rate, weight_decay: Those with the lowest validation loss, the mean over the seeds.
        seeds: Heads that differ in the seed alone; every figure is their mean.
        val_loss: Before calibration.
        before, after: Test figures without and with calibration.
        spread: Standard deviation of ``after`` over the seeds; empty where there is one.
    """

    layer: int
    learning_rate: float
    weight_decay: float
    seeds: int
    val_loss: float
    before: dict[str, Interval]
    after: dict[str, Interval]
    spread: dict[str, float]

    def to_json(self) -> dict[str, object]:
        """Plain values."""
        return asdict(self)


def layer_table(heads: Sequence[TrainedHead], labels: Tensor, resamples: int = RESAMPLES) -> list[LayerRow]:
    """One row for each layer, in order.

    The interval is the bootstrap over questions, percentiles around the value: the same resamples for every layer
    and seed, so that it says what another draw of questions would do. What another seed would do, the spread
    says.

    Args:
        heads: All the heads of a run.
        labels: Of the test part, ``[rows]``.
        resamples: How often the questions are drawn again.
    """
    rows = []
    for layer in sorted({head.layer for head in heads}):
        chosen = _best_settings([head for head in heads if head.layer == layer])
        rows.append(
            LayerRow(
                layer=layer,
                learning_rate=chosen[0].learning_rate,
                weight_decay=chosen[0].weight_decay,
                seeds=len(chosen),
                val_loss=_mean_loss(chosen),
                before=_intervals(chosen, "before", labels, resamples),
                after=_intervals(chosen, "after", labels, resamples),
                spread=_spread(chosen),
            )
        )
    return rows


def best_head(heads: Sequence[TrainedHead]) -> TrainedHead:
    """The head to keep; the test part has no say in it.

    Layer, learning rate and weight decay are those with the lowest validation loss, the mean over the seeds, as in
    `layer_table`: one lucky seed does not choose them. Of their heads it is the one with the lowest.
    """
    return min(_best_settings(heads), key=lambda head: head.val_loss)


def _best_settings(heads: Sequence[TrainedHead]) -> list[TrainedHead]:
    rivals: dict[tuple[int, float, float], list[TrainedHead]] = defaultdict(list)
    for head in heads:
        rivals[head.layer, head.learning_rate, head.weight_decay].append(head)
    return min(rivals.values(), key=_mean_loss)


def _spread(heads: Sequence[TrainedHead]) -> dict[str, float]:
    if len(heads) == 1:
        return {}
    names = heads[0].metrics["after"]
    return {name: float(np.std([head.metrics["after"][name] for head in heads], ddof=1)) for name in names}


def _mean_loss(heads: Sequence[TrainedHead]) -> float:
    return sum(head.val_loss for head in heads) / len(heads)


def _intervals(heads: Sequence[TrainedHead], stage: str, labels: Tensor, resamples: int) -> dict[str, Interval]:
    y = labels.numpy()
    drawn = [bootstrap_metrics(head.p_ik[stage].numpy(), y, head.probe.config.threshold, resamples) for head in heads]
    tails = [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]
    found = {}
    for name in drawn[0]:
        draws = np.mean([of_head[name] for of_head in drawn], axis=0)
        value = float(np.mean([head.metrics[stage][name] for head in heads]))
        # Drawing again adds noise to every bin, which lifts the calibration errors: the spread is what is wanted.
        low, high = np.nanquantile(draws, tails) - np.nanmean(draws) + value
        found[name] = Interval(value, max(float(low), 0.0), float(high))
    return found
