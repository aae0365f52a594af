"""From settings to a live cascade: models with their probes, readers, the policy and its calibration scores."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa

from cascade.engines.base import Model, Reader
from cascade.engines.local import LocalModel
from cascade.errors import CascadeError
from cascade.policies.file import read_policy
from cascade.policies.ledgers import Prices
from cascade.policies.policy import LivePolicy, ThresholdPolicy, Thresholds
from cascade.runtime.config import CascadeConfig, Member, ReaderSettings
from cascade.runtime.engine import Cascade
from cascade.scores.arrays import ChainScores, align, check_chain
from cascade.scores.schema import read_scores
from cascade.tasks.task import Task
from probes.errors import ProbeError
from probes.probe import Probe


def build_cascade(config: CascadeConfig | Path | str | None = None, task: Task | None = None) -> Cascade:
    """Puts a cascade together. Weights are loaded with the first question, and not before.

    Args:
        config: Its description, or a YAML file of one; by default the miniature Llamas.
        task: That will be asked, with the examples that ``shots`` of the description want. Without one any question
            can be asked, in the words of Table 7 and without examples.

    Raises:
        CascadeError, ProbeError: If a model, probe, policy or score table is missing or does not fit.
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
    models = [build_model(member, place + 1 == len(members), task) for place, member in enumerate(members)]
    readers = {place: _reader(member.reader, task) for place, member in enumerate(members) if member.reader is not None}
    policy, normalize = _policy(config, names, readers)
    if config.policy is not None:
        _check_probes(policy, models, config.policy)
    priced = {m.name: (m.price.input, m.price.output) for m in members if m.price is not None}
    prices = Prices("the configuration", priced) if len(priced) == len(members) else None
    return Cascade(
        models,
        policy,
        config.name,
        readers,
        prices,
        _calibration(config, names, normalize),
        normalize,
        config.keep_loaded,
        task,
    )


def _policy(config: CascadeConfig, names: list[str], readers: dict[int, Reader]) -> tuple[LivePolicy, bool]:
    """The policy, and whether it decides by P(T) over the options' mass."""
    if config.policy is not None:
        policy, chosen = read_policy(Path(config.policy), names)
        if None not in (chosen, config.normalize) and chosen != config.normalize:
            raise CascadeError(
                f"Expected `normalize` to be {json.dumps(chosen)}, as the policy in {config.policy} was chosen so, but "
                f"got {json.dumps(config.normalize)}"
            )
        return policy, bool(config.normalize if chosen is None else chosen)
    thresholds = [
        Thresholds(config.p_t, config.p_ik, config.p_ik_reader if place in readers else None)
        for place in range(len(names) - 1)
    ]
    return ThresholdPolicy.whole(thresholds), bool(config.normalize)


def _check_probes(policy: LivePolicy, models: list[Model], source: Path) -> None:
    """Refuses a policy that was chosen with P(IK) where nobody reads P(IK): without it, it decides otherwise.

    Thresholds in a configuration are every stage's, and pass over the models that have no probe.
    """
    for place in policy.places:
        if policy.gates(place).p_ik and models[place].probe_layer is None:
            raise CascadeError(
                f"Expected {models[place].name!r} to have a probe, as the policy in {source} asks one, but it has "
                f"none; name its `probe`, or choose a policy without P(IK)"
            )


def build_model(member: Member, last: bool = False, task: Task | None = None) -> Model:
    """One model of a cascade; the last one has no probe but one that is named, and gives no confidence if it is remote.

    Raises:
        CascadeError, ProbeError: If the model or its probe is missing, or they do not fit.
    """
    if member.endpoint is not None:
        from cascade.engines.endpoint import Endpoint

        return Endpoint(
            name=member.endpoint,
            base_url=member.base_url,
            api_key_env=member.api_key_env,
            kind=member.kind,
            parameters=member.parameters,
            price=None if member.price is None else (member.price.input, member.price.output),
            cache=member.cache,
            spending_cap=member.spending_cap,
            concurrency=member.concurrency,
            timeout=member.timeout,
            attempts=member.attempts,
            needs_confidence=not last,
        )
    decoder = member.decoder
    assert decoder is not None  # `Member` has one or the other
    return LocalModel(decoder, _probe(member, last), member.batch_size, task=task)


def _probe(member: Member, last: bool) -> Probe | None:
    if member.probe == "none":
        return None
    if member.probe is not None:
        return _named_probe(member.probe)
    from cascade.miniature.shipped import shipped_probe

    folder = None if last else shipped_probe(member.name)
    return None if folder is None else Probe.from_pretrained(folder)


def _reader(settings: ReaderSettings, task: Task | None) -> Reader:
    from cascade.engines.encoder import Encoder
    from cascade.engines.reader import ModelReader

    if (settings.model is None) == (settings.encoder is None):
        raise CascadeError("Expected a reader to have `model` or `encoder`, and not both")
    return ModelReader(settings.decoder or Encoder(str(settings.encoder)), _named_probe(settings.probe), task=task)


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
