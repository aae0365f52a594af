"""Connections that do not wait for ever: a deadline for a request's head, and a bound on how many there are.

uvicorn bounds neither the time that a client takes to send a head nor how many clients do so at once.
"""

from __future__ import annotations

import asyncio
import resource

from uvicorn.protocols.http.h11_impl import H11Protocol

SPARE_FILES = 128
"""Files kept free for a server's models, caches and log; an upper bound."""

KEEP_ALIVE_SECONDS = 30
"""How long an idle connection is kept after a reply. Clients drop theirs after 5 s by default. With as little here, a
request could arrive on a connection that is just being closed."""


class BoundedConnection(H11Protocol):
    """A connection with deadlines: for silence, for a request's head, and for the rest of a refused body.

    Where there are too many connections, the one that has been silent longest is closed.

    Attributes:
        head_seconds: From the connection's beginning, or the first byte after a reply, to the whole head of a request.
        grace_seconds: For which a new connection is left alone, however many there are.
    """

    head_seconds = 10.0
    grace_seconds = 1.0
    _deadline: asyncio.TimerHandle | None = None
    _silent_since = 0.0

    @property
    def _asked(self) -> bool:
        """Whether a request is under way."""
        return self.cycle is not None and not self.cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See asyncio."""
        super().connection_made(transport)
        self._watch()
        assert self.limit_concurrency is not None
        if len(self.connections) >= self.limit_concurrency:
            silent = (c for c in self.connections if isinstance(c, BoundedConnection) and not c._asked)
            oldest = min(silent, key=lambda connection: connection._silent_since)  # this one, if there is no other
            if self.loop.time() - oldest._silent_since < self.grace_seconds:
                oldest = self
            oldest._close()

    def data_received(self, data: bytes) -> None:
        """See asyncio."""
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        """See uvicorn, which closes what stays idle from here on after `KEEP_ALIVE_SECONDS`."""
        super().on_response_complete()
        self._silent_since = self.loop.time()
        if self.conn.trailing_data[0]:  # a part of the next head came before
            self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio."""
        super().connection_lost(exc)
        self._unwatch()

    def _watch(self) -> None:
        """Starts the deadline where nothing is under way. What trickles in does not put it off."""
        if self._asked or self.transport.is_closing():
            self._unwatch()
        elif self._deadline is None:
            self._silent_since = self.loop.time()
            self._deadline = self.loop.call_later(self.head_seconds, self._close)

    def _unwatch(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _close(self) -> None:
        self._unwatch()
        self.connections.discard(self)
        self.transport.abort()  # whoever reads nothing could hold up a mere close


def most_connections(wanted: int) -> int:
    """How many connections there may be: as many as wanted, or as the system lets one process have files open for.

    Raises the process's own limit where it may.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + SPARE_FILES
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return wanted if soft == resource.RLIM_INFINITY else max(1, min(wanted, soft - SPARE_FILES))
