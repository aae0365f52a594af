"""Readers: P(IK) of a model that has not been run, from a smaller model's hidden states.

A decoder is run up to the probe's layer and no further; an encoder's states are averaged over the prompt's tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cascade.engines.base import Prompt
from cascade.engines.passes import of_like_length
from cascade.engines.states import Readable, check_states, probe_identity
from cascade.tasks.task import Task
from probes.probe import Probe


class ModelReader:
    """Reads prompts for another model.

    Args:
        model: Whatever shows states: a decoder, an encoder.
        probe: Trained on its states, to predict that other model.
        batch_size: Prompts in one pass.
        task: That is asked, where its prompts have examples or a wording of their own.

    Raises:
        CascadeError: If the probe was trained on other states.
    """

    def __init__(self, model: Readable, probe: Probe, batch_size: int = 32, task: Task | None = None) -> None:
        self.model, self.probe, self.batch_size = model, probe, batch_size
        self.name = model.name
        check_states(probe.config, model.shown_for(task), model.described)

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
        found, layer = np.zeros(len(prompts)), self.probe.config.layer
        for places in of_like_length(range(len(prompts)), [len(prompt.text) for prompt in prompts], self.batch_size):
            found[places] = self.probe.predict(self.model.states_at([prompts[place] for place in places], layer))
        return found

    def release(self) -> None:
        """Gives the memory back of what can be loaded again."""
        self.model.release()
