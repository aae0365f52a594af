"""The two scales a table can be made at: which model, task and endpoint stand for the paper's, and nothing else.

The code path is the same at both. `paper` needs the weights, the tasks, and a key for the API.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import yaml

from cascade.engines.settings import DecoderConfig, EndpointConfig
from cascade.tasks.base import PromptStyle
from experiments.paper.numbers import paper

ARROW = " → "
LLAMA, QWEN, API = ("3B", "8B", "70B"), ("4B", "8B", "32B"), "GPT-4o"
ROOT = Path(__file__).parents[2]
PRICES = ROOT / "configs/prices/table-12.yaml"
SERVED = ROOT / "configs/cascades/mini-qwen3.yaml"


@dataclass(frozen=True)
class Scale:
    """What stands for the paper's models, tasks and API.

    Attributes:
        name: On the command line.
        llama, qwen: From the paper's sizes to models.
        api: The OpenAI-compatible endpoint. Without a price it has that of the paper's Table 12.
        mmlu, gpqa, popqa: Tasks.
        served: Configuration of a server to start for it; ``None`` where there is one.
        layer: Of the probes; ``None`` is three quarters of the way up.
        revisions: Commits of models on the Hub.
        dtype: Of the weights.
        open_ended: How open-ended questions are asked; the paper's Table 7 has roles for them, and none for multiple
            choice, which is raw text here as there.
        device_map: As in transformers.
        batch_size: Prompts in one forward pass of a live run.
        scoring_batch_size: The same where a task is scored.
        keep_loaded: Whether all of a chain's models fit in memory at once.
        repeats: Live runs of each chain; the fastest counts.
    """

    name: str
    llama: Mapping[str, str]
    qwen: Mapping[str, str]
    api: EndpointConfig
    mmlu: str
    gpqa: str
    popqa: str
    served: Path | None
    layer: int | None
    revisions: Mapping[str, str]
    dtype: str
    open_ended: PromptStyle
    device_map: str | None
    batch_size: int
    scoring_batch_size: int
    keep_loaded: bool
    repeats: int

    @property
    def standing(self) -> str:
        """Which models and tasks are ours, in a line."""
        pairs = [f"{size} is {model}" for size, model in (*self.llama.items(), *self.qwen.items())]
        tasks = f"MMLU is {self.mmlu}, GPQA {self.gpqa}, PopQA {self.popqa}"
        return f"Ours, scale {self.name}: {', '.join(pairs)}, {API} is {self.api.name} over HTTP; {tasks}."

    def style(self, task: str) -> PromptStyle:
        """How a task is asked."""
        return self.open_ended if task == self.popqa else "raw"

    def decoder(self, model: str, task: str) -> DecoderConfig:
        """Settings of one of its models as it is asked a task."""
        revision, style = self.revisions.get(model), self.style(task)
        return DecoderConfig(
            model, revision, self.dtype, self.device_map, prompt_style=style, batch_size=self.batch_size
        )

    def family(self, name: str) -> Mapping[str, str]:
        """Models by size of ``llama`` or ``qwen``; the API goes by the paper's name in both."""
        models = {"llama": self.llama, "qwen": self.qwen}[name]
        return {**models, API: API}


# What the shipped configurations are pinned to.
_FILES = [yaml.safe_load(path.read_text()) for path in sorted((ROOT / "configs/models").glob("*.yaml"))]
_PINNED = MappingProxyType({model["model"]: model["revision"] for model in _FILES})
_IDS = {size: model.id for size, model in paper().models.items()}
MINIATURE = Scale(
    name="miniature",
    llama=MappingProxyType(dict(zip(LLAMA, [f"mini-llama-{s}" for s in ("small", "medium", "large")], strict=True))),
    qwen=MappingProxyType(dict(zip(QWEN, [f"mini-qwen3-{s}" for s in ("small", "medium", "large")], strict=True))),
    api=EndpointConfig("mini-qwen3-large", kind="completions"),
    mmlu="mini-mmlu",
    gpqa="mini-gpqa",
    popqa="mini-popqa",
    served=SERVED,
    layer=None,
    revisions=MappingProxyType({}),
    dtype="float32",
    open_ended="raw",
    device_map=None,
    batch_size=32,
    scoring_batch_size=128,
    keep_loaded=True,
    repeats=5,
)
PAPER = Scale(
    name="paper",
    llama=MappingProxyType(_IDS),
    qwen=MappingProxyType({size: f"Qwen/Qwen3-{size}" for size in QWEN}),
    api=EndpointConfig("gpt-4o", spending_cap=5.0),  # more than the paper's run cost, five times over
    mmlu="mmlu",
    gpqa="gpqa",
    popqa="popqa",
    served=None,
    layer=24,
    revisions=_PINNED,
    dtype="bfloat16",
    open_ended="chat",
    device_map="auto",
    batch_size=16,
    scoring_batch_size=8,  # 70B's weights leave little room
    keep_loaded=False,
    repeats=1,
)
SCALES = {scale.name: scale for scale in (MINIATURE, PAPER)}
