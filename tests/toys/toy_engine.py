"""An engine in one file: it knows the answers to a share of a task's questions, and its states say which.

With one entry in `cascade.engines.ENGINES` it is scored, probed, simulated and run like any other.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from cascade.engines.base import EngineConfig, Prompt, Reply
from cascade.engines.states import StatesEngine
from cascade.tasks.load import load_task


@dataclass(frozen=True)
class ToyConfig(EngineConfig):
    """Which task it has learnt, and how much of it."""

    called: ClassVar[str] = "a toy"
    shows_states: ClassVar[bool] = True
    model: str = "toy"
    task: str = "mini-mmlu"
    knows: float = 0.5

    def build(self, probe=None, needs_confidence=True, task=None) -> Toy:
        return Toy(self, probe, task=task)


class Toy(StatesEngine):
    """The first number of its state is large where it knows the answer; the others are noise."""

    num_layers, hidden_size = 2, 8

    def __init__(self, settings: ToyConfig, probe=None, task=None) -> None:
        self.name, self.knows, self.revision = settings.model, settings.knows, f"knows-{settings.knows}"
        self.right = {question.id: question.answers[0] for question in load_task(settings.task).questions}
        super().__init__(settings, probe, task=task)

    @property
    def parameters(self) -> int:
        return round(1e8 * self.knows)

    def read(self, prompts: Sequence[Prompt], layers: Sequence[int]):
        replies, states = [], []
        for prompt in prompts:
            rng = np.random.default_rng(list(hashlib.sha256(prompt.question_id.encode()).digest()))
            known, state = rng.random() < self.knows, rng.normal(size=self.hidden_size)
            others = [letter for letter in prompt.letters if letter != self.right[prompt.question_id]]
            text = self.right[prompt.question_id] if known else str(rng.choice(others))
            options = tuple(0.7 if letter == text else 0.1 for letter in prompt.letters)
            replies.append(Reply(text, len(prompt.text.split()), 1, 0.0, p_t=0.7, options=options))
            state[0] += 4.0 if known else -4.0
            states.append(state)
        return replies, {layer: torch.tensor(np.array(states), dtype=torch.float32) for layer in layers}
