"""One line of JSON for everything that happens, without the text of questions unless that is asked for."""

from __future__ import annotations

import sys
import threading
import traceback
from datetime import UTC, datetime
from typing import TextIO

from cascade.errors import CascadeError
from cascade.models.base import Prompt
from cascade.serving.replies import to_json

_QUOTED = 16
"""Characters in common with a question by which a text is said to quote it."""


class Log:
    """Writes lines.

    Args:
        stream: Where to; by default stderr as it is at each line.
        text: Whether questions and answers may be written.
    """

    def __init__(self, stream: TextIO | None = None, text: bool = False) -> None:
        self.stream, self.text = stream, text
        self._lock = threading.Lock()

    def write(self, event: str, **values: object) -> None:
        """One line: the time, what happened, and its values."""
        time = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = to_json({"time": time, "event": event, **values}).decode() + "\n"
        stream = self.stream or sys.stderr
        with self._lock:
            stream.write(line)
            stream.flush()

    def failure(self, prompt: Prompt, model: str, reason: str) -> None:
        """One line with the reason why a model failed on a question, which clients are not told.

        A provider may quote the question in it; then it is there only where text may be written.
        """
        pieces = (reason[i : i + _QUOTED] for i in range(max(1, len(reason) - _QUOTED + 1)))
        quoted = not self.text and any(piece in prompt.text for piece in pieces)
        self.write(
            "question_failed",
            question=prompt.question_id,
            model=model,
            reason="left out: it quotes the question" if quoted else reason,
        )

    def error(self, event: str, error: BaseException, **values: object) -> None:
        """One line with an error's kind and where it came from.

        Its message is there for errors of ours, which name questions by their ids; that of others may quote a prompt,
        and is there only where text may be written.
        """
        chain: list[dict[str, object]] = []
        one: BaseException | None = error
        while one is not None and len(chain) < 5:
            told = self.text or isinstance(one, CascadeError)
            frames = [line.rstrip() for line in traceback.format_tb(one.__traceback__)]
            chain.append({"kind": type(one).__name__, "message": str(one) if told else None, "traceback": frames})
            one = one.__cause__ or one.__context__
        self.write(event, **values, errors=chain)
