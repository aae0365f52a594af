"""Answers a task, or a file of questions, with a live cascade: what `cascade.run` calls.

A run that was killed goes on where it stopped, by its journal, and no question is asked twice.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cascade.engines.base import Prompt, prompt_of
from cascade.errors import CascadeError, Interrupted
from cascade.miniature.families import MODEL_NAMES
from cascade.policies.file import policy_json
from cascade.progress import progress
from cascade.runtime.build import build_cascade
from cascade.runtime.config import CascadeConfig
from cascade.runtime.costs import answer_costs, last_model_alone
from cascade.runtime.engine import Answer, Cascade, Journey
from cascade.runtime.journal import Journal
from cascade.runtime.results import Run, write_run
from cascade.runtime.verdicts import read_verdicts, watch_run
from cascade.tasks.load import load_questions
from cascade.tasks.task import Task
from probes.files import file_name

ALL = "all"


def run(
    cascade: CascadeConfig | Cascade,
    questions: str | None = None,
    split: str | None = None,
    limit: int | None = None,
    runs: Path = Path("runs"),
    out: Path | None = None,
    verdicts: Path | None = None,
) -> Run:
    """Answers questions with a cascade, resuming where an earlier run was cut off.

    Args:
        cascade: The cascade, or what it is made of.
        questions: Name of a task, or a file (JSON lines, CSV) with ``question`` and, where known, ``id``, ``subject``,
            ``choices`` and ``answers``; by default mini-mmlu, where there is a miniature among the models.
        split: Of a task: train, validation or test (as its probes were), or all; by default test where
            probes are the task's own, and all where they are another's (mini-gpqa, mini-popqa, gpqa).
        limit: Only so many questions, from the first on.
        runs: Folder of runs.
        out: Folder of this one; by default one under RUNS/live.
        verdicts: What was right, where the questions do not say; see `cascade.runtime.verdicts`.

    Raises:
        CascadeError: If questions or configuration are not what they have to be, a model cannot tell the questions'
            option letters apart, or ``out`` holds another run.
    """
    if isinstance(cascade, Cascade):
        names, shots = list(cascade.names), 0 if cascade.task is None else cascade.task.shots
    else:
        names, shots = [member.name for member in cascade.members], cascade.shots
    task, label = asked_of(questions, split, limit, names, shots)
    cascade = cascade if isinstance(cascade, Cascade) else build_cascade(cascade, task, runs)
    told = None if verdicts is None else read_verdicts(verdicts, {question.id for question in task.questions})
    prompts = [prompt_of(question, task) for question in task.questions]
    _check_letters(cascade, prompts)
    folder = out or folder_of(runs, cascade.names, label, shots)
    started = time.perf_counter()
    journal = Journal(folder / "journal.jsonl", _identity(cascade, task))
    try:
        journeys = [cascade.start(prompt) for prompt in prompts]
        if known := journal.resume(journeys):
            print(f"Resuming: {known:,} of {len(prompts):,} questions are in {journal.path} already", file=sys.stderr)
        with _Bar(cascade, task, journeys) as bar:

            def keep(some: Sequence[Journey]) -> None:
                journal.write(some)
                bar.show(some)

            answers = cascade.answer_many((), progress=False, on_step=keep, journeys=journeys)
    except KeyboardInterrupt:
        raise Interrupted(
            f"Stopped; what was answered is in {journal.path}, and the same command goes on there"
        ) from None
    finally:
        journal.close()
    seconds = time.perf_counter() - started
    watch = watch_run(cascade, task, answers, told)
    result = Run(cascade, task, tuple(answers), answer_costs(cascade, answers), seconds, folder, watch)
    write_run(result, label)
    return result


def _check_letters(cascade: Cascade, prompts: Sequence[Prompt]) -> None:
    """Refuses a model that fails on every question of some letters: later ones would answer all, at their price."""
    letters = dict.fromkeys(prompt.letters for prompt in prompts if prompt.letters)
    for place in cascade.policy.places:
        for some in letters:
            cascade.models[place].check_letters(some)


def folder_of(runs: Path, names: Sequence[str], label: str, shots: int) -> Path:
    """Where a run is kept by default."""
    marks = f"--{shots}-shot" if shots else ""
    return runs / "live" / f"{'+'.join(map(file_name, names))}--{label}{marks}"


def asked_of(
    questions: str | None, split: str | None, limit: int | None, models: Sequence[str], shots: int
) -> tuple[Task, str]:
    """What is asked, and what it is called.

    Args:
        questions: Name of a task, or a file; by default mini-mmlu, where there is a miniature among ``models``.
        split: See `run`.
        limit: See `run`.
        models: Names of the cascade's models.
        shots: Examples in each prompt.

    Raises:
        CascadeError: If there is no question.
    """
    if questions is None:
        if not set(models) & set(MODEL_NAMES):
            raise CascadeError(
                f"Expected `questions`, a task or a file, for {', '.join(models)}, but got none; mini-mmlu, which is "
                f"asked by default, is about the miniatures' own world"
            )
        questions = "mini-mmlu"
    task = _part(load_questions(questions, shots), Path(questions), split)
    task = task.take(range(len(task.questions))[: limit if limit is None else max(limit, 0)])
    if not task.questions:
        raise CascadeError(f"Expected at least one question, but got limit={limit} of {questions}")
    return task, file_name(Path(questions).stem)


def _part(task: Task, source: Path, split: str | None) -> Task:
    """Some part of a task's questions; of a file's always all."""
    if source.suffix:
        if split not in (None, ALL):
            raise CascadeError(f"Expected `split` of a task, but {source} is a file")
        return task
    split = split or (ALL if task.probed_on else "test")
    if split == ALL:
        return task
    if split not in ("train", "validation", "test"):
        raise CascadeError(f"Expected `split` to be train, validation, test or all, but got {split!r}")
    return task.take(getattr(task.split(), split))


def _identity(cascade: Cascade, task: Task) -> dict[str, Any]:
    """All that the answers depend on."""
    digest = hashlib.sha256()
    for question in (*task.questions, *task.examples):
        digest.update(json.dumps(asdict(question)).encode())
    return {
        "questions": digest.hexdigest()[:16],
        "policy": policy_json(cascade.policy, cascade.names, cascade.normalize),
        "models": [model.identity for model in cascade.models],
        "readers": {str(place): reader.identity for place, reader in cascade.readers.items()},
    }


class _Bar:
    """Progress over the questions that are at their end: accuracy so far, cost, and who answered."""

    def __init__(self, cascade: Cascade, task: Task, journeys: Sequence[Journey]) -> None:
        self._cascade, self._task = cascade, task
        self._by_id = {question.id: question for question in task.questions}
        self._answered, self._right, self._flops = [0] * len(cascade.models), 0, 0.0
        self._bar = progress(len(journeys), " → ".join(cascade.names))
        self.show(journeys)

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def show(self, journeys: Sequence[Journey]) -> None:
        """Counts those that are at their end now."""
        ended = [Answer.of(journey) for journey in journeys if journey.done]
        for answer in ended:
            question = self._by_id[answer.question_id]
            if answer.model is not None:
                self._answered[self._cascade.names.index(answer.model)] += 1
                self._right += bool(question.answers) and self._task.judge(question, answer.text)
        shown: dict[str, str] = {}
        if (alone := last_model_alone(self._cascade)) and ended:
            self._flops += float(answer_costs(self._cascade, ended)["flops"]["early-exit"].sum())
        self._bar.update(len(ended))
        if done := sum(self._answered):
            if all(question.answers for question in self._by_id.values()):
                shown["right"] = f"{self._right / done:.1%}"
            if alone:
                shown["cost"] = f"{self._flops / done / alone:.0%}"
            shown["by"] = "/".join(f"{n / done:.0%}" for n in self._answered)
            self._bar.set_postfix(shown)
