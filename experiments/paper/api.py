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
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from cascade.errors import CascadeError
from cascade.models.base import Failure, Reply
from cascade.models.local import LocalModel
from cascade.plan import Plan, plan_cascade
from cascade.runtime.config import CascadeConfig, Member, Price, build_model
from cascade.runtime.engine import prompt_of
from cascade.simulation.schema import SCHEMA, validate_scores, write_scores
from cascade.tasks.base import Question
from cascade.tasks.load import load_task
from experiments.paper.scales import API
from probes.files import file_name

if TYPE_CHECKING:
    from experiments.paper.lab import Lab


def api_scores(lab: Lab, task: str) -> pa.Table:
    """The API's score table on a task's test questions; it is asked those whose answers do not lie on disk.

    Raises:
        CascadeError: If the server does not start, or some question has no answer.
    """
    wanted, known = _questions(lab, task), _known(lab, task)
    if missing := _missing(wanted, known):
        told = _told(lab, task, missing)
        known = told if known is None else pa.concat_tables([known, told], promote_options="default")
        write_scores(known, API, _replies(lab, task))
    assert known is not None
    place = {id: row for row, id in enumerate(known["question_id"].to_pylist())}
    return known.take([place[question.id] for question in wanted])


def _told(lab: Lab, task: str, questions: list[Question]) -> pa.Table:
    """The API's score table on some questions, which it is asked now."""
    asked, folder = load_task(task), _replies(lab, task).parent
    folder.mkdir(parents=True, exist_ok=True)
    with served(lab.scale.served, folder) as url:
        member = replace(_member(lab), base_url=url or lab.scale.api.base_url, cache=folder / "requests.sqlite")
        # Nobody is asked after it, so that a provider's P(T) is for nothing.
        endpoint = build_model(member, last=lab.scale.served is None)
        try:
            replies = endpoint.answer([prompt_of(question) for question in questions])
        finally:
            endpoint.release()
    records = []
    for question, reply in zip(questions, replies, strict=True):
        if isinstance(reply, Failure):
            if not reply.refusal:
                raise CascadeError(f"{member.name} has no answer to {question.id!r}: {reply.reason}")
            reply = Reply("", 0, 0, 0.0)  # what it cost is not known
        records.append(
            {
                "question_id": question.id,
                "model": API,
                "correct": asked.judge(question, reply.text),
                "attempted": bool(reply.text),
                "task": task,
                "subject": question.subject,
                "split": "test",
                "answer": question.answers[0],
                "prediction": reply.text,
            }
            | {name: getattr(reply, name) for name in ("p_t", "prompt_tokens", "completion_tokens", "seconds")}
        )
    fields = [field for field in SCHEMA if field.name in records[0]]
    return validate_scores(pa.Table.from_pylist(records, schema=pa.schema(fields)), f"the replies of {member.name}")


def _questions(lab: Lab, task: str, seeds: Sequence[int] = ()) -> list[Question]:
    """The test questions of the lab's split, or of several seeds', each once."""
    labs = [replace(lab, seed=seed) for seed in seeds] or [lab]
    return list({question.id: question for each in labs for question in each.questions(task)}.values())


def _member(lab: Lab) -> Member:
    """The endpoint with its price."""
    return replace(lab.scale.api, price=Price(*lab.prices.models[API]))


def _replies(lab: Lab, task: str) -> Path:
    where = lab.scale.api.base_url
    named = f"{lab.scale.api.name}{f' at {where}' if where else ''}"
    return lab.out / "api" / f"{file_name(named)}--{file_name(task)}.parquet"


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
    return plan_cascade(CascadeConfig(models=[_member(lab)]), missing, task, lab.out / "api" / "none.jsonl")


def local_agreement(lab: Lab, task: str) -> tuple[int, float]:
    """How many of the API's answers are those of the same model asked here, and the largest difference of P(T)."""
    rows = {row["question_id"]: row for row in lab.table(API, task).to_pylist()}
    model = LocalModel(lab.scale.decoder(lab.scale.api.name, task))
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
