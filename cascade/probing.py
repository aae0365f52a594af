"""Where scoring and probes meet: a scored task as training data, and a probe's P(IK) as a score-table column."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from cascade.errors import CascadeError
from cascade.models.chain import ChainModels
from cascade.models.huggingface import HuggingFaceModel
from cascade.models.local import States, check_states
from cascade.models.prompts import LetterForm, PromptForm
from cascade.models.weights import Quantization
from cascade.scoring import Scored, score, store_key
from cascade.simulation.schema import SCHEMA
from cascade.tasks.base import PromptStyle, Task
from cascade.tasks.load import PROBED_ON, load_task
from probes import HiddenStateStore, Probe, ProbeConfig, stratified_split
from probes.data import HiddenStateDataModule, LabelledStates
from probes.files import file_name
from probes.states import open_states

RUNS = Path("runs")
DEFAULT = ChainModels()
OWN_LABEL = ProbeConfig.label
BATCH_SIZE = 256


def default_layer(depth: int) -> int:
    """Three quarters of the way up: the paper's layer 24 lies at 24/28 to 24/32 of its small models."""
    return round(0.75 * depth)


class ScoredTaskDataModule(HiddenStateDataModule):
    """A model's hidden states on a task, labelled by whether the model was right; scored first where missing.

    Args:
        model: A miniature's name, a folder, or a Hub id.
        task: Name of the task, or a file of questions and answers.
        layer: The one layer to read (0 = embeddings); by default three quarters of the way up.
        layers: Instead of one layer a list of them, or ``all``: a head is trained on each.
        store: A finished store to read instead of the one under ``stores``.
        stores: Folder of stores.
        dtype: float32, float16 or bfloat16.
        revision: Branch, tag or commit on the Hub.
        device_map: As in transformers, such as auto for a model that is larger than one GPU.
        quantization: 4bit or 8bit: bitsandbytes packs the weights.
        labels: Parquet file with ``question_id`` and ``correct`` to learn from instead of the scored answers: those of
            another model, or of several samples a question, whose label is then the share of right ones.
        targets: What heads are trained towards: correct, the verdict, or p_right, the probability that the model gives
            the right option. Figures and calibration are of the verdict either way.
        memory: GiB that hidden states may take; what is larger is read from disk as it is wanted. By default half of
            what is free.
        scoring_batch_size: Prompts in one forward pass while scoring.
        batch_size: Rows of a training batch.
        split_seed: Another seed is another split.
        prompt_style: raw is the paper's text, chat gives it to the model's chat template (thinking off).
        letters: auto, or bare to read option letters without a space before them.
        trust_remote_code: Run the Python that the model brings with it, with all your rights; without, it is refused.
    """

    def __init__(
        self,
        model: str = "mini-llama-small",
        task: str = "mini-mmlu",
        layer: int | None = None,
        layers: Literal["all"] | list[int] | None = None,
        store: Path | None = None,
        stores: Path = RUNS / "stores",
        dtype: str = "float32",
        revision: str | None = None,
        device_map: str | None = None,
        quantization: Quantization | None = None,
        labels: Path | None = None,
        targets: Literal["correct", "p_right"] = "correct",
        memory: float | None = None,
        scoring_batch_size: int = 128,
        batch_size: int = BATCH_SIZE,
        split_seed: int = 0,
        prompt_style: PromptStyle = "raw",
        letters: LetterForm = "auto",
        trust_remote_code: bool = False,
    ) -> None:
        super().__init__(batch_size, split_seed)
        self.task = load_task(task)
        self.model = HuggingFaceModel(
            model, revision, dtype, device_map, quantization, prompt_style, letters, trust_remote_code
        )
        if layer is not None and layers is not None:
            raise CascadeError(f"Expected `layer` or `layers`, but got both: {layer} and {layers}")
        one = default_layer(self.model.depth) if layer is None else layer
        self.layers = self.model.layers([one] if layers is None else layers)
        if memory is not None and not memory >= 0:
            raise CascadeError(f"Expected `memory` to be at least 0 GiB, but got {memory}")
        self.memory = None if memory is None else int(memory * 2**30)
        self.stores, self.store, self.scoring_batch_size = stores, store, scoring_batch_size
        self.labels, self.targets = labels, targets
        self.scored: Scored | None = None

    def prepare_data(self) -> None:
        """Scores the task unless that lies on disk."""
        if self.store is not None:
            self.scored = Scored(HiddenStateStore(self.store, expect=store_key(self.model, self.task)), reused=True)
        elif self.scored is None:
            self.scored = score(self.model, self.task, self.stores, batch_size=self.scoring_batch_size)

    def load(self) -> LabelledStates:
        """Layers of the store, and the score table's verdicts."""
        self.prepare_data()
        assert self.scored is not None
        store, table = self.scored.store, self.scored.table()
        origin = ProbeConfig(
            hidden_size=store.hidden_size,
            layer=0,
            base_model=store.key.model,
            base_revision=store.key.model_revision,
            num_layers=self.model.depth,
            template_hash=store.key.template_hash,
            task=store.key.task,
            task_revision=store.key.task_revision,
            position=store.key.position,
            dtype=store.key.precision,
        )
        source = str(store.folder) if self.labels is None else str(self.labels)
        ids, strata = table["question_id"].to_pylist(), table["subject"].to_pylist()
        if self.labels is not None:
            table = _read_parquet(self.labels)
        labels, meaning = read_labels(table, ids, "correct", source)
        if self.labels is None:
            meaning = OWN_LABEL
        targets = None
        if self.targets != "correct":
            targets, _ = read_labels(table, ids, self.targets, source)
            meaning += f", learnt from {self.targets}"
        return LabelledStates(
            states=open_states(store, self.layers, self.memory),
            labels=torch.from_numpy(labels.astype(np.float32)),
            ids=ids,
            strata=strata,
            origins=[replace(origin, layer=layer, label=meaning) for layer in self.layers],
            targets=None if targets is None else torch.from_numpy(targets.astype(np.float32)),
        )


