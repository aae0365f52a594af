"""The command line of `cascade.train`: Lightning's, over the heads' module and a scored task."""

from __future__ import annotations

import sys
from argparse import ArgumentError
from pathlib import Path
from typing import Any, Literal

import yaml
from lightning import Trainer
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from cascade.commands import PLAN_HELP
from cascade.errors import CascadeError
from cascade.flags import in_words
from cascade.probing.data import ScoredTaskDataModule
from cascade.probing.fit import TRAINER, Trained, fit, quiet_lightning
from cascade.probing.runs import RUNS
from cascade.probing.settings import changed
from cascade.yaml_files import found_flags
from probes.training import ProbeModule


class TrainCLI(LightningCLI):
    """The command line of `cascade.train`: everything is a flag, every flag fits in ``--config``."""

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Reads the flags, and says in words what is wrong with one."""
        try:
            super().parse_arguments(parser, args)
        except ArgumentError as error:
            raise in_words(error, parser) from error

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
        if asked.enable_progress_bar is None:
            settings["enable_progress_bar"] = sys.stderr.isatty()
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


def command_line(args: list[str] | None, prog: str, description: str | None) -> TrainCLI:
    """Flags read, and data, module and trainer made of them.

    Args:
        args: Flags; ``None`` takes the program's own.
        prog: What the help calls the program.
        description: What the help says of it.

    Raises:
        CascadeError, ProbeError: Naming what is wrong.
    """
    with quiet_lightning():
        return TrainCLI(
            ProbeModule,
            ScoredTaskDataModule,
            run=False,
            args=found_flags(args),
            seed_everything_default=0,
            save_config_callback=None,
            auto_configure_optimizers=False,
            parser_kwargs={
                "prog": prog,
                "usage": f"{prog} [flags]",
                "description": description,
                "exit_on_error": False,
                "allow_abbrev": False,
            },
            trainer_defaults=TRAINER,
        )


def fit_from(cli: TrainCLI, out: Path) -> Trained:
    """Trains what the flags say, below a folder of runs.

    Raises:
        CascadeError, ProbeError: As `cascade.probing.fit.fit`.
    """
    if cli.config.plan:
        raise CascadeError("Expected `plan` on the command line alone, where it prints what training would cost")
    config, usual = (cli.parser.dump(of, skip_unset=False) for of in (cli.config, cli.parser.get_defaults()))
    asked, settings = cli.config, changed(yaml.safe_load(config), yaml.safe_load(usual))
    return fit(cli.datamodule, cli.model, cli.trainer, out, asked.keep, asked.logger, None, config, settings)
