"""Labelled hidden states for training probes: layers of a store, labels beside them, split by question.

Where the labels come from is the business of whoever fills `LabelledStates`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler, SequentialSampler

from probes.errors import ProbeError
from probes.probe import ProbeConfig
from probes.split import Split, stratified_split
from probes.states import LayerStates


@dataclass(frozen=True)
class LabelledStates:
    """What probes are trained on.

    Attributes:
        states: The states of one or more layers.
        labels: ``[rows]``, float32 in [0, 1]: whether the base model was right, or how often of several times.
            Heads are calibrated to them and tested against them.
        ids: One unique id a row; the split follows it.
        strata: One stratum a row, such as the subject.
        origins: For each layer, what its states are of. The head and the metrics are filled in by training.
        targets: ``[rows]``, float32 in [0, 1], what heads are trained towards and stopped by, where that is not the
            labels: the probability of the right answer, say, which tells a near miss from a far one.
    """

    states: LayerStates
    labels: Tensor
    ids: Sequence[str]
    strata: Sequence[str]
    origins: Sequence[ProbeConfig]
    targets: Tensor | None = None

    def __post_init__(self) -> None:
        rows, origins = len(self.ids), len(self.origins)
        if self.states.shape[:2] != (origins, rows) or self.labels.shape != (rows,) or len(self.strata) != rows:
            raise ProbeError(
                f"Expected states [{origins}, {rows}, hidden], labels [{rows}] and {rows} strata for {origins} origins "
                f"and {rows} ids, but got {self.states.shape}, {tuple(self.labels.shape)} and {len(self.strata)}"
            )
        if self.trained_towards.shape != self.labels.shape:
            raise ProbeError(f"Expected targets [{rows}], but got {tuple(self.trained_towards.shape)}")
        for name, values in (("labels", self.labels), ("targets", self.trained_towards)):
            if not bool(((values >= 0) & (values <= 1)).all()):
                raise ProbeError(f"Expected {name} in [0, 1], but some lie outside")

    @property
    def trained_towards(self) -> Tensor:
        """The targets, or the labels where there are none."""
        return self.labels if self.targets is None else self.targets


class _Rows(Dataset[tuple[Tensor, ...]]):
    """Batches of one part, each gathered whole: states and targets."""

    def __init__(self, data: LabelledStates, rows: Tensor) -> None:
        self._data, self._rows = data, rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, places: list[int]) -> tuple[Tensor, Tensor]:
        rows = self._rows[places]
        return self._data.states.gather(rows), self._data.trained_towards[rows]


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

    def make_split(self) -> Split:
        """Which rows are of which part: by the strata, unless a subclass knows better."""
        return stratified_split(self.data.ids, self.data.strata, seed=self.split_seed)

    def setup(self, stage: str | None = None) -> None:
        """Loads and splits, once."""
        if hasattr(self, "data"):
            return
        self.data = self.load()
        self.split = self.make_split()
        for name in ("train", "validation", "test"):
            labels = self.data.labels[self.rows(name)]
            if not len(labels):
                raise ProbeError(f"Expected rows in the {name} part, but all {len(self.data.ids)} rows went elsewhere")
            if name == "train" and len(labels) < self.batch_size:
                raise ProbeError(
                    f"Expected at least `batch_size` = {self.batch_size} rows in the train part, but got {len(labels)}"
                )
            if name != "test" and labels.min() == labels.max():
                raise ProbeError(
                    f"Expected right and wrong answers in the {name} part, but all {len(labels)} labels are "
                    f"{labels[0]:g}"
                )

    def rows(self, name: str) -> Tensor:
        """Row numbers of ``train``, ``validation`` or ``test``, int64."""
        return torch.tensor(getattr(self.split, name), dtype=torch.long)

    def part(self, name: str) -> tuple[Tensor, Tensor]:
        """States ``[layers, rows, hidden]`` (float32) and labels of ``train``, ``validation`` or ``test``, whole."""
        rows = self.rows(name)
        return self.data.states.gather(rows), self.data.labels[rows]

    def _loader(self, name: str, shuffle: bool = False) -> DataLoader[tuple[Tensor, ...]]:
        data = _Rows(self.data, self.rows(name))
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
