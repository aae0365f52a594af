"""Confidence-driven model cascades: a question goes to the smallest model that knows the answer.

Names are loaded when they are first used. What the verbs do (`cascade.train`, `.score`, `.simulate`, `.run`, `.serve`,
`.judge`, `.export`, `.plan`) stands in modules of these names.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cascade.errors import CascadeError
    from cascade.judging.llm import JudgeConfig, LLMJudge
    from cascade.policies.base import Thresholds
    from cascade.probing.data import ScoredTaskDataModule
    from cascade.probing.fit import Trained, fit
    from cascade.runtime.build import build_cascade
    from cascade.runtime.config import CascadeConfig, Member
    from cascade.runtime.engine import Answer, Cascade, Step
    from cascade.scores.reading import read_scores
    from cascade.scores.schema import validate_scores
    from cascade.tasks.base import Question
    from cascade.tasks.load import load_task
    from cascade.tasks.task import MultipleChoice, OpenEnded, Task

__version__ = "0.1.0"

_ROOMS = {
    "errors": ("CascadeError",),
    "judging.llm": ("JudgeConfig", "LLMJudge"),
    "policies.base": ("Thresholds",),
    "probing.data": ("ScoredTaskDataModule",),
    "probing.fit": ("Trained", "fit"),
    "runtime.build": ("build_cascade",),
    "runtime.config": ("CascadeConfig", "Member"),
    "runtime.engine": ("Answer", "Cascade", "Step"),
    "scores.reading": ("read_scores",),
    "scores.schema": ("validate_scores",),
    "tasks.base": ("Question",),
    "tasks.load": ("load_task",),
    "tasks.task": ("MultipleChoice", "OpenEnded", "Task"),
}
_ROOM_OF = {name: room for room, names in _ROOMS.items() for name in names}

__all__ = [
    "Answer",
    "Cascade",
    "CascadeConfig",
    "CascadeError",
    "JudgeConfig",
    "LLMJudge",
    "Member",
    "MultipleChoice",
    "OpenEnded",
    "Question",
    "ScoredTaskDataModule",
    "Step",
    "Task",
    "Thresholds",
    "Trained",
    "build_cascade",
    "fit",
    "load_task",
    "read_scores",
    "validate_scores",
]


def __getattr__(name: str) -> object:
    if name in _ROOM_OF:
        try:
            return getattr(importlib.import_module(f"cascade.{_ROOM_OF[name]}"), name)
        except ModuleNotFoundError as error:
            from cascade.errors import missing_extra

            if (missing := missing_extra(error)) is None:
                raise
            raise ModuleNotFoundError(missing, name=error.name) from error
    raise AttributeError(f"module 'cascade' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
