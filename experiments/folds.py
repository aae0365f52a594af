"""Heads on every layer in five folds, each tested on a fifth of the questions that it did not see."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence

import numpy as np
import torch
from lightning import Trainer, seed_everything

from probes import ProbeConfig, Split
from probes.data import HiddenStateDataModule, LabelledStates
from probes.states import LayerStates
from probes.training import ProbeModule

FOLDS = 5
_TWENTIETHS = 20
# Looked at on two models of `experiments.readers` at layer 4, where they move AUROC by less than 0.01.
HEADS = {
    "linear": {"depth": 0, "learning_rate": 3e-4, "weight_decay": 3.0, "dropout": 0.0},
    "mlp": {"depth": 1, "width": 128, "learning_rate": 5e-4, "weight_decay": 1.0, "dropout": 0.5},
}


def twentieth_of(ids: Sequence[str]) -> np.ndarray:
    """A twentieth for each question by the hash of its id, ``[questions]``; four of them are a fold."""
    return np.array([int(hashlib.sha256(i.encode()).hexdigest(), 16) % _TWENTIETHS for i in ids])


def fold_of(ids: Sequence[str]) -> np.ndarray:
    """The fold that tests each question, ``[questions]``."""
    return twentieth_of(ids) * FOLDS // _TWENTIETHS


class Fold(HiddenStateDataModule):
    """One fold: a fifth to test on, some twentieths of the next fifth to validate on, the rest to train on.

    Args:
        states: Of every layer.
        origins: One a layer.
        ids: Of the questions.
        subjects: Of the questions.
        labels: ``[questions]``, whether the model was right.
        fold: Its number.
        targets: ``[questions]``: what heads learn from, where it is not the labels.
        validation: Twentieths of the questions.
        train: Questions to train on, drawn by lot; by default all that are left.
    """

    def __init__(
        self,
        states: LayerStates,
        origins: list[ProbeConfig],
        ids: list[str],
        subjects: list[str],
        labels: np.ndarray,
        fold: int,
        targets: np.ndarray | None = None,
        validation: int = 1,
        train: int | None = None,
    ) -> None:
        super().__init__(batch_size=256)
        self._states, self._origins, self._ids, self._subjects = states, origins, ids, subjects
        self._labels, self._targets = labels, targets
        self._fold, self._validation, self._train = fold, validation, train

    def load(self) -> LabelledStates:
        """See the class."""
        labels = torch.from_numpy(self._labels.astype(np.float32))
        targets = None if self._targets is None else torch.from_numpy(self._targets.astype(np.float32))
        return LabelledStates(self._states, labels, self._ids, self._subjects, self._origins, targets)

    def setup(self, stage: str | None = None) -> None:
        """Loads, and splits by fold."""
        super().setup(stage)
        twentieth, first = twentieth_of(self._ids), 4 * ((self._fold + 1) % FOLDS)
        test = fold_of(self._ids) == self._fold
        validation = (twentieth >= first) & (twentieth < first + self._validation)
        train = np.random.default_rng(self._fold).permutation(np.flatnonzero(~test & ~validation))[: self._train]
        rows = [tuple(np.sort(part).tolist()) for part in (train, np.flatnonzero(validation), np.flatnonzero(test))]
        self.split = Split(rows[0], rows[1], rows[2], tuple(self._ids))


def fit(data: Fold, head: str) -> ProbeModule:
    """Heads of all layers on one fold, of a kind of `HEADS`."""
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.ERROR)
    seed_everything(0, verbose=False)
    module = ProbeModule(**HEADS[head], patience=5)  # type: ignore[arg-type]
    trainer = Trainer(
        max_epochs=60, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0,
    )  # fmt: skip
    trainer.fit(module, datamodule=data)
    trainer.test(module, datamodule=data, verbose=False)
    return module
