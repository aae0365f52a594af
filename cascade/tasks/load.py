"""Tasks by the name they have on the command line."""

from __future__ import annotations

from cascade.errors import CascadeError
from cascade.miniature.questions import BENCHMARKS, benchmark
from cascade.tasks.base import Task

TASK_NAMES = BENCHMARKS


def load_task(name: str) -> Task:
    """A task by its name on the command line.

    Raises:
        CascadeError: If there is no such task.
    """
    if name not in TASK_NAMES:
        raise CascadeError(f"Expected `task` to be one of {', '.join(TASK_NAMES)}, but got {name!r}")
    return benchmark(name)
