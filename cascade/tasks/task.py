"""Tasks: what is asked, how it is put, and how an answer is read and judged.

`Task` holds the questions and all that is the same for every task: ids, revisions, the split, examples. A subclass
says how its questions are put and judged; `MultipleChoice` and `OpenEnded` are the paper's two kinds. A task of
another kind is one subclass and one entry in `cascade.tasks.load.TASKS`. Nothing here knows of models.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import ClassVar

from cascade.errors import CascadeError
from cascade.tasks.base import (
    ANSWER_PREFIX,
    OPEN_ENDED_HEADER,
    Question,
    after_prefix,
    hash_template,
    multiple_choice_body,
    multiple_choice_header,
    open_ended_body,
)
from cascade.tasks.judging import abstains, exact_match, normalize_answer
from probes.split import Split, stratified_split

_FREE_LETTER = re.compile(r"[\s(*]*([A-J])(?![A-Za-z])")


@dataclass(frozen=True)
class Task:
    """A named list of questions that are put, read and judged in one way.

    A subclass defines `header`, `body` and `judge`, and overrides of the rest what differs. A question's prompt is the
    header, then each example's body and answer with an empty line after it, then the question's body: the usual
    few-shot form of MMLU (Hendrycks et al. 2021). Without examples it is the paper's Table 7.

    Attributes:
        name: Name on the command line, such as ``mini-mmlu``.
        questions: Those that are asked, in a fixed order, ids unique.
        probed_on: Name of the task whose probes read this one; ``None`` where probes are trained on the task itself.
        dev: Gives the questions that examples are taken from, none of which is asked; ``None`` where there are none.
        by_subject: Whether the examples are of the question's own subject.
        shots: Examples in each prompt; see `with_shots`.
        examples: The questions of the dev split that the prompts show.
    """

    name: str
    questions: tuple[Question, ...] = field(repr=False)
    probed_on: str | None = None
    dev: Callable[[], Sequence[Question]] | None = field(default=None, repr=False, compare=False)
    by_subject: bool = True
    shots: int = 0
    examples: tuple[Question, ...] = field(default=(), repr=False)

    sample: ClassVar[Question] = Question("id", "text", "subject", ("A",))
    """A question that stands for the wording of all: its prompt is hashed."""
    max_new_tokens: ClassVar[int] = 16
    """Tokens of the longest answer, where it is generated and not a letter."""
    answer_prefix: ClassVar[bool] = True
    """Whether an answer begins with "Answer", whose probability P(T) is then; else P(T) is the first token's own."""

    def __post_init__(self) -> None:
        seen: set[str] = set()
        for question in self.questions:
            if question.id in seen:
                raise ValueError(f"Task {self.name!r}: expected unique question ids, but {question.id!r} repeats")
            seen.add(question.id)
            self.check(question)

    def check(self, question: Question) -> None:
        """Raises `ValueError` where a question cannot be one of this task."""
        if not question.answers:
            raise ValueError(f"Question {question.id!r}: expected at least one accepted answer, but got none")

    # What a subclass says.

    def header(self, question: Question) -> str:
        """The instruction before the question."""
        raise NotImplementedError

    def body(self, question: Question) -> str:
        """The question without its instruction, up to where the answer begins."""
        raise NotImplementedError

    def solution(self, question: Question) -> str:
        """What follows an example's body: its answer, in the format that is asked for."""
        return f"{ANSWER_PREFIX} {question.answers[0]}"

    def letters(self, question: Question) -> tuple[str, ...]:
        """The option letters, one of which is the next token; none where the answer is generated."""
        return ()

    def read(self, question: Question, text: str) -> str:
        """The answer in what a model gave: a letter, or a generated text."""
        return after_prefix(text)

    def read_sample(self, question: Question, text: str) -> str:
        """The answer in a text that was generated freely, even where a letter is the answer."""
        return self.read(question, text)

    def judge(self, question: Question, answer: str) -> bool:
        """Whether an answer, as `read` gives it, is right."""
        raise NotImplementedError

    def attempted(self, question: Question, answer: str) -> bool | None:
        """Whether an answer is an attempt; ``None`` where every answer is.

        A right answer is an attempt even where it reads as an abstention.
        """
        return self.judge(question, answer) or not abstains(answer)

    def same(self, question: Question, first: str, second: str) -> bool:
        """Whether two answers to a question say the same: after normalisation (case, punctuation, articles)."""
        return normalize_answer(first) == normalize_answer(second)

    # What is the same for all.

    def prompt(self, question: Question) -> str:
        """The text given to the model, examples included."""
        return self._put(question, self.examples_for(question))

    def _put(self, question: Question, examples: Sequence[Question]) -> str:
        return f"{self._before(question, examples)}{self.body(question)}"

    def _before(self, question: Question, examples: Sequence[Question]) -> str:
        shown = "".join(f"{self.body(example)}{self.solution(example)}\n\n" for example in examples)
        return f"{self.header(question)}\n{shown}"

    def shared(self, question: Question) -> str:
        """What a question's prompt begins with as others with its examples do; nothing where it shows none."""
        if not self.shots:
            return ""
        before = self._before(question, self.examples_for(question))
        return before if self.prompt(question).startswith(before) else ""

    def examples_for(self, question: Question) -> tuple[Question, ...]:
        """The examples in a question's prompt: the first of its subject, or of all, and never the question itself.

        Raises:
            CascadeError: If there are fewer than `shots`.
        """
        if not self.shots:
            return ()
        pool = self._pools.get(question.subject, ()) if self.by_subject else self.examples
        found = tuple(example for example in pool if example.text != question.text)[: self.shots]
        if len(found) < self.shots:
            whose = f"of the subject {question.subject!r} " if self.by_subject else ""
            raise CascadeError(
                f"Expected at least {self.shots} dev questions {whose}in {self.name} as examples, but there are "
                f"{len(found)}; ask for fewer `shots`"
            )
        return found

    @cached_property
    def _pools(self) -> dict[str, tuple[Question, ...]]:
        pools: dict[str, list[Question]] = {}
        for example in self.examples:
            pools.setdefault(example.subject, []).append(example)
        return {subject: tuple(pool) for subject, pool in pools.items()}

    def with_shots(self, shots: int) -> Task:
        """The same task with some examples in each prompt, from its dev split.

        Raises:
            CascadeError: If there is no dev split, or too few questions in it.
        """
        if shots < 0:
            raise CascadeError(f"Expected `shots` to be at least 0, but got {shots}")
        if not shots:
            return replace(self, shots=0, examples=())
        if self.dev is None:
            raise CascadeError(f"Expected `shots` to be 0 for {self.name}, which has no dev split, but got {shots}")
        asked = {question.id for question in self.questions}
        if both := [question.id for question in self.dev() if question.id in asked]:
            raise CascadeError(f"Expected a dev split of {self.name} that is not asked, but {both[0]!r} is in both")
        whole = replace(self, shots=shots, examples=tuple(self.dev()))
        # Only what is shown: the revision knows these, and not what else the dev split holds.
        shown = {e.id for question in self.questions for e in whole.examples_for(question)}
        return replace(whole, examples=tuple(e for e in whole.examples if e.id in shown))

    def take(self, rows: Sequence[int]) -> Task:
        """The same task with some of its questions only."""
        return replace(self, questions=tuple(self.questions[row] for row in rows))

    def split(self, seed: int = 0) -> Split:
        """Rows of train, validation and test: 80/10/10 within each subject; see `probes.split`."""
        return stratified_split([q.id for q in self.questions], [q.subject for q in self.questions], seed)

    @cached_property
    def revision(self) -> str:
        """SHA-256 over every question, in order, and the examples: with the same one the same things are asked."""
        digest = hashlib.sha256()
        shown = [[self.shots], *map(_row, self.examples)] if self.shots else []
        for row in [*map(_row, self.questions), *shown]:
            digest.update(json.dumps(row, ensure_ascii=False).encode() + b"\n")
        return digest.hexdigest()

    @cached_property
    def sample_prompt(self) -> str:
        """The prompt of a fixed question, after as many fixed examples, which stands for the wording of all."""
        return self._put(self.sample, [self.sample] * self.shots)

    @property
    def template_hash(self) -> str:
        """Hash of the prompt's wording and of the number of examples; which examples they are is in `revision`."""
        return hash_template(self.sample_prompt)

    @property
    def label(self) -> str:
        """The name, and how many shots where there are some: for names of folders."""
        return f"{self.name}-{self.shots}-shot" if self.shots else self.name


