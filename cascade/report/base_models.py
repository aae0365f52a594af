"""What models are worth before anything is built on them: accuracy against chance, letters, option mass, confidences.

A probe or a chain of models that guess is built on noise, and its figures look like any others. These lines say so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np
import pyarrow as pa

from cascade.scores.arrays import ChainScores
from cascade.statistics.metrics import auroc, auroc_interval

Z = 1.96
"""Of 95 % intervals."""
NEARLY_ALWAYS = 0.95


@dataclass(frozen=True)
class BaseModel:
    """One model's answers.

    Attributes:
        name: The model.
        correct: ``[questions]``, bool.
        answers, predictions: ``[questions]``, text, or ``None`` where they are not known.
        option_mass: ``[questions]``, or ``None``.
        confidences: By name, ``[questions]``.
    """

    name: str
    correct: np.ndarray
    answers: np.ndarray | None
    predictions: np.ndarray | None
    option_mass: np.ndarray | None
    confidences: Mapping[str, np.ndarray]

    @property
    def letters(self) -> list[str]:
        """The right answers, where all are letters; none else."""
        found = [] if self.answers is None else sorted({str(answer) for answer in self.answers})
        return found if 1 < len(found) <= 26 and all(len(answer) == 1 for answer in found) else []

    @property
    def chance(self) -> float | None:
        """The accuracy of guessing among the letters; ``None`` where answers are no letters."""
        return 1 / len(self.letters) if self.letters else None

    @property
    def at_chance(self) -> bool:
        """Whether its accuracy is not shown to be above chance: within 1.96 standard errors of a guess."""
        if self.chance is None:
            return False
        error = sqrt(self.chance * (1 - self.chance) / len(self.correct))
        return bool(self.correct.mean() < self.chance + Z * error)

    @property
    def said(self) -> list[tuple[str, float]]:
        """The share of each answer that it gave, where answers are letters, commonest first."""
        if not self.letters or self.predictions is None:
            return []
        counts = Counter(map(str, self.predictions))
        return [(letter, count / len(self.correct)) for letter, count in counts.most_common()]

    @property
    def in_words(self) -> str:
        """Everything in a line."""
        parts = [f"{self.correct.mean():.1%} right of {len(self.correct):,}"]
        if self.chance is not None:
            parts[0] += f", chance {self.chance:.1%}"
        if self.said:
            parts.append("says " + " ".join(f"{letter or '–'} {share:.0%}" for letter, share in self.said[:10]))
        if self.option_mass is not None:
            parts.append(f"option mass {self.option_mass.mean():.2f}")
        return f"{self.name}: {'; '.join(parts)}"

    @property
    def warnings(self) -> list[str]:
        """What is not to be built on."""
        found = []
        if self.said and self.said[0][1] >= NEARLY_ALWAYS:
            letter, share = self.said[0]
            count = round(share * len(self.correct))
            found.append(f"{self.name} says {letter} on {count:,} of {len(self.correct):,} questions")
        right = int(self.correct.sum())
        for confidence, values in self.confidences.items():
            if 0 < right < len(self.correct):
                low, high = auroc_interval(auroc(values, self.correct), right, len(self.correct) - right)
                if low <= 0.5 <= high:
                    found.append(
                        f"{confidence} of {self.name} is not shown to tell right from wrong: AUROC's 95 % interval "
                        f"[{low:.3f}, {high:.3f}] holds 0.5"
                    )
        return found


def of_table(table: pa.Table) -> BaseModel:
    """The model of a score table of one."""

    def column(name: str) -> np.ndarray | None:
        held = name in table.column_names and not table[name].null_count
        values: np.ndarray | None = table[name].to_numpy() if held else None
        return values

    known = {"P(T)": column("p_t"), "P(IK)": column("p_ik")}
    return BaseModel(
        str(table["model"][0]),
        table["correct"].to_numpy().astype(bool),
        column("answer"),
        column("prediction"),
        column("option_mass"),
        {name: values for name, values in known.items() if values is not None},
    )


def of_chain(chain: ChainScores) -> list[BaseModel]:
    """The models of a chain."""
    found = []
    for model in chain.models:
        known = {"P(T)": model.signals.p_t, "P(IK)": model.signals.p_ik}
        confidences = {name: values for name, values in known.items() if values is not None}
        # The last model answers whatever its confidence.
        confidences = {} if model is chain.models[-1] else confidences
        told = chain.answers, model.predictions, model.option_mass
        found.append(BaseModel(model.name, model.correct, *told, confidences))
    return found


def print_base(models: Sequence[BaseModel]) -> None:
    """Prints what models are worth, and warns of what is noise."""
    for model in models:
        print(model.in_words)
    guessing = [model.name for model in models if model.at_chance]
    warnings = [warning for model in models for warning in model.warnings]
    if len(guessing) > 1:
        warnings.append(f"{' and '.join(guessing)} are both at chance" if len(guessing) == 2 else "")
        warnings[-1] = warnings[-1] or f"{', '.join(guessing)} are all at chance"
        warnings[-1] += ": what a chain of them saves or loses is luck"
    elif guessing:
        warnings.append(f"{guessing[0]} is not shown to be better than chance")
    for warning in warnings:
        print(f"Warning: {warning}")
