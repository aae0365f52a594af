"""A table made once, for the terminal, the page and a CSV file.

Cells hold numbers as they are; a column says how they look. The CSV has the numbers, the other two their looks.
What stands in the tables is `cascade.report.tables`' and `cascade.report.study_tables`' to say.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from html import escape
from typing import Any, Literal

import rich.table
from rich.text import Text

from cascade.statistics.significance import Interval

NONE = "–"
# A spreadsheet takes a cell that begins with one of these for a formula, which may run a program.
_FORMULA = ("=", "+", "-", "@", "\t", "\n")
# The page folds a table of more rows than this.
LONG = 16
# Columns of a terminal that a cell takes beside its text: two spaces and a line.
_FRAME = 3


def percent(value: float) -> str:
    """``74.05%``, of a share."""
    return f"{round(100 * value, 2) + 0.0:.2f}%"  # not -0.00


def points(value: float) -> str:
    """``-0.11``, of a number in points or per cent, with its sign."""
    return f"{value:+.2f}"


def decimals(value: float) -> str:
    """``0.842``."""
    return f"{value:.3f}"


def count(value: int) -> str:
    """``9,971``."""
    return f"{value:,}"


def percent_interval(value: Interval) -> str:
    """``74.0% [72.8, 75.2]``, of shares."""
    ends = f" [{100 * value.low:.1f}, {100 * value.high:.1f}]" if math.isfinite(value.low + value.high) else ""
    return f"{100 * value.estimate:.1f}%{ends}"


def points_interval(value: Interval) -> str:
    """``-0.11 [-0.42, +0.20]``, of shares."""
    return f"{100 * value.estimate:+.2f} [{100 * value.low:+.2f}, {100 * value.high:+.2f}]"


@dataclass(frozen=True)
class Column:
    """A column's head and the form of its cells. An interval has three columns in the CSV; words stand on the left."""

    name: str
    show: Callable[[Any], str] = str
    interval: bool = False
    words: bool = False

    def text(self, cell: object) -> str:
        """The cell as text; a dash where there is no value, or a figure is not defined."""
        value = cell.estimate if isinstance(cell, Interval) else cell
        if value is None or (isinstance(value, float) and not math.isfinite(value)):
            return NONE
        return self.show(cell)