def _row(q: Question) -> list[object]:
    return [q.id, q.text, q.subject, list(q.answers), list(q.choices), q.popularity]


class MultipleChoice(Task):
    """The answer is the letter of a choice, and the token after the prompt."""

    sample = Question("id", "text", "subject", ("A",), ("w", "x", "y", "z"))

    def check(self, question: Question) -> None:
        """At least two choices."""
        super().check(question)
        if len(question.choices) < 2:
            raise ValueError(f"Question {question.id!r}: expected at least two choices in a multiple-choice task")

    def header(self, question: Question) -> str:
        """Names the subject and the letters (Table 7)."""
        return multiple_choice_header(question)

    def body(self, question: Question) -> str:
        """Question, choices, and "Answer:" (Table 7)."""
        return multiple_choice_body(question)

    def solution(self, question: Question) -> str:
        """The letter after "Answer:"."""
        return f" {question.answers[0]}"

    def letters(self, question: Question) -> tuple[str, ...]:
        """One for each choice."""
        return question.letters

    def read(self, question: Question, text: str) -> str:
        """The letter as it is."""
        return text

    def read_sample(self, question: Question, text: str) -> str:
        """One of the question's letters where the text begins with it, else the first line."""
        match = _FREE_LETTER.match(text)
        return match[1] if match and match[1] in question.letters else after_prefix(text)

    def judge(self, question: Question, answer: str) -> bool:
        """Whether it is the right letter."""
        return answer == question.answers[0]

    def attempted(self, question: Question, answer: str) -> bool | None:
        """Some letter is always chosen."""
        return None

    def same(self, question: Question, first: str, second: str) -> bool:
        """Whether they are the same letter."""
        return first == second


