"""Accuracy against cost of Table 1's chains, the paper's beside ours: `python -m experiments.figure`.

The paper's one figure is an illustration of the strategy; this is the picture that its Table 1 makes. Each chain is
drawn twice: filled where its cost is answered-only, as printed, and hollow full-path (the paper's from its Table 8).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.lines import Line2D

from cascade.report.figures import COLORS, INK, MUTED, label_points, new_figure, styled
from cascade.report.figures import Plot as Picture
from cascade.strict_json import strict_json
from experiments.paper.arithmetic import from_counts
from experiments.paper.command import command
from experiments.paper.lab import Lab
from experiments.paper.numbers import paper
from experiments.paper.scales import ARROW, LLAMA
from probes.files import write_atomically

Points = Mapping[str, tuple[float, float, float]]
"""Row label to accuracy (per cent) and cost, answered-only and full-path, as shares of the largest model's."""


@dataclass(frozen=True)
class Drawn:
    """The picture and what is drawn in it."""

    picture: Picture
    points: Mapping[str, Points]

    @property
    def heading(self) -> str:
        """The title."""
        return self.picture.title

    @property
    def markdown(self) -> str:
        """The caption; the picture is a file."""
        return self.picture.caption

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        columns = ("accuracy", "answered-only", "full-path")
        return {
            whose: {label: dict(zip(columns, point, strict=True)) for label, point in points.items()}
            for whose, points in self.points.items()
        }

    def write(self, folder: Path) -> None:
        """Writes ``figure.png`` and ``figure.json``."""
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / "figure.png", self.picture.png())
        write_atomically(folder / "figure.json", strict_json(self.to_json()).encode())


def printed_points() -> Points:
    """The paper's: Table 1's accuracies and savings, and Table 8's counts."""
    known, full = paper(), from_counts(paper(), "full-path")
    size = {label: model.parameters / known.models[LLAMA[-1]].parameters for label, model in known.models.items()}
    found = {}
    for label, row in known.tables[1].rows.items():
        last = size[label.rpartition(ARROW)[2]]
        saved = [float(row.get("reduced_cc") or 0), full.get(label, 0.0)]
        answered, whole = (last * (1 - share / 100) for share in saved)
        found[label] = (float(row["accuracy"] or 0), answered, whole)
    return found


def our_points(lab: Lab) -> Points:
    """Ours, from the scores."""
    rows = lab.rows()
    size = {label: 1 - row.saved["flops"]["answered-only"] for label, row in rows.items() if ARROW not in label}
    found = {}
    for label, row in rows.items():
        last, saved = size[label.rpartition(ARROW)[2]], row.saved["flops"]
        single = ARROW not in label
        costs = [last * (1 - (0 if single else saved[ledger])) for ledger in ("answered-only", "full-path")]
        found[label] = (100 * row.accuracy, costs[0], costs[1])
    return found


@styled
def build(lab: Lab) -> Drawn:
    """Draws both."""
    points = {"the paper": printed_points(), f"ours, {lab.scale.name}": our_points(lab)}
    figure = new_figure(10, 4.2)
    chains = [label for label in paper().tables[1].rows if ARROW in label]
    for axis, (whose, drawn) in zip(figure.subplots(1, 2), points.items(), strict=True):
        singles = [label for label in drawn if ARROW not in label]
        axis.scatter([drawn[s][1] for s in singles], [drawn[s][0] for s in singles], marker="s", color=INK, s=30)
        for label, color in zip(chains, COLORS, strict=False):
            accuracy, answered, full = drawn[label]
            axis.plot([answered, full], [accuracy, accuracy], color=color, linewidth=0.8)
            axis.scatter(answered, accuracy, color=color, s=40, zorder=3)
            axis.scatter(full, accuracy, facecolor="none", edgecolor=color, s=40, zorder=3)
        axis.axvline(1, color=MUTED, linewidth=0.6)
        axis.set(title=whose, xlabel="cost, share of the largest model's FLOPs")
        axis.margins(x=0.1, y=0.1)
        label_points([axis], [(drawn[s][1], drawn[s][0]) for s in singles], singles)
    figure.axes[0].set_ylabel("accuracy, %")
    handles = [
        Line2D([], [], marker="o", color=c, ls="", label=label) for label, c in zip(chains, COLORS, strict=False)
    ]
    handles += [Line2D([], [], marker="o", mfc="none", color=MUTED, ls="", label="full-path")]
    figure.legend(handles=handles, loc="outside lower center", ncols=5)
    caption = (
        "Filled: answered-only, the paper's ledger. Hollow: the same chain full-path, every model that was tried "
        "charged. Squares: single models."
    )
    return Drawn(Picture("figure", "Accuracy against cost: Table 1's chains and ours", caption, figure), points)


main = command(build)

if __name__ == "__main__":
    main()
