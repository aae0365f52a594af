"""Figures of confidences: reliability diagrams, and accuracy and cost at every pair of thresholds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cascade.policies.ledgers import available_units, charges, pass_costs
from cascade.policies.outcome import Outcome
from cascade.report.figures import BLUE, GREEN, INK, MUTED, ORANGE, PURPLE, Plot, new_figure, shortened, styled
from cascade.report.names import short_names
from cascade.scores.arrays import ChainScores
from cascade.simulation.evaluation import COLUMN_OF
from cascade.simulation.grid import grid_sums, quantile_levels
from cascade.statistics.metrics import ece, reliability
from probes.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from cascade.simulation.study import Study

LEVELS = 24
_SCALE = " (steps: quantiles)"
_COLORS = {"P(IK)": PURPLE, "P(IK) by reader": ORANGE, "P(T)": BLUE}


def _draw_reliability(
    top: Axes, bottom: Axes, p: np.ndarray, y: np.ndarray, color: str, bins: int, label: str = ""
) -> None:
    """Draws the share of right answers against the mean probability, and the number of questions below it."""
    found = reliability(p, y, bins)
    held = found.count > 0
    top.plot(found.mean[held], found.share[held], marker="o", markersize=3.5, lw=1.2, color=color, label=label or None)
    bottom.cla()
    bottom.bar((np.arange(bins) + 0.5) / bins, found.count, width=0.9 / bins, color=color)
    bottom.set_xlim(-0.02, 1.02)
    top.set_ylim(-0.02, 1.02)


@styled
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
    figure = new_figure(5, 5.6)
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    top.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle="--", label="perfect")
    for (name, p), color in zip(curves.items(), (ORANGE, BLUE), strict=False):
        _draw_reliability(top, bottom, p, labels, color, bins, f"{name} calibration")
    top.set(ylabel="share answered correctly", title=title)
    top.legend()
    bottom.set(xlabel="P(IK)", ylabel="questions")
    write_atomically(path, Plot("reliability", title, "", figure).png())


@styled
def reliability_figure(chain: ChainScores) -> Plot:
    """A reliability diagram with counts for each model and confidence."""
    short = short_names(chain.names)
    panels = [
        (model, name, values)
        for name, column in COLUMN_OF.items()
        for model in chain.models
        if (values := getattr(model.signals, column)) is not None
    ]
    # A grid with few empty places.
    columns = len(panels) if len(panels) < 4 else min((4, 3), key=lambda n: -len(panels) % n)
    rows = -(-len(panels) // columns)
    figure = new_figure(0.6 + 2.2 * columns, 2.9 * rows)
    grid = figure.add_gridspec(2 * rows, columns, height_ratios=[4, 1] * rows)
    for i, (model, name, values) in enumerate(panels):
        row, column = divmod(i, columns)
        top = figure.add_subplot(grid[2 * row, column])
        bottom = figure.add_subplot(grid[2 * row + 1, column], sharex=top)
        top.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle="--")
        y = model.correct.astype(float)
        _draw_reliability(top, bottom, values, y, _COLORS[name], 10)
        top.set_title(f"{shortened(short[model.name], 18)}, {name}", fontsize=9)
        top.text(0.03, 0.95, f"ECE {ece(values, y):.3f}", fontsize=8, va="center")
        top.tick_params(labelbottom=False)
        if column:
            top.tick_params(labelleft=False)
        else:
            top.set_ylabel("share right")
            bottom.set_ylabel("count")
        bottom.set_xlabel(name)
        bottom.locator_params(axis="y", nbins=2)
        bottom.tick_params(axis="y", labelsize=7)
    return Plot(
        "reliability",
        "Reliability: how often a model is right where its confidence says so",
        "On the dashed line a confidence is a probability; below it the model is surer than it should be. The bars "
        "count questions.",
        figure,
    )


@styled
def thresholds_figure(chain: ChainScores, study: Study) -> Plot | None:
    """Accuracy and cost of two models at every threshold; ``None`` where the first has no confidence.

    Two models: the first that the chosen policy uses, and the last of the chain. The cost is in the goal's unit,
    or in the first one that needs no prices.

    Args:
        chain: The questions that are reported on, with labels.
        study: For the policy and the goal.
    """
    policy = study.chosen.policy
    first = policy.places[0] if policy.places[0] < len(chain.models) - 1 else 0
    pair = chain.keep((first, len(chain.models) - 1))
    limits = policy.limits(first) if policy.places[0] == first else None
    small = pair.models[0].signals
    early_name = "p_ik_reader" if limits is not None and limits.p_ik_reader is not None else "p_ik"
    early, late = getattr(small, early_name), small.p_t
    units = available_units(pair)
    unit = study.unit if study.unit in units else next(iter(units), None)
    if unit is None or (early is None and late is None):
        return None
    costs = pass_costs(pair, unit)
    asked = small.known & {early_name, "p_t"}
    charged = charges(costs, study.goal.ledger, [asked, frozenset()])
    charged /= costs.whole[-1].mean() * len(pair)
    levels = [(quantile_levels(early, LEVELS), quantile_levels(late, LEVELS))]
    right = pair.correct.astype(float) / len(pair)
    rejected = Outcome.REJECTED_BY_P_IK if early_name == "p_ik" else Outcome.PASSED_BY_READER
    nothing = np.zeros_like(right[:-1])
    accuracy = 100 * grid_sums([(early, late)], levels, right, nothing, nothing)
    cost = grid_sums(
        [(early, late)],
        levels,
        charged[Outcome.ANSWERED],
        charged[rejected, :-1],
        charged[Outcome.REJECTED_BY_P_T, :-1],
    )
    if early_name == "p_ik_reader":
        cost = cost + costs.reading([0]).mean() / costs.whole[-1].mean()
    short = short_names(chain.names)
    names = [shortened(short[m.name], 18) for m in pair.models]
    shown = [(accuracy, "accuracy, %"), (cost, f"cost, share of {names[1]} alone\n({study.goal.ledger}, {unit})")]
    early_label = "P(IK) threshold" + (" (by reader)" if early_name == "p_ik_reader" else "")
    chosen = None if limits is None else (getattr(limits, early_name), limits.p_t)
    figure = new_figure(9.2, 3.9)
    panels = figure.subplots(1, 2, gridspec_kw={"wspace": 0.08})
    both = early is not None and late is not None and min(accuracy.shape) > 1
    for axes, (values, title) in zip(panels, shown, strict=True):
        if both:
            _heat(axes, values, levels[0], chosen)
            axes.set(xlabel="P(T) threshold" + _SCALE, ylabel=early_label + _SCALE, title=title)
        else:
            use_late = late is not None and accuracy.shape[1] >= accuracy.shape[0]
            axes.plot(levels[0][use_late], values.ravel(), color=GREEN, marker="o", ms=3, lw=1.2)
            mark = None if chosen is None else chosen[use_late]
            if mark is not None:
                axes.axvline(mark, color=INK, lw=1, ls="--", label="chosen")
                axes.legend()
            axes.set(xlabel="P(T) threshold" if use_late else early_label, title=title)
            axes.margins(y=0.1)
    return Plot(
        "thresholds",
        f"{names[0]} → {names[1]}: accuracy and cost at every threshold",
        f"Of these two models alone, whatever else the chosen policy asks, on {len(pair):,} reported questions. "
        + (
            "Steps are quantiles: each holds as many questions as the next. "
            if both
            else "Between two marks lie as many questions as between the next. "
        )
        + ("The mark is the chosen policy's first stage." if chosen is not None else ""),
        figure,
    )


def _heat(
    axes: Axes,
    values: np.ndarray,
    levels: tuple[np.ndarray, np.ndarray],
    chosen: tuple[float | None, float | None] | None,
) -> None:
    figure = axes.get_figure()
    assert figure is not None
    mesh = axes.pcolormesh(values, cmap="viridis", rasterized=True)
    figure.colorbar(mesh, ax=axes, pad=0.02)
    for axis, own in zip((axes.yaxis, axes.xaxis), levels, strict=True):
        at = np.unique(np.linspace(0, len(own) - 1, 6).astype(int))
        axis.set_ticks(at + 0.5, [f"{own[i]:.3f}" for i in at])
    if chosen is not None:
        # The scale is linear between two steps. A confidence that is left out keeps every question.
        y, x = (
            0.5 if limit is None else float(np.interp(limit, own, np.arange(len(own)))) + 0.5
            for limit, own in zip(chosen, levels, strict=True)
        )
        axes.scatter([x], [y], marker="*", s=150, color="white", edgecolor="black", lw=0.9, zorder=5, clip_on=False)


@styled
def subjects_figure(study: Study) -> Plot | None:
    """The policy's accuracy beside the last model's for each subject; ``None`` where the scores name no subject."""
    found = next((e for e in study.evaluations if e.subjects), None)
    if found is None:
        return None
    subjects = sorted(found.subjects, key=lambda s: s.accuracy - s.last)
    last = shortened(short_names(study.names)[study.names[-1]])
    figure = new_figure(7.6, 1.3 + 0.2 * len(subjects))
    axes = figure.subplots()
    y = np.arange(len(subjects))
    ours, theirs = (np.array([100 * getattr(s, name) for s in subjects]) for name in ("accuracy", "last"))
    axes.hlines(y, np.minimum(ours, theirs), np.maximum(ours, theirs), color=MUTED, lw=1.2)
    axes.scatter(theirs, y, s=34, facecolor="none", edgecolor=INK, label=f"{last} alone", zorder=3)
    axes.scatter(ours, y, s=20, color=ORANGE, label="chosen policy", zorder=4)
    axes.set_yticks(y, [f"{shortened(s.name, 36)} ({s.questions:,})" for s in subjects], fontsize=8)
    axes.set(xlabel="accuracy, %", ylim=(-0.7, len(subjects) - 0.3))
    axes.grid(axis="x", color=MUTED, alpha=0.25, lw=0.6)
    figure.legend(loc="outside upper center", ncols=2)
    return Plot(
        "subjects",
        f"Accuracy by subject: {found.name}",
        "From what is gained most against the last model, down to what is lost most; in brackets the questions.",
        figure,
    )
