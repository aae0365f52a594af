"""What a browser lets the page do, without a browser; `test_page` has one."""

from __future__ import annotations

import base64
import hashlib
from html.parser import HTMLParser

import httpx


class Inline(HTMLParser):
    """Collects what stands in scripts and styles, and what no policy of hashes lets run."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, list[str]] = {"script": [], "style": []}
        self.attributes: set[str] = set()

    def handle_starttag(self, tag, attrs):
        self.attributes |= {name for name, _ in attrs}
        if tag in self.found:
            self.found[tag].append("")

    def handle_data(self, data):
        if self.found.get(self.lasttag):
            self.found[self.lasttag][-1] += data

    def handle_endtag(self, tag):
        self.lasttag = ""


def test_nothing_runs_in_the_page_but_its_own_script_and_nobody_frames_it(server):
    reply = httpx.get(server.url)
    policy = dict(part.strip().split(" ", 1) for part in reply.headers["content-security-policy"].split(";"))
    page = Inline()
    page.feed(reply.text)
    for tag, directive in (("script", "script-src"), ("style", "style-src")):
        hashes = {base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in page.found[tag]}
        assert set(policy[directive].split()) == {f"'sha256-{one}'" for one in hashes}
    assert len(page.found["script"]) == len(page.found["style"]) == 1
    assert policy["frame-ancestors"] == policy["default-src"] == policy["base-uri"] == policy["form-action"] == "'none'"
    assert policy["connect-src"] == "'self'"
    assert "unsafe" not in reply.headers["content-security-policy"]
    assert not {name for name in page.attributes if name.startswith("on") or name in ("style", "src")}
    assert "http-equiv" not in page.attributes  # a second policy, that could only contradict
