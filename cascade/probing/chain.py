"""The probes of a chain: which one reads each model, trained where missing, and its P(IK) as a score-table column."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pyarrow as pa

from cascade.engines.base import EngineConfig
from cascade.engines.states import States, StatesEngine, check_states, showing_states
from cascade.errors import CascadeError
from cascade.probing.choice import ProbeChoice
from cascade.probing.data import BATCH_SIZE, OWN_LABEL, ScoredTaskDataModule, default_layer
from cascade.probing.fit import fit
from cascade.probing.runs import ProbeRun
from cascade.scores.row import with_columns
from cascade.scoring.scored import Scored, score
from cascade.tasks.load import load_task
from cascade.tasks.task import Task
from probes import Probe
from probes.training import ProbeModule

DEFAULT = ProbeChoice()
NONE_NAMED: Mapping[str, Probe | None] = MappingProxyType({})
SCORING_BATCH = 128


def probe_for(
    model: StatesEngine, task: str, scored: Scored, runs: Path, layer: int | None = None, seed: int = 0
) -> Probe:
    """The probe of a scored model at a layer, from the folder of runs. A missing or outdated one is trained.

    A probe that is there is taken whatever the settings of its head, as long as it predicts the model's own verdicts.
    So a better head, once trained there, is the one that the cascade uses.

    Args:
        model: The model.
        task: Name or file of the task the probe is for.
        scored: The model's own scores on it.
        runs: Folder of stores and probe runs.
        layer: By default the model's `default_layer`.
        seed: Of the split and of the training; every seed but 0 has a folder of its own.
    """
    key, split = scored.store.key, scored.task.split(seed)
    layer = default_layer(key.layers[-1]) if layer is None else layer
    out = runs / "probes" / f"seed-{seed}" if seed else runs / "probes"
    run = ProbeRun.of(out, key.model, scored.task.label, layer, model.prompts)
    if (run.checkpoint / "config.json").exists():
        config = (probe := Probe.from_pretrained(run.checkpoint)).config
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
            # Its AUROC is said, since it may come from a trial with other settings of the head.
            worth = f", AUROC {config.metrics['auroc']:.3f} on its test part" if "auroc" in config.metrics else ""
            print(f"Reusing the probe in {run.folder}{worth}", file=sys.stderr)
            return probe
        print(f"The probe in {run.folder} was trained on something else; training it anew", file=sys.stderr)
    else:
        print(f"No probe for {key.model} in {out}; training one", file=sys.stderr)
    if len(split.train) < BATCH_SIZE:
        raise CascadeError(
            f"Expected at least {BATCH_SIZE} questions to train a probe on, but {task} has {len(split.train)} (of "
            f"{scored.store.rows}, the others are for validation and test); name a task with more by "
            f"`--probes.task`, or leave P(IK) out by `--p_ik null`"
        )
    data = ScoredTaskDataModule(
        task=task,
        layer=layer,
        stores=runs / "stores",
        split_seed=seed,
        shots=scored.task.shots,
        **model.settings.flags(),
    )
    return fit(data, ProbeModule(), out=out, seed=seed).probe


def check_base(probe: Probe, scored: Scored, allow_base_mismatch: bool = False) -> None:
    """Refuses states that a probe was not trained on: another model's, or those after prompts in another form.

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
    columns = {"hidden_size": pa.array([scored.store.hidden_size] * table.num_rows, pa.int64())}
    if probe is not None:
        check_base(probe, scored, allow_base_mismatch)
        values = np.concatenate([probe.predict(part) for part in scored.store.iter_layer(probe.config.layer)])
        columns["p_ik"] = pa.array(values.astype(np.float64))
        columns["probe_layer"] = pa.array([probe.config.layer] * table.num_rows, pa.int64())
        size = sum(parameter.numel() for parameter in probe.parameters())
        columns["probe_parameters"] = pa.array([size] * table.num_rows, pa.int64())
    if split_seed is not None:
        split = scored.task.split(split_seed)
        if probe is not None and probe.config.split_fingerprint != split.fingerprint:
            raise CascadeError(
                f"Expected the probe of {probe.config.base_model} to be trained on the split of seed {split_seed}, but "
                f"it saw another one, and with it some of the test questions"
            )
        names = np.full(table.num_rows, "train", dtype=object)
        names[list(split.validation)] = "validation"
        names[list(split.test)] = "test"
        columns["split"] = pa.array(names, pa.string())
    return with_columns(table, columns)


def own_models(chain: Sequence[EngineConfig], layer: int | None = None) -> list[StatesEngine]:
    """The models of a chain, none of them loaded yet.

    Args:
        chain: Settings of the engines, smallest model first.
        layer: All but the last have to have it.
    """
    models = [showing_states(settings.build()) for settings in chain]
    if layer is not None:
        for model in models[:-1]:
            model.layers([layer])
    return models


def own_scores(
    chain: Sequence[EngineConfig],
    task: str,
    runs: Path,
    depth: float | None = None,
    choice: ProbeChoice = DEFAULT,
    probes: bool = True,
    named: Mapping[str, Probe | None] = NONE_NAMED,
    shots: int = 0,
) -> pa.Table:
    """Scores of models we run ourselves, with the P(IK) of their probes, all but the last model's.

    Args:
        chain: Settings of the engines, smallest model first.
        task: Task to answer.
        runs: Folder of stores and probe runs.
        depth: How far up each model its probe reads, in (0, 1]; by default as ``choice`` says.
        choice: Which probes; trained where they are missing.
        probes: Whether there is P(IK) at all; without it nothing is trained.
        named: By the model's name, its probe where that is chosen already, or ``None`` where it has none.
        shots: Examples in each prompt, from the dev split of the task that is asked.
    """
    # What is unknown is refused before anything is run.
    tasks = {task: load_task(task, shots)}
    probed = (choice.task or tasks[task].probed_on or task) if probes else task
    if probed != task:
        tasks[probed] = load_task(probed, shots)
    models = own_models(chain, choice.layer)
    tables = []
    for place, model in enumerate(models):
        scored = _scored(model, tasks[task], runs)
        probe, trained_on = None, tasks[probed].revision
        if probes and place + 1 < len(models) and model.name in named:
            probe = named[model.name]
            trained_on = trained_on if probe is None else probe.config.task_revision
        elif probes and place + 1 < len(models):
            layer = choice.layer if depth is None else max(1, round(depth * model.num_layers))
            own = scored if tasks[task] is tasks[probed] else _scored(model, tasks[probed], runs)
            probe = probe_for(model, probed, own, runs, layer)
        model.release()
        # By what is asked and not by name: a file has many.
        tables.append(with_p_ik(scored, probe, split_seed=0 if tasks[task].revision == trained_on else None))
    return pa.concat_tables(tables, promote_options="default")  # columns that a model lacks are null


def _scored(model: StatesEngine, task: Task, runs: Path) -> Scored:
    # Larger batches than those of a live run, which leave early, unless the settings say otherwise.
    own = "batch_size" in model.settings.changed()
    scored = score(model, task, runs / "stores", batch_size=model.batch_size if own else SCORING_BATCH)
    if scored.reused:
        print(f"Reusing {scored.store.rows:,} scored rows in {scored.store.folder}", file=sys.stderr)
    return scored
