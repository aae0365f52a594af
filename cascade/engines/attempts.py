"""One attempt at an OpenAI-compatible endpoint: what is sent, and what it means if it fails.

Every failure says whether another attempt may do better and whether this one may have been billed. Trying again,
caching and counting are `cascade.engines.endpoint`'s.
"""

from __future__ import annotations

import email.utils
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import openai

from cascade.engines.openai_format import Kind
from cascade.errors import CascadeError

MAX_WAIT_SECONDS = 60.0
"""The longest wait that a provider's ``Retry-After`` is followed for."""

# Nothing of a request had left for the endpoint at these; httpx and httpx2 call them the same.
_NEVER_SENT = frozenset({"ConnectError", "ConnectTimeout", "PoolTimeout"})
_RETRIED = frozenset({408, 409, 429})
# A gateway that gave up waiting does not know what the model behind it went on to bill.
_PERHAPS_BILLED = frozenset({408, 504})


class AttemptError(Exception):
    """An attempt failed, and another may not.

    Attributes:
        perhaps_billed: Whether the provider may charge for it nonetheless.
        wait: Seconds that it asks to wait.
        no_logprobs: Whether all that was wrong is that there were no log-probabilities.
        unconnected: Whether there was nobody to connect to.
    """

    def __init__(
        self,
        reason: str,
        perhaps_billed: bool,
        wait: float = 0.0,
        no_logprobs: bool = False,
        unconnected: bool = False,
    ) -> None:
        super().__init__(reason)
        self.perhaps_billed, self.wait = perhaps_billed, wait
        self.no_logprobs, self.unconnected = no_logprobs, unconnected


class QuestionError(Exception):
    """One request is given up.

    Attributes:
        bad_prompt: Whether the endpoint refuses the request itself, and bills nothing; else it was tried in vain.
    """

    def __init__(self, said: str, bad_prompt: bool = False) -> None:
        super().__init__(said)
        self.bad_prompt = bad_prompt


class RefusedError(CascadeError):
    """The endpoint refuses everybody who asks like this: the key, the account or the model. Nothing is billed."""


def send(client: openai.OpenAI, kind: Kind, request: Mapping[str, Any], api_key_env: str) -> bytes:
    """Sends a request once.

    Args:
        client: Without retries of its own.
        kind: Of `cascade.engines.openai_format`.
        request: What `build_request` made.
        api_key_env: Where the key is from, for errors; the key itself is kept out of them.

    Returns:
        The body of a response that has a good status.

    Raises:
        AttemptError, QuestionError, RefusedError: By what may be done about it.
    """
    rest = {name: value for name, value in request.items() if name not in ("model", "messages", "prompt")}
    model = request["model"]
    try:
        if kind == "chat":
            chat = client.chat.completions.with_raw_response
            return chat.create(model=model, messages=request["messages"], extra_body=rest).content
        completions = client.completions.with_raw_response
        return completions.create(model=model, prompt=request["prompt"], extra_body=rest).content
    except openai.APIStatusError as error:
        raise _status_error(client, error, model, api_key_env) from error
    except openai.APIConnectionError as error:
        cause = error.__cause__
        reason = f"{error.message} ({type(cause).__name__}: {cause})"
        name = type(cause).__name__
        sent = name not in _NEVER_SENT
        raise AttemptError(scrub(client, reason), sent, unconnected=name == "ConnectError") from error


def _status_error(client: openai.OpenAI, error: openai.APIStatusError, model: str, api_key_env: str) -> Exception:
    status = error.status_code
    said = scrub(client, f"status {status}: {error.message}")
    if status in (401, 402, 403) or error.code == "insufficient_quota":
        # The provider's own words are left out: they tend to repeat a part of the key.
        return RefusedError(
            f"Expected {client.base_url} to accept the key in {api_key_env} for {model!r}, but got status {status}; "
            f"check the key, its rights and the account's balance"
        )
    if status == 404:
        return RefusedError(f"Expected {client.base_url} to have a model {model!r}, but got {said}")
    if status in _RETRIED or status >= 500:
        return AttemptError(said, status in _PERHAPS_BILLED, wait=retry_after(error.response.headers))
    return QuestionError(said, bad_prompt=True)


def scrub(client: openai.OpenAI, text: str) -> str:
    """One line of bounded length, without the client's key."""
    return " ".join(text.replace(client.api_key, "[key]").split())[:300]


def retry_after(headers: Mapping[str, str]) -> float:
    """Seconds that a provider asks to wait, as a number or a date; 0 if it does not, at most `MAX_WAIT_SECONDS`."""
    value = headers.get("retry-after", "").strip()
    try:
        seconds = float(value)
    except ValueError:
        try:
            date = email.utils.parsedate_to_datetime(value)
        except ValueError:
            return 0.0  # not a wish that anybody could follow
        # A date without a zone is in GMT (RFC 9110, 5.6.7).
        seconds = ((date if date.tzinfo else date.replace(tzinfo=UTC)) - datetime.now(UTC)).total_seconds()
    return 0.0 if math.isnan(seconds) else min(max(seconds, 0.0), MAX_WAIT_SECONDS)
