"""The server's life: its socket, loading, serving, and an end that finishes what was accepted.

SIGTERM or SIGINT: `/readyz` says 503, nothing new is accepted, what was accepted is answered, and the process ends
with 0. A second signal does not wait: it ends with 1.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from types import FrameType

import uvicorn

from cascade.serving.app import create_app
from cascade.serving.connections import KEEP_ALIVE_SECONDS, BoundedConnection, most_connections
from cascade.serving.service import Service

_LAST_REPLIES_SECONDS = 30


class Server(uvicorn.Server):
    """Serves one service until a signal, or `finish`.

    Args:
        service: Not started yet.
        listener: From `bind`.
    """

    def __init__(self, service: Service, listener: socket.socket) -> None:
        super().__init__(
            uvicorn.Config(
                create_app(service),
                http=BoundedConnection,
                ws="none",
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
                limit_concurrency=most_connections(service.limits.connections) + 1,
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=_LAST_REPLIES_SECONDS,
            )
        )
        self.service, self.listener = service, listener
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        """Where it is reached from this machine."""
        host, port = self.listener.getsockname()[:2]
        return f"http://{f'[{host}]' if ':' in host else host}:{port}"

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal: the first one finishes, the second one ends the process where it stands."""
        if self._stopping is not None:
            os._exit(1)  # any other end waits for the threads in which models are loaded and run
        self.finish()

    def finish(self) -> None:
        """Ends the server when everything accepted is answered. From any thread."""
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._finish)

    def _finish(self) -> None:
        self.service.batcher.stop_accepting()
        if self._stopping is None:
            self._stopping = asyncio.create_task(self._drain())

    async def _drain(self) -> None:
        await self.service.stop()
        self.should_exit = True

    async def run_until_finished(self, on_ready: Callable[[str], None]) -> None:
        """Serves; `/healthz` at once, questions when the models are loaded.

        Args:
            on_ready: Told the address then.

        Raises:
            CascadeError: If a model cannot be loaded, or not answer multiple choice.
        """
        self._loop = asyncio.get_running_loop()
        serving = asyncio.create_task(self.serve(sockets=[self.listener]))
        try:
            await self.service.start()
        except BaseException:
            self.should_exit = True
            await serving
            raise
        if self._stopping is None:
            on_ready(self.url)
        await serving
        await asyncio.to_thread(self.service.log.flush)
