"""The socket a server listens on, had before anything is loaded, so that a port that is taken is told at once."""

from __future__ import annotations

import socket

from cascade.errors import CascadeError


def bind(host: str, port: int) -> socket.socket:
    """A socket that listens; connections wait there until they are served.

    Raises:
        CascadeError: If the address cannot be had.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        # By its protocol asyncio knows a connection for TCP, and sets TCP_NODELAY: without it the kernel holds the end
        # of every reply on a kept connection until the client has acknowledged its beginning, some 40 ms.
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(2048)
    except (OSError, OverflowError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CascadeError(
            f"Expected to listen on {host}:{port}, but {reason}; give another `--host` or `--port`"
        ) from error
    return listener
