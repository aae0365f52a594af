"""A task of another kind in one file: sums, whose answer is a number and right within a tolerance."""

from __future__ import annotations

import re

from cascade.tasks.base import Question
from cascade.tasks.task import OpenEnded

TOLERANCE = 2.0


class Sums(OpenEnded):
    """Put in the open-ended words of Table 7; answered by any text that begins with a number."""

    def judge(self, question: Question, answer: str) -> bool:
        """Whether the number is near enough."""
        number = re.match(r"-?\d+", answer)
        return number is not None and abs(float(number[0]) - float(question.answers[0])) <= TOLERANCE


def _sum(a: int, b: int) -> Question:
    return Question(f"sums/{a}+{b}", f"What is {a} plus {b}?", f"from {a - a % 15}", (str(a + b),))


def sums() -> Sums:
    """Sums of the miniature's training, and some to show as examples."""
    questions = tuple(_sum(a, b) for a in range(1, 31) for b in range(1, 16))
    return Sums("sums", questions, dev=lambda: tuple(_sum(a, b) for a in (1, 16, 30) for b in (20, 21)))
