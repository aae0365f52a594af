"""Trains a P(IK) probe: `python -m cascade.train`, with `--data.*`, `--model.*` and `--trainer.*` flags.

Scores the task first where that is missing, fits, calibrates on validation, tests, and writes a run folder.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lightning import Trainer
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger, Logger, WandbLogger
from rich.console import Console
from rich.table import Table

from cascade.errors import CascadeError, one_line_errors
from cascade.plan import plan_training
from cascade.probing import RUNS, ProbeRun, ScoredTaskDataModule
from cascade.report.confidence_figures import plot_reliability
from cascade.report.plan_table import PLAN_HELP, print_plan
from cascade.report.probe_plots import METRICS, plot_layers
from cascade.report.strict_json import strict_json
from cascade.report.tracking import RUN_ID, finish_tracking, start_tracking, sweep_folder
from probes import Probe, ProbeError
from probes.files import locked, write_atomically
from probes.layers import LayerRow, best_head, layer_table
from probes.training import ProbeModule, TrainedHead

_HEADINGS = {"ece": "ECE", "ece_mass": "ECE mass", "brier": "Brier", "auroc": "AUROC", "nll": "NLL", "f1": "F1"}
_LEFT = ("probe", "probes", "logs", "metrics.json", "layers.json", "layers.png", "reliability.png")


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


class TrainCLI(LightningCLI):
    """The command line of `cascade.train`: everything is a flag, every flag fits in ``--config``."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Flags beside those of data, model and trainer."""
        parser.add_argument(
            "--out", type=Path, default=RUNS / "probes", help="folder of runs; each gets one of its own"
        )
        parser.add_argument(
            "--keep",
            type=Literal["best", "all"],
            default="best",
            help="write the best layer's probe alone, or every layer's too, under probes/",
        )
        parser.add_argument(
            "--logger", type=Literal["csv", "wandb", "none"], default="csv", help="where curves go; wandb works offline"
        )
        parser.add_argument("--plan", action="store_true", help=PLAN_HELP)

    def before_instantiate_classes(self) -> None:
        """Refuses what would leave heads untested, before anything is loaded.

        Raises:
            CascadeError: Naming the flag.
        """
        asked = self.config.trainer
        for name in ("fast_dev_run", "overfit_batches"):
            if asked[name]:
                raise CascadeError(
                    f"Expected `trainer.{name}` to be off, as calibration needs all of the validation part, but got "
                    f"{asked[name]}; `--trainer.max_epochs 1` is a quick trial"
                )
        for name in ("limit_val_batches", "limit_test_batches"):
            # 1.0 is all of it, 1 is one batch.
            if asked[name] is not None and not (isinstance(asked[name], float) and asked[name] == 1):
                raise CascadeError(
                    f"Expected `trainer.{name}` to be 1.0, as heads are calibrated and tested on the whole parts, but "
                    f"got {asked[name]}; `--trainer.limit_train_batches` may be less"
                )

    def instantiate_trainer(self, **settings: Any) -> Trainer:
        """Lightning's, with its refusals in one line, and on one device.

        Raises:
            CascadeError: Naming the flags.
        """
        asked = self.config.trainer
        on = f"`trainer.accelerator` {asked.accelerator} and `trainer.devices` {asked.devices}"
        try:
            trainer = super().instantiate_trainer(**settings)
        except (MisconfigurationException, ValueError) as error:
            raise CascadeError(f"Expected `trainer` settings that work here, but got {on}: {error}") from error
        if trainer.num_devices * trainer.num_nodes > 1:
            raise CascadeError(
                f"Expected one device, on which all heads are trained at once, but got {on} on {trainer.num_nodes} "
                f"nodes; `python -m cascade.score --devices` shares the scoring"
            )
        return trainer


def _logger(kind: str, folder: Path, config: dict[str, Any]) -> Logger:
    return CSVLogger(folder, name="", version="logs") if kind == "csv" else start_tracking(folder, config)


@contextlib.contextmanager
def _quiet_lightning() -> Any:
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
            ".*args parameter is intended.*",  # `cascade.simulate` calls this with flags of its own
        ):
            warnings.filterwarnings("ignore", message=message)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def train(args: list[str] | None = None) -> Trained:
    """Runs `cascade.train` with a list of flags (``None`` reads the command line) and returns what it made."""
    with _quiet_lightning():
        cli = _command_line(args)
        return _run(cli, cli.config.out)


def _command_line(args: list[str] | None) -> TrainCLI:
    return TrainCLI(
        ProbeModule,
        ScoredTaskDataModule,
        run=False,
        args=args,
        seed_everything_default=0,
        save_config_callback=None,
        auto_configure_optimizers=False,
        parser_kwargs={"prog": "python -m cascade.train", "description": __doc__, "exit_on_error": False},
        trainer_defaults={
            "max_epochs": 100,
            "accelerator": "auto",
            "devices": 1,
            "deterministic": "warn",
            "logger": False,
            "enable_checkpointing": False,
            "enable_model_summary": False,
            "enable_progress_bar": sys.stderr.isatty(),
            "num_sanity_val_steps": 0,
        },
    )


