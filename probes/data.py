"""Labelled hidden states for training a probe: one layer of a store, labels beside it, split by question.

Where the labels come from is the business of whoever fills `LabelledStates`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, SequentialSampler, TensorDataset

from probes.errors import ProbeError
from probes.probe import ProbeConfig
from probes.split import Split, stratified_split


@dataclass(frozen=True)
class LabelledStates:
    """What a probe is trained on.

    Attributes:
        states: ``[rows, hidden]``, any floating dtype.
        labels: ``[rows]``, float32 in [0, 1]: whether the base model was right.
        ids: One unique id a row; the split follows it.
        strata: One stratum a row, such as the subject.
        origin: What the states are of. The head and the metrics are filled in by training.
    """

    states: Tensor
    labels: Tensor
    ids: Sequence[str]
    strata: Sequence[str]
    origin: ProbeConfig

    def __post_init__(self) -> None:
        rows = len(self.ids)
        if (
            self.states.ndim != 2
            or len(self.states) != rows
            or self.labels.shape != (rows,)
            or len(self.strata) != rows
        ):
            raise ProbeError(
                f"Expected states [{rows}, hidden], labels [{rows}] and {rows} strata for {rows} ids, but got "
                f"{tuple(self.states.shape)}, {tuple(self.labels.shape)} and {len(self.strata)}"
            )
        if not bool(torch.isfinite(self.states).all()):
            raise ProbeError("Expected finite hidden states, but some are NaN or infinite")
        if not bool(((self.labels >= 0) & (self.labels <= 1)).all()):
            raise ProbeError("Expected labels in [0, 1], but some lie outside")


class HiddenStateDataModule(LightningDataModule):
    """Serves the three parts of `LabelledStates`; subclasses say where those come from.

    Args:
        batch_size: Rows of a training batch.
        split_seed: Another seed is another split.
    """

    def __init__(self, batch_size: int = 256, split_seed: int = 0) -> None:
        super().__init__()
        if batch_size < 1:
            raise ProbeError(f"Expected `batch_size` of at least 1, but got {batch_size}")
        self.batch_size, self.split_seed = batch_size, split_seed
        self.data: LabelledStates
        self.split: Split

    def load(self) -> LabelledStates:
        """The rows to train, validate and test on."""
        raise TypeError("HiddenStateDataModule is a base class: a subclass defines `load`")

    def setup(self, stage: str | None = None) -> None:
        """Loads and splits, once."""
        if hasattr(self, "data"):
            return
        self.data = self.load()
        self.split = stratified_split(self.data.ids, self.data.strata, seed=self.split_seed)
        for name in ("train", "validation", "test"):
            labels = self.part(name)[1]
            if not len(labels):
                raise ProbeError(f"Expected rows in the {name} part, but all {len(self.data.ids)} rows went elsewhere")
            if name != "test" and labels.min() == labels.max():
                raise ProbeError(
                    f"Expected right and wrong answers in the {name} part, but all {len(labels)} labels are "
                    f"{labels[0]:g}"
                )

    def part(self, name: str) -> tuple[Tensor, Tensor]:
        """States (float32) and labels of ``train``, ``validation`` or ``test``."""
        rows = torch.tensor(getattr(self.split, name), dtype=torch.long, device=self.data.states.device)
        return self.data.states[rows].float(), self.data.labels[rows].float()

    def _loader(self, name: str, shuffle: bool = False) -> DataLoader[tuple[Tensor, ...]]:
        data = TensorDataset(*self.part(name))
        generator = torch.Generator().manual_seed(self.split_seed)
        sampler = RandomSampler(data, generator=generator) if shuffle else SequentialSampler(data)
        # The sampler gives whole batches of indices: one gather a batch, no collation row by row.
        return DataLoader(data, sampler=BatchSampler(sampler, self.batch_size, drop_last=False), batch_size=None)

    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """Shuffled."""
        return self._loader("train", shuffle=True)

    def val_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """In order."""
        return self._loader("validation")

    def test_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """In order."""
        return self._loader("test")
