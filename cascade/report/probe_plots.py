"""Plots of probes: how well each layer tells what the model knows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from cascade.report.figures import BLUE, GREEN, ORANGE, Plot, new_figure, styled
from probes.files import write_atomically
from probes.layers import LayerRow

METRICS = {"auroc": "AUROC", "accuracy": "accuracy", "f1": "F1", "ece": "ECE", "brier": "Brier"}
COLORS = (BLUE, ORANGE, GREEN)


@styled
def plot_layers(path: Path, sweeps: Mapping[str, Sequence[LayerRow]], title: str) -> None:
    """Draws each metric by relative depth with its 95 % interval, one line a model.

    Args:
        path: PNG file.
        sweeps: Name of the line to its rows; depth is the layer's share of the last layer of its rows.
        title: Above the plot.
    """
    figure = new_figure(3.1 * len(METRICS), 3.4)
    axes = figure.subplots(1, len(METRICS))
    alone = len(sweeps) == 1
    for axis, (metric, label) in zip(axes, METRICS.items(), strict=True):
        for place, (name, rows) in enumerate(sweeps.items()):
            color = COLORS[place % len(COLORS)]
            depth = [row.layer if alone else row.layer / max(rows[-1].layer, 1) for row in rows]
            found = [row.after[metric] for row in rows]
            style = "-" if place < len(COLORS) else "--"
            axis.plot(
                depth,
                [f.value for f in found],
                style,
                marker="o",
                markersize=3.5,
                color=color,
                label=name,
                linewidth=1.4,
            )
            axis.fill_between(
                depth, [f.low for f in found], [f.high for f in found], color=color, alpha=0.1, linewidth=0
            )
        axis.set(title=label, xlabel="layer" if alone else "layer, share of the depth")
        axis.spines[["top", "right"]].set_visible(False)
        if alone:
            axis.xaxis.get_major_locator().set_params(integer=True)
    if not alone:
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside right center", frameon=False, fontsize=8)
    figure.suptitle(title, fontsize=11)
    write_atomically(path, Plot("layers", title, "", figure).png())


@styled
def plot_transfer(path: Path, names: Sequence[str], matrices: Mapping[str, np.ndarray]) -> None:
    """Draws heat maps of probes' figures on models and data that they were not trained on.

    Args:
        path: PNG file.
        names: One for each row and column.
        matrices: Figure to its values ``[trained on, tested on]``; NaN is left white.
    """
    side = 2.5 + 0.42 * len(names)
    figure = new_figure(side * len(matrices), side)
    axes = figure.subplots(1, len(matrices), sharey=True, squeeze=False)[0]
    for axis, (label, values) in zip(axes, matrices.items(), strict=True):
        image = axis.imshow(values, cmap="viridis" if label == "AUROC" else "viridis_r")
        middle = np.nanmean([np.nanmin(values), np.nanmax(values)])
        for (row, column), value in np.ndenumerate(values):
            if not np.isnan(value):
                dark = (value < middle) == (label == "AUROC")
                shown = f"{value:.2f}".removeprefix("0")  # cells are small
                axis.text(column, row, shown, ha="center", va="center", fontsize=6, color="w" if dark else "k")
        axis.set(title=label, xlabel="tested on")
        axis.set_xticks(range(len(names)), names, rotation=90, fontsize=7)
        axis.set_yticks(range(len(names)), names, fontsize=7)
        figure.colorbar(image, ax=axis, shrink=0.6)
    axes[0].set_ylabel("trained on")
    write_atomically(path, Plot("transfer", "transfer", "", figure).png())
