"""Readers: P(IK) of a model that has not been run, from a smaller model's hidden states.

A decoder is run up to the probe's layer and no further; an encoder's states are averaged over the prompt's tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from cascade.engines.base import Prompt
from cascade.engines.encoder import POSITION as MEAN
from cascade.engines.encoder import Encoder
from cascade.engines.huggingface import HuggingFaceModel
from cascade.engines.local import States, check_probe, check_states, probe_identity
from cascade.tasks.task import Task
from probes.probe import Probe


class ModelReader:
    """Reads prompts for another model.

    Args:
        model: A decoder or an encoder.
        probe: Trained on its states, to predict that other model.
        batch_size: Prompts in one pass.
        task: That is asked, where its prompts have examples or a wording of their own.

    Raises:
        CascadeError: If the probe was trained on other states.
    """

    def __init__(
        self, model: HuggingFaceModel | Encoder, probe: Probe, batch_size: int = 32, task: Task | None = None
    ) -> None:
        self.model, self.probe, self.batch_size = model, probe, batch_size
        self.name = model.name
        if isinstance(model, HuggingFaceModel):
            check_probe(probe, model, task=task)
        else:
            known = (model.hidden_size, model.name, model.revision, "float32")
            found = States(MEAN, *known, frozenset([model.template_hash]))
            check_states(probe.config, found, f"this is {model.name}")

    @property
    def identity(self) -> dict[str, str]:
        """Weights of the model that reads, and of its probe."""
        return {"name": self.name, "revision": self.model.revision, "probe": probe_identity(self.probe)}

    @property
    def parameters(self) -> int:
        """Of the model that reads."""
        return self.model.parameters

    def p_ik(self, prompts: Sequence[Prompt]) -> np.ndarray:
        """``[prompts]``, float64: how likely the other model is to know."""
        found = np.zeros(len(prompts))
        order = sorted(range(len(prompts)), key=lambda place: -len(prompts[place].text))
        for start in range(0, len(order), self.batch_size):
            places = order[start : start + self.batch_size]
            found[places] = self.probe.predict(self._states([prompts[place].text for place in places]))
        return found

    def release(self) -> None:
        """Gives a decoder's memory back; an encoder, which is loaded as it is made, is kept."""
        if isinstance(self.model, HuggingFaceModel):
            self.model.release()

    def _states(self, texts: list[str]) -> torch.Tensor:
        if isinstance(self.model, Encoder):
            return self.model.run(texts)[self.probe.config.layer]
        taken: list[torch.Tensor] = []

        def take(states: torch.Tensor) -> torch.Tensor:
            taken.append(states)
            return torch.zeros(len(states), dtype=torch.bool)

        self.model.prefill(texts, exit_layer=self.probe.config.layer, keep=take)
        return taken[0]
