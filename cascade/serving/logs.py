"""One line of JSON for everything that happens, without the text of questions unless that is asked for.

Lines are written by a thread of their own, so that a reader who has stopped reading stops nobody but the log.
"""

from __future__ import annotations

import os
import queue
import sys
import threading
import traceback
from datetime import UTC, datetime
from typing import TextIO

from cascade.engines.base import Prompt
from cascade.errors import CascadeError
from cascade.serving.replies import to_json

_QUOTED = 16
"""Characters in common with a question by which a text is said to quote it."""


_MOST_WAITING = 10_000
"""Lines that wait to be written. What comes on top of them is lost, and counted."""


class Log:
    """Writes lines.

    Args:
        stream: Where to; by default stderr as it is at each line.
        text: Whether questions and answers may be written.
    """

    def __init__(self, stream: TextIO | None = None, text: bool = False) -> None:
        self.stream, self.text = stream, text
        self._waiting: queue.Queue[str] = queue.Queue(_MOST_WAITING)
        self._lost = 0
        self._lock = threading.Lock()
        self._writer: threading.Thread | None = None

    def write(self, event: str, **values: object) -> None:
        """One line: the time, what happened, and its values. Waits for nobody."""
        with self._lock:
            try:
                if self._lost:
                    self._waiting.put_nowait(_line("lines_lost", {"lines": self._lost}))
                    self._lost = 0
                self._waiting.put_nowait(_line(event, values))
            except queue.Full:
                self._lost += 1
            if self._writer is None:
                self._writer = threading.Thread(target=self._write, name="log", daemon=True)
                self._writer.start()

    def flush(self, seconds: float = 5.0) -> bool:
        """Waits until everything is written, or for so long; whether it is."""
        with self._waiting.all_tasks_done:
            return self._waiting.all_tasks_done.wait_for(lambda: not self._waiting.unfinished_tasks, seconds)

    def _write(self) -> None:
        while True:
            line = self._waiting.get()
            try:
                _put(self.stream or sys.stderr, line)
            except (OSError, ValueError):
                pass  # the stream is closed or full, and there is nowhere else to say so
            finally:
                self._waiting.task_done()

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


def _line(event: str, values: dict[str, object]) -> str:
    time = datetime.now(UTC).isoformat(timespec="milliseconds")
    return to_json({"time": time, "event": event, **values}).decode() + "\n"


def _put(stream: TextIO, line: str) -> None:
    try:
        file = stream.fileno()
    except OSError:  # a stream that is no file of the system, as in tests
        stream.write(line)
        stream.flush()
        return
    # Past the stream: a write that waits would hold the stream's lock, and the interpreter needs that lock to end.
    data = line.encode()
    while data:
        data = data[os.write(file, data) :]
