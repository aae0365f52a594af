"""Evidence for a judge to read (grounding): any callable from a question to texts, and one that reads a file.

The paper grounds its judge in search results; we search nothing ourselves. A search API is a function of yours.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from cascade.errors import CascadeError, json_fault
from cascade.tasks.base import Question


class Evidence(Protocol):
    """Finds texts that bear on a question; none where there are none. Called once a case, from one thread."""

    def __call__(self, question: Question) -> Sequence[str]: ...  # noqa: D102


class EvidenceFile:
    """Evidence from JSON lines: ``id`` of the question, and ``evidence``, a text or a list of texts.

    Args:
        path: The file, in UTF-8. Several lines of one id add up; a question without a line has no evidence.

    Raises:
        CascadeError: Naming the file and the line.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise CascadeError(f"Expected evidence in {path}, but there is no such file")
        self._texts: dict[str, list[str]] = {}
        try:
            lines = path.read_text(encoding="utf-8-sig").split("\n")
        except UnicodeDecodeError as error:
            raise CascadeError(f"Expected {path} to be JSON lines in UTF-8, but {error}") from error
        for number, line in enumerate(lines, 1):
            if line.strip():
                id, texts = _entry(line, f"{path}, line {number}")
                self._texts.setdefault(id, []).extend(texts)

    def __call__(self, question: Question) -> Sequence[str]:
        """The texts of a question, in the file's order."""
        return self._texts.get(question.id, [])


def _entry(line: str, where: str) -> tuple[str, list[str]]:
    try:
        values = json.loads(line)
    except ValueError as error:
        raise CascadeError(f"Expected JSON in {where}, but {json_fault(error)}") from error
    texts = values.get("evidence") if isinstance(values, dict) else None
    texts = [texts] if isinstance(texts, str) else texts
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts) or "id" not in values:
        raise CascadeError(
            f"Expected `id` and `evidence`, a text or a list of texts, in {where}, but got {line.strip()[:60]!r}"
        )
    return str(values["id"]), texts
