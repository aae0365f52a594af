"""The README and `docs/`: blocks between markers, which scripts write, wherever they stand.

What stands between `<!-- begin NAME -->` and `<!-- end NAME -->` is a script's; the words around it are not. A block
can be moved to another page together with its markers, and its script finds it there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from cascade.errors import CascadeError
from probes.files import write_atomically

ROOT = Path(__file__).parents[1]


def pages(root: Path = ROOT) -> list[Path]:
    """The README and every page of the documentation."""
    return [root / "README.md", *sorted((root / "docs").rglob("*.md"))]


def write_blocks(contents: Mapping[str, str], root: Path = ROOT) -> list[Path]:
    """Writes blocks into the pages that hold their markers, each page once, and gives the pages.

    Args:
        contents: From a block's name to what stands between its markers.
        root: Holds ``README.md`` and ``docs/``.

    Raises:
        CascadeError: If the markers of a block are on no page or on several; nothing is written then.
    """
    texts = {page: page.read_text() for page in pages(root)}
    changed: dict[Path, str] = {}
    for name, content in contents.items():
        pattern = re.compile(rf"(<!-- begin {name} -->\n).*?(<!-- end {name} -->)", re.DOTALL)
        holding = [page for page, text in texts.items() if pattern.search(text)]
        if len(holding) != 1:
            found = ", ".join(str(page.relative_to(root)) for page in holding) or "none"
            raise CascadeError(f"Expected one page with the markers of {name!r}, but got {found}")
        page = holding[0]
        texts[page] = changed[page] = pattern.sub(lambda match: f"{match[1]}{content}\n{match[2]}", texts[page])  # noqa: B023
    for page, text in changed.items():
        write_atomically(page, text.encode())
    return list(changed)
