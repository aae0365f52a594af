"""Plots, written straight to PNG files."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from probes.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from cascade.simulation.simulator import Report

INK, MUTED = "#1f2933", "#8a94a0"
BLUE, ORANGE, GREEN = "#0b66c3", "#d9730d", "#2b8a5a"


def _save(figure: Figure, path: Path) -> None:
    buffer = io.BytesIO()
    # Without the software tag the bytes do not change with matplotlib's version string.
    figure.savefig(buffer, format="png", dpi=150, metadata={"Software": None})
    plt.close(figure)
    write_atomically(path, buffer.getvalue())


def plot_reliability(
    path: Path, curves: Mapping[str, np.ndarray], labels: np.ndarray, title: str, bins: int = 10
) -> None:
    """Reliability diagram with counts: how often the model was right where P(IK) said so.

    Args:
        path: PNG file.
        curves: Name to P(IK) ``[rows]``; the last one's counts are drawn.
        labels: ``[rows]``, 0 or 1.
        title: Above the plot.
        bins: Of equal width on [0, 1].
    """
    figure, (top, bottom) = plt.subplots(
        2, 1, figsize=(5, 5.6), sharex=True, height_ratios=(4, 1), layout="constrained"
    )
    top.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle="--", label="perfect")
    edges = np.linspace(0, 1, bins + 1)
    counts = np.zeros(bins, dtype=np.int64)
    for (name, p), color in zip(curves.items(), (ORANGE, BLUE), strict=False):
        place = np.clip(np.digitize(p, edges) - 1, 0, bins - 1)
        counts = np.bincount(place, minlength=bins)
        held = counts > 0
        mean = np.bincount(place, weights=p, minlength=bins)[held] / counts[held]
        right = np.bincount(place, weights=labels, minlength=bins)[held] / counts[held]
        top.plot(mean, right, marker="o", markersize=4, color=color, label=f"{name} calibration")
    top.set(ylabel="share answered correctly", ylim=(0, 1), title=title)
    top.title.set_fontsize(10)
    top.legend(frameon=False)
    bottom.bar((edges[:-1] + edges[1:]) / 2, counts, width=0.9 / bins, color=BLUE)
    bottom.set(xlabel="P(IK)", ylabel="questions", xlim=(0, 1))
    for axis in (top, bottom):
        axis.spines[["top", "right"]].set_visible(False)
    _save(figure, path)


def plot_frontier(path: Path, report: Report, title: str) -> None:
    """Accuracy against cost in the three ledgers: single models, chains, and random mixing between models.

    Cost is the share of the largest model's FLOPs. Nothing is drawn where the parameters are unknown.

    Args:
        path: PNG file.
        report: From `cascade.simulation.simulator.report`, its chains all ending in any model of the chain.
        title: Above the plot.
    """
    from cascade.simulation.ledgers import LEDGERS

    largest = report.singles[-1]
    if largest.flops is None:
        return
    size = {row.models[0]: 1 - row.flops["answered-only"] for row in report.singles if row.flops}
    figure, axes = plt.subplots(1, 3, figsize=(12, 4.2), sharey=True, layout="constrained")
    for axis, ledger in zip(axes, LEDGERS, strict=True):
        points = sorted((size[row.models[0]], 100 * row.accuracy) for row in report.singles)
        axis.plot(*zip(*points, strict=True), color=MUTED, linestyle="--", linewidth=1, label="random mixing")
        axis.scatter(*zip(*points, strict=True), color=INK, marker="s", s=36, label="single models", zorder=3)
        for row in report.singles:
            axis.annotate(
                row.models[0].split("-")[-1], (size[row.models[0]], 100 * row.accuracy), xytext=(5, -11),
                textcoords="offset points", fontsize=8, color=INK,
            )  # fmt: skip
        for rows, color, marker, label in (
            (report.chains, BLUE, "o", "chains" + (", P(IK) and P(T)" if report.without_p_ik else ", P(T)")),
            (report.without_p_ik, ORANGE, "^", "chains, P(T) alone"),
        ):
            if not rows:
                continue
            # A chain's saving is against its own last model; the axis is in units of the largest one.
            costs = [size[row.models[-1]] * (1 - row.flops[ledger]) for row in rows if row.flops]
            axis.scatter(
                costs, [100 * row.accuracy for row in rows], color=color, marker=marker, s=36, label=label, zorder=4
            )
            for cost, row in zip(costs, rows, strict=True):
                if rows is report.chains:
                    short = "→".join(name.split("-")[-1] for name in row.models)
                    axis.annotate(
                        short, (cost, 100 * row.accuracy), xytext=(5, 5), textcoords="offset points", fontsize=7,
                        color=color,
                    )  # fmt: skip
        axis.axvline(1, color=MUTED, linewidth=0.6)
        axis.set(title=ledger, xlabel="cost, share of the largest model's FLOPs")
        axis.spines[["top", "right"]].set_visible(False)
        axis.margins(x=0.12)
    axes[0].set_ylabel("accuracy, %")
    axes[0].legend(frameon=False, fontsize=8, loc="lower right")
    figure.suptitle(title, fontsize=11)
    _save(figure, path)
