"""The page for people, and the policy by which a browser runs nothing in it but what is in its file."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

PAGE = Path(__file__).with_name("page.html")


def read_page() -> tuple[bytes, dict[str, str]]:
    """The page, and the headers that go with it."""
    page = PAGE.read_bytes()
    policy = {
        "default-src": "'none'",
        "script-src": _hashes(page, b"script"),
        "style-src": _hashes(page, b"style"),
        "connect-src": "'self'",
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    headers = {
        "content-security-policy": "; ".join(f"{name} {value}" for name, value in policy.items()),
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
    }
    return page, headers


def _hashes(page: bytes, tag: bytes) -> str:
    """Of what stands between a tag's beginning and end, wherever it is in the page."""
    found = re.findall(rb"<%s>(.*?)</%s>" % (tag, tag), page, re.DOTALL)
    return " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(text).digest()).decode()}'" for text in found)
