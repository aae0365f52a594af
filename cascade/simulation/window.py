"""What is left to decide of one stage's two thresholds, once each is known to lie within a range.

A stage keeps the questions of a quadrant: the first confidence ≥ a and the second ≥ b. A window is a range of a and one
of b. Of the questions outside of it only sums matter: a question above both ranges is kept anyway, one above a single
range is added by one threshold alone, and one below either range is not kept. So a window of a fiftieth of both ranges
holds a 2,500th of the questions one by one, and the best pair within it is found by a short sweep.

Windows are narrowed by bounds: a grid of cells, for each of which no pair of thresholds can be worth more than its
bound. A cell whose bound is too low holds nothing. What this is not for: more than one stage at a time.

Each question adds two figures, as accuracy and cost, which a price makes one: first − price · second.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cascade.simulation.sweeps import bounds, divide, sweep, sweep_within

# A window of fewer questions and levels than this is swept as it is; of a larger one most can be left out first.
SMALL = 2**15
_MOST_STRIPS = 512
# A part of more than this share of a window is not worth making.
_HARDLY_LESS = 0.7
# A sum of n numbers is off by at most n times this share of their absolute values, at any order.
_ROUNDING = 2.0**-52


@dataclass(frozen=True)
class Corner:
    """A pair of thresholds.

    Attributes:
        early: a, on the first confidence.
        late: b, on the second.
        sums: Of the two figures over all questions.
    """

    early: float
    late: float
    sums: tuple[float, float]

    def at(self, price: float) -> float:
        """What the pair is worth."""
        return self.sums[0] - price * self.sums[1]


@dataclass(frozen=True)
class Window:
    """A range of each of two thresholds; all levels highest first.

    Attributes:
        early: ``[a]``: the levels of the first threshold, confidences that some question has.
        late: ``[b]``: those of the second.
        x: ``[inside]``, int32, ascending: the place in ``early`` of a question that both thresholds decide on.
        y: ``[inside]``, int32: its place in ``late``.
        gain: ``[2, inside]``: what it adds where both thresholds keep it.
        columns: ``[2, a]``: what each level of the first threshold adds, whatever the second is.
        rows: ``[2, b]``: the same the other way round.
        base: ``[2]``: what is there at any thresholds.
        held: ``[b]``, bool: whether some question of this very second confidence lies above the range of the first.
        above_all: Whether some question lies above both ranges.
    """

    early: np.ndarray
    late: np.ndarray
    x: np.ndarray
    y: np.ndarray
    gain: np.ndarray
    columns: np.ndarray
    rows: np.ndarray
    base: np.ndarray
    held: np.ndarray
    above_all: bool

    @property
    def size(self) -> int:
        """How much a sweep would go through."""
        return len(self.x) + len(self.early) + len(self.late)

    def above(self, price: float, least: float) -> tuple[Window, Corner] | None:
        """The part that holds every pair worth at least ``least``, and its best pair, if there may be any.

        Small windows come back whole.
        """
        if self.size <= SMALL:
            return self, self._swept(price)
        cells = self._cells(1, -price)
        part = self._reaching(cells, cells.bound >= least)
        if part is None:
            return None
        return part, self._best_of(cells, price) if cells.known > least else part.best(price)

    def best(self, price: float) -> Corner:
        """The pair worth most. Of equal ones, the highest first threshold, and then the lowest second."""
        return self._swept(price) if self.size <= SMALL else self._best_of(self._cells(1, -price), price)

    def _best_of(self, cells: _Cells, price: float) -> Corner:
        """As `best`, once the bounds are known."""
        part = self._reaching(cells, cells.bound >= cells.known)
        assert part is not None  # the best pair known lies in it
        return part._swept(price) if part is self else part.best(price)

    def _swept(self, price: float) -> Corner:
        """As `best`, by going through all of it."""
        columns, rows, value = (part[0] - price * part[1] for part in (self.columns, self.rows, self.gain))
        u = sweep(self.x, self.y, value, columns, rows, self.held)
        reach = int(np.searchsorted(self.x, u, side="right"))
        inside = self.y[:reach]
        sums = np.cumsum(rows + np.bincount(inside, value[:reach], minlength=len(rows)))
        held = self.held.copy()
        held[inside] = True
        w = len(sums) - 1 - int(np.where(held, sums, -np.inf)[::-1].argmax())
        return self._corner(u, w)

    def most(
        self, wanted: int, limit: float, price: float, known: float, margin: float
    ) -> tuple[Window | None, Corner | None]:
        """The pair with the most of one figure, among those that keep a limit on the other.

        Args:
            wanted: 0 for the greatest first sum where the second is at most ``limit``; 1 for the smallest second sum
                where the first is at least ``limit``.
            limit: As above.
            price: At which a pair is worth little more than those that are wanted, as at the convex hull's slope. Any
                price gives the same pair; this one leaves out most of the others.
            known: The wanted sum of a pair that keeps the limit.
            margin: By how much a pair has to be better than that.

        Returns:
            The part that holds every pair that keeps the limit and is as good, and the best of them; ``None`` if no
            pair is better than what is known.
        """
        # Both figures so that more is better, the wanted one first.
        signs = np.array([[1.0, 0.0], [0.0, -1.0]])[:: 1 if wanted == 0 else -1]
        best, least = known * signs[0].sum(), limit * signs[1].sum()
        weights = np.array([1.0, price])[:: 1 if wanted == 0 else -1]
        window, found = self, None
        while window.size > SMALL:
            more, kept, worth = (window._cells(*part) for part in (*signs, (1.0, -price)))
            corners = np.where(kept.worth >= least, more.worth, -np.inf)
            j, k = np.unravel_index(int(corners.argmax()), corners.shape)
            if corners[j, k] > best + margin:
                best = float(corners[j, k])
                found = window._corner(int(more.across[j]), int(more.along[k]))
            as_good = more.bound >= best - margin
            part = window._reaching(
                worth, as_good & (kept.bound >= least) & (worth.bound >= weights @ (best - margin, least))
            )
            if part is None:
                return None, found
            if part is window:
                break
            window = part
        gain, columns, rows = (signs @ part for part in (window.gain, window.columns, window.rows))
        base = signs @ window.base
        spread = float(sum(weights @ np.abs(part).sum(axis=1) for part in (gain, columns, rows)))
        u, w = sweep_within(
            window.x,
            window.y,
            gain,
            columns,
            rows,
            window.held,
            best + margin - base[0],
            least - base[1],
            weights,
            _ROUNDING * window.size * spread,
        )
        return window, found if u < 0 else window._corner(u, w)

    def _cells(self, first: float, second: float) -> _Cells:
        """A grid over the window, and how much the pairs of each cell may be worth.

        Args:
            first: How much the first figure counts.
            second: How much the second does.
        """
        count = min(_MOST_STRIPS, max(16, int(self.size**0.5 / 2)))
        across, along = _strips(self.x, len(self.early), count), _strips(self.y, len(self.late), count)
        strip_of = np.repeat(np.arange(len(along), dtype=np.int16), np.diff(np.append(along, len(self.late))))
        # A corner that keeps no question is no pair of thresholds.
        kept = 0 if self.above_all else int(self.held.argmax()) if self.held.any() else len(self.late)
        bound, worth, total = bounds(
            self.x,
            self.y,
            self.gain,
            self.columns,
            self.rows,
            (float(first), float(second)),
            across,
            along,
            strip_of,
            int(np.searchsorted(along, kept)),
        )
        base = float(first * self.base[0] + second * self.base[1])
        bound += base + _ROUNDING * self.size * (abs(base) + total)
        worth += base
        return _Cells(across, along, bound, worth)

    def _reaching(self, cells: _Cells, alive: np.ndarray) -> Window | None:
        """A part that holds every one of these cells, ``[across, along]``; ``None`` if there are none.

        It is the window itself where the part would hardly be smaller.
        """
        across, along = np.flatnonzero(alive.any(axis=1)), np.flatnonzero(alive.any(axis=0))
        if not len(across):
            return None
        columns, rows = np.append(cells.across, len(self.early)), np.append(cells.along, len(self.late))
        u0, u1, w0, w1 = columns[across[0]], columns[across[-1] + 1], rows[along[0]], rows[along[-1] + 1]
        if (u1 - u0) * (w1 - w0) > _HARDLY_LESS * len(self.early) * len(self.late):
            return self
        return self._part(int(u0), int(u1), int(w0), int(w1))

    def _corner(self, u: int, w: int) -> Corner:
        """The pair at these places, the second threshold as high as keeps the same questions."""
        reach = int(np.searchsorted(self.x, u, side="right"))
        kept = self.y[:reach] <= w
        levels = np.append(self.y[:reach][kept], np.flatnonzero(self.held[: w + 1])[-1:])
        w = int(levels.max()) if len(levels) else w
        first, second = (
            float(self.base[i])
            + float(self.columns[i, : u + 1].sum())
            + float(self.rows[i, : w + 1].sum())
            + float(self.gain[i, :reach][kept].sum())
            for i in range(2)
        )
        return Corner(float(self.early[u]), float(self.late[w]), (first, second))

    def _part(self, u0: int, u1: int, w0: int, w1: int) -> Window:
        """The window of the levels from ``u0`` to before ``u1`` and from ``w0`` to before ``w1``."""
        columns, rows = self.columns[:, u0:u1].copy(), self.rows[:, w0:w1].copy()
        base = self.base + self.columns[:, :u0].sum(axis=1) + self.rows[:, :w0].sum(axis=1)
        held = self.held[w0:w1].copy()
        end = int(np.searchsorted(self.x, u1))
        inside, above = divide(self.x[:end], self.y[:end], self.gain, u0, w0, w1, columns, rows, base, held)
        return Window(
            early=self.early[u0:u1],
            late=self.late[w0:w1],
            x=self.x[inside] - np.int32(u0),
            y=self.y[inside] - np.int32(w0),
            gain=np.take(self.gain, inside, axis=1),
            columns=columns,
            rows=rows,
            base=base,
            held=held,
            above_all=bool(self.above_all or above or self.held[:w0].any()),
        )


@dataclass(frozen=True)
class _Cells:
    """A grid over a window.

    Attributes:
        across: Where its strips of the first threshold begin.
        along: Where those of the second do.
        bound: ``[across, along]``: no pair of the cell is worth more.
        worth: ``[across, along]``: what the pair at which the cell begins is worth.
    """

    across: np.ndarray
    along: np.ndarray
    bound: np.ndarray
    worth: np.ndarray

    @property
    def known(self) -> float:
        """What the best of the pairs at which cells begin is worth."""
        return float(self.worth.max())


def _strips(places: np.ndarray, levels: int, count: int) -> np.ndarray:
    """Where strips of few questions and few levels begin. A level of many questions begins one."""
    some = np.sort(places[:: max(1, len(places) // (16 * count))])
    among = some[np.linspace(0, len(some), count, endpoint=False, dtype=int)] if len(some) else some
    evenly = np.linspace(0, levels, count, endpoint=False, dtype=int)
    return np.union1d(among, evenly)