@dataclass(frozen=True)
class Table:
    """Data of a table.

    Attributes:
        name: Of its CSV file.
        title: Above it.
        columns: See there.
        rows: Cells: text, numbers, `Interval`, or ``None``.
        caption: Below it.
    """

    name: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[object, ...], ...]
    caption: str = ""

    @classmethod
    def of(
        cls,
        name: str,
        title: str,
        columns: Sequence[Column | str],
        rows: Sequence[Sequence[object]],
        caption: str = "",
    ) -> Table:
        """A table of columns and rows; a column that is given as a string holds words."""
        heads = tuple(c if isinstance(c, Column) else Column(c, words=True) for c in columns)
        return cls(name, title, heads, tuple(tuple(row) for row in rows), caption)

    def without(self, *names: str) -> Table:
        """The same table without some of its columns."""
        kept = [i for i, c in enumerate(self.columns) if c.name not in names]
        rows = tuple(tuple(row[i] for i in kept) for row in self.rows)
        return replace(self, columns=tuple(self.columns[i] for i in kept), rows=rows)

    def texts(self) -> list[list[str]]:
        """Every cell as text."""
        return [[c.text(cell) for c, cell in zip(self.columns, row, strict=True)] for row in self.rows]

    def to_rich(self, width: int) -> list[rich.table.Table]:
        """The table for a terminal of so many columns, in as many parts below one another as it takes.

        Each part has the columns that name the rows: the first, and the words next to it. No cell is ever cut: words
        that are too long go on in the next line, and a column of numbers that has no room is in a part of its own.
        Brackets in names are no markup.
        """
        texts = self.texts()
        needs = [
            max(len(line) for text in [c.name, *(row[i] for row in texts)] for line in text.split("\n")) + _FRAME
            for i, c in enumerate(self.columns)
        ]
        naming = 1
        while naming < len(self.columns) - 1 and self.columns[naming - 1].words and self.columns[naming].words:
            naming += 1
        # The names have half of the width at most, shared evenly, where they do not fit with everything else.
        names = needs[:naming]
        if sum(needs) + 1 > width and sum(names) > width // 2:
            names = [min(need, width // 2 // naming) for need in names]
        room, blocks, used = width - sum(names) - 1, [list[int]()], 0
        for i in range(naming, len(self.columns)):
            need = min(needs[i], room)
            if blocks[-1] and used + need > room:
                blocks.append([])
                used = 0
            blocks[-1].append(i)
            used += need
        return [
            self._part(texts, [*range(naming), *block], [*names, *(min(needs[i], room) for i in block)])
            for block in blocks
        ]

    def to_lines(self, width: int) -> list[Text | rich.table.Table]:
        """The title, the parts of `to_rich`, and the caption: words fold at the terminal's width, not at a part's."""
        title, caption = Text(self.title, "table.title"), Text(self.caption, "table.caption")
        return [title, *self.to_rich(width), *([caption] if self.caption else [])]

    def _part(self, texts: list[list[str]], places: list[int], widths: list[int]) -> rich.table.Table:
        """Some columns as a table."""
        made = rich.table.Table()
        for place, width in zip(places, widths, strict=True):
            column = self.columns[place]
            justify: Literal["left", "right"] = "left" if column.words else "right"
            made.add_column(Text(column.name), justify=justify, overflow="fold", width=width - _FRAME)
        for row in texts:
            made.add_row(*(Text(row[place]) for place in places))
        return made

    def to_html(self) -> str:
        """The table as HTML, in a box that scrolls sideways; a long table is folded."""
        kinds = [' class="words"' if c.words else "" for c in self.columns]
        head = "".join(
            f'<th scope="col"{kind}>{escape(c.name)}</th>' for c, kind in zip(self.columns, kinds, strict=True)
        )
        body = "\n".join(
            f'<tr><th scope="row"{kinds[0]}>{escape(row[0])}</th>'
            + "".join(f"<td{kind}>{escape(cell)}</td>" for cell, kind in zip(row[1:], kinds[1:], strict=True))
            + "</tr>"
            for row in self.texts()
        )
        table = (
            f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(self.title)}">'
            f"<table><thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>"
        )
        if len(self.rows) > LONG:
            table = f"<details><summary>{len(self.rows)} rows</summary>{table}</details>"
        note = f'<p class="note">{escape(self.caption)}</p>' if self.caption else ""
        return f"<h3>{escape(self.title)}</h3>\n{table}\n{note}"

    def to_csv(self) -> str:
        """The table as CSV, with full numbers. A value that is not defined is empty; an interval has three columns.

        Text that a spreadsheet would run as a formula has a ``'`` before it.
        """
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        heads = [[c.name, f"{c.name} low", f"{c.name} high"] if c.interval else [c.name] for c in self.columns]
        writer.writerow([_plain(name) for group in heads for name in group])
        for row in self.rows:
            cells = [_numbers(cell) if c.interval else [cell] for c, cell in zip(self.columns, row, strict=True)]
            writer.writerow([_plain(value) for group in cells for value in group])
        return out.getvalue()


def _numbers(cell: object) -> list[object]:
    return [cell.estimate, cell.low, cell.high] if isinstance(cell, Interval) else [None] * 3


def _plain(value: object) -> object:
    if isinstance(value, str):
        value = value.replace("\r", "\n")  # the writer puts no quotes about a return, and it would end the row
        return f"'{value}" if value.startswith(_FORMULA) else value
    return "" if value is None or (isinstance(value, float) and not math.isfinite(value)) else value
