"""Tasks by the name they have on the command line: a miniature's, a benchmark's on the Hub, or a file of one's own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from cascade.errors import CascadeError
from cascade.tasks.base import Question
from cascade.tasks.files import ENDINGS, holds_questions, read_parts
from cascade.tasks.hub import HUB_TASKS, load_hub_task
from cascade.tasks.miniature import BENCHMARKS, benchmark
from cascade.tasks.task import LooseQuestions, MultipleChoice, OpenEnded, Task
from probes.files import file_name

TASKS: dict[str, Callable[[], Task]] = {
    **{name: partial(benchmark, name) for name in BENCHMARKS},
    **{name: partial(load_hub_task, name) for name in HUB_TASKS},
}
"""From a task's name to what loads it; another task is one entry more."""


def load_task(name: str, shots: int = 0) -> Task:
    """A task by its name on the command line, or by the path of a file (JSON lines, CSV) of questions and answers.

    Args:
        name: In `TASKS`, or a path.
        shots: Examples in each prompt, from the task's dev split.

    Raises:
        CascadeError: If there is no such task, it cannot be loaded, or has not so many examples.
    """
    if name in TASKS:
        return TASKS[name]().with_shots(shots)
    if Path(name).suffix in ENDINGS:
        return file_task(Path(name)).with_shots(shots)
    raise CascadeError(
        f"Expected `task` to be one of {', '.join(TASKS)}, or a file ({', '.join(ENDINGS)}), but got {name!r}"
    )


def load_questions(name: str, shots: int = 0) -> Task:
    """What is to be asked: a task, or a file of questions of any kind, with or without answers.

    Raises:
        CascadeError: As `load_task`.
    """
    if name in TASKS:
        return load_task(name, shots)
    path = Path(name)
    if path.suffix not in ENDINGS:
        raise CascadeError(
            f"Expected `questions` to be a task ({', '.join(TASKS)}) or a file ({', '.join(ENDINGS)}), but got {name!r}"
        )
    asked, dev = read_parts(path)
    if shots and len({bool(question.choices) for question in (*asked, *dev)}) > 1:
        raise CascadeError(f"Expected questions with choices or without in {path} to show examples, and not both")
    return LooseQuestions(file_name(path.name), asked, None, *_examples(asked, dev)).with_shots(shots)


def names_task(name: str) -> bool:
    """Whether a text is the name of a task, or of a file of questions, and not of scores."""
    return holds_questions(Path(name)) if Path(name).exists() else name in TASKS


def file_task(path: Path) -> Task:
    """A file's questions as a task, which is named by the file.

    Raises:
        CascadeError: If a question has no answer, or some have choices and others have not.
    """
    questions, dev = read_parts(path)
    every = (*questions, *dev)
    chosen = [question for question in every if question.choices]
    if chosen and len(chosen) < len(every):
        bare = next(question for question in every if not question.choices)
        raise CascadeError(
            f"Expected questions with choices or without in {path}, and not both, but {chosen[0].id!r} has some and "
            f"{bare.id!r} has none"
        )
    if unanswered := [question.id for question in questions if not question.answers]:
        raise CascadeError(
            f"Expected `answers` for every question in {path}, as answers are judged by them, but {unanswered[0]!r} "
            f"has none"
        )
    if several := [question.id for question in chosen if len(question.answers) > 1]:
        raise CascadeError(f"Expected one letter as the answer of {several[0]!r} in {path}, as it has choices")
    kind = MultipleChoice if chosen else OpenEnded
    return kind(file_name(path.name), questions, None, *_examples(questions, dev))


def _examples(
    asked: Sequence[Question], dev: tuple[Question, ...]
) -> tuple[Callable[[], tuple[Question, ...]] | None, bool]:
    """What gives a file's examples, and whether there are some for each subject that is asked about."""
    counts = Counter(question.subject for question in dev)
    return (lambda: dev) if dev else None, all(question.subject in counts for question in asked)
