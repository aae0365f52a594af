"""Heads of all layers stacked, against one layer after another, and against scikit-learn's MLPClassifier.

    python -m experiments.benchmarks.probes

Same architecture, batches and number of epochs for all; data are synthetic. Our two ways run through the very
`Trainer` that `cascade.train` uses, validation, calibration and test included. "arithmetic" is the training's large
matrix products and nothing else: what no way of training these heads in float32 can do without. The last line is JSON.
"""

from __future__ import annotations

import logging
import warnings

import numpy as np
import torch
from jsonargparse import ArgumentParser
from lightning import Trainer, seed_everything

from experiments.benchmarks.side_by_side import alternate, report
from probes import ProbeConfig
from probes.data import HiddenStateDataModule, LabelledStates
from probes.states import LayerStates
from probes.training import ProbeModule

WIDTH, BATCH = 128, 256


class Synthetic(HiddenStateDataModule):
    """Some layers of random states, labelled by their first feature."""

    def __init__(self, states: torch.Tensor) -> None:
        super().__init__(BATCH)
        self.states = states

    def load(self) -> LabelledStates:
        """See the class."""
        layers, rows, hidden = self.states.shape
        labels = (self.states[0, :, 0] > 0).float()
        origins = [ProbeConfig(hidden, layer, "synthetic") for layer in range(layers)]
        return LabelledStates(LayerStates(self.states), labels, [str(i) for i in range(rows)], ["all"] * rows, origins)


def fit(states: torch.Tensor, epochs: int) -> ProbeModule:
    """Trains one head a layer for a number of epochs."""
    seed_everything(0, verbose=False)
    module = ProbeModule(width=WIDTH, dropout=0.0, patience=epochs)
    trainer = Trainer(
        max_epochs=epochs,
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    data = Synthetic(states)
    trainer.fit(module, datamodule=data)
    trainer.test(module, datamodule=data, verbose=False)
    return module


def fit_sklearn(states: np.ndarray, epochs: int) -> None:
    """The same heads by scikit-learn, one layer after another."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier
    from sklearn.preprocessing import StandardScaler

    labels = states[0, :, 0] > 0
    train = int(0.8 * len(labels))  # what the split leaves for training
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the number of epochs is fixed on purpose
        for layer in states[:, :train]:
            MLPClassifier(
                (WIDTH,), batch_size=BATCH, max_iter=epochs, learning_rate_init=1e-3, alpha=1e-2, tol=0,
                n_iter_no_change=epochs, random_state=0,
            ).fit(StandardScaler().fit_transform(layer), labels[:train])  # fmt: skip


def multiply(states: torch.Tensor, epochs: int) -> None:
    """The products of the first layers, forward and for the weights' gradient: all but 1 % of the arithmetic."""
    layers, rows, hidden = states.shape
    batch, weights = states[:, :BATCH].contiguous(), torch.randn(layers, hidden, WIDTH)
    hidden_units, gradient = torch.empty(layers, BATCH, WIDTH), torch.empty_like(weights)
    for _ in range(epochs * int(0.8 * rows) // BATCH):
        torch.bmm(batch, weights, out=hidden_units)
        torch.bmm(batch.transpose(1, 2), hidden_units, out=gradient)


def main(args: list[str] | None = None) -> None:
    """The entry point."""
    parser = ArgumentParser(prog="python -m experiments.benchmarks.probes", description=__doc__)
    parser.add_argument("--layers", type=int, default=16, help="layers to train a head on")
    parser.add_argument("--hidden", type=int, default=512, help="width of the states")
    parser.add_argument("--rows", type=int, default=5000, help="questions, split 80/10/10")
    parser.add_argument("--epochs", type=int, default=5, help="passes over the training part")
    parser.add_argument("--repeats", type=int, default=5, help="rounds; the median counts")
    parser.add_argument("--sklearn", type=bool, default=True, help="time scikit-learn too")
    values = parser.parse_args(args)
    for name in ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message=".*does not have many workers.*|.*LeafSpec.*|.*logging interval.*")
    states = torch.randn(values.layers, values.rows, values.hidden, generator=torch.Generator().manual_seed(0))

    def one_after_another() -> None:
        for layer in range(values.layers):
            fit(states[layer : layer + 1], values.epochs)

    rivals = {"stacked": lambda: fit(states, values.epochs), "one after another": one_after_another}
    if values.sklearn:
        rivals["scikit-learn"] = lambda: fit_sklearn(states.numpy(), values.epochs)  # type: ignore[assignment,return-value]
    rivals["arithmetic"] = lambda: multiply(states, values.epochs)  # type: ignore[assignment,return-value]
    seconds = alternate(rivals, values.repeats)
    print(f"{values.layers} layers × {values.hidden} dimensions × {values.rows:,} rows, {values.epochs} epochs")
    for name, median in seconds.items():
        print(f"{name:20} {median:7.2f} s  {median / seconds['stacked']:5.1f} ×")
    report(
        {
            **{k: values[k] for k in ("layers", "hidden", "rows", "epochs")},
            "seconds": {name: round(median, 3) for name, median in seconds.items()},
            "speedup": {name: round(median / seconds["stacked"], 2) for name, median in seconds.items()},
        }
    )


if __name__ == "__main__":
    main()
