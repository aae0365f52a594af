"""Tests that may be looked at after every observation, for ever: e-processes by betting.

An e-process starts at 1 and is not expected to grow where the null hypothesis holds. By Ville's inequality it then
ever reaches 1/α with probability at most α, over any horizon. Two are here: that the mean of bounded observations is
not above a limit (`MeanBets`), and that observations are exchangeable with a sample of reference (`UniformBets` on the
p-values of `Histogram.p_value`). Not for tests at a number of observations that is fixed before.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log2
from typing import Any

import numpy as np
from scipy import stats

from cascade.errors import CascadeError

CELLS = 1024
"""Cells of a `Histogram`."""

_FARTHEST = 20.0
"""The logit from which on probabilities share the last cell: 1 − p is 2·10⁻⁹ there."""

MOST = 1e100
"""Capital at which a bet stands still."""

_SHARES = 0.9 * 2.0 ** -(np.arange(12) / 2)
"""Shares of the highest stake that does not lose more than all, of which every one is bet."""


class Bets:
    """The capital of several gamblers, each of whom begins at each time with a share of one unit in all.

    With w_k = 1/log₂(k + 1) − 1/log₂(k + 2), which sum to 1, a share w_k/J begins at observation k with each of J
    bets, and is multiplied by the bet's factor at this and all later ones. What has not begun is kept:

        E_t = 1/log₂(t + 2) + Σ_{k ≤ t} w_k · 1/J Σ_j Π_{s = k…t} f_j(x_s).

    Each product is a supermartingale under the null, so E_t is one. A change at observation t costs the logarithm of
    about t·log²t/t' where t' observations after it are about to decide, and nothing was lost before. (Mixtures over
    the time of the change: Shin, Ramdas & Rinaldo 2024, "E-detectors"; bets: Waudby-Smith & Ramdas 2024.)

    Attributes:
        observations: t.
        capital: ``[..., J]``, what has begun.
        peak: ``[...]``, the largest E so far.
    """

    def __init__(self, bets: int, shape: tuple[int, ...] = ()) -> None:
        self.observations = 0
        self.capital: np.ndarray = np.zeros((*shape, bets))
        self.peak: np.ndarray = np.ones(shape)

    @property
    def value(self) -> np.ndarray:
        """E_t, ``[...]``."""
        return np.asarray(self.capital.sum(axis=-1) + 1 / log2(self.observations + 2))

    def multiply(self, factors: np.ndarray) -> None:
        """One more observation, by the factor ``[..., J]`` of each bet, which are at least 0."""
        self.observations += 1
        t = self.observations
        begins = (1 / log2(t + 1) - 1 / log2(t + 2)) / self.capital.shape[-1]
        # Cut off long before it is no number. What is thrown away keeps it a supermartingale.
        self.capital = np.minimum((self.capital + begins) * factors, MOST)
        self.peak = np.maximum(self.peak, self.value)

    def to_json(self) -> dict[str, object]:
        """Plain values."""
        return {"observations": self.observations, "capital": self.capital.tolist(), "peak": self.peak.tolist()}

    def restore(self, values: Any) -> None:
        """Takes back what `to_json` gave.

        Raises:
            CascadeError: If it is none of this kind.
        """
        try:
            seen = values["observations"]
            capital = np.asarray(values["capital"], dtype=np.float64)
            peak = np.asarray(values["peak"], dtype=np.float64)
        except (KeyError, TypeError, ValueError) as error:
            raise CascadeError(f"Expected the state of an e-process, but got {error!r}") from error
        same = capital.shape == self.capital.shape and peak.shape == self.peak.shape
        if not (same and type(seen) is int and seen >= 0 and bool(np.all(capital >= 0)) and np.isfinite(peak).all()):
            raise CascadeError(f"Expected the state of an e-process with {self.capital.shape[-1]} bets")
        self.observations, self.capital, self.peak = seen, capital, peak


class MeanBets(Bets):
    """An e-process against H0: E[x_t | x_1 … x_{t − 1}] ≤ ``limit`` at every t.

    The bets are f_j(x) = 1 + λ_j (x − limit), with λ_j = c_j / (limit − lowest) and c_j in (0, 0.9] halving at every
    second one (Waudby-Smith & Ramdas 2024, "Estimating means of bounded random variables by betting"; Shekhar & Ramdas
    2024 for the paired difference). No assumption beyond H0: observations need not be independent.

    Args:
        limit: Of the mean. One above which no mean is can never be refuted.
        lowest: That an observation can be; below ``limit``. −1 for a paired loss, 0 for right and wrong.
        shape: Of several streams that are observed at the same times.

    Raises:
        CascadeError: If ``limit`` is not above ``lowest``.
    """

    def __init__(self, limit: float, lowest: float, shape: tuple[int, ...] = ()) -> None:
        if not limit > lowest:
            raise CascadeError(f"Expected `limit` to be above `lowest`, {lowest}, but got {limit}")
        super().__init__(len(_SHARES), shape)
        self._limit, self._stakes, self._lowest = limit, _SHARES / (limit - lowest), lowest

    def observe(self, x: float | np.ndarray) -> None:
        """One more observation of each stream, ``[...]``.

        Raises:
            CascadeError: If one is below ``lowest`` or no number.
        """
        values = np.asarray(x, dtype=float)
        if not (values >= self._lowest).all():
            raise CascadeError(f"Expected observations of at least {self._lowest}, but got {x}")
        self.multiply(1 + self._stakes * (values[..., None] - self._limit))


def _tilts() -> tuple[np.ndarray, np.ndarray]:
    """Sizes of the bets on the first and on the second Legendre polynomial."""
    first, second = np.meshgrid([-1.5, -0.75, 0.0, 0.75, 1.5], [-0.9, 0.0, 0.9])
    lean, bend = first.ravel(), second.ravel()
    # 1 + a·L1 + b·L2 has its least value at an end, or at u = -a/(3b) where that is inside and b > 0.
    least = np.minimum(1 + lean + bend, 1 - lean + bend)
    with np.errstate(divide="ignore", invalid="ignore"):
        u = -lean / (3 * bend)
        dip = np.where((bend > 0) & (np.abs(u) < 1), 1 + lean * u + bend * (3 * u**2 - 1) / 2, np.inf)
    shrink = np.minimum(1, 0.95 / np.maximum(1 - np.minimum(least, dip), 1e-9))
    some = (lean != 0) | (bend != 0)
    return (lean * shrink)[some], (bend * shrink)[some]


_LEAN, _BEND = _tilts()
_POWERS = np.array([0.2, 0.5])


class UniformBets(Bets):
    """An e-process against H0: p_1, p_2, … are independent and uniform on [0, 1]; a conformal test martingale.

    The bets are densities on [0, 1]: 1 + a·L₁(2p − 1) + b·L₂(2p − 1) with Legendre's polynomials (values have moved,
    spread or drawn together), κ p^{κ−1} and κ (1 − p)^{κ−1} (values beyond all that were seen). Vovk, Nouretdinov &
    Gammerman 2003, "Testing exchangeability on-line"; Vovk, Gammerman & Shafer 2022, chapter 8.

    Args:
        shape: Of several streams that are observed at the same times.
    """

    def __init__(self, shape: tuple[int, ...] = ()) -> None:
        super().__init__(len(_LEAN) + 2 * len(_POWERS), shape)

    def observe(self, p: float | np.ndarray) -> None:
        """One more p-value of each stream, ``[...]``.

        Raises:
            CascadeError: If one is not in [0, 1].
        """
        values = np.asarray(p, dtype=float)[..., None]
        if not ((values >= 0) & (values <= 1)).all():
            raise CascadeError(f"Expected p-values in [0, 1], but got {p}")
        u = 2 * values - 1
        low = np.maximum(values, 1e-12)  # a density that has no bound; what is cut off makes the bet smaller
        high = np.maximum(1 - values, 1e-12)
        tilted = 1 + _LEAN * u + _BEND * (3 * u**2 - 1) / 2
        self.multiply(
            np.concatenate([tilted, _POWERS * low ** (_POWERS - 1), _POWERS * high ** (_POWERS - 1)], axis=-1)
        )


@dataclass
class Histogram:
    """Counts of probabilities in cells that are fixed before any is seen: a sketch that does not grow.

    The cells are equal in the logit, since P(T) crowds at 1; what is beyond ±20 is in the outermost. Ranks among the
    cells are exact for exchangeability, as the cell is a fixed function of the value.

    Attributes:
        counts: ``[CELLS]``, int64.
    """

    counts: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray) -> Histogram:
        """Of a sample ``[n]`` of probabilities."""
        return cls(np.bincount(cells(values), minlength=CELLS).astype(np.int64))

    @property
    def size(self) -> int:
        """How many values."""
        return int(self.counts.sum())

    def p_value(self, value: float, lot: float) -> float:
        """The smoothed conformal p-value of one more value, which is then counted.

        (#{lower cells} + U · (#{same cell} + 1)) / (n + 1) with n values before and ``lot`` = U uniform on [0, 1]. If
        all values so far and this one are exchangeable, these p-values are independent and uniform, ties or not (Vovk,
        Gammerman & Shafer 2022, proposition 2.4): each is ranked among *all* before it, the sample of reference
        included. P-values against that sample alone would depend on each other.
        """
        cell = int(cells(np.array([value]))[0])
        below = int(self.counts[:cell].sum())
        found = (below + lot * (int(self.counts[cell]) + 1)) / (self.size + 1)
        self.counts[cell] += 1
        return float(min(found, 1.0))

    def distance(self, other: Histogram) -> float:
        """The largest difference of the two distribution functions at the cells' ends, 0 to 1."""
        shares = [np.cumsum(one.counts) / max(one.size, 1) for one in (self, other)]
        return float(np.abs(shares[0] - shares[1]).max())

    def __sub__(self, other: Histogram) -> Histogram:
        """What was counted since another state of the same histogram."""
        return Histogram(self.counts - other.counts)

    def copy(self) -> Histogram:
        """One that is counted in by itself."""
        return Histogram(self.counts.copy())

    def to_json(self) -> str:
        """Cells and counts where there is one, in a line: ``512:3 514:1``."""
        return " ".join(f"{cell}:{self.counts[cell]}" for cell in np.flatnonzero(self.counts))

    @classmethod
    def from_json(cls, text: object) -> Histogram:
        """The inverse of `to_json`.

        Raises:
            CascadeError: If it is none.
        """
        counts = np.zeros(CELLS, dtype=np.int64)
        for pair in text.split() if isinstance(text, str) else [repr(text)]:
            cell, _, count = pair.partition(":")
            if not (cell.isdecimal() and count.isdecimal() and int(cell) < CELLS and 0 < int(count) < 2**53):
                raise CascadeError(f"Expected CELL:COUNT with cells below {CELLS}, but got {pair[:40]!r}")
            counts[int(cell)] += int(count)
        return cls(counts)


def cells(values: np.ndarray) -> np.ndarray:
    """The cell of each probability, ``[n]``, int64.

    Raises:
        CascadeError: If one is not in [0, 1].
    """
    p = np.asarray(values, dtype=np.float64)
    if not ((p >= 0) & (p <= 1)).all():
        raise CascadeError("Expected probabilities in [0, 1], but some are not")
    with np.errstate(divide="ignore"):
        logit = np.log(p) - np.log1p(-p)
    place = np.floor((np.clip(logit, -_FARTHEST, _FARTHEST) + _FARTHEST) * (CELLS / (2 * _FARTHEST)))
    found: np.ndarray = np.minimum(place, CELLS - 1).astype(np.int64)
    return found


def lower_bound(right: float, n: int, level: float) -> float:
    """The lower end of the one-sided Clopper-Pearson interval of a share, at confidence 1 − ``level``.

    Args:
        right: The share that was seen, of ``n``.
        n: Independent observations.
        level: Probability that the true share is below the bound, at most.
    """
    count = round(right * n)
    return 0.0 if count == 0 else float(stats.beta.ppf(level, count, n - count + 1))
