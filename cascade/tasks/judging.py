"""How an open-ended answer is judged without a model: normalised exact match over the accepted answers, and
abstentions told from wrong answers.

Judges that ask a language model are `cascade.judging`'s; they give the same `Verdict`.
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterable
from enum import StrEnum

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
# On normalised text, whole: what follows "I do not know" may name the subject, and may not offer an answer after all.
_SUBJECT = r"( (who|whom|whose|what|where|when|which|why|how|if|whether|about|that|this|enough|anything|answer)\b.*)?"
_HEDGE = re.compile(r"\b(but|maybe|perhaps|probably|guess|think|believe)\b")
_KNOW = r"(i |we )?(really |honestly |simply )?(do not|dont|cannot|cant|can not) (really |currently )?"
_ABSTENTION = re.compile(
    rf"((i am |im )?(very )?sorry( but)? )?("
    rf"{_KNOW}(know|say|tell|answer|determine|find out)( for (sure|certain))?{_SUBJECT}"
    rf"|(i am |im )?(not sure|unsure|not certain|uncertain|unable to (answer|say|tell|determine)){_SUBJECT}"
    rf"|i have no (idea|information|answer|knowledge){_SUBJECT}"
    rf"|no idea|no answer|idk|unknown|not known"
    rf")"
)
_SENTENCE_END = re.compile(r"[.!?;](?=\s+\S)")


class Verdict(StrEnum):
    """What a judge says of an answer; one that was not attempted is neither right nor a hallucination."""

    CORRECT = "correct"
    INCORRECT = "incorrect"
    NOT_ATTEMPTED = "not attempted"


def normalize_answer(text: str) -> str:
    """Lower case, no punctuation, no articles, single spaces (SQuAD's normalisation)."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(prediction: str, accepted: Iterable[str]) -> bool:
    """Whether the normalised prediction equals one of the normalised accepted answers."""
    normalized = normalize_answer(prediction)
    return any(normalized == normalize_answer(answer) for answer in accepted)


def abstains(prediction: str) -> bool:
    """Whether a text declines to answer: "I do not know." and its like, or nothing at all.

    Every sentence has to: what goes on to an answer or hedges ("I don't know, but perhaps …") is an attempt, and so is
    whatever is not recognised. Case, punctuation and kinds of apostrophe do not matter.
    """
    if not normalize_answer(prediction):
        return True
    sentences = _SENTENCE_END.split(prediction.strip().replace("’", "'"))
    return all(_declines(normalize_answer(sentence)) for sentence in sentences)


def _declines(normalized: str) -> bool:
    hedges = _HEDGE.search(normalized.replace("sorry but", "sorry")) is not None
    return not hedges and _ABSTENTION.fullmatch(normalized) is not None


def exact_match_verdict(prediction: str, accepted: Iterable[str]) -> Verdict:
    """The verdict by normalised exact match: an accepted answer is correct even where it reads as an abstention."""
    if exact_match(prediction, accepted):
        return Verdict.CORRECT
    return Verdict.NOT_ATTEMPTED if abstains(prediction) else Verdict.INCORRECT
