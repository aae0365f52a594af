"""The report in a real browser: long names, small windows, light and dark."""

from __future__ import annotations

import pytest

from tests.browser import tab
from tests.cascade.test_report import made, written

# Nothing that all share and that could be left out.
LONG_NAMES = [
    f"{size}-of-some-organisation-with-a-name/Qwen3-Instruct-2507-bnb-4bit-finetuned-on-ours-{size}"
    for size in ("1.7B", "8B", "32B")
]
# Every box that scrolls: how wide its content is, how wide the box, and where the name of a row is once it scrolled.
BOXES = """
return [...document.querySelectorAll('.scroll')].filter((box) => box.checkVisibility()).map((box) => {
  box.scrollLeft = 10000;
  const name = box.querySelector('tbody th'), edge = box.getBoundingClientRect().left;
  const seen = { content: box.scrollWidth, box: box.clientWidth, moved: box.scrollLeft, table: Boolean(name),
                 right: box.getBoundingClientRect().right, name: name && name.getBoundingClientRect().left - edge,
                 share: name && name.getBoundingClientRect().width / box.clientWidth };
  box.scrollLeft = 0;
  return seen;
});
"""


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    others = {"a set of questions from elsewhere with a long name, too": made(200, 2, LONG_NAMES, harder=1)}
    written(folder, made(600, 0, LONG_NAMES), made(500, 1, LONG_NAMES), others=others, layers=True)
    return (folder / "report.html").as_uri()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_long_names_scroll_in_their_own_box_and_all_text_can_be_read(chromium, report, width, scheme):
    with tab(chromium, width, scheme) as page:
        page.page.goto(report)
        page.js("document.querySelectorAll('details').forEach((part) => { part.open = true })")
        page.shoot(f"report-{width}-{scheme}")
        assert page.overflow() == 0
        boxes = page.js(BOXES)
        assert all(box["right"] <= width for box in boxes)
        assert all(box["moved"] == box["content"] - box["box"] for box in boxes)
        tables = [box for box in boxes if box["table"] and box["moved"]]
        assert tables
        for box in tables:  # the name of a row stays in sight, and leaves room for the rest
            assert abs(box["name"]) <= 1
            assert box["share"] < 0.6
        assert page.faint() == []
        assert page.console == []
        assert page.requests == [report]