def _read_parquet(path: Path) -> pa.Table:
    try:
        return pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise CascadeError(f"Expected `labels` to be a Parquet file, but {path}: {error}") from error


def read_labels(table: pa.Table, ids: Sequence[str], column: str, path: str) -> tuple[np.ndarray, str]:
    """What a probe is to predict, from ``question_id``, a column, and ``model`` where there is one.

    Args:
        table: A score table, or a table of several answers a question (repeated ids), or of shares.
        ids: The questions wanted; others in the table are left out.
        column: The column.
        path: Names the table in errors.

    Returns:
        Labels ``[len(ids)]`` in [0, 1], float64, the mean where an id repeats; and what they mean, in words.

    Raises:
        CascadeError: If a column or a question is missing, a label lies outside [0, 1], or several models are in it.
    """
    if missing := {"question_id", column} - set(table.column_names):
        raise CascadeError(f"Expected {path} to have columns question_id and {column}, but {sorted(missing)} missing")
    models = set(table["model"].to_pylist()) if "model" in table.column_names else {"the model"}
    if len(models) != 1:
        raise CascadeError(f"Expected labels of one model in {path}, but got {', '.join(map(str, sorted(models)))}")
    try:
        numbers = table[column].cast(pa.float64())
    except pa.ArrowException as error:
        raise CascadeError(f"Expected {column} in {path} to be numbers, but got {table[column].type}") from error
    answers = pa.table({"id": table["question_id"].cast(pa.string()), "label": numbers})
    grouped = answers.group_by("id").aggregate([("label", "mean")])
    means = dict(zip(grouped["id"].to_pylist(), grouped["label_mean"].to_pylist(), strict=True))
    if absent := [i for i in ids if means.get(i) is None]:
        raise CascadeError(f"Expected labels of all questions in {path}, but {len(absent)} have none, as {absent[0]!r}")
    labels = np.array([means[i] for i in ids])
    if (outside := np.flatnonzero(~((labels >= 0) & (labels <= 1)))).size:
        raise CascadeError(f"Expected {column} in {path} to be in [0, 1], but question {ids[outside[0]]!r} is not")
    model = next(iter(models))
    if bool(((labels > 0) & (labels < 1)).any()):
        return labels, f"an answer of {model} is correct, learnt from the share of right answers"
    return labels, f"the answer of {model} is correct"


