"""The README is one short page, and blocks of the pages are written where their markers stand.

What the README's commands and links lead to is checked with the other pages (test_docs.py).
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import cascade
from cascade.errors import CascadeError
from experiments import layer_sweeps, promises, readers, readme
from experiments.pages import pages, write_blocks
from experiments.real_decoders import page as real_decoders

README = Path(__file__).parents[1] / "README.md"


def test_it_is_short_with_one_picture_and_three_tables():
    lines = README.read_text().splitlines()
    assert len(lines) <= 200
    assert sum(line.startswith("![") for line in lines) == 1
    assert sum(re.fullmatch(r"\|[-:| ]+\|", line) is not None for line in lines) == 3


def test_its_map_shows_every_room():
    (drawing,) = [block for block in README.read_text().split("```") if block.startswith("\nprobes/")]
    package = Path(cascade.__file__).parent
    for path in package.iterdir():
        if (path / "__init__.py").exists():
            assert f"{path.name}/" in drawing, f"{path.name} is a room that the map does not show"


def test_every_block_between_markers_is_written_by_a_script():
    markers = re.findall(r"<!-- begin (\w+) -->", "".join(page.read_text() for page in pages()))
    written = set()
    for script in (readme, layer_sweeps, readers, promises, real_decoders):
        source = Path(script.__file__).read_text()
        assert "write_blocks(" in source
        written |= set(re.findall(r'"(\w+)": ', source))
    assert len(set(markers)) == len(markers)
    assert set(markers) <= written


@pytest.fixture
def clone(tmp_path):
    (tmp_path / "docs" / "deep").mkdir(parents=True)
    (tmp_path / "README.md").write_text("a\n<!-- begin one -->\nold\n<!-- end one -->\nb\n")
    (tmp_path / "docs/deep/page.md").write_text("<!-- begin two -->\n<!-- end two -->\n")
    return tmp_path


def test_a_block_is_written_wherever_its_markers_stand(clone):
    write_blocks({"one": r"new \1", "two": "| a |"}, clone)
    assert (clone / "README.md").read_text() == "a\n<!-- begin one -->\nnew \\1\n<!-- end one -->\nb\n"
    assert (clone / "docs/deep/page.md").read_text() == "<!-- begin two -->\n| a |\n<!-- end two -->\n"


@pytest.mark.parametrize("elsewhere", ["", "<!-- begin three -->\n<!-- end three -->\n"])
def test_nothing_is_written_where_markers_are_missing_or_on_two_pages(clone, elsewhere):
    (clone / "docs/a.md").write_text(elsewhere)
    (clone / "docs/b.md").write_text(elsewhere)
    with pytest.raises(CascadeError, match="one page with the markers of 'three'"):
        write_blocks({"one": "new", "three": "new"}, clone)
    assert "old" in (clone / "README.md").read_text()
