"""Trains P(IK) heads on a scored task and leaves a run folder: what `cascade.train` and a chain's probes call.

Scores the task first where that is missing, fits, calibrates on validation, tests, and writes checkpoint, figures and
plots. The heads themselves are `probes.training`'s.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import sys
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from lightning import Trainer, seed_everything
from lightning.pytorch.loggers import CSVLogger, WandbLogger

from cascade.errors import Interrupted
from cascade.probing.data import ScoredTaskDataModule
from cascade.probing.runs import RUNS, ProbeRun
from cascade.probing.settings import changed, defaults
from cascade.report.confidence_figures import plot_reliability
from cascade.report.probe_plots import plot_layers
from cascade.report.tracking import RUN_ID, finish_tracking, start_tracking
from cascade.strict_json import strict_json
from probes import Probe
from probes.files import locked, replace_folder, write_atomically
from probes.layers import LayerRow, TrainedHead, best_head, layer_table
from probes.training import ProbeModule

_TRACKED = "wandb"
_LEFT = ("probe", "probes", "logs", "metrics.json", "layers.json", "layers.png", "reliability.png")


# Lightning's settings for heads, which keep their own best weights and are trained on one device.
TRAINER: dict[str, Any] = {
    "max_epochs": 100,
    "accelerator": "auto",
    "devices": 1,
    "deterministic": "warn",
    "logger": False,
    "enable_checkpointing": False,
    "enable_model_summary": False,
    "enable_progress_bar": None,  # in a terminal
    "num_sanity_val_steps": 0,
}


@dataclass(frozen=True)
class Trained:
    """What a training run leaves.

    Attributes:
        run: Its folder.
        probe: The best one on validation.
        metrics: Its test metrics before and after calibration.
        layers: One row a layer.
    """

    run: ProbeRun
    probe: Probe
    metrics: dict[str, dict[str, float]]
    layers: list[LayerRow]


@contextlib.contextmanager
def quiet_lightning() -> Iterator[None]:
    """Lightning's hints about hardware and workers do not help somebody who trains a small head."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch.utilities.rank_zero", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    with warnings.catch_warnings():
        for message in (
            ".*does not have many workers.*",
            ".*logging interval.*",
            ".*Experiment logs directory.*",  # a rerun is meant to replace them
            ".*LeafSpec.*",
            ".*args parameter is intended.*",  # a caller in Python has flags of its own
        ):
            warnings.filterwarnings("ignore", message=message)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def fit(
    data: ScoredTaskDataModule,
    module: ProbeModule,
    trainer: Trainer | None = None,
    out: Path = RUNS / "probes",
    keep: Literal["best", "all"] = "best",
    logger: Literal["csv", "wandb", "none"] = "csv",
    seed: int | None = 0,
    config: str | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Trained:
    """Trains the heads of ``module`` on ``data``, and writes the run's folder.

    The run is written beside the folder's place, and takes it when it is finished: what an earlier run left there with
    the same settings stays until then. Other settings have another folder.

    Args:
        data: States and labels; scored first where that is missing.
        module: Which heads, and how they are trained.
        trainer: Lightning's; by default one with `TRAINER`.
        out: Folder of runs; this one gets one of its own in it.
        keep: Write the best layer's probe alone, or every layer's too, under ``probes/``.
        logger: Where curves go.
        seed: Of the heads' first weights and dropout; heads that differ in the seed alone count up from it. ``None``
            leaves torch's generator as it is.
        config: All settings as YAML, for ``config.yaml``; by default those of ``data``, ``module`` and `TRAINER`.
        settings: Those that are not as they are by default, for the folder's name; by default those of ``config``.

    Raises:
        CascadeError, ProbeError: If the task cannot be scored, or the data is not fit to train on.
        Interrupted: At Ctrl-C.
    """
    with quiet_lightning():
        if seed is not None:
            seed_everything(seed, workers=True, verbose=False)
        trainer = Trainer(**TRAINER | {"enable_progress_bar": sys.stderr.isatty()}) if trainer is None else trainer
        config = _config(data, module, out, keep, logger, seed) if config is None else config
        if settings is None:
            settings = changed(yaml.safe_load(config), _plain(defaults(TRAINER)))
        data.check_trainable()
        named = (data.model.name, data.task.label, data.layers, data.model.prompts, data.labels, data.targets, settings)
        run = ProbeRun.of(out, *named)
        at = run.unfinished
        at.folder.mkdir(parents=True, exist_ok=True)
        try:
            with locked(at.folder):
                probe, metrics, layers = _fill(at, data, module, trainer, keep, logger, config)
                _keep_tracked(run.folder, at.folder)
                replace_folder(at.folder, run.folder)
        except SystemExit as end:  # Lightning's answer to Ctrl-C
            raise Interrupted(
                f"Stopped: nothing was written to {run.folder}; the same command trains anew, and scores nothing again"
            ) from end
        finally:
            with contextlib.suppress(OSError):
                at.folder.rmdir()  # where nothing was begun
        return Trained(run, probe, metrics, layers)


def _config(
    data: ScoredTaskDataModule, module: ProbeModule, out: Path, keep: str, logger: str, seed: int | None
) -> str:
    """Settings as the command line of `cascade.train` takes them back."""
    settings = {
        "seed_everything": seed,
        "trainer": TRAINER,
        "data": dict(data.hparams),
        "model": {name: value for name, value in module.hparams.items() if not callable(value)},
        "out": out,
        "keep": keep,
        "logger": logger,
    }
    return yaml.safe_dump(_plain(settings), sort_keys=False)


def _fill(
    run: ProbeRun,
    data: ScoredTaskDataModule,
    module: ProbeModule,
    trainer: Trainer,
    keep: str,
    logger: str,
    config: str,
) -> tuple[Probe, dict[str, dict[str, float]], list[LayerRow]]:
    """Trains into a folder, which is nobody else's meanwhile: the best probe, its metrics, and a row a layer."""
    data.prepare_data()
    assert data.scored is not None
    if data.scored.reused:
        print(f"Reusing {data.scored.store.rows:,} scored rows in {data.scored.store.folder}", file=sys.stderr)
    data.setup()
    _clear(run.folder, config)
    if logger == "csv":
        trainer.logger = CSVLogger(run.folder, name="", version="logs")
    elif logger == "wandb":
        trainer.logger = start_tracking(run.folder, yaml.safe_load(config))
    trainer.fit(module, datamodule=data)
    for diverged in module.diverged:
        print(f"Left out: {diverged}; its validation loss was never finite", file=sys.stderr)
    trainer.test(module, datamodule=data, verbose=False)
    best, layers = module.best_head(), layer_table(module.heads, data.data.labels[data.rows("test")])
    if keep == "all":
        for layer in sorted({head.layer for head in module.heads}):
            head = best_head([head for head in module.heads if head.layer == layer])
            _save(head, run.folder / "probes" / f"layer-{layer}", data)
    _save(best, run.checkpoint, data)
    write_atomically(run.folder / "reliability.png", (run.checkpoint / "reliability.png").read_bytes())
    write_atomically(run.folder / "metrics.json", strict_json(best.metrics).encode())
    write_atomically(run.folder / "layers.json", strict_json([row.to_json() for row in layers]).encode())
    if len(layers) > 1:
        plot_layers(
            run.folder / "layers.png", {data.model.name: layers}, f"P(IK) of {data.model.name} on {data.task.name} test"
        )
    if isinstance(trainer.logger, WandbLogger):
        finish_tracking(trainer.logger, run.folder, run.name, layers, best.probe.config)
    return best.probe, best.metrics, layers


def _plain(value: Any) -> Any:
    """Settings as YAML holds them: paths as text, tuples as lists."""
    if isinstance(value, dict):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def _clear(folder: Path, config: str) -> None:
    """Removes the files of a run that was not finished, and writes the settings of the one that begins."""
    kept = folder / "config.yaml"
    if not kept.exists() or kept.read_text() != config:
        (folder / RUN_ID).unlink(missing_ok=True)  # other settings are another tracked run
    for name in _LEFT:
        if (folder / name).is_dir():
            shutil.rmtree(folder / name)
        (folder / name).unlink(missing_ok=True)
    write_atomically(kept, config.encode())


def _keep_tracked(old: Path, new: Path) -> None:
    """Takes over what W&B keeps of earlier runs, which may not be uploaded yet."""
    if (old / _TRACKED).is_dir():
        (new / _TRACKED).mkdir(exist_ok=True)
        for run in sorted((old / _TRACKED).iterdir()):
            if not os.path.lexists(new / _TRACKED / run.name):
                run.rename(new / _TRACKED / run.name)


def _save(head: TrainedHead, folder: Path, data: ScoredTaskDataModule) -> None:
    """Writes a head's probe, with its own reliability diagram in its card."""
    folder.mkdir(parents=True, exist_ok=True)
    plot_reliability(
        folder / "reliability.png",
        {stage: p_ik.numpy() for stage, p_ik in head.p_ik.items()},
        data.data.labels[data.rows("test")].numpy(),
        f"{data.model.name}, layer {head.layer}: P(IK) on {data.task.name}",
    )
    head.probe.picture = (folder / "reliability.png").read_bytes()
    head.probe.save_pretrained(folder)
