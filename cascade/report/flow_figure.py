"""Where the questions go: a band diagram of one policy, from the first model asked to right and wrong answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.patches import Patch

from cascade.policies.base import Policy
from cascade.policies.outcome import Outcome
from cascade.report.figures import (
    BLUE,
    GREEN,
    INK,
    MUTED,
    PURPLE,
    RED,
    TEAL,
    Plot,
    new_figure,
    spread,
    styled,
    wrapped,
)
from cascade.report.names import short_names
from cascade.scores.arrays import ChainScores
from cascade.simulation.simulator import play

if TYPE_CHECKING:
    from matplotlib.axes import Axes

REASONS = {
    Outcome.PASSED_BY_READER: ("passed by reader", TEAL),
    Outcome.REJECTED_BY_P_IK: ("rejected by P(IK)", PURPLE),
    Outcome.REJECTED_BY_P_T: ("rejected by P(T)", BLUE),
    Outcome.NOT_ASKED: ("skips this model", MUTED),
}
_NODE = 0.07


@styled
def flow_figure(chain: ChainScores, policy: Policy) -> Plot:
    """A figure of bands as high as their share of the questions: asked, right, wrong, or passed on, and why.

    Args:
        chain: The questions; without labels, answers are neither right nor wrong.
        policy: Who answers.
    """
    played, n = play(chain, policy), len(chain)
    used = [i for i in range(len(chain.models)) if (played.outcome[i] != Outcome.NOT_ASKED).any()]
    short = short_names(chain.names)
    figure = new_figure(3.4 + 1.45 * len(used), 4.2)
    axes = figure.subplots()
    axes.set_axis_off()
    rise = 0.05
    ends: list[tuple[float, str, str]] = []
    reasons: set[Outcome] = set()
    end = len(used) - 1 + 0.62
    for s, place in enumerate(used):
        pending = played.who >= place
        outcome = played.outcome[place]
        asked = ~np.isin(outcome, (Outcome.NOT_ASKED, Outcome.PASSED_BY_READER))
        kept = outcome == Outcome.ANSWERED
        top = 1 + rise * s
        low = top - pending.sum() / n
        axes.fill_between([s, s + _NODE], low, low + asked.sum() / n, color=INK, lw=0)
        _heading(axes, s, wrapped(short[chain.models[place].name]), int(asked.sum()))
        y = low
        groups = [("answered", kept, TEAL)]
        if chain.labelled:
            groups = [("wrong", kept & ~played.correct, RED), ("right", kept & played.correct, GREEN)]
        for word, which, color in groups:
            if which.any():
                height = which.sum() / n
                _band(axes, s + _NODE, end, y, y, height, color)
                ends.append((y + height / 2, f"{which.sum():,} {word}", color))
                y += height
        on = 0.0
        for reason in (Outcome.REJECTED_BY_P_T, Outcome.REJECTED_BY_P_IK, Outcome.PASSED_BY_READER, Outcome.NOT_ASKED):
            which = pending & (outcome == reason)
            if which.any():
                color = REASONS[reason][1]
                reasons.add(reason)
                height = which.sum() / n
                _band(axes, s + _NODE, s + 1, y, y + rise, height, color, alpha=0.55)
                axes.text(
                    s + 0.54,
                    1 + rise * len(used) + 0.05 + 0.055 * on,
                    f"{which.sum():,}",
                    ha="center",
                    va="bottom",
                    fontsize=8,
                    color=color,
                )
                on += 1
                y += height
    _labels(axes, ends, end)
    handles = [
        *([(GREEN, "answered right"), (RED, "answered wrong")] if chain.labelled else [(TEAL, "answered")]),
        *((color, name) for reason, (name, color) in REASONS.items() if reason in reasons),
    ]
    figure.legend(
        handles=[Patch(color=color, label=name) for color, name in handles], loc="outside lower center", ncols=3
    )
    axes.set_xlim(-0.35, end + 0.75)
    return Plot(
        "flow",
        "What becomes of the questions at each stage",
        f"{n:,} questions enter on the left; a band is as high as its share of them. Numbers above: questions passed "
        f"on to the next model, in the colour of the reason.",
        figure,
    )


def _heading(axes: Axes, x: float, name: str, asked: int) -> None:
    axes.text(x + _NODE / 2, -0.03, f"{asked:,} asked", ha="center", va="top", fontsize=8)
    axes.text(x + _NODE / 2, -0.1, name, ha="center", va="top", fontsize=8.5, weight="bold")


def _band(
    axes: Axes, x0: float, x1: float, y0: float, y1: float, height: float, color: str, alpha: float = 0.8
) -> None:
    t = np.linspace(0, 1, 40)
    smooth = y0 + (y1 - y0) * t * t * (3 - 2 * t)
    axes.fill_between(x0 + (x1 - x0) * t, smooth, smooth + height, color=color, alpha=alpha, lw=0)


def _labels(axes: Axes, ends: list[tuple[float, str, str]], x: float) -> None:
    """Writes counts at the right end of the bands, apart from each other, each with a line to its band."""
    for (y, text, color), at in zip(ends, spread([y for y, *_ in ends], 0.06, 0.0, 1.3), strict=True):
        axes.plot([x, x + 0.05, x + 0.1], [y, at, at], color=color, lw=0.9)
        axes.text(x + 0.12, at, text, va="center", fontsize=8)
