"""Which settings of a training run are not as they are by default: what its folder is named by.

Settings that say where things lie, or how a run is shown, make no other probe and are left out. So are those that a
folder's name says in words.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from cascade.engines.settings import DecoderConfig
from cascade.probing.data import ScoredTaskDataModule
from probes.training import ProbeModule

_IN_NAME = (
    "data.model data.task data.layer data.layers data.labels data.targets data.shots data.prompt_style data.letters"
)
_ELSEWHERE = "config out keep logger plan data.store data.stores data.memory data.scoring_batch_size data.device_map"
_SHOWN = (
    "enable_progress_bar enable_model_summary logger log_every_n_steps default_root_dir accelerator devices strategy "
    "enable_autolog_hparams model_registry profiler"
)
_LEFT_OUT = {*_IN_NAME.split(), *_ELSEWHERE.split(), *(f"trainer.{name}" for name in _SHOWN.split())}


def defaults(trainer: Mapping[str, Any]) -> dict[str, Any]:
    """All settings as they are by default, as a run's config.yaml has them.

    Args:
        trainer: Lightning's.
    """
    decoder = {field.name: field.default for field in fields(DecoderConfig)}
    data = decoder | _of_signature(ScoredTaskDataModule)
    return {"seed_everything": 0, "data": data, "model": _of_signature(ProbeModule), "trainer": dict(trainer)}


def _of_signature(kind: type) -> dict[str, Any]:
    return {name: parameter.default for name, parameter in inspect.signature(kind).parameters.items()}


def changed(settings: Mapping[str, Any], before: Mapping[str, Any], at: str = "") -> dict[str, Any]:
    """Settings that are not as they are by default, by their names on the command line.

    Args:
        settings: As a run's config.yaml has them.
        before: The same by default.
        at: Name of the group, with a dot.
    """
    found: dict[str, Any] = {}
    for name, value in settings.items():
        default = before.get(name)
        if at + name in _LEFT_OUT:
            continue
        if isinstance(value, Mapping) and isinstance(default, Mapping):
            found |= changed(value, default, f"{at}{name}.")
        elif value != default:
            found[at + name] = value
    return found
