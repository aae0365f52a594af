"""How an open-ended answer is judged: normalised exact match over accepted aliases (PopQA's own measure)."""

from __future__ import annotations

import re
import string
from collections.abc import Iterable

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalize_answer(text: str) -> str:
    """Lower case, no punctuation, no articles, single spaces (SQuAD's normalisation)."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(prediction: str, accepted: Iterable[str]) -> bool:
    """Whether the normalised prediction equals one of the normalised accepted answers."""
    normalized = normalize_answer(prediction)
    return any(normalized == normalize_answer(answer) for answer in accepted)
