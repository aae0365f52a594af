"""A real browser for the tests of pages: Debian's Chromium, driven by Playwright.

Its fixtures are `tests/conftest.py`'s. Where there is no Chromium, the tests that ask for one are skipped.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

# Kept when the tests are over, for people to look at.
SCREENSHOTS = Path(__file__).parents[1] / "build" / "screenshots"
ARGUMENTS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()
# Every element that has text of its own, its colour, and the colour that lies under it, as [r, g, b, alpha].
TEXT_COLORS = """
const context = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
const rgba = (color) => {
  context.clearRect(0, 0, 1, 1);
  context.fillStyle = color;
  context.fillRect(0, 0, 1, 1);
  return [...context.getImageData(0, 0, 1, 1).data];
};
const under = (element) => {
  for (; element; element = element.parentElement) {
    const color = rgba(getComputedStyle(element).backgroundColor);
    if (color[3] === 255) return color;
  }
};
return [...document.querySelectorAll('body *')]
  .filter((e) => e.checkVisibility() && !e.matches(':disabled, :disabled *, script, style'))
  .filter((e) => [...e.childNodes].some((node) => node.nodeType === 3 && node.data.trim()))
  .map((e) => {
    const style = getComputedStyle(e);
    return { text: e.textContent.trim().slice(0, 40), color: rgba(e.closest('svg') ? style.fill : style.color),
             under: under(e) };
  });
"""


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """Chromium in a new, empty profile. Skips the test where there is none."""
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("no chromium on the PATH: on Debian, apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield browser
        browser.close()


class Tab:
    """A page of a browser, with what is said on its console and what it fetches."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.console: list[str] = []
        self.requests: list[str] = []
        page.on("console", lambda said: self.console.append(f"{said.type}: {said.text}"))
        page.on("pageerror", lambda error: self.console.append(f"error: {error}"))
        page.on("request", lambda request: self.requests.append(request.url))

    def js(self, text: str) -> Any:
        """What the body of a function returns when it runs in the page."""
        return self.page.evaluate(f"() => {{ {text} }}")

    def wait(self, condition: str, seconds: float = 60) -> None:
        """Goes on when an expression is true in the page."""
        for _ in range(int(seconds * 20)):
            if self.js(f"return Boolean({condition})"):
                return
            self.page.wait_for_timeout(50)
        pytest.fail(f"never came: {condition}; console: {self.console}")

    def resize(self, width: int, height: int) -> None:
        self.page.set_viewport_size({"width": width, "height": height})

    def overflow(self) -> int:
        """By how many pixels the page is wider than the window."""
        return self.js("return document.documentElement.scrollWidth - document.documentElement.clientWidth")

    def faint(self) -> list[str]:
        """Texts whose contrast is below 4.5, the least that WCAG 2 (AA) allows; figures' labels included."""
        found = self.js(TEXT_COLORS)
        assert found
        return [f"{e['text']}: {contrast(e['color'], e['under']):.2f}" for e in found if _is_faint(e)]

    def shoot(self, name: str) -> None:
        """Keeps a picture of the whole page."""
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=True)


@contextlib.contextmanager
def tab(browser: Browser, width: int = 1280, scheme: str = "light") -> Iterator[Tab]:
    """A tab that shares nothing with any other.

    Args:
        browser: Of `chromium`.
        width: Of the window, in CSS pixels.
        scheme: ``light`` or ``dark``, as the person's system says.
    """
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)  # type: ignore[arg-type]
    yield Tab(context.new_page())
    context.close()


def _is_faint(found: dict[str, Any]) -> bool:
    return found["color"][3] > 0 and contrast(found["color"], found["under"]) < 4.5


def contrast(one: list[int], other: list[int]) -> float:
    """The contrast ratio of WCAG 2: (L1 + 0.05) / (L2 + 0.05), L the relative luminance of an sRGB colour."""
    light, dark = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def _luminance(color: list[int]) -> float:
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (value / 255 for value in color[:3])]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
