"""One interface for every judge, and the one that needs no model.

A judge says of each answer whether it is correct, incorrect, or was not attempted. It knows nothing of score tables;
`cascade.judge` puts the two together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from cascade.tasks.base import Question
from cascade.tasks.judging import Verdict, exact_match_verdict


@dataclass(frozen=True)
class Case:
    """A question, and the answer to be judged.

    Attributes:
        question: With its accepted answers.
        prediction: What some model answered.
    """

    question: Question
    prediction: str


class Judge(Protocol):
    """Says what answers are worth."""

    def judge(self, cases: Sequence[Case], on_verdict: Callable[[], None] | None = None) -> list[Verdict]:
        """One verdict a case, in order.

        Args:
            cases: Any number.
            on_verdict: Called about once a case as work goes on, for a progress bar.

        Raises:
            CascadeError: If some case gets no verdict; it is named. A verdict is never guessed.
        """
        ...


class ExactMatchJudge:
    """Normalised exact match over the accepted answers; costs nothing."""

    def judge(self, cases: Sequence[Case], on_verdict: Callable[[], None] | None = None) -> list[Verdict]:
        """See `Judge`."""
        found = []
        for case in cases:
            found.append(exact_match_verdict(case.prediction, case.question.answers))
            if on_verdict is not None:
                on_verdict()
        return found
