"""Accuracy against cost: the frontier of a study, the fixed thresholds of the paper's tables, the probes' layers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib
import numpy as np
from matplotlib.lines import Line2D

from cascade.policies.base import Policy
from cascade.policies.ledgers import LEDGERS, UNITS
from cascade.report.figures import (
    BLUE,
    COLORS,
    GREEN,
    INK,
    MUTED,
    ORANGE,
    Plot,
    label_points,
    new_figure,
    shortened,
    styled,
)
from cascade.report.names import chain_label, short_names
from cascade.simulation.study import LayerPoint, Measured, Study
from cascade.statistics.hull import upper_hull
from probes.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from cascade.simulation.simulator import Report

# With more chains than this, a legend of all of them is longer than the picture.
MOST_CHAINS = 16
Color = str | tuple[float, float, float]
MARKERS = "DPX^v<>*hd8p"


@styled
def plot_frontier(path: Path, report: Report, title: str) -> None:
    """Writes `fixed_figure` to a PNG file."""
    write_atomically(path, fixed_figure(report, title).png())


@styled
def fixed_figure(report: Report, title: str = "") -> Plot:
    """A figure of every sub-chain at the fixed thresholds in the three ledgers, beside single models and random mixing.

    Cost is the share of the last model's, in the report's first unit.

    Args:
        report: From `cascade.simulation.simulator.report`.
        title: Above the picture.
    """
    unit = report.unit
    size = {row.models[0]: 1 - row.saved[unit]["answered-only"] for row in report.singles}
    short = short_names(list(size))
    figure = new_figure(12, 4.2)
    axes = figure.subplots(1, 3, sharey=True)
    singles = [(size[row.models[0]], 100 * row.accuracy) for row in report.singles]
    few = len(report.chains) <= MOST_CHAINS
    color = {
        row.models: _color(i if few else len(row.models) - 2, len(report.chains) if few else len(size) - 1)
        for i, row in enumerate(report.chains)
    }
    for axis, ledger in zip(axes, LEDGERS, strict=True):
        _draw_singles(axis, singles)
        for rows, marker, filled in ((report.chains, "o", True), (report.without_p_ik, "^", False)):
            # A saving compares a chain with its own last model. The axis is in units of the largest model.
            for row in rows:
                axis.scatter(
                    size[row.models[-1]] * (1 - row.saved[unit][ledger]),
                    100 * row.accuracy,
                    marker=marker,
                    s=40,
                    facecolor=color[row.models] if filled else "none",
                    edgecolor=color[row.models],
                    zorder=4,
                )
        axis.axvline(1, color=MUTED, linewidth=0.6)
        axis.set(title=ledger, xlabel=f"cost, share of the largest model's {'FLOPs' if unit == 'flops' else unit}")
        axis.margins(x=0.12, y=0.1)
    axes[0].set_ylabel("accuracy, %")
    handles = [_handle("s", INK, "single models"), Line2D([], [], color=MUTED, ls="--", lw=1, label="random mixing")]
    if report.without_p_ik:
        handles += [_handle("o", MUTED, "with P(IK)"), _handle("^", MUTED, "P(T) alone", filled=False)]
    if few:
        handles += [_handle("o", color[row.models], _chain(row.models, short)) for row in report.chains]
    else:
        handles += [_handle("o", _color(n - 2, len(size) - 1), f"{n} models") for n in range(2, len(size) + 1)]
    figure.legend(handles=handles, loc="outside right upper")
    if title:
        figure.suptitle(title, fontsize=11)
    label_points(axes, singles, [shortened(short[row.models[0]]) for row in report.singles])
    return Plot(
        "fixed-thresholds",
        title or "Accuracy against cost at the fixed thresholds, in three ledgers",
        "Every sub-chain at the same fixed thresholds. What lies below the dashed line is beaten by sending each "
        f"question to one of two models by a coin. Cost in {UNITS[unit]}.",
        figure,
    )


def _chain(models: Sequence[str], short: dict[str, str]) -> str:
    """A chain's name, each model's shortened if together they are too long."""
    label = chain_label(models, short)
    most = max(44 // len(models) - 3, 5)
    return label if len(label) <= 44 else " → ".join(shortened(short[name], most) for name in models)


def _color(i: int, n: int) -> Color:
    if n <= len(COLORS):
        return COLORS[i]
    # The darkest colours are invisible on black, and the lightest on white.
    red, green, blue, _ = matplotlib.colormaps["turbo"](0.12 + 0.72 * i / (n - 1))
    return red, green, blue


def _handle(marker: str, color: Color, label: str, filled: bool = True) -> Line2D:
    face = color if filled else "none"
    return Line2D([], [], linestyle="", marker=marker, color=color, markerfacecolor=face, markersize=6, label=label)


def _draw_singles(axis: Axes, singles: Sequence[tuple[float, float]]) -> None:
    """Draws single models, and the best that mixing them at random reaches."""
    x, y = np.array(singles).T
    hull = upper_hull(x, y)
    axis.plot(x[hull], y[hull], color=MUTED, linestyle="--", linewidth=1, label="random mixing of single models")
    axis.scatter(x, y, color=INK, marker="s", s=34, zorder=3, label="single models")


@styled
def frontier_figure(study: Study) -> Plot:
    """A figure of the main frontier, as found and as measured on other questions, beside all that it competes with."""
    short = short_names(study.names)
    figure = new_figure(8, 5.6)
    axes = figure.subplots()
    chosen = sorted((m.chosen[1], 100 * m.chosen[0]) for m in study.measured)
    axes.plot(
        *zip(*chosen, strict=True),
        color=BLUE,
        alpha=0.7,
        lw=1,
        ls=":",
        marker="o",
        ms=3,
        label="the frontier where it was chosen",
    )
    _errors(axes, study.measured, BLUE)
    at = [_at(m) for m in study.measured]
    axes.plot(*zip(*sorted(at), strict=True), color=BLUE, lw=0.8, alpha=0.5)
    axes.scatter(
        [x for x, _ in at],
        [y for _, y in at],
        s=20,
        color=BLUE,
        zorder=3,
        label=f"the frontier of {study.main}, reported",
    )
    singles = [(cost, 100 * right) for _, right, cost in study.singles]
    _draw_singles(axes, singles)
    colors = [GREEN, ORANGE, *COLORS[3:]]
    for i, measured in enumerate(study.policies):
        remark = measured.policy.remark
        cost, right = _at(measured)
        axes.scatter(
            [cost],
            [right],
            marker=MARKERS[i % len(MARKERS)],
            s=58,
            facecolor="none" if remark else colors[i % len(colors)],
            edgecolor=INK if remark else colors[i % len(colors)],
            zorder=4,
            label=measured.policy.name + (f", {remark}" if remark else ""),
        )
    axes.scatter(*_at(study.chosen), s=190, facecolor="none", edgecolor=RING, lw=1.8, zorder=5, label="chosen")
    axes.axvline(1, color=MUTED, linewidth=0.6)
    axes.set(
        xlabel=f"cost, share of {shortened(short[study.names[-1]])} alone ({study.goal.ledger}, {study.unit})",
        ylabel="accuracy, %",
    )
    axes.margins(x=0.08, y=0.08)
    figure.legend(loc="outside lower center", ncols=3)
    label_points([axes], singles, [shortened(short[name]) for name, *_ in study.singles])
    quality = "" if np.isnan(study.aiq) else f" Its mean height over its costs (AIQ) is {100 * study.aiq:.2f} %."
    return Plot(
        "frontier",
        "Accuracy against cost: the frontier, single models and other policies",
        f"Bars are 95 % intervals on {study.reported_on:,} questions that did not choose the thresholds; the dotted "
        f"line is the same policies on the {study.chosen_on:,} that did, where they look better than they are. A "
        f"policy earns its keep above the dashed line.{quality}",
        figure,
    )


RING = "#d85a55"


def _at(measured: Measured[Policy]) -> tuple[float, float]:
    return measured.reported.cost_ratio.estimate, 100 * measured.reported.accuracy.estimate


def _errors(axes: Axes, measured: Sequence[Measured[Policy]], color: str) -> None:
    for m in measured:
        right, cost = m.reported.accuracy, m.reported.cost_ratio
        axes.plot([cost.estimate] * 2, [100 * right.low, 100 * right.high], color=color, lw=1, alpha=0.6, zorder=2)
        axes.plot([cost.low, cost.high], [100 * right.estimate] * 2, color=color, lw=1, alpha=0.6, zorder=2)


@styled
def layers_figure(layers: Sequence[LayerPoint]) -> Plot:
    """A figure of accuracy against early-exit cost, by the depth at which the probes read."""
    figure = new_figure(6.4, 4)
    axes = figure.subplots()
    measured = [layer.measured for layer in layers]
    at = [_at(m) for m in measured]
    _errors(axes, measured, BLUE)
    axes.plot(*zip(*at, strict=True), color=BLUE, lw=0.8, alpha=0.5)
    axes.scatter([x for x, _ in at], [y for _, y in at], s=28, color=BLUE, zorder=3)
    axes.set(xlabel="early-exit cost, share of the last model alone", ylabel="accuracy, %")
    axes.margins(0.15)
    label_points([axes], at, [f"ℓ/L = {layer.share:.2f}" for layer in layers])
    return Plot(
        "layers",
        "Accuracy against early-exit cost by probe layer",
        "An early layer rejects for less and is less sure. At each, the best thresholds for the goal; bars are 95 % "
        "intervals.",
        figure,
    )
