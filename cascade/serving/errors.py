"""What a client is told when something is not as it has to be: OpenAI's error shape, and the status that goes with it.

Errors of ours that a client cannot mend stay in the log; here are only those that are said over HTTP.
"""

from __future__ import annotations

import re
from typing import Any

_LONGEST_MESSAGE = 500
_STATUS = re.compile(r"(?:\d+ attempts, the last of which: )?status (\d{3})\b")


class ApiError(Exception):
    """A request that is answered with an error.

    Args:
        status: Of HTTP.
        message: What was expected, and what came; cut where it is very long.
        param: The field of the request that is at fault.
        code: A word that programs can go by.
        kind: OpenAI's ``type``.
        headers: Of the reply.
        more: Further fields of the reply's body, beside ``error``.
    """

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        code: str | None = None,
        kind: str = "invalid_request_error",
        headers: dict[str, str] | None = None,
        more: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.param, self.code, self.kind = status, param, code, kind
        self.message = message if len(message) <= _LONGEST_MESSAGE else message[:_LONGEST_MESSAGE] + " …"
        self.headers, self.more = headers or {}, more or {}

    @property
    def body(self) -> dict[str, Any]:
        """The reply's body."""
        error = {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}
        return {"error": error, **self.more}


def wrong(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    """A request that has to be another one: 400."""
    return ApiError(400, message, param, code)


def busy(limit: int, seconds: int) -> ApiError:
    """A queue that is full: 429, and when to come back."""
    return ApiError(
        429,
        f"Expected at most {limit} questions under way, but there is no room for more; try again in {seconds} s",
        code="queue_full",
        kind="rate_limit_error",
        headers={"retry-after": str(seconds)},
    )


def unavailable(message: str, code: str, more: dict[str, Any] | None = None) -> ApiError:
    """A server that cannot answer just now: 503."""
    return ApiError(503, message, code=code, kind="server_error", more=more)


def client_gone() -> ApiError:
    """A client that did not wait for its reply: 499, for the log alone."""
    return ApiError(499, "The client closed the connection", code="client_gone")


def told_failure(model: str, reason: str) -> str:
    """What a client is told of a stage's failure.

    A provider's own words may name hosts, accounts and users that are nobody's business; of them only the status is
    told. What is wrong with a prompt is said in words of ours, and those are.
    """
    if reason.startswith(("Expected a prompt ", "Expected the tokenizer ", f"{model} could not be asked (")):
        return reason
    if reason.startswith(f"{model} refused to answer"):
        return f"{model} refused to answer"
    status = _STATUS.match(reason)
    return f"{model} failed with status {status[1]}" if status else f"{model} failed"
