"""Outputs of the OpenAI batch API and of vLLM's `run_batch`, with a key: a file of the right answers.

The key lies beside the outputs, or in the folder above: `key.jsonl` or `key.csv`, with `id` (or `custom_id`), `answer`
or `answers`, and where there are some `choices`. A file of questions is one. Answers are judged as those of a live run
are: a letter by the letter, a text by normalised exact match.

P(T) is the probability of the answer's first token, where the requests asked for `logprobs`.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from cascade.errors import CascadeError
from cascade.scores.readers.base import LogFormat, first_record, inside, records, table_of, taken
from cascade.scores.row import score_row
from cascade.tasks.base import LETTERS, Question

KEYS = ("key.jsonl", "key.csv")


def knows(path: Path) -> bool:
    """Whether a file's first line is a response of a batch."""
    return {"custom_id", "response"} <= first_record(path).keys()


def read(path: Path) -> pa.Table:
    """The responses as rows; they may be of several models.

    Raises:
        CascadeError: If there is no key, it lacks a question, or a request has no answer.
    """
    key, rows, failed = _key(path), [], []
    for line, response in records(path):
        where = f"{path}, line {line}"
        name, body = taken(response, where, "custom_id"), inside(response, "response", "body") or response["response"]
        if response.get("error") or not inside(body, "choices"):
            failed.append((name, response.get("error") or inside(body, "error") or "no choices"))
            continue
        if name not in key:
            raise CascadeError(f"Expected the right answer of {name!r} in the key beside {path}, but it is not there")
        rows.append(_row(name, body, key[name], where))
    if failed:
        raise CascadeError(
            f"Expected an answer to every request in {path}, but {len(failed)} have none, such as {failed[0][0]!r} "
            f"({str(failed[0][1])[:120]}); ask these again, or leave them out of every model's file"
        )
    return table_of(rows, path)


def _row(name: str, body: dict[str, Any], question: Question, where: str) -> dict[str, Any]:
    from cascade.tasks.task import kind_of

    choice, kind = body["choices"][0], kind_of(question)
    text = inside(choice, "message", "content") or choice.get("text") or ""
    answer = kind.read_sample(question, text.strip())
    return score_row(
        name,
        taken(body, where, "model"),
        kind.judge(question, answer),
        attempted=kind.attempted(question, answer),
        answer=question.answers[0],
        prediction=answer,
        p_t=_p_t(choice, where),
        prompt_tokens=inside(body, "usage", "prompt_tokens"),
        completion_tokens=inside(body, "usage", "completion_tokens"),
    )


def _p_t(choice: dict[str, Any], where: str) -> float | None:
    """The first token's probability: of a chat completion, or of a completion."""
    content, bare = inside(choice, "logprobs", "content"), inside(choice, "logprobs", "token_logprobs")
    first = inside(content[0], "logprob") if content else (bare[0] if bare else None)
    if first is None:
        return None
    if not isinstance(first, int | float) or not first <= 1e-3:
        raise CascadeError(f"Expected a log-probability of at most 0 in {where}, but got {first!r}")
    return min(math.exp(first), 1.0)


def _key(path: Path) -> dict[str, Question]:
    """The right answers, as questions by their ids."""
    files = [folder / name for folder in (path.parent, path.parent.parent) for name in KEYS]
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        raise CascadeError(
            f"Expected {' or '.join(KEYS)} beside {path}, with `id` and `answer` of every request, as a batch does not "
            f"say what is right, but there is none"
        )
    found = dict[str, Question]()
    rows = [(line, values) for line, values in _key_rows(file)]
    said = {str(values.get("answer") or values.get("answers")) for _, values in rows}
    # A key of bare letters is of questions with that many choices.
    letters = LETTERS[: max((LETTERS.find(a) for a in said), default=0) + 1] if said <= set(LETTERS) else ""
    for line, values in rows:
        where = f"{file}, line {line}"
        name = values.get("custom_id", values.get("id"))
        right = values.get("answers", values.get("answer"))
        if name is None or right in (None, "", []):
            raise CascadeError(f"Expected `id` and `answer` in {where}, but got {', '.join(values) or 'nothing'}")
        if str(name) in found:
            raise CascadeError(f"Expected unique ids, but {name!r} in {where} was there before")
        choices = values.get("choices") or letters
        choices = tuple(json.loads(choices) if isinstance(choices, str) and choices.startswith("[") else choices)
        answers = tuple(map(str, right)) if isinstance(right, list) else (str(right),)
        try:
            found[str(name)] = Question(str(name), str(values.get("question", name)), "", answers, choices)
        except ValueError as error:
            raise CascadeError(f"{where}: {error}") from error
    return found


def _key_rows(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    if file.suffix != ".csv":
        yield from records(file)
        return
    with file.open(encoding="utf-8-sig", newline="") as text:
        rows = csv.DictReader(text, strict=True)
        for row in rows:
            yield rows.line_num, row


FORMAT = LogFormat("outputs of a batch (OpenAI, vLLM)", (".jsonl",), read, knows)