@dataclass(frozen=True)
class ProbeRun:
    """Where a trained probe and what belongs to it lie."""

    folder: Path

    @property
    def checkpoint(self) -> Path:
        """The probe's checkpoint folder."""
        return self.folder / "probe"

    @property
    def name(self) -> str:
        """What is predicted of what, whatever the layer."""
        return self.folder.name.rpartition("--layer")[0]

    @classmethod
    def of(
        cls,
        root: Path,
        model: str,
        task: str,
        layer: int | Sequence[int],
        prompts: PromptForm | None = None,
        labels: Path | None = None,
        targets: str = "correct",
    ) -> ProbeRun:
        """The run of one model, task and layer, or of several layers, under a folder of runs.

        What predicts something else than the model's own verdicts is another run, by the name of the labels' file and
        by the targets.
        """
        task = "-".join([task, *(prompts.settings.values() if prompts is not None else ())])
        numbers = [layer] if isinstance(layer, int) else layer
        parts = [file_name(model), task]
        parts += [] if labels is None else [f"labels-{file_name(labels.stem)}"]
        parts += [] if targets == "correct" else [targets]
        return cls(root / "--".join([*parts, f"layer{'s' if len(numbers) > 1 else ''}-{_ranges(numbers)}"]))


def _ranges(numbers: Sequence[int]) -> str:
    """``0-3,7`` for 0, 1, 2, 3 and 7."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(f"{first}" if first == last else f"{first}-{last}" for first, last in runs)


def probe_for(
    model: HuggingFaceModel, task: str, scored: Scored, runs: Path, layer: int | None = None, seed: int = 0
) -> Probe:
    """The probe of a scored model at a layer, from the folder of runs; trained where missing or outdated.

    With which settings of the head the one that is there was trained is its own affair, as long as it predicts the
    model's own verdicts: that is how a better one is brought to a cascade.

    Args:
        model: The model.
        task: Name or file of the task the probe is for.
        scored: The model's own scores on it.
        runs: Folder of stores and probe runs.
        layer: By default the model's `default_layer`.
        seed: Of the split and of the training; every seed but 0 has a folder of its own.
    """
    from cascade.train import train

    key, table = scored.store.key, scored.table()
    layer = default_layer(key.layers[-1]) if layer is None else layer
    out = runs / "probes" / f"seed-{seed}" if seed else runs / "probes"
    run = ProbeRun.of(out, key.model, key.task, layer, model.prompts)
    if (run.checkpoint / "config.json").exists():
        config = (probe := Probe.from_pretrained(run.checkpoint)).config
        split = stratified_split(table["question_id"].to_pylist(), table["subject"].to_pylist(), seed)
        found = (
            config.base_revision,
            config.task_revision,
            config.template_hash,
            config.dtype,
            config.split_fingerprint,
            config.label,
        )
        wanted = (key.model_revision, key.task_revision, key.template_hash, key.precision, split.fingerprint, OWN_LABEL)
        if found == wanted:
            # Whoever tried other settings has it from that trial.
            worth = f", AUROC {config.metrics['auroc']:.3f} on its test part" if "auroc" in config.metrics else ""
            print(f"Reusing the probe in {run.folder}{worth}", file=sys.stderr)
            return probe
        print(f"The probe in {run.folder} was trained on something else; training it anew", file=sys.stderr)
    else:
        print(f"No probe for {key.model} in {out}; training one", file=sys.stderr)
    rows = stratified_split(table["question_id"].to_pylist(), table["subject"].to_pylist(), seed).train
    if len(rows) < BATCH_SIZE:
        raise CascadeError(
            f"Expected at least {BATCH_SIZE} questions to train a probe on, but {task} has {len(rows)} (of "
            f"{table.num_rows}, the others are for validation and test); name a task with more by "
            f"`--models.probe_task`, or leave P(IK) out by `--p_ik null`"
        )
    flags = {"data.model": key.model, "data.task": task, "data.layer": layer, "data.stores": runs / "stores"}
    flags |= {"data.dtype": key.dtype, "data.split_seed": seed, "seed_everything": seed, "out": out}
    flags |= {"data.quantization": key.quantization} if key.quantization else {}
    flags |= {"data.revision": key.model_revision} if model.origin else {}
    flags |= {"data.trust_remote_code": True} if model.trust_remote_code else {}
    flags |= {f"data.{name}": value for name, value in model.prompts.settings.items()}
    return train([f"--{name}={value}" for name, value in flags.items()]).probe


def check_base(probe: Probe, scored: Scored, allow_base_mismatch: bool = False) -> None:
    """Refuses to read the states of a model, or after prompts in a form, that a probe was not trained on.

    Args:
        probe: Knows its base, revision, layer, position, dtype and prompt template.
        scored: The states.
        allow_base_mismatch: Read another model's or prompt template's states all the same, where width and position
            agree.

    Raises:
        CascadeError: Naming what differs.
    """
    store, key = scored.store, scored.store.key
    templates = scored.templates | {key.template_hash}
    found = States(key.position, store.hidden_size, key.model, key.model_revision, key.precision, templates)
    check_states(probe.config, found, f"{store.folder} is of {key.model}", allow_base_mismatch)


def with_p_ik(
    scored: Scored, probe: Probe | None, split_seed: int | None = None, allow_base_mismatch: bool = False
) -> pa.Table:
    """A score table with the probe's P(IK) filled in, and with the split where ``split_seed`` is given.

    Args:
        scored: The scored task.
        probe: Its base must be the scored model; without one P(IK) is null.
        split_seed: The probe's split seed, if the task is the one it was trained on.
        allow_base_mismatch: See `check_base`.
    """
    table = scored.table()
    columns = {name: table[name] for name in table.column_names}
    columns["hidden_size"] = pa.array([scored.store.hidden_size] * table.num_rows, pa.int64())
    if probe is not None:
        check_base(probe, scored, allow_base_mismatch)
        values = np.concatenate([probe.predict(part) for part in scored.store.iter_layer(probe.config.layer)])
        columns["p_ik"] = pa.array(values.astype(np.float64))
        columns["probe_layer"] = pa.array([probe.config.layer] * table.num_rows, pa.int64())
        size = sum(parameter.numel() for parameter in probe.parameters())
        columns["probe_parameters"] = pa.array([size] * table.num_rows, pa.int64())
    if split_seed is not None:
        split = stratified_split(table["question_id"].to_pylist(), table["subject"].to_pylist(), split_seed)
        if probe is not None and probe.config.split_fingerprint != split.fingerprint:
            raise CascadeError(
                f"Expected the probe of {probe.config.base_model} to be trained on the split of seed {split_seed}, but "
                f"it saw another one, and with it some of the test questions"
            )
        names = np.full(table.num_rows, "train", dtype=object)
        names[list(split.validation)] = "validation"
        names[list(split.test)] = "test"
        columns["split"] = pa.array(names, pa.string())
    return pa.table({field.name: columns[field.name] for field in SCHEMA if field.name in columns})


def own_models(names: Sequence[str], settings: ChainModels = DEFAULT) -> list[HuggingFaceModel]:
    """The models of a chain, none of them loaded yet."""
    loaded = (settings.dtype, settings.device_map, settings.quantization, settings.prompt_style, settings.letters)
    if unknown := sorted(set(settings.revisions) - set(names)):
        raise CascadeError(f"Expected `revisions` of models in the chain, but got {', '.join(unknown)}")
    models = [HuggingFaceModel(name, settings.revisions.get(name), *loaded) for name in names]
    if settings.layer is not None:
        for model in models[:-1]:
            model.layers([settings.layer])
    return models


def own_scores(
    names: Sequence[str],
    task: str,
    runs: Path,
    depth: float | None = None,
    settings: ChainModels = DEFAULT,
    probes: bool = True,
) -> pa.Table:
    """Scores of models we run ourselves, with the P(IK) of their probes, all but the last model's.

    Args:
        names: A chain, smallest first.
        task: Task to answer.
        runs: Folder of stores and probe runs.
        depth: How far up each model its probe reads, in (0, 1]; by default as ``settings`` say.
        settings: How the models are loaded, and what their probes are trained on.
        probes: Whether there is P(IK) at all; without it nothing is trained.
    """
    probed = (settings.probe_task or PROBED_ON.get(task, task)) if probes else task
    # What is unknown is refused before anything is run.
    tasks = {name: load_task(name) for name in dict.fromkeys([task, probed])}
    models = own_models(names, settings)
    tables = []
    for place, model in enumerate(models):
        scored = _scored(model, tasks[task], runs, settings.batch_size)
        probe = None
        if probes and place + 1 < len(models):
            layer = settings.layer if depth is None else max(1, round(depth * model.depth))
            own = scored if tasks[task] is tasks[probed] else _scored(model, tasks[probed], runs, settings.batch_size)
            probe = probe_for(model, probed, own, runs, layer)
        model.release()
        # By what is asked and not by name: a file has many.
        same = tasks[task].revision == tasks[probed].revision
        tables.append(with_p_ik(scored, probe, split_seed=0 if same else None))
    return pa.concat_tables(tables, promote_options="default")  # columns that a model lacks are null


def _scored(model: HuggingFaceModel, task: Task, runs: Path, batch_size: int) -> Scored:
    scored = score(model, task, runs / "stores", batch_size=batch_size)
    if scored.reused:
        print(f"Reusing {scored.store.rows:,} scored rows in {scored.store.folder}", file=sys.stderr)
    return scored
