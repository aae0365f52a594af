"""The paper's benchmarks, and ARC-Challenge: from rows in the Hub's schema to questions. Pure functions.

`cascade.tasks.hub` loads the rows.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from cascade.errors import CascadeError, json_fault
from cascade.tasks.base import LETTERS, Question

GPQA_SHUFFLE_SEED = 0

Row = Mapping[str, Any]


def mmlu_questions(rows: Iterable[Row]) -> tuple[Question, ...]:
    """MMLU (``cais/mmlu``): ``question``, ``subject``, ``choices`` (four texts), ``answer`` (0 to 3).

    Texts are kept as they are. A question is named by its subject and its place within it, in the rows' order:
    ``mmlu/abstract_algebra/12``.

    Raises:
        CascadeError: If a row is not of this schema.
    """
    found, places = [], Counter[str]()
    for number, row in enumerate(rows):
        where = f"row {number} of MMLU"
        subject, choices = _text(row, "subject", where), _texts(row, "choices", where)
        answer = _value(row, "answer", where)
        if type(answer) is not int or not 0 <= answer < len(choices):
            raise CascadeError(f"Expected `answer` in {where} to be 0 to {len(choices) - 1}, but got {answer!r}")
        id = f"mmlu/{subject}/{places[subject]}"
        places[subject] += 1
        text = _text(row, "question", where)
        found.append(_question(where, id, text, subject.replace("_", " "), (LETTERS[answer],), choices))
    return tuple(found)


def gpqa_questions(rows: Iterable[Row], seed: int = GPQA_SHUFFLE_SEED) -> tuple[Question, ...]:
    """GPQA (``Idavidrein/gpqa``): ``Question``, ``Correct Answer``, ``Incorrect Answer 1`` to ``3``, ``Record ID``.

    The right answer comes first in the source, so the options are sorted by a hash of the seed, the record and the
    option's place. A question's order depends on nothing else. White space around texts is dropped. The subject is
    ``High-level domain``; the id is ``gpqa/<Record ID>``.

    Raises:
        CascadeError: If a row is not of this schema.
    """
    found = []
    for number, row in enumerate(rows):
        where = f"row {number} of GPQA"
        record = _text(row, "Record ID", where)
        options = [_text(row, name, where).strip() for name in _GPQA_OPTIONS]
        order = sorted(range(len(options)), key=lambda i: hashlib.sha256(f"{seed}/{record}/{i}".encode()).digest())
        found.append(
            _question(
                where,
                f"gpqa/{record}",
                _text(row, "Question", where).strip(),
                _text(row, "High-level domain", where).strip().lower(),
                (LETTERS[order.index(0)],),
                tuple(options[i] for i in order),
            )
        )
    return tuple(found)


_GPQA_OPTIONS = ("Correct Answer", "Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3")


def popqa_questions(rows: Iterable[Row]) -> tuple[Question, ...]:
    """PopQA (``akariasai/PopQA``): ``id``, ``question``, ``prop``, ``s_pop``, ``possible_answers`` (a JSON list).

    Open-ended. The subject is the relation, the popularity the asked entity's monthly page views; ``popqa/<id>``.

    Raises:
        CascadeError: If a row is not of this schema.
    """
    found = []
    for number, row in enumerate(rows):
        where = f"row {number} of PopQA"
        accepted = _text(row, "possible_answers", where)
        try:
            answers = json.loads(accepted)
        except ValueError as error:
            raise CascadeError(
                f"Expected `possible_answers` in {where} to be a JSON list, but {json_fault(error)}"
            ) from error
        if not isinstance(answers, list) or not answers or not all(isinstance(a, str) and a for a in answers):
            raise CascadeError(f"Expected `possible_answers` in {where} to be texts, but got {accepted[:80]!r}")
        id, views = _value(row, "id", where), _value(row, "s_pop", where)
        if type(id) is not int or type(views) is not int:
            raise CascadeError(f"Expected `id` and `s_pop` in {where} to be whole numbers, but got {id!r}, {views!r}")
        text, relation = _text(row, "question", where), _text(row, "prop", where)
        found.append(_question(where, f"popqa/{id}", text, relation, tuple(answers), (), views))
    return tuple(found)


def arc_questions(rows: Iterable[Row]) -> tuple[Question, ...]:
    """ARC (``allenai/ai2_arc``): ``id``, ``question``, ``choices`` (``text`` and ``label`` lists), ``answerKey``.

    Three to five options, labelled by letters or by numbers there and by letters here; ``arc-challenge/<id>``.

    Raises:
        CascadeError: If a row is not of this schema.
    """
    found = []
    for number, row in enumerate(rows):
        where = f"row {number} of ARC"
        choices, key = _value(row, "choices", where), _text(row, "answerKey", where)
        if not isinstance(choices, Mapping):
            raise CascadeError(f"Expected `choices` in {where} to hold text and label, but got {choices!r}")
        texts, labels = _texts(choices, "text", where), _texts(choices, "label", where)
        if len(labels) != len(texts) or len(set(labels)) != len(labels) or key not in labels:
            raise CascadeError(
                f"Expected a label for each of {len(texts)} choices in {where}, `answerKey` among them, but got "
                f"{', '.join(labels)} and {key!r}"
            )
        id, text = _text(row, "id", where), _text(row, "question", where)
        answer = (LETTERS[labels.index(key)],)
        found.append(_question(where, f"arc-challenge/{id}", text, "grade-school science", answer, texts))
    return tuple(found)


def _question(
    where: str,
    id: str,
    text: str,
    subject: str,
    answers: tuple[str, ...],
    choices: tuple[str, ...],
    popularity: int | None = None,
) -> Question:
    try:
        return Question(id, text, subject, answers, choices, popularity)
    except ValueError as error:
        raise CascadeError(f"{where}: {error}") from error


def _value(row: Row, column: str, where: str) -> Any:
    try:
        return row[column]
    except KeyError:
        raise CascadeError(
            f"Expected a column {column!r} in {where}, but got {', '.join(map(str, row))}: the dataset has changed"
        ) from None


def _text(row: Row, column: str, where: str) -> str:
    value = _value(row, column, where)
    if not isinstance(value, str) or not value:
        raise CascadeError(f"Expected a text {column!r} in {where}, but got {value!r}")
    return value


def _texts(row: Row, column: str, where: str) -> tuple[str, ...]:
    value = _value(row, column, where)
    if not isinstance(value, Sequence) or isinstance(value, str) or not all(isinstance(item, str) for item in value):
        raise CascadeError(f"Expected {column!r} in {where} to be a list of texts, but got {value!r}")
    return tuple(value)
