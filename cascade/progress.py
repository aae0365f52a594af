"""Progress of long work: a bar in a terminal, and a line every half minute where stderr goes elsewhere."""

from __future__ import annotations

import sys
from typing import Any, TextIO

from tqdm import tqdm

SECONDS = 30.0


class _Lines:
    """A stream on which every state of a bar is a line of its own."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        """Passes on what a person would see, without the signs that move a cursor."""
        if line := text.strip():
            self._stream.write(f"{line}\n")

    def flush(self) -> None:
        """Passes on what is held back."""
        self._stream.flush()


def progress(total: int, desc: str, unit: str = "q", **settings: Any) -> tqdm:
    """A `tqdm` bar, which is to be closed.

    Where stderr is no terminal (a log, a job of a cluster) it prints what is done, the rate and the time left every
    30 seconds, first after the first 30: work that ends sooner says nothing.

    Args:
        total: How much there is to do.
        desc: Of what.
        unit: Counted in.
        settings: More of tqdm's, such as ``initial``.
    """
    if sys.stderr.isatty():
        return tqdm(total=total, desc=desc, unit=unit, leave=False, **settings)
    line = "{desc}: {n_fmt} of {total_fmt} {unit}, {rate_fmt}, {elapsed} gone, {remaining} left{postfix}"
    settings |= {"mininterval": SECONDS, "maxinterval": SECONDS, "delay": SECONDS}
    return tqdm(total=total, desc=desc, unit=unit, leave=False, bar_format=line, file=_Lines(sys.stderr), **settings)
