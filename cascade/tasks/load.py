"""Tasks by the name they have on the command line: a miniature's, a benchmark's on the Hub, or a file of one's own."""

from __future__ import annotations

from pathlib import Path

from cascade.errors import CascadeError
from cascade.tasks.base import Task
from cascade.tasks.files import ENDINGS, read_questions
from cascade.tasks.hub import HUB_TASKS, load_hub_task
from cascade.tasks.miniature import BENCHMARKS, benchmark
from probes.files import file_name

TASK_NAMES = (*BENCHMARKS, *HUB_TASKS)

# Where probes for a task are trained: the paper's GPQA table reads those of MMLU. All others are trained on the task.
PROBED_ON = {"mini-gpqa": "mini-mmlu", "mini-popqa": "mini-mmlu", "gpqa": "mmlu"}


def load_task(name: str) -> Task:
    """A task by its name on the command line, or by the path of a file (JSON lines, CSV) of questions and answers.

    Raises:
        CascadeError: If there is no such task, or it cannot be loaded.
    """
    if name in BENCHMARKS:
        return benchmark(name)
    if name in HUB_TASKS:
        return load_hub_task(name)
    if Path(name).suffix in ENDINGS:
        return file_task(Path(name))
    raise CascadeError(
        f"Expected `task` to be one of {', '.join(TASK_NAMES)}, or a file ({', '.join(ENDINGS)}), but got {name!r}"
    )


def file_task(path: Path) -> Task:
    """A file's questions as a task, which is named by the file.

    Raises:
        CascadeError: If a question has no answer, or some have choices and others have not.
    """
    questions = read_questions(path)
    chosen = [question for question in questions if question.choices]
    if chosen and len(chosen) < len(questions):
        bare = next(question for question in questions if not question.choices)
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
    return Task(file_name(path.name), "multiple_choice" if chosen else "open_ended", questions)
