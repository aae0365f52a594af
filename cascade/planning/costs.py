"""What a run would cost, from configurations, tokenizers and questions alone: `--plan` of every entry point.

No weights are loaded or fetched and nothing is written. FLOPs are those of the simulator's ledgers; states are what the
store's writer would write. GPU hours are rough: one GPU of the paper's kind at the share of its peak that is stated.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from cascade.engines.base import Engine, EngineConfig, Prompt, Weights, prompt_of
from cascade.engines.states import showing_states
from cascade.errors import CascadeError
from cascade.policies.ledgers import pass_costs
from cascade.probing.chain import own_models
from cascade.probing.choice import ProbeChoice
from cascade.probing.data import ScoredTaskDataModule
from cascade.runtime.config import CascadeConfig
from cascade.scores.columns import ModelInfo, Passes, Usage
from cascade.scoring.scored import missing_shards, store_key
from cascade.tasks.load import load_task
from cascade.tasks.task import Task
from probes.store import DTYPES, StoreLayout

# NVIDIA's data sheet of the RTX A6000, which the paper used: dense, that is half of what it says with sparsity.
GPU, PEAK_FLOPS = "RTX A6000", {"float32": 38.7e12, "float16": 154.8e12, "bfloat16": 154.8e12}
UTILISATION = 0.3
CHARACTERS_A_TOKEN = 4


@dataclass(frozen=True)
class Work:
    """One model's passes over some questions.

    Attributes:
        model, task: Of what over what.
        questions: How many; in a live cascade at the most, since many stop at an earlier model.
        prompt_tokens: Of all the prompts.
        counted: Whether they are counted with the model's own tokenizer, or estimated.
        completion_tokens: At the most.
        flops: 2N a question (eq. 5).
        flops_context: Of every token with its context (eq. 2).
        rows_there: Questions that are on disk already, and are not asked again.
        gpu_hours: For the others; 0 for an endpoint.
        folder: Of the store, if there is one.
        store_bytes: States of all questions, if they are kept.
        store_bytes_left: Of those that are not there.
        dollars: What a provider charges, where there is a price.
        remark: What has to be known before it is run.
    """

    model: str
    task: str
    questions: int
    prompt_tokens: int
    counted: bool
    completion_tokens: int
    flops: float | None = None
    flops_context: float | None = None
    rows_there: int = 0
    gpu_hours: float = 0.0
    folder: Path | None = None
    store_bytes: int = 0
    store_bytes_left: int = 0
    dollars: float | None = None
    remark: str = ""


@dataclass(frozen=True)
class Plan:
    """What a run would cost.

    Attributes:
        weights: One entry a decoder.
        work: One entry a model and task.
        runs: Folder that results go to.
    """

    weights: tuple[Weights, ...]
    work: tuple[Work, ...]
    runs: Path

    @property
    def to_write(self) -> int:
        """Bytes of hidden states that are not there yet."""
        return sum(work.store_bytes_left for work in self.work)

    @property
    def to_fetch(self) -> int:
        """Bytes of weights that are not there yet."""
        return sum(weights.disk for weights in self.weights if not weights.there)

    def free(self) -> tuple[int, int]:
        """Bytes free where results go, and where weights are fetched to."""
        from huggingface_hub.constants import HF_HUB_CACHE

        return _free(self.runs), _free(Path(HF_HUB_CACHE))


def _free(folder: Path) -> int:
    folder = folder.absolute()
    return shutil.disk_usage(next(place for place in (folder, *folder.parents) if place.exists())).free


def plan_training(data: ScoredTaskDataModule) -> Plan:
    """Of `cascade.train` and `cascade.score`: the passes that the heads learn from; the heads are small beside them."""
    if data.store is not None:
        done = Work(data.model.name, data.task.name, len(data.task.questions), 0, True, 0, folder=data.store)
        return Plan((), (_done(done),), data.store)
    model = Planned(data.model)
    return Plan(_weights([model]), (model.scoring(data.task, data.stores),), data.stores)


def plan_chain(
    chain: Sequence[EngineConfig],
    tasks: Sequence[str],
    runs: Path,
    choice: ProbeChoice = ProbeChoice(),  # noqa: B008 - frozen
    probes: bool = True,
    shots: int = 0,
) -> Plan:
    """Of `cascade.simulate`, where the models are run: all of them on each task, and all but the last on the probes'.

    Args:
        chain: Settings of the engines, smallest model first.
        tasks: Those that are simulated on.
        runs: Folder of stores and probe runs.
        choice: Which probes.
        probes: Whether they are probed at all.
        shots: Examples in each prompt.
    """
    models = [Planned(model) for model in own_models(chain, choice.layer)]
    probed = choice.task or load_task(tasks[0], shots).probed_on or tasks[0]
    work: list[Work] = []
    for place, model in enumerate(models):
        for task in dict.fromkeys([*tasks, *([probed] if probes and place + 1 < len(models) else [])]):
            work.append(model.scoring(load_task(task, shots), runs / "stores"))
    return Plan(_weights(models), tuple(work), runs)


def plan_cascade(config: CascadeConfig, task: Task, label: str, journal: Path) -> Plan:
    """Of `cascade.run`: every model on every question, which is the most that it can cost.

    Args:
        config: The cascade.
        task: What is asked.
        label: Its name.
        journal: Where the run says what it has done.
    """
    settings = {member.name: member.settings for member in config.members}
    for member in config.members:
        # An encoder is small beside the model that it reads for.
        if member.reader is not None and (reader := member.reader.settings).answers:
            settings[f"{reader.name} (reads for {member.name})"] = reader
    prompts = [prompt_of(question, task) for question in task.questions]
    there = _answered(journal, prompts)
    models = {name: Planned(one.build()) for name, one in settings.items()}
    counts = next((model for model in models.values() if model.weights is not None), None)
    work = [model.asking(name, prompts, label, there, counts) for name, model in models.items()]
    # Those that run here first, then those that are asked elsewhere.
    work.sort(key=lambda one: models[one.model].weights is None)
    return Plan(_weights(models.values()), tuple(_priced(one, settings[one.model]) for one in work), journal.parent)


def _weights(models: Iterable[Planned]) -> tuple[Weights, ...]:
    return tuple({m.engine.name: m.weights for m in models if m.weights is not None}.values())


def _answered(journal: Path, prompts: Sequence[Prompt]) -> int:
    """Questions that the journal of an earlier run has answers of."""
    from cascade.runtime.journal import answered_in

    return len(answered_in(journal) & {prompt.question_id for prompt in prompts})


def _done(work: Work) -> Work:
    return replace(work, rows_there=work.questions, remark="a finished store is read, and nothing scored")


def _priced(work: Work, settings: EngineConfig) -> Work:
    if (price := settings.price) is None:
        return work
    left = 1 - work.rows_there / work.questions
    dollars = left * (work.prompt_tokens * price.input + work.completion_tokens * price.output) / 1e6
    return replace(work, dollars=dollars, remark=settings.remark(dollars) or work.remark)


def _estimate(prompts: Sequence[str]) -> np.ndarray:
    return np.array([-(-len(prompt) // CHARACTERS_A_TOKEN) for prompt in prompts], dtype=np.int64)


class Planned:
    """An engine that is planned with, and not loaded.

    Args:
        engine: Any; its tokenizer need not be there.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    @cached_property
    def weights(self) -> Weights | None:
        """What its weights take; ``None`` where it runs elsewhere."""
        return self.engine.weights()

    def tokens(self, prompts: Sequence[str]) -> np.ndarray | None:
        """Tokens of each prompt, ``[prompts]``, int64, by its own tokenizer; ``None`` where that is not there."""
        try:
            counted = self.engine.count_tokens(prompts)
        except CascadeError:
            return None
        return None if counted is None else np.array(counted, dtype=np.int64)

    def scoring(self, task: Task, stores: Path) -> Work:
        """A task scored into a store, what is there already left out."""
        model = showing_states(self.engine)
        prompts = [prompt_of(question, task) for question in task.questions]
        layers = model.layers("all")
        rows_there, folder = 0, None
        left = np.ones(len(prompts), dtype=bool)
        row_bytes = len(layers) * model.hidden_size * DTYPES[model.dtype].itemsize
        texts = [prompt.text for prompt in prompts]
        counted = self.tokens(texts)
        if counted is not None:  # the store's key holds the tokenizer's hash
            layout = StoreLayout(stores, store_key(model, task), len(prompts), model.hidden_size)
            folder, missing = layout.folder, set(missing_shards(layout))
            for number, rows in enumerate(layout.shards):
                left[rows.start : rows.stop] = number in missing
            rows_there = int((~left).sum())
        tokens = _estimate(texts) if counted is None else counted
        work = self._work(model.name, task.name, tokens, counted is not None, prompts, left)
        return replace(
            work,
            rows_there=rows_there,
            folder=folder,
            store_bytes=row_bytes * len(prompts),
            store_bytes_left=row_bytes * int(left.sum()),
        )

    def asking(
        self, name: str, prompts: Sequence[Prompt], label: str, there: int, counts: Planned | None = None
    ) -> Work:
        """Prompts answered live, of which ``there`` are answered; the first ones are taken for those.

        Args:
            name: What the plan calls the model.
            prompts: What is asked.
            label: Their name.
            there: How many are answered.
            counts: Whose tokenizer counts for a model that runs elsewhere.
        """
        texts = [prompt.text for prompt in prompts]
        own = self.tokens(texts)
        tokens = counts.tokens(texts) if own is None and self.weights is None and counts is not None else own
        tokens = _estimate(texts) if tokens is None else tokens
        left = np.arange(len(prompts)) >= there
        return replace(self._work(name, label, tokens, own is not None, prompts, left), rows_there=there)

    def _work(
        self, name: str, task: str, tokens: np.ndarray, counted: bool, prompts: Sequence[Prompt], left: np.ndarray
    ) -> Work:
        model, weights = self.engine, self.weights
        written = np.array([prompt.completion_tokens for prompt in prompts], dtype=np.int64)
        flops = None if model.parameters is None else 2.0 * model.parameters * len(tokens)
        work = Work(name, task, len(tokens), int(tokens.sum()), counted, int(written.sum()), flops)
        if None in (model.parameters, model.num_layers, model.hidden_size):
            return work
        info = ModelInfo(name, model.parameters, model.num_layers, model.hidden_size)
        passes = Passes((info,), (Usage(len(tokens), tokens, written),))
        whole = pass_costs(passes, "flops-context").whole[0]
        seconds = 0.0 if weights is None else float(whole[left].sum()) / (PEAK_FLOPS[weights.dtype] * UTILISATION)
        longest, context = int(tokens.max(initial=0)), model.context
        room = max((prompt.room for prompt in prompts), default=0)
        remark = ""
        if context is not None and longest + room > context:
            remark = f"its longest prompt has {longest:,} tokens, and there is room for {context - room:,}"
        return replace(work, flops_context=float(whole.sum()), gpu_hours=seconds / 3600, remark=remark)
