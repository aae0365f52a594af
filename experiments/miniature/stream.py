"""What the miniatures are trained on: prompts about the world that no benchmark asks, step by step."""

from __future__ import annotations

import random
from dataclasses import dataclass

from cascade.tasks.base import Question, multiple_choice_prompt, open_ended_prompt
from cascade.tasks.miniature import (
    ABSTENTION,
    ALGORITHMIC,
    FACTUAL,
    IN_CONTEXT,
    SUBJECTS,
    Problem,
    deal,
    fact,
    held_out_prompts,
)
from cascade.tasks.world import RELATIONS, build_world


@dataclass(frozen=True)
class Example:
    """A training prompt and what should follow it."""

    prompt: str
    completion: str


class TrainingStream:
    """Batches of training examples. Batch ``step`` depends on the seed and the step alone, so training resumes.

    Every fourth batch is open-ended, which teaches the facts directly; the others are multiple choice. At first
    more of those, later a few ask "Which option says X?", which teaches what the letters are for. Looking up what the
    question itself says is found only by models that meet it often, early on: ``in_context`` is the share of
    such questions in the first three tenths of training, beside what the subjects give.
    """

    LETTERS_FIRST, LETTERS_UNTIL = 0.15, 0.2

    IN_CONTEXT_UNTIL = 0.3

    def __init__(self, seed: int, steps: int, in_context: float = 0.0) -> None:
        self.seed, self.steps, self.in_context = seed, steps, in_context
        self.world = build_world()
        self.held_out = held_out_prompts()
        self._weights = {kind: self.world.weights(kind) for kind in self.world.entities}
        self._relations = {s: [r for r in RELATIONS if r.subject == s] for s in FACTUAL}

    def batch(self, step: int, size: int) -> list[Example]:
        """The examples of one step; none of them is a benchmark prompt."""
        rng = random.Random(f"train-{self.seed}-{step}")
        progress = step / self.steps
        open_ended = step % 4 == 0
        make = self._open_ended if open_ended else self._multiple_choice
        size *= 2 if open_ended else 1  # these are half as long
        examples: list[Example] = []
        while len(examples) < size:
            example = make(rng, progress)
            if example.prompt not in self.held_out:
                examples.append(example)
        return examples

    def _subject(self, rng: random.Random, subjects: tuple[str, ...], progress: float) -> str:
        if self.in_context and progress < self.IN_CONTEXT_UNTIL and rng.random() < self.in_context:
            return rng.choice(IN_CONTEXT)
        return rng.choice(subjects)

    def _problem(self, rng: random.Random, subject: str) -> tuple[Problem, float]:
        """A one-step problem, and how obscure the thing asked about is (0 famous … 1 obscure)."""
        if subject in ALGORITHMIC:
            return ALGORITHMIC[subject](rng, self.world), 0.0
        relation = rng.choice(self._relations[subject])
        members = self.world.entities[relation.kind]
        entity = rng.choices(members, self._weights[relation.kind])[0]
        problem = fact(relation, entity.name, rng.choice(relation.templates), rng, self.world)
        return problem, entity.rank / len(members)

    def _multiple_choice(self, rng: random.Random, progress: float) -> Example:
        subject = self._subject(rng, SUBJECTS, progress)
        problem, _ = self._problem(rng, subject)
        if rng.random() < (self.LETTERS_FIRST if progress < self.LETTERS_UNTIL else 0.05):
            problem = Problem(f"Which option says {problem.answer}?", problem.answer, problem.wrong)
        choices, letter = deal(problem, rng)
        return Example(multiple_choice_prompt(Question("", problem.text, subject, (letter,), choices)), f" {letter}")

    def _open_ended(self, rng: random.Random, progress: float) -> Example:
        if rng.random() < 0.06:  # somebody nobody has heard of
            relation = rng.choice([r for r in RELATIONS if r.kind in self.world.strangers])
            text = rng.choice(relation.templates).format(rng.choice(self.world.strangers[relation.kind]))
            return Example(open_ended_prompt(Question("", text, "", ("",))), ABSTENTION)
        problem, obscurity = self._problem(rng, self._subject(rng, (*SUBJECTS, *FACTUAL), progress))
        completion = ABSTENTION if rng.random() < 0.5 * obscurity**2 else f"Answer: {problem.answer}"
        return Example(open_ended_prompt(Question("", problem.text, "", ("",))), completion)
