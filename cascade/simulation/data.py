"""What is simulated on: whose scores, of which questions. Starts without scipy, numba and torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cascade.errors import CascadeError
from cascade.tasks.load import names_task
from probes.files import file_name


@dataclass(frozen=True)
class Data:
    """What is simulated on.

    Attributes:
        scores: Score tables to simulate from: logs of any format, folders of them, data frames. Without them, or with
            the name of a task, the models are run where needed.
        columns: From the schema's names to those of SCORES, where they differ, as --columns.p_t=confidence.
        task: Task to simulate on, where the models are run, or a file of questions and answers (JSON lines, CSV).
            Probes are trained on it; those of mini-gpqa and mini-popqa on mini-mmlu, those of gpqa on mmlu.
        evaluate_on: More data for the chosen policy, everything frozen: tasks, score tables, or folders of these.
            Without a column correct they are taken for unlabelled logs.
        recertify: Labelled questions of another kind, as one of EVALUATE_ON: they certify what is recommended, and all
            the others may choose it.
        split: Only questions of this split (not of EVALUATE_ON, whose test part is taken where there is one). By
            default thresholds are found on validation and all is reported on test; scores without these splits are
            halved by the questions' ids, training questions left out.
        normalize: Read P(T) renormalised over the options instead of raw.
    """

    scores: list[Any] | None = None
    columns: dict[str, str] | None = None
    task: str = "mini-mmlu"
    evaluate_on: list[str] | None = None
    recertify: str | None = None
    split: str | None = None
    normalize: bool = False

    def __post_init__(self) -> None:
        first = self.scores[0] if self.scores else None
        if isinstance(first, Path) and is_task(first):  # given in the place of score tables
            task, *more = map(str, self.scores or ())
            if more:
                raise CascadeError(f"Expected one task to calibrate on, but got {task}, {', '.join(more)}")
            object.__setattr__(self, "task", task)
            object.__setattr__(self, "scores", None)

    @property
    def label(self) -> str:
        """For the name of a folder."""
        return "scores" if self.scores else file_name(Path(self.task).name)


def is_task(data: Path) -> bool:
    """Whether a path is the name of a task, or a file of questions, and not of scores.

    A log of a format of its own is never taken for questions.
    """
    from cascade.scores.reading import is_claimed

    return names_task(str(data)) and not is_claimed(data)
