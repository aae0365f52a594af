"""What is asked: questions, prompts, judging."""

from cascade.tasks.base import Question
from cascade.tasks.task import MultipleChoice, OpenEnded, Task

__all__ = ["MultipleChoice", "OpenEnded", "Question", "Task"]
