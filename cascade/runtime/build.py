"""From settings to a live cascade: models with their probes, readers, the policy and its calibration scores."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

import pyarrow as pa

from cascade.engines.base import Engine, Reader
from cascade.errors import CascadeError
from cascade.policies.base import LivePolicy, Thresholds
from cascade.policies.file import read_policy, read_probe_layers, read_watched
from cascade.policies.promise import Watched, watched_of
from cascade.policies.thresholds import ThresholdPolicy
from cascade.probing.runs import RUNS
from cascade.runtime.config import CascadeConfig, FreeTextSettings, Member, ReaderSettings
from cascade.runtime.engine import Cascade
from cascade.runtime.free_text import FreeText
from cascade.scores.arrays import ChainScores, align, check_chain, check_sizes
from cascade.scores.columns import CONFIDENCES
from cascade.scores.reading import read_scores
from cascade.tasks.task import Task
from probes.errors import ProbeError
from probes.probe import Probe


def build_cascade(
    config: CascadeConfig | Path | str | None = None, task: Task | None = None, runs: Path = RUNS
) -> Cascade:
    """Puts a cascade together. Weights are loaded with the first question, and not before.

    Args:
        config: Its description, or a YAML file of one; by default the miniature Llamas.
        task: That will be asked, with the examples that ``shots`` of the description want. Without one any question
            can be asked, in the words of Table 7 and without examples.
        runs: Folder of runs, where the probes of models are that name none.

    Raises:
        CascadeError, ProbeError: If a model, probe, policy or score table is missing or does not fit. Where P(IK) has
            a threshold, a model that could have a probe has to have one, or to say `probe: none`.
    """
    if not isinstance(config, CascadeConfig):
        config = CascadeConfig.read(config)
    if config.shots != (shots := 0 if task is None else task.shots):
        raise CascadeError(
            f"Expected `shots` to be {shots}, the examples in the prompts of {task.name if task else 'any question'}, "
            f"but got {config.shots}"
            + ("; examples come from a task, as in `python -m cascade.run --questions`" if task is None else "")
        )
    members = config.members
    names = [member.name for member in members]
    check_chain(names)
    readers = {place: _reader(member.reader, task) for place, member in enumerate(members) if member.reader is not None}
    stated = None if config.policy is None else _read_policy(config, names)
    everything = dict.fromkeys(names, frozenset(CONFIDENCES))
    if stated is None:
        asks = [config.p_ik is not None] * len(names)
    else:
        asks = ["p_ik" in signals for signals in stated[0].asks(everything)]
    layers = {} if config.policy is None else read_probe_layers(config.policy)
    models = []
    for place, member in enumerate(members):
        probe = probe_of(member, place + 1 == len(members), asks[place], task, runs, layers.get(member.name))
        models.append(build_model(member, place + 1 == len(members), task, probe))
    if not config.any_order:
        check_sizes(
            [(model.name, model.parameters) for model in models], config.prices.models if config.prices else None
        )
    if stated is None:
        policy, normalize = _thresholds(config, models, readers), bool(config.normalize)
        _check_named(config, members, models)
    else:
        policy, normalize = stated
        assert config.policy is not None
        _check_probes(policy, models, config.policy)
    calibration = _calibration(config, names, normalize)
    return Cascade(
        models,
        policy,
        config.name,
        readers,
        config.prices,
        calibration,
        normalize,
        config.keep_loaded,
        task,
        None if config.free_text is None else _free_text(config.free_text, names),
        _watched(config, policy, calibration),
    )


def _watched(config: CascadeConfig, policy: LivePolicy, calibration: ChainScores | None) -> Watched:
    """What the policy's file says; for thresholds of a configuration the calibration scores, and no promise."""
    if config.policy is not None:
        return read_watched(Path(config.policy))
    if calibration is None:
        return Watched(missing="Not watched: neither a policy's file nor calibration scores are given to watch by")
    return watched_of(policy, calibration)


def _read_policy(config: CascadeConfig, names: list[str]) -> tuple[LivePolicy, bool]:
    """The policy of a file, and whether it decides by P(T) over the options' mass."""
    policy, chosen = read_policy(Path(str(config.policy)), names)
    if None not in (chosen, config.normalize) and chosen != config.normalize:
        raise CascadeError(
            f"Expected `normalize` to be {json.dumps(chosen)}, as the policy in {config.policy} was chosen so, but "
            f"got {json.dumps(config.normalize)}"
        )
    return policy, bool(config.normalize if chosen is None else chosen)


