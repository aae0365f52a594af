"""What one model of a chain is, what it says of its questions, and what they took.

`ModelInfo` is one value a model. `Signals` is what a policy decides by. `Usage` is what a cost is made of.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Self

import numpy as np

from cascade.errors import CascadeError

CONFIDENCES = ("p_t", "p_ik", "p_ik_reader")
"""The columns of `Signals`."""


@dataclass(frozen=True)
class ModelInfo:
    """What is the same for every question.

    Attributes:
        name: The model.
        parameters: N, or ``None`` where unknown.
        num_layers, hidden_size: n_layer and d_model of eq. 2, or ``None`` where unknown.
        exit_share: ℓ/L, the share of a pass after which the probe can reject; see `exit_share_of`.
        probe_parameters: Of the P(IK) probe; 0 where unknown.
        reader, reader_parameters: The model whose states `Signals.p_ik_reader` is read from; ``None`` where there is
            no reader, or its size is unknown.
        p_t_needs_answer: Whether P(T) is known only after the whole answer.
    """

    name: str
    parameters: int | None = None
    num_layers: int | None = None
    hidden_size: int | None = None
    exit_share: float = 1.0
    probe_parameters: int = 0
    reader: str | None = None
    reader_parameters: int | None = None
    p_t_needs_answer: bool = False


def exit_share_of(probe_layer: int | None, num_layers: int | None) -> float:
    """ℓ/L of a probe at layer ℓ of L; 1 where either is unknown. Layer 0 is the embeddings, before any block."""
    return 1.0 if probe_layer is None or not num_layers else probe_layer / num_layers


@dataclass(frozen=True)
class _Columns:
    """Arrays over the same questions in the same order, any of which may be absent.

    Attributes:
        questions: How many.
    """

    questions: int

    def __post_init__(self) -> None:
        for name, values in self._arrays():
            if values.shape != (self.questions,):
                raise CascadeError(
                    f"Expected `{name}` to be [questions], {self.questions} here, but got shape {values.shape}"
                )

    def __len__(self) -> int:
        """How many questions."""
        return self.questions

    def take(self, rows: np.ndarray) -> Self:
        """The same columns for some of the questions: ``rows`` are places or a mask."""
        count = int(rows.sum()) if rows.dtype == bool else len(rows)
        return replace(self, questions=count, **{name: values[rows] for name, values in self._arrays()})

    def _arrays(self) -> Iterator[tuple[str, np.ndarray]]:
        return ((f.name, value) for f in fields(self) if isinstance(value := getattr(self, f.name), np.ndarray))


@dataclass(frozen=True)
class Signals(_Columns):
    """What a policy decides by.

    Attributes:
        p_t: ``[questions]``, float64, or ``None`` where the model gives no probabilities.
        p_ik: ``[questions]``, float64, or ``None`` where the model has no probe.
        p_ik_reader: ``[questions]``, float64: this model's P(IK) read from another model's states, or ``None``.
    """

    p_t: np.ndarray | None = None
    p_ik: np.ndarray | None = None
    p_ik_reader: np.ndarray | None = None

    @property
    def known(self) -> frozenset[str]:
        """Names of the columns that are there, of `CONFIDENCES`."""
        return frozenset(name for name in CONFIDENCES if getattr(self, name) is not None)


@dataclass(frozen=True)
class Usage(_Columns):
    """What a cost is made of.

    Attributes:
        prompt_tokens, completion_tokens: ``[questions]``, int64, or ``None`` where unknown.
        seconds, prefill_seconds: ``[questions]``, float64, or ``None`` where not measured.
        cost_usd: ``[questions]``, float64: US dollars as they were logged, or ``None`` where they were not.
        p_t_prompts, p_t_prompt_tokens, p_t_completion_tokens, p_t_seconds: ``[questions]``: what P(T) took beyond the
            answer's own pass, or ``None`` where it took nothing.
    """

    prompt_tokens: np.ndarray | None = None
    completion_tokens: np.ndarray | None = None
    seconds: np.ndarray | None = None
    prefill_seconds: np.ndarray | None = None
    cost_usd: np.ndarray | None = None
    p_t_prompts: np.ndarray | None = None
    p_t_prompt_tokens: np.ndarray | None = None
    p_t_completion_tokens: np.ndarray | None = None
    p_t_seconds: np.ndarray | None = None


@dataclass(frozen=True)
class Passes:
    """Models and what their passes took: enough to say what they cost, without a label or a confidence.

    Attributes:
        infos: The models, smallest first.
        usages: One each, over the same questions.
    """

    infos: tuple[ModelInfo, ...]
    usages: tuple[Usage, ...]
