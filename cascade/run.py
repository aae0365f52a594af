"""Answers a file of questions, or a task, with a live cascade: `python -m cascade.run`.

Without arguments: the miniature chain on the test split of mini-mmlu. The same policy as the simulator's decides; what
leaves early is not computed. A run that was killed goes on where it stopped, and no question is asked twice. Writes
answers.parquet (who answered what, at which cost), steps.parquet (every model that was tried) and scores.parquet (a
score table of every answer given), and summary.json.
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

from jsonargparse import ArgumentParser
from rich.console import Console
from rich.table import Table

from cascade.commands import PLAN_HELP, verb_parser
from cascade.engines.base import Prompt, prompt_of
from cascade.errors import CascadeError, one_line_errors
from cascade.miniature.families import MODEL_NAMES
from cascade.planning.costs import plan_cascade
from cascade.planning.table import print_plan
from cascade.policies.file import policy_json
from cascade.progress import progress
from cascade.runtime.build import build_cascade
from cascade.runtime.config import CascadeConfig
from cascade.runtime.costs import answer_costs, last_model_alone
from cascade.runtime.engine import Answer, Cascade, Journey
from cascade.runtime.journal import Journal
from cascade.runtime.results import Run, write_run
from cascade.tasks.load import load_questions
from cascade.tasks.task import Task
from probes.errors import ProbeError
from probes.files import file_name

ALL = "all"


def run(
    cascade: CascadeConfig | Cascade,
    questions: str | None = None,
    split: str | None = None,
    limit: int | None = None,
    runs: Path = Path("runs"),
    out: Path | None = None,
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

    Raises:
        CascadeError: If questions or configuration are not what they have to be, a model cannot tell the questions'
            option letters apart, or ``out`` holds another run.
    """
    if isinstance(cascade, Cascade):
        names, shots = list(cascade.names), 0 if cascade.task is None else cascade.task.shots
    else:
        names, shots = [member.name for member in cascade.members], cascade.shots
    task, label = _asked(questions, split, limit, names, shots)
    cascade = cascade if isinstance(cascade, Cascade) else build_cascade(cascade, task)
    prompts = [prompt_of(question, task) for question in task.questions]
    _check_letters(cascade, prompts)
    folder = out or _folder(runs, cascade.names, label, shots)
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
    finally:
        journal.close()
    result = Run(cascade, task, tuple(answers), answer_costs(cascade, answers), time.perf_counter() - started, folder)
    write_run(result, label)
    return result


def _check_letters(cascade: Cascade, prompts: Sequence[Prompt]) -> None:
    """Refuses a model that fails on every question of some letters: later ones would answer all, at their price."""
    letters = dict.fromkeys(prompt.letters for prompt in prompts if prompt.letters)
    for place in cascade.policy.places:
        for some in letters:
            cascade.models[place].check_letters(some)


def _folder(runs: Path, names: Sequence[str], label: str, shots: int) -> Path:
    marks = f"--{shots}-shot" if shots else ""
    return runs / "live" / f"{'+'.join(map(file_name, names))}--{label}{marks}"


def _asked(
    questions: str | None, split: str | None, limit: int | None, models: Sequence[str], shots: int
) -> tuple[Task, str]:
    """What is asked, and what it is called."""
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


def print_run(result: Run) -> None:
    """The summary as tables."""
    values, console = result.to_json(), Console(width=None if sys.stdout.isatty() else 120)
    table = Table(title=f"{values['questions']:,} questions, {result.cascade.policy.name}")
    for heading in ("model", "tried", "answered", "right", "P(IK) too low", "P(T) too low", "failed", "seconds"):
        table.add_column(heading, justify="left" if heading == "model" else "right")
    for stage in values["stages"]:
        right = "–" if stage["right"] is None else f"{stage['right']:,}"
        low = (stage["rejected_by_p_ik"] + stage["passed_by_reader"], stage["rejected_by_p_t"], stage["failed"])
        counts = (f"{stage['tried']:,}", f"{stage['answered']:,}", right, *(f"{n:,}" for n in low))
        table.add_row(stage["model"], *counts, f"{stage['seconds']:.2f}")
    console.print(table)
    for stage in values["stages"]:
        if first := stage["first_failure"]:
            which = f"{stage['failed']:,}, such as {first['question_id']!r}"
            print(f"{stage['model']} failed on {which}: {first['reason']}")
    if values["accuracy"] is not None:
        console.print(f"accuracy {values['accuracy']:.2%}")
    alone = values["flops_of_last_model_alone"]
    for unit, ledgers in values["cost"].items():
        said = [f"{ledger} {cost:.4g}" for ledger, cost in ledgers.items()]
        if unit == "flops" and alone:
            said = [f"{ledger} {cost / alone:.1%}" for ledger, cost in ledgers.items()]
            console.print(f"cost, as a share of {result.cascade.names[-1]} alone (FLOPs, eq. 5): {', '.join(said)}")
        else:
            console.print(f"cost in {unit}: {', '.join(said)}")
    console.print(f"measured: {values['seconds']:.2f} s in the models, early exits as they were")
    console.print(f"Wrote {result.folder}")


def build_parser() -> ArgumentParser:
    """The command line: what a cascade is made of, and what it is asked."""
    parser = verb_parser("run", __doc__)
    parser.add_argument("--config", action="config", help="YAML file of these flags")
    parser.add_class_arguments(CascadeConfig)
    parser.add_function_arguments(run, skip={"cascade"})
    parser.add_argument("--plan", action="store_true", help=PLAN_HELP)
    return parser


@one_line_errors(ProbeError)
def main(args: list[str] | None = None) -> None:
    """The entry point."""
    parser = build_parser()
    values = parser.instantiate(parser.parse_args(args)).as_dict()
    values.pop("config", None)
    own = {name: values.pop(name) for name in ("questions", "split", "limit", "runs", "out")}
    if values.pop("plan"):
        config = CascadeConfig(**values)
        names = [member.name for member in config.members]
        task, label = _asked(own["questions"], own["split"], own["limit"], names, config.shots)
        folder = own["out"] or _folder(own["runs"], names, label, config.shots)
        print_plan(plan_cascade(config, task, label, folder / "journal.jsonl"))
        return
    result = run(CascadeConfig(**values), **own)
    print_run(result)
    if failed := [answer for answer in result.answers if answer.failure]:
        raise CascadeError(
            f"{len(failed):,} of {len(result.answers):,} questions have no answer, such as {failed[0].question_id!r}: "
            f"{failed[0].failure}; the same command asks them again"
        )


if __name__ == "__main__":
    main()
