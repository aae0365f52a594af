"""The README is one short page. What its commands and links lead to is checked with the other pages (test_docs.py)."""

from __future__ import annotations

import re
from pathlib import Path

import cascade

README = Path(__file__).parents[1] / "README.md"


def test_it_is_short_with_one_picture_and_one_table():
    lines = README.read_text().splitlines()
    assert len(lines) <= 200
    assert sum(line.startswith("![") for line in lines) == 1
    assert sum(re.fullmatch(r"\|[-:| ]+\|", line) is not None for line in lines) == 1


def test_its_map_shows_every_room():
    (drawing,) = [block for block in README.read_text().split("```") if block.startswith("\nprobes/")]
    package = Path(cascade.__file__).parent
    for path in package.iterdir():
        if (path / "__init__.py").exists():
            assert f"{path.name}/" in drawing, f"{path.name} is a room that the map does not show"
