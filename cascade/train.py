"""Trains a P(IK) probe: `python -m cascade.train`, with `--data.*`, `--model.*` and `--trainer.*` flags.

Scores the task first where that is missing, fits, calibrates on validation, tests, and writes a run folder.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Literal

from lightning import Trainer
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from rich.console import Console
from rich.table import Table

from cascade.errors import CascadeError, one_line_errors
from cascade.planning.costs import plan_training
from cascade.planning.table import PLAN_HELP, print_plan
from cascade.probing.data import ScoredTaskDataModule
from cascade.probing.fit import Trained, fit, quiet_lightning, trainer_defaults
from cascade.probing.runs import RUNS
from cascade.report.probe_plots import METRICS
from cascade.report.tracking import sweep_folder
from probes import ProbeError
from probes.training import ProbeModule

_HEADINGS = {"ece": "ECE", "ece_mass": "ECE mass", "brier": "Brier", "auroc": "AUROC", "nll": "NLL", "f1": "F1"}


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


def train(args: list[str] | None = None) -> Trained:
    """Runs `cascade.train` with a list of flags (``None`` reads the command line) and returns what it made."""
    with quiet_lightning():
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
        trainer_defaults=trainer_defaults(),
    )


def _run(cli: TrainCLI, out: Path) -> Trained:
    if cli.config.plan:
        raise CascadeError("Expected `plan` on the command line alone, where it prints what training would cost")
    config = cli.parser.dump(cli.config, skip_unset=False)
    asked = cli.config
    return fit(cli.datamodule, cli.model, cli.trainer, out, asked.keep, asked.logger, None, config)


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
    with quiet_lightning():
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
