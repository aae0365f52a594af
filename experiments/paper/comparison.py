"""The paper's numbers beside ours: one table, its differences and footnotes, as Markdown and as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from cascade.strict_json import strict_json
from experiments.paper.numbers import Column, PaperTable, Value, Values
from probes.files import write_atomically

EMPTY = "–"
# How a value is shown, how a difference is, and what the difference is multiplied by.
_FORMATS = {
    "percent": ("{:.2f} %", "{:+.2f}"),
    "signed": ("{:+.2f} %", "{:+.2f}"),
    "points": ("{:+.2f}", "{:+.2f}"),
    "relative": ("{:+.2f} %", "{:+.2f}"),
    "share": ("{:.4f}", "{:+.4f}"),
    "count": ("{:,.0f}", "{:+,.0f}"),
    "dollars": ("{:.4g}", "{:+.2g}"),
    "price": ("{:.2f}", "{:+.2f}"),
    "number": ("{:.2f}", "{:+.2f}"),
    "p": ("{:.5f}", "{:+.4f}"),
    "part": ("{:,.0f}", "{:+.1f}"),
}


@dataclass(frozen=True)
class Comparison:
    """One table, theirs and ours.

    Attributes:
        paper: As printed.
        ours: Row label to column to value; columns of the paper and of ``more``.
        scale: At which ours were made.
        more: Columns that only ours has.
        notes: Of ours, after the paper's footnotes.
    """

    paper: PaperTable
    ours: Values
    scale: str
    more: Mapping[str, Column]
    notes: tuple[str, ...] = ()

    @property
    def labels(self) -> list[str]:
        """The paper's rows, then what only ours has."""
        return [*self.paper.rows, *(label for label in self.ours if label not in self.paper.rows)]

    @property
    def footnotes(self) -> tuple[str, ...]:
        """The paper's, then ours."""
        return (*self.paper.footnotes, *self.notes)

    def cell(self, label: str, column: str) -> tuple[Value, Value, float | None]:
        """The paper's value, ours, and ours minus the paper's; a part's difference is in points of the row's sum."""
        theirs, here = self.paper.rows.get(label, {}), self.ours.get(label, {})
        their, our = theirs.get(column), here.get(column)
        if isinstance(their, str) or isinstance(our, str) or their is None or our is None:
            return their, our, None
        if self._unit(column) == "part":
            return their, our, 100 * (our / self._total(here) - their / self._total(theirs))
        return their, our, our - their

    def _total(self, row: Mapping[str, Value]) -> float:
        return sum(float(row.get(column) or 0) for column in self.paper.columns)

    def _unit(self, column: str) -> str:
        return (self.paper.columns.get(column) or self.more[column]).unit

    @property
    def markdown(self) -> str:
        """The table, readable as it stands, with its footnotes."""
        head = [""]
        for column in self.paper.columns.values():
            # What is said in words is said of ours beside the paper's.
            head += [column.heading] if column.unit == "text" else [f"{column.heading} (paper)", "ours", "Δ"]
        head += [column.heading for column in self.more.values()]
        lines = []
        for label in self.labels:
            line = [label]
            for name, column in self.paper.columns.items():
                their, our, difference = self.cell(label, name)
                if column.unit == "text":
                    line.append(shown(our, column.unit))
                    continue
                line += [
                    shown(their, column.unit),
                    shown(our, column.unit),
                    shown(difference, column.unit, change=True),
                ]
            line += [shown(self.cell(label, name)[1], column.unit) for name, column in self.more.items()]
            lines.append(line)
        table = markdown_table(head, lines)
        return "\n".join([table, "", *(f"- {note}" for note in self.footnotes)]).rstrip()

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        rows = {
            label: {
                name: dict(zip(("paper", "ours", "difference"), self.cell(label, name), strict=True))
                for name in (*self.paper.columns, *self.more)
            }
            for label in self.labels
        }
        head = {"table": self.paper.number, "title": self.paper.title, "scale": self.scale}
        return head | {"rows": rows, "footnotes": list(self.footnotes)}

    def write(self, folder: Path) -> None:
        """Writes ``table_01.json`` and ``table_01.md`` and the like."""
        folder.mkdir(parents=True, exist_ok=True)
        stem = f"table_{self.paper.number:02d}"
        write_atomically(folder / f"{stem}.json", strict_json(self.to_json()).encode())
        write_atomically(folder / f"{stem}.md", f"# {self.heading}\n\n{self.markdown}\n".encode())

    @property
    def heading(self) -> str:
        """Number and title."""
        return f"Table {self.paper.number}: {self.paper.title}"

    def order_note(self, column: str, labels: Sequence[str]) -> str:
        """Whether some rows stand in the paper's order by a column, in words."""
        heading = self.paper.columns[column].heading
        cells = {label: self.cell(label, column)[:2] for label in labels}
        known = [(float(p), float(o), label) for label, (p, o) in cells.items() if p is not None and o is not None]
        swapped = [
            f"{a} and {b}" for (p, o, a), (q, r, b) in combinations(known, 2) if (p - q) * (o - r) < 0 and p != q
        ]
        pairs = len(known) * (len(known) - 1) // 2
        if not swapped:
            return f"By {heading} ours stand in the paper's order, all {pairs} pairs of them."
        return f"By {heading} {len(swapped)} of {pairs} pairs stand the other way round: {'; '.join(swapped)}."


def shown(value: Value, unit: str, change: bool = False) -> str:
    """A value in its unit, or a difference."""
    if value is None:
        return EMPTY
    if isinstance(value, str):
        return value
    text = _FORMATS[unit][change].format(value)
    # Nothing is said by a minus before zeros.
    return text.replace("-", "+" if "+" in _FORMATS[unit][change] else "") if not text.strip("-+0. %,") else text


def markdown_table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns line up in a terminal, too; the first is to the left."""
    widths = [max(3, *(len(line[i]) for line in (head, *lines))) for i in range(len(head))]
    words = [any(len(line[i]) > 40 for line in lines) for i in range(len(head))]

    def row(cells: Sequence[str]) -> str:
        padded = [
            c.ljust(w) if i == 0 or words[i] else c.rjust(w) for i, (c, w) in enumerate(zip(cells, widths, strict=True))
        ]
        return f"| {' | '.join(padded)} |"

    rule = ["-" * w if i == 0 or words[i] else "-" * (w - 1) + ":" for i, w in enumerate(widths)]
    return "\n".join([row(head), f"|{'|'.join(f' {r} ' for r in rule)}|", *map(row, lines)])
