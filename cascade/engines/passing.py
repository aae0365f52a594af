"""What it takes to pass a request on to an endpoint as a client wrote it: who does it, and what comes back or fails."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol


class RelayError(Exception):
    """A request that got no reply.

    Args:
        reason: All that is known, for a log.
        status: Of HTTP, where there was one.
        body: What the endpoint says of the request itself; ``None`` where it is nobody's business.
        wait: Seconds after which to come again.
        param: The field at fault, where the request was not sent.
    """

    def __init__(
        self,
        reason: str,
        status: int | None = None,
        body: bytes | None = None,
        wait: float = 0.0,
        param: str | None = None,
    ) -> None:
        super().__init__(reason)
        self.status, self.body, self.wait, self.param = status, body, wait, param


class CapError(RelayError):
    """The request might pass the spending cap."""


@dataclass
class Passed:
    """A reply on its way, to be closed by whoever got it.

    Attributes:
        media_type: Of the body.
        parts: The body.
        close: Closes the connection and writes down what was spent, however much was read.
        prompt_tokens, completion_tokens: By the endpoint's ``usage``; ``None`` until it has come.
        dollars: What is counted for it, when all has come; ``None`` where there is no price.
    """

    media_type: str
    parts: AsyncGenerator[bytes, None] = field(repr=False)
    close: Callable[[], Awaitable[None]] = field(repr=False)
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    dollars: float | None = None


class Relay(Protocol):
    """An endpoint, for requests as clients write them. Lives on one event loop."""

    async def send(self, path: str, request: Mapping[str, Any]) -> Passed:
        """Sends a request, and gives the reply as soon as it begins.

        Args:
            path: Below the endpoint's address: ``/chat/completions``.
            request: As the client wrote it, under whatever model's name.

        Raises:
            RelayError: If the cap does not allow it, or no good reply begins.
            CascadeError: If a key is missing, or what was spent cannot be written down.
        """
        ...

    async def close(self) -> None:
        """Closes the connections, when all that was spent is written down."""
        ...
