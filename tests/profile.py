"""How much is drawn at random: a little by default, much more where `CASCADE_LONG=1` asks for it."""

from __future__ import annotations

import os

LONG = os.environ.get("CASCADE_LONG", "") not in ("", "0")
