"""The probes of a chain: which one reads each model, trained where missing, and its P(IK) as a score-table column."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from types import MappingProxyType

import numpy as np
import pyarrow as pa

from cascade.engines.base import EngineConfig
from cascade.engines.states import States, StatesEngine, check_states, showing_states
from cascade.errors import CascadeError
from cascade.probing.choice import ProbeChoice
from cascade.probing.data import BATCH_SIZE, ScoredTaskDataModule, default_layer
from cascade.probing.fit import fit
from cascade.probing.runs import OWN_LABEL, TrainedProbe, best_probe, trained_probes
from cascade.scores.row import with_columns
from cascade.scoring.scored import Scored, score
from cascade.tasks.load import TASKS, load_task
from cascade.tasks.task import Task
from probes import Probe, ProbeConfig
from probes.training import ProbeModule

DEFAULT = ProbeChoice()
NONE_NAMED: Mapping[str, Probe | None] = MappingProxyType({})


def probe_for(
    model: StatesEngine, task: str, scored: Scored, runs: Path, layer: int | None = None, seed: int = 0
) -> Probe:
    """The probe of a scored model: the best on validation of those in the folder of runs, or one trained now.

    A probe that is there is taken whatever the settings of its head, as long as it predicts the model's own verdicts.
    So a better head, once trained there, is the one that the cascade uses.

    Args:
        model: The model.
        task: Name or file of the task the probe is for.
        scored: The model's own scores on it.
        runs: Folder of stores and probe runs.
        layer: The one layer that is wanted; by default any, and the model's `default_layer` where one is trained.
        seed: Of the split and of the training; every seed but 0 has a folder of its own.
    """
    key, split = scored.store.key, scored.task.split(seed)
    out = runs / "probes" / f"seed-{seed}" if seed else runs / "probes"
    wanted = (
        key.model_revision,
        key.task_revision,
        key.template_hash,
        key.precision,
        split.fingerprint,
        OWN_LABEL,
    )
    there = [probe for probe in trained_probes(out) if probe.config.base_model == key.model]
    if found := best_probe((probe for probe in there if _trained_on(probe.config) == wanted), layer):
        print(f"Reusing {found.in_words}", file=sys.stderr)
        return Probe.from_pretrained(found.checkpoint)
    at = "" if layer is None else f" at layer {layer}"
    others = f"; {len(there)} there {'is' if len(there) == 1 else 'are'} of something else" if there else ""
    print(f"No probe for {key.model} on {task}{at} in {out}{others}; training one", file=sys.stderr)
    check_enough(scored.task, task)
    data = ScoredTaskDataModule(
        task=task,
        layer=default_layer(key.layers[-1]) if layer is None else layer,
        stores=runs / "stores",
        split_seed=seed,
        shots=scored.task.shots,
        **model.settings.flags(),
    )
    return fit(data, ProbeModule(), out=out, seed=seed).probe


def _trained_on(config: ProbeConfig) -> tuple[str, ...]:
    return (
        config.base_revision,
        config.task_revision,
        config.template_hash,
        config.dtype,
        config.split_fingerprint,
        config.label,
    )


def check_enough(task: Task, name: str) -> None:
    """Refuses a task with too few questions to train a probe on.

    Args:
        task: The task.
        name: As it was named.

    Raises:
        CascadeError: Saying what can be done.
    """
    split = task.split()
    if len(split.train) < BATCH_SIZE:
        raise CascadeError(
            f"Expected at least {BATCH_SIZE} questions to train a probe on, but {name} has {len(split.train)} (of "
            f"{len(task.questions)}, the others are for validation and test); name a task with more by "
            f"`--probes.task`, or leave P(IK) out by `--p_ik null`"
        )


def found_probe(settings: EngineConfig, task: Task | None, runs: Path, layer: int | None = None) -> TrainedProbe | None:
    """The trained probe of a model that is run live; ``None`` where there is none for it.

    Those of the task that is asked, or that its probes are trained on, come before those of other tasks. Of one task
    the best on validation is taken, as `probe_for` does.

    Args:
        settings: Of the model.
        task: That is asked; without one a probe of any task will do.
        runs: Folder of stores and probe runs.
        layer: The one layer that is wanted.

    Raises:
        CascadeError: If there are probes of several other tasks, none of which is the better for this one.
    """
    there = list(trained_probes(runs / "probes"))
    names = {settings.name, PurePath(settings.name).name}
    if not any(PurePath(probe.config.base_model).name in names for probe in there):
        return None  # nothing to look for, for which a model's configuration would be read
    model = showing_states(settings.build())
    # A task's default part to ask is the test part of its first split: another split's probe has learnt from it.
    split = load_task(task.name, task.shots).split().fingerprint if task is not None and task.name in TASKS else None
    fits = []
    for probe in there:
        if probe.config.label != OWN_LABEL or layer not in (None, probe.config.layer):
            continue
        if task is not None and split and probe.config.task == task.name and probe.config.split_fingerprint != split:
            continue
        try:
            check_states(probe.config, model.shown_for(task), model.described)
        except CascadeError:
            continue  # of another model, or of prompts in another form
        fits.append(probe)
    asked = () if task is None else (task.name, task.probed_on)
    by_task: dict[str, list[TrainedProbe]] = {}
    for probe in fits:
        by_task.setdefault(probe.config.task, []).append(probe)
    own = next((by_task[name] for name in asked if name in by_task), None)
    if own is None and len(by_task) > 1:
        raise CascadeError(
            f"Expected one probe of {model.name!r}, but {runs / 'probes'} has some of {', '.join(sorted(by_task))}; "
            f"name its `probe`"
        )
    return best_probe(fits if own is None else own)


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
    scored = score(model, task, runs / "stores", batch_size=model.batch_size if own else None)
    if scored.reused:
        print(f"Reusing {scored.store.rows:,} scored rows in {scored.store.folder}", file=sys.stderr)
    return scored
