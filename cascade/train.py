"""Trains a P(IK) probe: `python -m cascade.train`, with `--data.*`, `--model.*` and `--trainer.*` flags.

Scores the task first where that is missing, fits, calibrates on validation, tests, and writes a run folder.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lightning import Trainer
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
from cascade.report.tracking import finish_tracking, start_tracking, sweep_folder
from probes import Probe, ProbeError
from probes.files import write_atomically
from probes.layers import LayerRow, best_head, layer_table
from probes.training import ProbeModule

_HEADINGS = {"ece": "ECE", "ece_mass": "ECE mass", "brier": "Brier", "auroc": "AUROC", "nll": "NLL", "f1": "F1"}


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
    trainer: Trainer = cli.trainer
    data, module = cli.datamodule, cli.model
    if cli.config.plan:
        raise CascadeError("Expected `plan` on the command line alone, where it prints what training would cost")
    run = ProbeRun.of(out, data.model.name, data.task.name, data.layers, data.model.prompts, data.labels, data.targets)
    run.folder.mkdir(parents=True, exist_ok=True)
    if cli.config.logger != "none":
        trainer.logger = _logger(cli.config.logger, run.folder, cli.config.as_dict())
    data.prepare_data()
    if data.scored.reused:
        print(f"Reusing {data.scored.store.rows:,} scored rows in {data.scored.store.folder}", file=sys.stderr)
    trainer.fit(module, datamodule=data)
    for head in module.diverged:
        print(f"Left out: {head}; its validation loss was never finite", file=sys.stderr)
    trainer.test(module, datamodule=data, verbose=False)
    labels = data.data.labels[data.rows("test")]
    best, layers = module.best_head(), layer_table(module.heads, labels)
    plot_reliability(
        run.folder / "reliability.png",
        {stage: p_ik.numpy() for stage, p_ik in best.p_ik.items()},
        labels.numpy(),
        f"{data.model.name}, layer {best.layer}: P(IK) on {data.task.name}",
    )
    best.probe.picture = (run.folder / "reliability.png").read_bytes()
    best.probe.save_pretrained(run.checkpoint)
    if cli.config.keep == "all":
        for layer in sorted({head.layer for head in module.heads}):
            head = best_head([head for head in module.heads if head.layer == layer])
            head.probe.save_pretrained(run.folder / "probes" / f"layer-{layer}")
    write_atomically(run.folder / "metrics.json", strict_json(best.metrics).encode())
    write_atomically(run.folder / "layers.json", strict_json([row.to_json() for row in layers]).encode())
    config = cli.parser.dump(cli.config, skip_unset=False)
    write_atomically(run.folder / "config.yaml", config.encode())
    if len(layers) > 1:
        plot_layers(
            run.folder / "layers.png", {data.model.name: layers}, f"P(IK) of {data.model.name} on {data.task.name} test"
        )
    if isinstance(trainer.logger, WandbLogger):
        finish_tracking(trainer.logger, run.folder, run.name, layers, best.probe.config)
    return Trained(run, best.probe, best.metrics, layers)


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
