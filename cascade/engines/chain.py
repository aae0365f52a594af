"""How the models of a chain are loaded and probed where a simulation runs them itself. Starts without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from cascade.tasks.base import PromptStyle


@dataclass(frozen=True)
class ChainModels:
    """Settings of all the models of a chain that are run here.

    Attributes:
        dtype: float32, float16 or bfloat16.
        device_map: As in transformers, such as auto for models that are larger than one GPU.
        quantization: 4bit or 8bit: bitsandbytes packs the weights.
        revisions: Branch, tag or commit on the Hub, by the model's name; of others it is the main branch.
        batch_size: Prompts in one forward pass.
        layer: Layer that the probes read; by default three quarters of the way up.
        probe_task: Task that the probes are trained on; by default the task itself, or for those that are out of
            distribution the one they belong to (`Task.probed_on`).
        prompt_style: raw is the paper's text; chat gives it to the models' chat templates (thinking off).
        letters: auto, or bare to read option letters without a space before them.
        shots: Examples in each prompt, from the dev split of the task that is asked.
    """

    dtype: str = "float32"
    device_map: str | None = None
    quantization: Literal["4bit", "8bit"] | None = None
    revisions: Mapping[str, str] = field(default_factory=dict)
    batch_size: int = 128
    layer: int | None = None
    probe_task: str | None = None
    prompt_style: PromptStyle = "raw"
    letters: Literal["auto", "bare"] = "auto"
    shots: int = 0

    @property
    def marks(self) -> tuple[str, ...]:
        """What answers and probes depend on and is not as by default, for the name of a folder."""
        names = ("dtype", "quantization", "prompt_style", "letters")
        told = [str(getattr(self, name)) for name in names if getattr(self, name) != getattr(ChainModels, name)]
        told += [f"{self.shots}-shot"] if self.shots else []
        return (*told, *([] if self.layer is None else [f"layer-{self.layer}"]))