def _run(cli: TrainCLI, out: Path) -> Trained:
    data = cli.datamodule
    if cli.config.plan:
        raise CascadeError("Expected `plan` on the command line alone, where it prints what training would cost")
    run = ProbeRun.of(out, data.model.name, data.task.name, data.layers, data.model.prompts, data.labels, data.targets)
    run.folder.mkdir(parents=True, exist_ok=True)
    with locked(run.folder):
        return _fill(cli, run)


def _fill(cli: TrainCLI, run: ProbeRun) -> Trained:
    """Trains into a run's folder, which is nobody else's meanwhile."""
    trainer, data, module = cli.trainer, cli.datamodule, cli.model
    data.prepare_data()
    if data.scored.reused:
        print(f"Reusing {data.scored.store.rows:,} scored rows in {data.scored.store.folder}", file=sys.stderr)
    data.setup()  # what is wrong with the data is said before an earlier run's results are given up
    _clear(run.folder, cli.parser.dump(cli.config, skip_unset=False))
    if cli.config.logger != "none":
        trainer.logger = _logger(cli.config.logger, run.folder, cli.config.as_dict())
    trainer.fit(module, datamodule=data)
    for head in module.diverged:
        print(f"Left out: {head}; its validation loss was never finite", file=sys.stderr)
    trainer.test(module, datamodule=data, verbose=False)
    best, layers = module.best_head(), layer_table(module.heads, data.data.labels[data.rows("test")])
    if cli.config.keep == "all":
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
    return Trained(run, best.probe, best.metrics, layers)


def _clear(folder: Path, config: str) -> None:
    """Takes what an earlier run left out of a run's folder, and writes the settings of the one that begins.

    So nothing in it is ever of other settings than ``config.yaml``, even if the run is killed.
    """
    kept = folder / "config.yaml"
    if not kept.exists() or kept.read_text() != config:
        (folder / RUN_ID).unlink(missing_ok=True)  # a tracked run that was cut off goes on, but as no other one
    for name in _LEFT:
        if (folder / name).is_dir():
            shutil.rmtree(folder / name)
        (folder / name).unlink(missing_ok=True)
    write_atomically(kept, config.encode())


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


def print_layers(trained: Trained) -> None:
    """Prints the figures by layer with their 95 % intervals, and how far they differ from seed to seed."""
    config, seeds = trained.probe.config, max(row.seeds for row in trained.layers)
    chosen = f"Layer {config.layer} is the best on validation"
    table = Table(
        title=f"P(IK) of {config.base_model} by layer on {config.task} test, with 95 % intervals over questions",
        caption=f"{chosen}; its probe was written."
        if seeds == 1
        else f"Means over {seeds} seeds, ± their standard deviation. {chosen}; of its probes that of seed "
        f"{config.trained_with['seed']} was written.",
    )
    table.add_column("layer", justify="right")
    for label in METRICS.values():
        table.add_column(label, justify="right", no_wrap=True)
    for row in trained.layers:
        cells = [f"{row.after[n].value:.3f} [{row.after[n].low:.3f}, {row.after[n].high:.3f}]" for n in METRICS]
        if row.spread:
            cells = [f"{cell}\n±{row.spread[n]:.3f}" for cell, n in zip(cells, METRICS, strict=True)]
        table.add_row(f"{row.layer}{' *' if row.layer == config.layer else ''}", *cells)
    Console(width=None if sys.stdout.isatty() else 130).print(table)


def print_metrics(trained: Trained) -> None:
    """Prints accuracy, F1, AUROC, ECE, Brier and NLL before and after calibration."""
    config = trained.probe.config
    table = Table(
        title=f"P(IK) of {config.base_model}, layer {config.layer} of {config.num_layers}, on {config.task} test",
        caption=f"The probe that was written: {config.told_apart}",
    )
    table.add_column("")
    for name in trained.metrics["after"]:
        table.add_column(_HEADINGS.get(name, name), justify="right")
    for stage in ("before", "after"):
        table.add_row(
            f"{stage} {config.calibration} calibration", *(f"{v:.4f}" for v in trained.metrics[stage].values())
        )
    Console(width=None if sys.stdout.isatty() else 100).print(table)
    print(f"Run folder: {trained.run.folder}")


@one_line_errors(ProbeError)
def main(args: list[str] | None = None) -> None:
    """The entry point."""
    with _quiet_lightning():
        cli = _command_line(args)
        if cli.config.plan:
            print_plan(plan_training(cli.datamodule))
            return
        trained = _run(cli, sweep_folder(cli.config.out))
    if len(trained.layers) > 1:
        print_layers(trained)
    print_metrics(trained)


if __name__ == "__main__":
    main()
