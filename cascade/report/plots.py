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

from cascade.report.names import chain_label, short_names
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

    if "flops" not in report.units:
        path.unlink(missing_ok=True)  # one of an earlier run would be taken for this one's
        return
    size = {row.models[0]: 1 - row.saved["flops"]["answered-only"] for row in report.singles}
    short = short_names(list(size))
    figure, axes = plt.subplots(1, 3, figsize=(13, 4.2), sharey=True, layout="constrained")
    points = sorted((size[row.models[0]], 100 * row.accuracy) for row in report.singles)
    colors = [plt.get_cmap("tab20")(i % 20) for i in range(0, 2 * len(report.chains), 2)]
    for axis, ledger in zip(axes, LEDGERS, strict=True):
        axis.plot(
            *zip(*_upper_hull(points), strict=True), color=MUTED, linestyle="--", linewidth=1, label="random mixing"
        )
        axis.scatter(*zip(*points, strict=True), color=INK, marker="s", s=36, label="single models", zorder=3)
        for row in report.singles:
            at = (size[row.models[0]], 100 * row.accuracy)
            axis.annotate(short[row.models[0]], at, xytext=(6, -12), textcoords="offset points", fontsize=8, color=INK)
        for rows, marker, filled in ((report.chains, "o", True), (report.without_p_ik, "^", False)):
            for row, color in zip(rows, colors, strict=False):
                # A chain's saving is against its own last model; the axis is in units of the largest one.
                cost = size[row.models[-1]] * (1 - row.saved["flops"][ledger])
                label = chain_label(row.models, short) + ("" if filled else ", P(T) alone")
                face = color if filled else "none"
                axis.scatter(
                    cost,
                    100 * row.accuracy,
                    marker=marker,
                    s=44,
                    facecolor=face,
                    edgecolor=color,
                    label=label,
                    zorder=4,
                )
        axis.axvline(1, color=MUTED, linewidth=0.6)
        axis.set(title=ledger, xlabel="cost, share of the largest model's FLOPs")
        axis.spines[["top", "right"]].set_visible(False)
        axis.margins(x=0.12, y=0.1)
    axes[0].set_ylabel("accuracy, %")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", frameon=False, fontsize=8)
    figure.suptitle(title, fontsize=11)
    _save(figure, path)


def _upper_hull(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """What sending each question to one of two models by a coin reaches at best: the upper convex hull."""
    hull: list[tuple[float, float]] = []
    for x, y in points:
        while len(hull) > 1:
            (ax, ay), (bx, by) = hull[-2:]
            if (bx - ax) * (y - ay) - (by - ay) * (x - ax) < 0:
                break
            hull.pop()
        hull.append((x, y))
    return hull
