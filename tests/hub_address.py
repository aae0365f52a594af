"""Where the tests of this process have their Hub, and the home that its files are cached in: the same all session.

Both are read while libraries are imported. As they stay the same, a process can be forked from one that has imported
everything, and finds another Hub, or none, at the address, and another folder where the home is.
"""

from __future__ import annotations

import os
import socket
import tempfile
from pathlib import Path

# Bound and not listening, it keeps the port from others: whoever connects while no Hub is open is refused.
_KEPT = socket.socket()
_KEPT.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
_KEPT.bind(("127.0.0.1", 0))
PORT = _KEPT.getsockname()[1]
URL = f"http://127.0.0.1:{PORT}"
_FOLDER = tempfile.TemporaryDirectory(prefix="hub-")
HOME = Path(_FOLDER.name) / "home"


def environment(home: str | Path = HOME, url: str = URL) -> dict[str, str]:
    """That of this process without what it says of the Hub, and with what the tests say of theirs."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    return kept | {"HF_ENDPOINT": url, "HF_HOME": str(home)}


def settle(home: str | Path) -> None:
    """From now on the home is another folder."""
    Path(home).mkdir(parents=True, exist_ok=True)
    HOME.unlink(missing_ok=True)
    HOME.symlink_to(home, target_is_directory=True)
