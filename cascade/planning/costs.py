"""What a run would cost, from configurations, tokenizers and questions alone: `--plan` of every entry point.

No weights are loaded or fetched and nothing is written. FLOPs are those of the simulator's ledgers; states are what the
store's writer would write. GPU hours are rough: one GPU of the paper's kind at the share of its peak that is stated.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from cascade.engines.base import Prompt, prompt_of
from cascade.engines.chain import ChainModels
from cascade.engines.huggingface import HuggingFaceModel
from cascade.engines.weights import weight_bytes
from cascade.errors import CascadeError
from cascade.policies.ledgers import pass_costs
from cascade.probing.chain import own_models
from cascade.probing.data import ScoredTaskDataModule
from cascade.runtime.config import CascadeConfig, Member
from cascade.scores.arrays import ChainScores, ModelScores
from cascade.scoring.scored import missing_shards, store_key
from cascade.tasks.load import load_task
from cascade.tasks.task import Task
from probes.store import DTYPES, StoreLayout

# NVIDIA's data sheet of the RTX A6000, which the paper used: dense, that is half of what it says with sparsity.
GPU, PEAK_FLOPS = "RTX A6000", {"float32": 38.7e12, "float16": 154.8e12, "bfloat16": 154.8e12}
UTILISATION = 0.3
CHARACTERS_A_TOKEN = 4


@dataclass(frozen=True)
class Weights:
    """A decoder's weights.

    Attributes:
        model: Which.
        parameters: How many, shared ones once.
        shape: Blocks × width.
        precision: Dtype, and how they are packed.
        memory: Bytes when loaded; what the questions take beside them is not counted.
        disk: Bytes of the files: as they are, or as the configuration's dtype has them.
        there: Whether the files are on disk.
    """

    model: str
    parameters: int
    shape: str
    precision: str
    memory: int
    disk: int
    there: bool


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
    model = Decoder(data.model)
    if data.store is not None:
        done = Work(data.model.name, data.task.name, len(data.task.questions), 0, True, 0, folder=data.store)
        return Plan((), (_done(done),), data.store)
    return Plan((model.weights(),), (model.scoring(data.task, data.stores),), data.stores)


def plan_chain(
    names: Sequence[str], tasks: Sequence[str], runs: Path, settings: ChainModels, probes: bool = True
) -> Plan:
    """Of `cascade.simulate`, where the models are run: all of them on each task, and all but the last on the probes'.

    Args:
        names: The chain, smallest first.
        tasks: Those that are simulated on.
        runs: Folder of stores and probe runs.
        settings: How the models are loaded and probed.
        probes: Whether they are probed at all.
    """
    models = [Decoder(model) for model in own_models(names, settings)]
    probed = settings.probe_task or load_task(tasks[0], settings.shots).probed_on or tasks[0]
    work: list[Work] = []
    for place, model in enumerate(models):
        for task in dict.fromkeys([*tasks, *([probed] if probes and place + 1 < len(models) else [])]):
            work.append(model.scoring(load_task(task, settings.shots), runs / "stores"))
    return Plan(tuple(model.weights() for model in models), tuple(work), runs)


def plan_cascade(config: CascadeConfig, task: Task, label: str, journal: Path) -> Plan:
    """Of `cascade.run`: every model on every question, which is the most that it can cost.

    Args:
        config: The cascade.
        task: What is asked.
        label: Its name.
        journal: Where the run says what it has done.
    """
    members = config.members
    decoders = {m.name: Decoder(model) for m in members if (model := m.decoder) is not None}
    decoders |= {
        f"{m.reader.model} (reads for {m.name})": Decoder(reader)
        for m in members
        if m.reader is not None and (reader := m.reader.decoder) is not None
    }
    prompts = [prompt_of(question, task) for question in task.questions]
    there = _answered(journal, prompts)
    tokenizer = next(iter(decoders.values()), None)  # an endpoint's own is not known
    work = [decoder.asking(name, prompts, label, there) for name, decoder in decoders.items()]
    work += [_endpoint(m, prompts, label, there, tokenizer) for m in members if m.endpoint is not None]
    by_name = {m.name: m for m in members}
    return Plan(
        tuple({decoder.model.name: decoder.weights() for decoder in decoders.values()}.values()),
        tuple(_priced(one, by_name.get(one.model)) for one in work),
        journal.parent,
    )


def _answered(journal: Path, prompts: Sequence[Prompt]) -> int:
    """Questions that the journal of an earlier run has answers of."""
    from cascade.runtime.journal import answered_in

    return len(answered_in(journal) & {prompt.question_id for prompt in prompts})


def _done(work: Work) -> Work:
    return replace(work, rows_there=work.questions, remark="a finished store is read, and nothing scored")


def _priced(work: Work, member: Member | None) -> Work:
    if member is None or member.price is None:
        return work
    left = 1 - work.rows_there / work.questions
    dollars = left * (work.prompt_tokens * member.price.input + work.completion_tokens * member.price.output) / 1e6
    remark = work.remark
    if member.endpoint is not None and member.spending_cap is not None and dollars > member.spending_cap:
        remark = f"above its spending_cap of {member.spending_cap:g} dollars"
    return replace(work, dollars=dollars, remark=remark)


def _estimate(prompts: Sequence[str]) -> np.ndarray:
    return np.array([-(-len(prompt) // CHARACTERS_A_TOKEN) for prompt in prompts], dtype=np.int64)


def _endpoint(member: Member, prompts: Sequence[Prompt], label: str, there: int, tokenizer: Decoder | None) -> Work:
    texts = [prompt.text for prompt in prompts]
    tokens = (_estimate(texts) if tokenizer is None else tokenizer.tokens(texts)[0]).sum()
    written = sum(prompt.completion_tokens for prompt in prompts)
    flops = None if member.parameters is None else 2.0 * member.parameters * len(prompts)
    return Work(member.name, label, len(prompts), int(tokens), False, written, flops, rows_there=there)


class Decoder:
    """A decoder that is planned with, and not loaded.

    Args:
        model: The decoder; its tokenizer need not be there.
    """

    def __init__(self, model: HuggingFaceModel) -> None:
        self.model = model

    @cached_property
    def _tokenizes(self) -> bool:
        try:
            return self.model.tokenizer is not None
        except CascadeError:
            return False

    def tokens(self, prompts: Sequence[str]) -> tuple[np.ndarray, bool]:
        """Tokens of each prompt, ``[prompts]``, int64, and whether they are counted or estimated from its length."""
        if not self._tokenizes:
            return _estimate(prompts), False
        return np.array(self.model.count_tokens(prompts), dtype=np.int64), True

    def weights(self) -> Weights:
        """Sizes of the weights, and whether they are on disk."""
        model = self.model
        found = weight_files(model.source, model.origin.get("revision"))
        stored = str(getattr(model.config, "dtype", None) or "float32").removeprefix("torch.")
        disk = found if found is not None else model.parameters * (DTYPES[stored].itemsize if stored in DTYPES else 4)
        memory = weight_bytes(model.config, model.dtype, model.quantization)
        shape = f"{model.depth} × {model.hidden_size:,}"
        return Weights(model.name, model.parameters, shape, model.precision, memory, disk, found is not None)

    def scoring(self, task: Task, stores: Path) -> Work:
        """A task scored into a store, what is there already left out."""
        prompts = [prompt_of(question, task) for question in task.questions]
        layers = self.model.layers("all")
        rows_there, folder = 0, None
        left = np.ones(len(prompts), dtype=bool)
        row_bytes = len(layers) * self.model.hidden_size * DTYPES[self.model.dtype].itemsize
        if self._tokenizes:  # the store's key holds the tokenizer's hash
            layout = StoreLayout(stores, store_key(self.model, task), len(prompts), self.model.hidden_size)
            folder, missing = layout.folder, set(missing_shards(layout))
            for number, rows in enumerate(layout.shards):
                left[rows.start : rows.stop] = number in missing
            rows_there = int((~left).sum())
        work = self._work(self.model.name, task.name, prompts, left)
        return replace(
            work,
            rows_there=rows_there,
            folder=folder,
            store_bytes=row_bytes * len(prompts),
            store_bytes_left=row_bytes * int(left.sum()),
        )

    def asking(self, name: str, prompts: Sequence[Prompt], label: str, there: int) -> Work:
        """Prompts answered live, of which ``there`` are answered; the first ones are taken for those."""
        left = np.arange(len(prompts)) >= there
        return replace(self._work(name, label, prompts, left), rows_there=there)

    def _work(self, name: str, task: str, prompts: Sequence[Prompt], left: np.ndarray) -> Work:
        model = self.model
        tokens, counted = self.tokens([prompt.text for prompt in prompts])
        written = np.array([prompt.completion_tokens for prompt in prompts], dtype=np.int64)
        scores = ModelScores(
            name,
            np.zeros(len(prompts), bool),
            None,
            parameters=model.parameters,
            num_layers=model.depth,
            hidden_size=model.hidden_size,
            prompt_tokens=tokens,
            completion_tokens=written,
        )
        chain = ChainScores(tuple(map(str, range(len(prompts)))), (scores,))
        plain, whole = (pass_costs(chain, unit).whole[0] for unit in ("flops", "flops-context"))
        seconds = float(whole[left].sum()) / (PEAK_FLOPS[model.dtype] * UTILISATION)
        longest, context = int(tokens.max(initial=0)), model.context
        room = max((prompt.room for prompt in prompts), default=0)
        remark = ""
        if context is not None and longest + room > context:
            remark = f"its longest prompt has {longest:,} tokens, and there is room for {context - room:,}"
        return Work(
            name,
            task,
            len(prompts),
            int(tokens.sum()),
            counted,
            int(written.sum()),
            float(plain.sum()),
            float(whole.sum()),
            gpu_hours=seconds / 3600,
            remark=remark,
        )


def weight_files(source: str, revision: str | None) -> int | None:
    """Bytes of a model's weights on disk, in a folder or in the Hub's cache; ``None`` where they are not all there."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    folder = Path(source)
    if not folder.is_dir():
        try:
            folder = Path(snapshot_download(source, revision=revision, local_files_only=True))
        except (LocalEntryNotFoundError, HFValidationError):
            return None
    for index in ("model.safetensors.index.json", "pytorch_model.bin.index.json"):
        if (folder / index).exists():
            names = _indexed(folder / index)
            there = [folder / name for name in names if (folder / name).exists()]
            return sum(path.stat().st_size for path in there) if len(there) == len(names) else None
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (folder / name).exists():
            return (folder / name).stat().st_size
    return None


def _indexed(index: Path) -> set[str]:
    try:
        return set(json.loads(index.read_text())["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CascadeError(f"Expected {index} to name the weights' files, but reading it failed: {error!r}") from error
