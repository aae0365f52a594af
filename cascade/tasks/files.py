"""Questions of one's own, from JSON lines or CSV.

One question a line: ``question``, and where they are known ``id``, ``subject``, ``choices`` (a list; in CSV a JSON
list) and ``answers`` (or ``answer``): the right choice, or accepted texts. A choice is named by its letter, by its
text, or in JSON by a number, its place from 0 on. A single letter of a choice always means that choice. An answer that
may name two choices is refused.
``split`` says ``dev`` of a question that is never asked, and only shown as an example where examples are asked for.
Other fields are left as they are and ignored. One that looks like a misspelt field (or is called ``options``) is
refused: without it, it would be another question.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from cascade.errors import CascadeError, json_fault
from cascade.tasks.base import LETTERS, Question

ENDINGS = (".jsonl", ".ndjson", ".csv")
_FIELDS = ("id", "question", "subject", "choices", "answer", "answers", "popularity", "split")
# Names that other data sets have for the same.
_MEANT = {
    "options": "choices",
    "option": "choices",
    "prompt": "question",
    "query": "question",
    "label": "answer",
    "target": "answer",
    "gold": "answer",
}


def read_questions(path: Path) -> tuple[Question, ...]:
    """The questions of a file that are asked, in its order; see `read_parts`."""
    return read_parts(path)[0]


def read_parts(path: Path) -> tuple[tuple[Question, ...], tuple[Question, ...]]:
    """Questions from a file, in its order: those that are asked, and those of its dev split.

    Args:
        path: ``.jsonl``, ``.ndjson`` or ``.csv``. Without ``id`` a question is named by its line.

    Raises:
        CascadeError: Naming the file and the line.
    """
    if path.suffix not in ENDINGS:
        raise CascadeError(f"Expected questions in a file of {', '.join(ENDINGS)}, but got {path}")
    if not path.is_file():
        raise CascadeError(f"Expected questions in {path}, but there is no such file")
    found: dict[str, list[Question]] = {"test": [], "dev": []}
    seen = dict[str, int]()
    for line, values in _rows(path):
        where = f"{path}, line {line}"
        values = {name: value for name, value in values.items() if value is not None}  # null: not known
        part = values.pop("split", "test")
        if part not in ("dev", "test"):
            raise CascadeError(f"Expected `split` in {where} to be dev (an example) or test (asked), but got {part!r}")
        question = _question(values, line, where)
        if question.id in seen:
            raise CascadeError(
                f"Expected unique ids, but {question.id!r} in {where} was there in line {seen[question.id]}"
            )
        seen[question.id] = line
        if part == "dev" and not question.answers:
            raise CascadeError(f"Expected an answer in {where}, as questions of the dev split are examples")
        found[part].append(question)
    if not found["test"]:
        raise CascadeError(f"Expected questions in {path}, but it holds none")
    return tuple(found["test"]), tuple(found["dev"])


def holds_questions(path: Path) -> bool:
    """Whether a file is one of questions, going by its first row, and not one of scores (``question_id``)."""
    if path.suffix not in ENDINGS or not path.is_file():
        return False
    first = next(iter(_rows(path)), None)
    return first is not None and "question" in first[1] and "question_id" not in first[1]


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            if path.suffix == ".csv":
                rows = csv.DictReader(file, strict=True)
                heads = rows.fieldnames or []
                if len(set(heads)) < len(heads):
                    twice = next(name for name in heads if heads.count(name) > 1)
                    raise CascadeError(f"Expected {path} to have each column once, but got {twice!r} twice")
                for row in rows:
                    if None in row or None in row.values():
                        raise CascadeError(f"Expected as many cells as columns in {path}, line {rows.line_num}")
                    yield rows.line_num, {name: cell for name, cell in row.items() if cell != ""}
                return
            for line, text in enumerate(file, 1):
                if not text.strip():
                    continue
                try:
                    values = json.loads(text)
                except ValueError as error:
                    raise CascadeError(f"Expected JSON in {path}, line {line}, but {json_fault(error)}") from error
                except RecursionError as error:
                    raise CascadeError(f"Expected JSON in {path}, line {line}, but it is nested too deep") from error
                if not isinstance(values, dict):
                    raise CascadeError(f"Expected a JSON object in {path}, line {line}, but got {text.strip()[:40]}")
                yield line, values
    except (UnicodeDecodeError, csv.Error) as error:
        raise CascadeError(f"Expected {path} to be {path.suffix[1:]} in UTF-8, but {error}") from error


def _question(values: dict[str, Any], line: int, where: str) -> Question:
    for name in sorted(set(values) - set(_FIELDS)):
        meant = _MEANT.get(name.lower()) or next(iter(get_close_matches(name.lower(), _FIELDS, 1, 0.8)), None)
        if meant is not None and meant not in values:
            raise CascadeError(
                f"Expected fields of {', '.join(_FIELDS)} in {where}, but got {name}; did you mean {meant}?"
            )
    if not isinstance(values.get("question"), str) or not values["question"].strip():
        raise CascadeError(f"Expected a text `question` in {where}, but got {values.get('question')!r}")
    if "answer" in values and "answers" in values:
        raise CascadeError(f"Expected `answer` or `answers` in {where}, but got both")
    choices = _texts(values.get("choices", []), "choices", where)
    accepted = values.get("answers", values.get("answer", []))
    if isinstance(accepted, str) and (accepted in choices or not accepted.startswith("[")):
        accepted = (accepted,)
    if choices and type(accepted) is int:
        accepted = (_letter_at(accepted, choices, where),)
    answers = _texts(accepted, "answers", where)
    if choices:
        answers = tuple(_letter(answer, choices, where) for answer in answers)
    if not all(answer.strip() for answer in answers):
        raise CascadeError(f"Expected no empty text among `answers` in {where}, as an empty answer would be right")
    popularity = values.get("popularity")
    try:
        return Question(
            id=str(values.get("id", line)),
            text=values["question"],
            subject=str(values.get("subject", "general knowledge")),
            answers=answers,
            choices=choices,
            popularity=None if popularity is None else int(popularity),
        )
    except (ValueError, TypeError, OverflowError) as error:
        raise CascadeError(f"{where}: {error}") from error


def _letter_at(place: int, choices: Sequence[str], where: str) -> str:
    if not 0 <= place < len(choices):
        raise CascadeError(f"Expected a number `answer` in {where} to be 0 to {len(choices) - 1}, but got {place}")
    return LETTERS[place : place + 1]


def _letter(answer: str, choices: Sequence[str], where: str) -> str:
    """The letter of a choice that is named by it or by its text; what is neither stays as it is."""
    letters = LETTERS[: len(choices)]
    if len(answer) == 1 and answer in letters:
        return answer
    meant = [letter for letter, text in zip(letters, choices, strict=False) if text.strip() == answer.strip()]
    # Digits may count the choices, in CSV at any rate, where there are no numbers.
    if meant and answer.isdecimal() and (place := int(answer)) < len(letters) and letters[place] not in meant:
        meant.append(letters[place])
    if len(meant) > 1:
        raise CascadeError(
            f"Expected `answer` in {where} to name one choice, but {answer!r} may be {' or '.join(meant)}; "
            f"give the letter"
        )
    return meant[0] if meant else answer


def _texts(value: Any, name: str, where: str) -> tuple[str, ...]:
    if isinstance(value, str):  # a cell of a CSV file
        try:
            value = json.loads(value)
        except ValueError as error:
            raise CascadeError(f"Expected `{name}` in {where} to be a JSON list, but {json_fault(error)}") from error
        except RecursionError as error:
            raise CascadeError(f"Expected `{name}` in {where} to be a JSON list, but it is nested too deep") from error
    if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
        raise CascadeError(f"Expected `{name}` in {where} to be a list of texts, but got {value!r}")
    if name == "choices" and len(value) == 1:
        raise CascadeError(f"Expected two or more `choices` in {where}, but got one")
    return tuple(value)