class OpenEnded(Task):
    """The answer is generated, and right where it is one of the accepted texts after normalisation."""

    def header(self, question: Question) -> str:
        """Table 7's."""
        return OPEN_ENDED_HEADER

    def body(self, question: Question) -> str:
        """The question alone: "Answer:" is the model's to say (appendix F of the paper)."""
        return open_ended_body(question)

    def judge(self, question: Question, answer: str) -> bool:
        """Normalised exact match over the accepted answers."""
        return exact_match(answer, question.answers)


MULTIPLE_CHOICE, OPEN_ENDED = MultipleChoice("multiple choice", ()), OpenEnded("open-ended", ())


def kind_of(question: Question) -> Task:
    """How a question is put and judged that comes without a task: by its choices."""
    return MULTIPLE_CHOICE if question.choices else OPEN_ENDED


def wordings(shots: int = 0) -> tuple[Task, ...]:
    """Both of Table 7's kinds, without questions, with some examples in each prompt."""
    return tuple(replace(kind, shots=shots) for kind in (MULTIPLE_CHOICE, OPEN_ENDED))


class LooseQuestions(Task):
    """Questions that are asked and not learnt from: of both kinds, and with or without a known answer."""

    def check(self, question: Question) -> None:
        """Any."""

    def header(self, question: Question) -> str:
        """As the question's own kind has it."""
        return kind_of(question).header(question)

    def body(self, question: Question) -> str:
        """As the question's own kind has it."""
        return kind_of(question).body(question)

    def solution(self, question: Question) -> str:
        """As the question's own kind has it."""
        return kind_of(question).solution(question)

    def letters(self, question: Question) -> tuple[str, ...]:
        """As the question's own kind has it."""
        return kind_of(question).letters(question)

    def read(self, question: Question, text: str) -> str:
        """As the question's own kind has it."""
        return kind_of(question).read(question, text)

    def read_sample(self, question: Question, text: str) -> str:
        """As the question's own kind has it."""
        return kind_of(question).read_sample(question, text)

    def judge(self, question: Question, answer: str) -> bool:
        """As the question's own kind has it."""
        return kind_of(question).judge(question, answer)

    def attempted(self, question: Question, answer: str) -> bool | None:
        """As the question's own kind has it."""
        return kind_of(question).attempted(question, answer)

    def same(self, question: Question, first: str, second: str) -> bool:
        """As the question's own kind has it."""
        return kind_of(question).same(question, first, second)
