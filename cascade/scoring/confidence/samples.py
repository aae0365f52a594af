"""Confidences that come of asking the same question again and again at a temperature: m more generations each."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from cascade.errors import CascadeError
from cascade.tasks.judging import normalize_answer

Same = Callable[[str, str], bool]
"""Whether two answers say the same; taken to be an equivalence."""


def same_answer(first: str, second: str) -> bool:
    """Whether two answers are one after normalisation (case, punctuation, articles)."""
    return normalize_answer(first) == normalize_answer(second)


def self_consistency(samples: Sequence[str], answer: str, same: Same = same_answer) -> float:
    """The share of sampled answers that say what the answer says, in [0, 1].

    Wang et al., *Self-Consistency Improves Chain of Thought Reasoning in Language Models* (2023), whose vote picks the
    answer; here the answer is given, and the votes for it are counted. Costs m generations.

    Args:
        samples: At least one.
        answer: The answer that the confidence is about.
        same: When two answers are one.
    """
    if not samples:
        raise CascadeError("Expected at least one sample for self-consistency, but got none")
    return sum(same(sample, answer) for sample in samples) / len(samples)


def clusters(samples: Sequence[str], same: Same = same_answer) -> list[list[int]]:
    """Places of the samples that say the same, by comparing each with the first of every cluster (Kuhn et al. 2023)."""
    found: list[list[int]] = []
    for place, sample in enumerate(samples):
        home = next((cluster for cluster in found if same(samples[cluster[0]], sample)), None)
        if home is None:
            found.append([place])
        else:
            home.append(place)
    return found


def semantic_certainty(samples: Sequence[str], same: Same = same_answer) -> float:
    """Semantic entropy turned round: 1 − H / log m, H over the shares of clusters of samples that say the same.

    In [0, 1]: 1 where all m samples say one thing, 0 where no two do. The discrete estimate of Farquhar et al.,
    *Detecting hallucinations in large language models using semantic entropy* (2024); Kuhn, Gal & Farquhar (2023)
    weigh samples by their likelihood, which needs their probabilities. Costs m generations, and what ``same`` costs.

    Args:
        samples: At least two.
        same: When two answers are one; with an entailment model both ways it is the papers' own.
    """
    if len(samples) < 2:
        raise CascadeError(f"Expected at least two samples for semantic entropy, but got {len(samples)}")
    shares = [len(cluster) / len(samples) for cluster in clusters(samples, same)]
    return min(max(1 + sum(p * math.log(p) for p in shares) / math.log(len(samples)), 0.0), 1.0)
