"""Confidences that a model is asked for in one more prompt: what it is asked, and how its reply is read.

The two with options are put as the task's own multiple-choice prompt, so that whatever can answer that can answer
these, and no tokenizer has to have a token for "True" or "Yes".
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from cascade.errors import CascadeError
from cascade.tasks.base import Question

_STATED = re.compile(r"(?:confidence\s*(?::|is)?\s*)?(\d{1,3}(?:\.\d+)?|\.\d+)\s*(%|percent)?\s*\.?", re.IGNORECASE)


def p_true_question(question: Question, answer: str) -> Question:
    """Asks whether a proposed answer is true: Kadavath et al. (2022), §3.

    Args:
        question: As it was asked.
        answer: What was answered: a text, or the letter of a choice, whose text is shown then.
    """
    if question.choices and answer in question.letters:
        answer = question.choices[question.letters.index(answer)]
    text = f"{question.text}\nProposed answer: {answer}\nIs the proposed answer true?"
    return _about(question, text, ("True", "False"))


def do_you_know_question(question: Question) -> Question:
    """Asks whether the model knows the answer, yes, no or maybe: Mahaut et al. (2024)."""
    text = f"Do you know the answer to the following question: {question.text}"
    return _about(question, text, ("Yes", "No", "Maybe"))


def _about(question: Question, text: str, choices: tuple[str, ...]) -> Question:
    return replace(question, text=text, subject=question.subject or "general knowledge", choices=choices, answers=())


def first_option_share(probabilities: Sequence[float]) -> float:
    """P(True) or P(Yes): the first option's probability over that of all options, in [0, 1].

    P(True): Kadavath et al., *Language Models (Mostly) Know What They Know* (2022), of an answer already given.
    P(Yes): Mahaut et al., *Factual Confidence of LLMs* (2024), before any answer is; the project's paper quotes it
    without letters before the options. Each costs one more prompt and one token.

    Args:
        probabilities: Of the options in order; they need not sum to 1.
    """
    if len(probabilities) < 2 or min(probabilities) < 0 or not sum(probabilities) > 0:
        raise CascadeError(
            f"Expected `probabilities` of two or more options, at least 0 and not all 0, but got {list(probabilities)}"
        )
    return min(probabilities[0] / sum(probabilities), 1.0)


def verbalized_prompt(question: Question, answer: str) -> str:
    """Asks for a confidence in words, after the answer (Tian et al. 2023, "Verb. 2S")."""
    choices = "".join(f"\n{letter}. {text}" for letter, text in zip(question.letters, question.choices, strict=True))
    return (
        'How likely is the proposed answer to be correct? Reply in the format "Confidence: <number from 0 to 100>%", '
        f"and with nothing else.\nQuestion: {question.text}{choices}\nProposed answer: {answer}\nConfidence:"
    )


def read_verbalized(text: str) -> float | None:
    """The confidence stated in the first line of a reply, in [0, 1]; ``None`` where it cannot be read for sure.

    Tian et al., *Just Ask for Calibration* (2023). Costs one more prompt and a few tokens. "Confidence: 80%", "80",
    "0.8" and "100 percent" are read; a bare "1" may be 1 % or certainty, and is not.
    """
    lines = text.strip().splitlines()
    match = _STATED.fullmatch(lines[0].strip()) if lines else None
    if match is None:
        return None
    number, percent = float(match[1]), match[2] is not None
    if percent or number > 1:
        return number / 100 if number <= 100 else None
    return None if match[1] == "1" else number