def _thresholds(config: CascadeConfig, models: Sequence[Engine], readers: Mapping[int, Reader]) -> LivePolicy:
    """The configuration's thresholds at every stage, of what is known there: a policy says only what it asks."""
    return ThresholdPolicy.whole(
        [
            Thresholds(
                config.p_t,
                None if models[place].probe_layer is None else config.p_ik,
                config.p_ik_reader if place in readers else None,
            )
            for place in range(len(models) - 1)
        ]
    )


def _check_named(config: CascadeConfig, members: Sequence[Member], models: Sequence[Engine]) -> None:
    """Refuses a threshold of P(IK) where a model could have a probe and has none."""
    for member, model in zip(members[:-1], models[:-1], strict=True):
        could = member.settings.shows_states and member.probe != "none" and member.reader is None
        if config.p_ik is not None and could and model.probe_layer is None:
            raise CascadeError(
                f"Expected {member.name!r} to have a probe, as `p_ik` {config.p_ik} asks one, but there is none for it "
                f"among the runs; `python -m cascade.train --data.model {member.name}` trains one, `--p_ik null` "
                f"leaves P(IK) out"
            )


def _free_text(settings: FreeTextSettings, names: list[str]) -> FreeText:
    if settings.policy is None:
        policy: LivePolicy = ThresholdPolicy.whole([Thresholds(settings.p_t, None)] * (len(names) - 1))
    else:
        policy, _ = read_policy(Path(settings.policy), names, f"confidence_{settings.signal}")
    return FreeText(settings.signal, policy, settings.max_tokens)


def _check_probes(policy: LivePolicy, models: list[Engine], source: Path) -> None:
    """Refuses a policy that was chosen with P(IK) where nobody reads P(IK): without it, it decides otherwise."""
    for place in policy.places:
        if policy.gates(place).p_ik and models[place].probe_layer is None:
            raise CascadeError(
                f"Expected {models[place].name!r} to have a probe, as the policy in {source} asks one, but it has "
                f"none; name its `probe`, or choose a policy without P(IK)"
            )


def build_model(member: Member, last: bool = False, task: Task | None = None, probe: Probe | None = None) -> Engine:
    """One model of a cascade; an endpoint that is its last is not asked for log-probabilities.

    Raises:
        CascadeError, ProbeError: If the model is missing, or the probe does not fit.
    """
    return cast(Engine, member.settings.build(probe, needs_confidence=not last, task=task))


def probe_of(
    member: Member,
    last: bool = False,
    asked: bool = False,
    task: Task | None = None,
    runs: Path = RUNS,
    layer: int | None = None,
) -> Probe | None:
    """The probe that is named, or shipped, or, where P(IK) is asked, that was trained for the model.

    The last model answers whatever its confidence. So it gets no probe unless one is named.

    Raises:
        CascadeError, ProbeError: If one is named that is not there, or does not load.
    """
    if member.probe == "none" or not member.settings.shows_states:
        return None
    if member.probe is not None:
        return _named_probe(member.probe)
    from cascade.miniature.shipped import shipped_probe

    if last:
        return None
    if (folder := shipped_probe(member.name)) is not None:
        return Probe.from_pretrained(folder)
    from cascade.probing.chain import found_probe

    found = found_probe(member.settings, task, runs, layer) if asked else None
    if found is None:
        return None
    print(f"Reading P(IK) of {member.name} by {found.in_words}", file=sys.stderr)
    return Probe.from_pretrained(found.checkpoint)


def named_probes(members: Sequence[Member]) -> dict[str, Probe | None]:
    """The probes that models name, by the model's name: ``None`` for a model that is to have none.

    Models that say nothing of a probe are left out.

    Raises:
        CascadeError, ProbeError: If one is not there, or does not load.
    """
    return {m.name: None if m.probe == "none" else _named_probe(m.probe) for m in members if m.probe is not None}


def _reader(settings: ReaderSettings, task: Task | None) -> Reader:
    from cascade.engines.reader import ModelReader

    return ModelReader(settings.settings.build(), _named_probe(settings.probe), task=task)


def _named_probe(name: str) -> Probe:
    try:
        return Probe.from_pretrained(name)
    except ProbeError as error:
        if Path(name).is_dir():
            raise
        raise CascadeError(f"{error}; a probe that is not there yet is trained by `python -m cascade.train`") from error


def _calibration(config: CascadeConfig, names: list[str], normalize: bool) -> ChainScores | None:
    table: pa.Table | None
    if config.calibration:
        table = read_scores([Path(path) for path in config.calibration])
    else:
        from cascade.miniature.shipped import validation_scores

        table = validation_scores(names)
    return None if table is None else align(table, names, normalize=normalize)
