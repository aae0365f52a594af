"""Questions, and the wording of the paper's Table 7: from a question to its prompt and back. Pure functions.

Which questions belong together, and how an answer is judged, is for `cascade.tasks.task`.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Literal

LETTERS = "ABCDEFGHIJ"

PromptStyle = Literal["raw", "chat"]

# The paper's Table 7. Everything up to the question is fixed but for the subject and the letters.
MULTIPLE_CHOICE_HEADER = "The following are multiple choice questions about"
MULTIPLE_CHOICE_FORMAT = (
    '. Please determine the correct answer in the format "Answer: <answer>", where <answer> is {letters}.'
)
OPEN_ENDED_HEADER = (
    "The following are questions about entity relationship. "
    'Please determine the correct answer in the format "Answer: <answer>".'
)
ANSWER_PREFIX = "Answer:"


@dataclass(frozen=True)
class Question:
    """One question of a task.

    Attributes:
        id: Unique within the task and stable for ever: the split follows it.
        text: The question itself, without prompt or choices.
        subject: Stratum of the split and of the prompt ("questions about {subject}").
        answers: Accepted answers. For multiple choice exactly one, the letter. None where nobody knows yet, which a
            task does not allow.
        choices: The options in the order of their letters; empty for open-ended questions.
        popularity: How often the entity is looked up (PopQA's monthly page views), if known.
    """

    id: str
    text: str
    subject: str
    answers: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    popularity: int | None = None

    def __post_init__(self) -> None:
        if len(self.choices) > len(LETTERS):
            raise ValueError(
                f"Question {self.id!r}: expected at most {len(LETTERS)} choices, but got {len(self.choices)}"
            )
        if self.choices and self.answers and self.answers[0] not in self.letters:
            raise ValueError(
                f"Question {self.id!r}: expected the answer to be one of {', '.join(self.letters)}, "
                f"but got {self.answers[0]!r}"
            )

    @property
    def letters(self) -> tuple[str, ...]:
        """The letters of the choices, ``("A", "B", …)``."""
        return tuple(LETTERS[: len(self.choices)])


def multiple_choice_header(question: Question) -> str:
    """The instruction of the multiple-choice prompt, which names the subject and the letters."""
    *first, last = question.letters
    named = ", ".join(first) + " or " + last
    return f"{MULTIPLE_CHOICE_HEADER} {question.subject}{MULTIPLE_CHOICE_FORMAT.format(letters=named)}"


def multiple_choice_body(question: Question) -> str:
    """The rest of the multiple-choice prompt: question, options, and "Answer:"."""
    options = "".join(f"\n{letter}. {text}" for letter, text in zip(question.letters, question.choices, strict=True))
    return f"Question: {question.text}\nChoices:{options}\n{ANSWER_PREFIX}"


def open_ended_body(question: Question) -> str:
    """The open-ended prompt without its instruction."""
    return f"Question: {question.text}\n"


def multiple_choice_prompt(question: Question) -> str:
    """The paper's multiple-choice prompt (Table 7); the next token is the answer's letter."""
    return f"{multiple_choice_header(question)}\n{multiple_choice_body(question)}"


def open_ended_prompt(question: Question) -> str:
    """The paper's open-ended prompt (Table 7); the model is expected to begin with "Answer:".

    The paper's P(T) for generation is the probability that the first generated token is "Answer", so the
    prompt stops before it.
    """
    return f"{OPEN_ENDED_HEADER}\n{open_ended_body(question)}"


def parse_prompt(text: str, id: str = "") -> Question | None:
    """The question in a prompt of Table 7, or ``None`` where a text is no such prompt.

    The inverse of `multiple_choice_prompt` and `open_ended_prompt`: what is found gives the very same prompt again. An
    open-ended prompt does not say its subject, which is empty then.
    """
    open_ended = f"{OPEN_ENDED_HEADER}\nQuestion: "
    if text.startswith(open_ended) and text.endswith("\n"):
        return Question(id, text[len(open_ended) : -1], "")
    before, after = MULTIPLE_CHOICE_FORMAT.split("{letters}")
    opening, ending = f"{MULTIPLE_CHOICE_HEADER} ", f"\n{ANSWER_PREFIX}"
    if not (text.startswith(opening) and text.endswith(ending)):
        return None
    subject, _, rest = text[len(opening) : -len(ending)].partition(before)
    named, _, rest = rest.partition(f"{after}\nQuestion: ")
    asked, _, listed = rest.rpartition(f"\nChoices:\n{LETTERS[0]}. ")
    choices = []
    for letter in LETTERS[1 : len(re.findall(f"[{LETTERS}]", named))]:
        choice, _, listed = listed.partition(f"\n{letter}. ")
        choices.append(choice)
    question = Question(id, asked, subject, choices=(*choices, listed))
    return question if choices and multiple_choice_prompt(question) == text else None


def hash_template(sample: str) -> str:
    """Short hash of a wording."""
    return hashlib.sha256(sample.encode()).hexdigest()[:16]


def after_prefix(text: str) -> str:
    """The answer in a generated text: the first line, without the "Answer:" that the format asks for."""
    line = text.strip().split("\n", 1)[0].strip()
    return line[len(ANSWER_PREFIX) :].strip() if line.startswith(ANSWER_PREFIX) else line
