"""How every figure looks and is saved: colours that hold on white and on black, and labels that keep apart.

A figure is a plain matplotlib one, without pyplot and its global state. As SVG inside a page its ink takes the
page's colour; as a file of its own it has a white ground.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, MUTED = "#1f2933", "#87919d"
BLUE, ORANGE, GREEN, PURPLE, RED, TEAL, PINK = (
    "#3d84d6",
    "#e0862a",
    "#3aa06f",
    "#9a6fd0",
    "#d85a55",
    "#2aa5b0",
    "#cf6aa6",
)
COLORS = (BLUE, ORANGE, GREEN, PURPLE, RED, TEAL, PINK)
STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "legend.frameon": False,
    "legend.fontsize": 8,
    "svg.hashsalt": "cascade",
    # A model's name may hold a dollar sign, which matplotlib would take for the start of a formula.
    "text.parse_math": False,
} | dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK)
styled = matplotlib.rc_context(STYLE)
_DPI = 150


@dataclass(frozen=True)
class Plot:
    """A figure, its heading and its caption.

    Attributes:
        name: Of its files.
        title: Of the picture, in a line; also for who cannot see it.
        caption: What to look for.
        figure: The figure.
    """

    name: str
    title: str
    caption: str
    figure: Figure

    def png(self) -> bytes:
        """The figure as a PNG file, on white."""
        with matplotlib.rc_context(STYLE):
            buffer = io.BytesIO()
            # Without the software tag the bytes do not change with matplotlib's version string.
            self.figure.savefig(buffer, format="png", dpi=_DPI, facecolor="white", metadata={"Software": None})
        return buffer.getvalue()

    def svg(self) -> str:
        """The figure as an SVG file, on white."""
        return self._svg.replace("<svg ", '<svg style="background: #fff" ', 1)

    def inline_svg(self, title: str) -> str:
        """The figure as SVG within a page: transparent, in the page's text colour, with ids that no other figure has.

        Args:
            title: Escaped already.
        """
        text = self._svg
        text = text[text.index("<svg ") :].replace(INK, "currentColor")
        # Most ids only name parts and are dropped. An id that something refers to is kept, and made unique.
        used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', text))
        text = re.sub(r' id="([^"]+)"', lambda m: f' id="{self.name}-{m[1]}"' if m[1] in used else "", text)
        text = re.sub(r'href="#', f'href="#{self.name}-', text)
        text = re.sub(r"url\(#", f"url(#{self.name}-", text)
        width = self.figure.get_figwidth()
        # The figure scales with the page. On a phone it keeps a readable width, and its box scrolls.
        look = f"max-width: {width * 108:.0f}px; min-width: {min(width * 72, 700):.0f}px"
        return text.replace("<svg ", f'<svg role="img" aria-label="{title}" style="{look}" ', 1)

    @cached_property
    def _svg(self) -> str:
        with matplotlib.rc_context(STYLE):
            buffer = io.StringIO()
            nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
            self.figure.savefig(buffer, format="svg", metadata=nothing)
        return buffer.getvalue()


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of a size in inches, whose parts make room for each other."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def label_points(
    axes: Sequence[Axes], at: Sequence[tuple[float, float]], names: Sequence[str], size: float = 8
) -> None:
    """Writes each name beside its point, so that it covers no other name and no point; a line leads to a far one.

    Args:
        axes: Of one figure, with everything drawn that the names must keep off.
        at: Data coordinates, the same on all axes.
        names: One for each point.
        size: Of the type, points.
    """
    figure = axes[0].get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()  # by far the longest of it, and names are not in the layout
    for one in axes:
        _label_points(one, figure.dpi / 72, at, names, size)


def _label_points(
    axes: Axes, scale: float, at: Sequence[tuple[float, float]], names: Sequence[str], size: float
) -> None:
    inside = axes.get_window_extent()
    dots = [axes.transData.transform(c.get_offsets()) for c in axes.collections if np.size(c.get_offsets())]
    crowd = np.concatenate([*dots, axes.transData.transform(np.array(at))]) if at else np.zeros((0, 2))
    taken: list[Bbox] = []
    for point, name in zip(at, names, strict=True):
        text = axes.annotate(name, point, xytext=(0, 0), textcoords="offset points", fontsize=size, zorder=6)
        text.set_in_layout(False)
        box = text.get_window_extent()
        x, y = axes.transData.transform(point)
        best: tuple[float, float, float, Bbox] | None = None
        for radius in (9, 15, 24, 36, 50, 66):
            for angle in np.deg2rad([20, -20, 160, -160, 90, -90, 50, -50, 130, -130]):
                dx, dy = radius * np.cos(angle), radius * np.sin(angle)
                left = dx - box.width / scale * (0.5 - 0.5 * np.cos(angle))
                low = dy - box.height / scale * (0.5 - 0.5 * np.sin(angle))
                corner = np.array([x + left * scale, y + low * scale])
                here = Bbox.from_bounds(corner[0], corner[1], box.width, box.height)
                hits = sum(here.overlaps(other.padded(1)) for other in taken)
                covered = ((crowd >= np.array(here.min) - 5) & (crowd <= np.array(here.max) + 5)).all(axis=1).sum()
                outside = here.x0 < inside.x0 or here.x1 > inside.x1 or here.y0 < inside.y0 or here.y1 > inside.y1
                score = 10 * hits + covered + 8 * outside + radius / 100
                if best is None or score < best[0]:
                    best = (float(score), float(left), float(low), here)
        assert best is not None
        text.set_position((best[1], best[2]))
        taken.append(best[3])
        centre = np.array([(best[3].x0 + best[3].x1) / 2, (best[3].y0 + best[3].y1) / 2])
        if np.hypot(*(centre - (x, y))) / scale > 22 + box.width / scale / 2:
            axes.annotate(
                "",
                point,
                xytext=(best[1] + box.width / scale / 2, best[2] + box.height / scale / 2),
                textcoords="offset points",
                arrowprops={"arrowstyle": "-", "color": MUTED, "lw": 0.6},
                zorder=2,
            ).set_in_layout(False)


def spread(at: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Places in the order of ``wanted``, at least ``gap`` apart and otherwise as near to it as possible.

    Where ``low`` to ``high`` is too short for all, they stand evenly in it.
    """
    if len(at) * gap > high - low:
        return list(np.linspace(low, high, len(at)))
    order = np.argsort(at, kind="stable")
    found = np.asarray(at, dtype=float)[order]
    for i in range(len(found)):
        found[i] = max(found[i], low if i == 0 else found[i - 1] + gap)
    for i in reversed(range(len(found))):
        found[i] = min(found[i], high if i == len(found) - 1 else found[i + 1] - gap)
    placed = np.empty_like(found)
    placed[order] = found
    return [float(x) for x in placed]


def wrapped(name: str, width: int = 15, lines: int = 3) -> str:
    """A name over several lines, broken at its hyphens and the like."""
    found = [""]
    for part in re.findall(r"[^-_/ ]*[-_/ ]?", name):
        if found[-1] and len(found[-1]) + len(part) > width:
            found.append("")
        found[-1] += part
    found = [shortened(line, width) for line in found]
    return "\n".join(found if len(found) <= lines else [*found[: lines - 1], "…" + found[-1]])


def shortened(name: str, most: int = 22) -> str:
    """A name that fits, without its middle where it is too long."""
    return name if len(name) <= most else f"{name[: most // 2]}…{name[-(most - most // 2 - 1) :]}"
