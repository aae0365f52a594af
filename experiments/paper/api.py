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
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from cascade.engines.base import Failure, Price, Reply, prompt_of
from cascade.engines.settings import DecoderConfig
from cascade.errors import CascadeError
from cascade.planning.costs import Plan, plan_cascade
from cascade.runtime.config import CascadeConfig, Member
from cascade.scores.row import score_row
from cascade.scores.schema import SCHEMA, validate_scores, write_scores
from cascade.tasks.base import Question
from cascade.tasks.load import load_task
from experiments.paper.scales import API, Scale
from probes.files import file_name


@dataclass(frozen=True)
class Provider:
    """The API, and where its replies are kept.

    Attributes:
        scale: Which endpoint, and the cascade that is served in its place.
        out: Folder of what the tables are made of.
        price: Of its tokens.
    """

    scale: Scale
    out: Path
    price: Price

    @property
    def member(self) -> Member:
        """The endpoint with its price."""
        return Member(replace(self.scale.api, price=self.price))

    def replies(self, task: str) -> Path:
        """The score table of its replies to a task."""
        where = self.scale.api.base_url
        named = f"{self.scale.api.name}{f' at {where}' if where else ''}"
        return self.out / "api" / f"{file_name(named)}--{file_name(task)}.parquet"

    def known(self, task: str) -> pa.Table | None:
        """What lies on disk of it."""
        path = self.replies(task)
        return validate_scores(pq.read_table(path), str(path)) if path.exists() else None


def api_scores(api: Provider, task: str, wanted: Sequence[Question]) -> pa.Table:
    """The API's score table on some questions of a task; it is asked those whose answers do not lie on disk.

    Raises:
        CascadeError: If the server does not start, or some question has no answer.
    """
    known = api.known(task)
    if missing := _missing(wanted, known):
        told = _told(api, task, missing)
        known = told if known is None else pa.concat_tables([known, told], promote_options="default")
        write_scores(known, API, api.replies(task))
    assert known is not None
    place = {id: row for row, id in enumerate(known["question_id"].to_pylist())}
    return known.take([place[question.id] for question in wanted])


_OF_REPLIES = (
    "question_id model correct attempted p_t task subject split answer prediction prompt_tokens completion_tokens "
    "seconds"
).split()


def _told(api: Provider, task: str, questions: Sequence[Question]) -> pa.Table:
    """The API's score table on some questions, which it is asked now."""
    asked, folder = load_task(task), api.replies(task).parent
    folder.mkdir(parents=True, exist_ok=True)
    with served(api.scale.served, folder) as url:
        where, cache = url or api.scale.api.base_url, folder / "requests.sqlite"
        settings = replace(api.scale.api, price=api.price, base_url=where, cache=cache)
        # Nobody is asked after it, so that a provider's P(T) is for nothing.
        endpoint = settings.build(needs_confidence=api.scale.served is not None)
        try:
            replies = endpoint.answer([prompt_of(question, asked) for question in questions])
        finally:
            endpoint.release()
    records = []
    for question, reply in zip(questions, replies, strict=True):
        if isinstance(reply, Failure):
            if not reply.refusal:
                raise CascadeError(f"{settings.name} has no answer to {question.id!r}: {reply.reason}")
            reply = Reply("", 0, 0, 0.0)  # what it cost is not known
        records.append(
            score_row(
                question.id,
                API,
                asked.judge(question, reply.text),
                attempted=bool(reply.text),
                task=task,
                subject=question.subject,
                split="test",
                answer=question.answers[0],
                prediction=reply.text,
                p_t=reply.p_t,
                prompt_tokens=reply.prompt_tokens,
                completion_tokens=reply.completion_tokens,
                seconds=reply.seconds,
            )
        )
    fields = [field for field in SCHEMA if field.name in _OF_REPLIES]
    return validate_scores(pa.Table.from_pylist(records, schema=pa.schema(fields)), f"the replies of {settings.name}")


def _missing(questions: Sequence[Question], known: pa.Table | None) -> list[Question]:
    answered = set(known["question_id"].to_pylist()) if known is not None else set()
    return [question for question in questions if question.id not in answered]


def api_plan(api: Provider, task: str, wanted: Sequence[Question]) -> Plan | None:
    """What a provider would charge for some questions of a task; ``None`` where it is asked nothing."""
    if api.scale.served is not None or not (missing := _missing(wanted, api.known(task))):
        return None
    asked = load_task(task)
    missing_part = replace(asked, questions=tuple(missing))
    return plan_cascade(CascadeConfig(models=[api.member]), missing_part, task, api.out / "api" / "none.jsonl")


def local_agreement(table: pa.Table, decoder: DecoderConfig, task: str) -> tuple[int, float]:
    """How many of the API's answers are those of the same model asked here, and the largest difference of P(T)."""
    rows = {row["question_id"]: row for row in table.to_pylist()}
    model = decoder.build()
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
