"""The commercial API of Tables 4 and 13: its answers to the test questions, over HTTP, through the `openai` client.

At the miniature scale the provider is `cascade.serve` on loopback, in a process of its own that is started for the
questions and ended after them. Replies lie on disk; where all of them do, nothing is started and nothing is sent.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from cascade.errors import CascadeError
from cascade.models.base import Failure, Reply
from cascade.models.endpoint import Endpoint
from cascade.models.local import LocalModel
from cascade.plan import Plan, plan_cascade
from cascade.runtime.config import CascadeConfig, Member, Price
from cascade.runtime.engine import prompt_of
from cascade.simulation.schema import SCHEMA, validate_scores, write_scores
from cascade.tasks.base import Question
from cascade.tasks.load import load_task
from experiments.paper.scales import API
from probes import stratified_split
from probes.files import file_name

if TYPE_CHECKING:
    from experiments.paper.lab import Lab

# The most that may ever be spent on a provider that is not ours, US dollars; the paper's run cost 0.93.
SPENDING_CAP = 5.0


def api_scores(lab: Lab, task: str) -> pa.Table:
    """The API's score table on a task's test questions; it is asked those whose answers do not lie on disk.

    Raises:
        CascadeError: If the server does not start, or some question has no answer.
    """
    wanted, known = _questions(lab, task), _known(lab, task)
    if missing := _missing(wanted, known):
        told = _told(lab, task, missing)
        known = told if known is None else pa.concat_tables([known, told])
        write_scores(known, API, _replies(lab, task))
    assert known is not None
    place = {id: row for row, id in enumerate(known["question_id"].to_pylist())}
    return known.take([place[question.id] for question in wanted])


def _told(lab: Lab, task: str, questions: list[Question]) -> pa.Table:
    """The API's score table on some questions, which it is asked now."""
    asked, folder = load_task(task), _replies(lab, task).parent
    folder.mkdir(parents=True, exist_ok=True)
    with served(lab.scale.served, folder) as url:
        endpoint = Endpoint(
            name=lab.scale.api,
            cache=folder / "requests.sqlite",
            base_url=url,
            kind=lab.scale.api_kind,
            price=lab.prices.models[API],
            spending_cap=SPENDING_CAP,
        )
        try:
            replies = endpoint.answer([prompt_of(question) for question in questions])
        finally:
            endpoint.release()
    records = []
    for question, reply in zip(questions, replies, strict=True):
        if isinstance(reply, Failure):
            raise CascadeError(f"{lab.scale.api} has no answer to {question.id!r}: {reply.reason}")
        records.append(
            {
                "question_id": question.id,
                "model": API,
                "correct": asked.judge(question, reply.text),
                "task": task,
                "subject": question.subject,
                "split": "test",
                "answer": question.answers[0],
                "prediction": reply.text,
            }
            | {name: getattr(reply, name) for name in ("p_t", "prompt_tokens", "completion_tokens", "seconds")}
        )
    fields = [field for field in SCHEMA if field.name in records[0]]
    return validate_scores(pa.Table.from_pylist(records, schema=pa.schema(fields)), f"the replies of {lab.scale.api}")


def _questions(lab: Lab, task: str, seeds: Sequence[int] = ()) -> list[Question]:
    """The test questions of the lab's split, or of several; in the order of the aligned chains, as a limit counts."""
    questions, wanted = load_task(task).questions, dict[str, Question]()
    ids, subjects = [q.id for q in questions], [q.subject for q in questions]
    for seed in seeds or (lab.seed,):
        test = [questions[row] for row in stratified_split(ids, subjects, seed).test]
        wanted |= {q.id: q for q in sorted(test, key=lambda question: question.id)[: lab.limit or None]}
    return list(wanted.values())


def _replies(lab: Lab, task: str) -> Path:
    return lab.out / "api" / f"{file_name(lab.scale.api)}--{file_name(task)}.parquet"


def _known(lab: Lab, task: str) -> pa.Table | None:
    path = _replies(lab, task)
    return validate_scores(pq.read_table(path), str(path)) if path.exists() else None


def _missing(questions: list[Question], known: pa.Table | None) -> list[Question]:
    answered = set(known["question_id"].to_pylist()) if known is not None else set()
    return [question for question in questions if question.id not in answered]


def api_plan(lab: Lab, task: str, seeds: Sequence[int]) -> Plan | None:
    """What a provider would charge for the test questions of some seeds' splits; ``None`` where it is asked nothing."""
    if lab.scale.served is not None or not (missing := _missing(_questions(lab, task, seeds), _known(lab, task))):
        return None
    member = Member(endpoint=lab.scale.api, price=Price(*lab.prices.models[API]), spending_cap=SPENDING_CAP)
    return plan_cascade(CascadeConfig(models=[member]), missing, task, lab.out / "api" / "none.jsonl")


def local_agreement(lab: Lab, task: str) -> tuple[int, float]:
    """How many of the API's answers are those of the same model asked here, and the largest difference of P(T)."""
    rows = {row["question_id"]: row for row in lab.table(API, task).to_pylist()}
    model = LocalModel(lab.scale.decoder(lab.scale.api, task))
    asked = [question for question in load_task(task).questions if question.id in rows]
    pairs = [
        (rows[question.id], reply)
        for question, reply in zip(asked, model.answer([prompt_of(q) for q in asked]), strict=True)
        if isinstance(reply, Reply) and reply.p_t is not None
    ]
    same = sum(row["prediction"] == reply.text for row, reply in pairs)
    return same, max(abs(row["p_t"] - (reply.p_t or 0.0)) for row, reply in pairs)


@contextlib.contextmanager
def served(config: Path | None, folder: Path) -> Iterator[str | None]:
    """The address of an OpenAI-compatible server of ours, started and ended; ``None`` where a provider runs one.

    Args:
        config: Of the cascade that it serves; each of its models is there under its own name.
        folder: For the server's log.
    """
    if config is None:
        yield None
        return
    log = folder / "server.log"
    command = [sys.executable, "-m", "cascade.serve", f"--config={config}", "--port=0"]
    with log.open("w") as errors:
        server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
        try:
            assert server.stdout is not None
            line = server.stdout.readline()  # said when the models are loaded; empty if the process ends before
            if " on http" not in line:
                last = (log.read_text().strip().splitlines() or ["it said nothing"])[-1]
                raise CascadeError(f"Expected the server of {config.name} to start, but {last}")
            yield line.rsplit(" on ", 1)[1].split()[0]
        finally:
            server.send_signal(signal.SIGTERM)
            try:
                server.wait(timeout=30)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()
            assert server.stdout is not None
            server.stdout.close()
