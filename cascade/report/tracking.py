"""Runs in Weights & Biases: a training run's curves, layer table, plots and probe, and a simulation's figures.

Works offline without an account. A run that was killed goes on under its own id. Importing this loads no torch.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence
from netrc import netrc
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from probes.files import write_atomically

if TYPE_CHECKING:
    from lightning.pytorch.loggers import WandbLogger

    from cascade.simulation.simulator import Report
    from cascade.simulation.study import Study
    from probes.layers import LayerRow
    from probes.probe import ProbeConfig

PROJECT = "cascade-probes"
RUN_ID = "wandb-run-id"


def sweep_folder(root: Path) -> Path:
    """The folder for a command's results: ``root``, and within a sweep a folder for each run below it.

    Runs of a sweep differ in more than the names of folders tell. Only an entry point is such a run, and not what it
    calls.
    """
    if "WANDB_SWEEP_ID" not in os.environ:
        return root
    return root / f"sweep-{os.environ['WANDB_SWEEP_ID']}" / os.environ.get("WANDB_RUN_ID", "local")


def start_tracking(folder: Path, config: dict[str, Any]) -> WandbLogger:
    """A logger for a training run in ``folder``. A run that was cut off there and left its id is resumed.

    Args:
        folder: The run's folder.
        config: All settings; they become the run's configuration.
    """
    import wandb  # noqa: F401 - that it is missing is said before anything is written
    from lightning.pytorch.loggers import WandbLogger

    kept = folder / RUN_ID
    # An agent of a sweep says which run this is.
    run_id = os.environ.get("WANDB_RUN_ID") or (kept.read_text().strip() if kept.exists() else secrets.token_hex(4))
    write_atomically(kept, f"{run_id}\n".encode())
    offline = is_offline()
    # To resume, wandb asks the server. Offline there is none; `wandb sync` later joins runs of the same id.
    logger = WandbLogger(
        project=PROJECT, save_dir=folder, offline=offline, id=run_id, resume=None if offline else "allow"
    )
    logger.log_hyperparams(config)
    return logger


def finish_tracking(logger: WandbLogger, folder: Path, name: str, rows: Sequence[LayerRow], probe: ProbeConfig) -> None:
    """Logs the files of a run's folder, and ends the run.

    The artifact holds the best probe's checkpoint and the run's ``config.yaml``. Its aliases are ``best`` and the
    layer's; W&B itself adds ``latest``.

    Args:
        logger: From `start_tracking`.
        folder: The run's folder, with everything in it.
        name: Of the artifact, after ``p-ik--``.
        rows: One a layer.
        probe: The best probe's configuration.
    """
    import wandb

    run = logger.experiment
    names = list(rows[0].after)
    columns = ["layer", "learning_rate", "weight_decay", "val_loss"]
    columns += [f"{name}{end}" for name in names for end in ("", "_low", "_high")]
    cells = [
        [row.layer, row.learning_rate, row.weight_decay, row.val_loss]
        + [value for name in names for value in (row.after[name].value, row.after[name].low, row.after[name].high)]
        for row in rows
    ]
    plots = {f"plots/{path.stem}": wandb.Image(str(path)) for path in sorted(folder.glob("*.png"))}
    run.log({"layer_table": wandb.Table(columns=columns, data=cells), **plots})
    best = next(row for row in rows if row.layer == probe.layer)
    run.summary.update({"best_layer": probe.layer, "best_val_loss": best.val_loss})
    artifact = wandb.Artifact(f"p-ik--{name}", type="probe", metadata=probe.to_json())
    artifact.add_dir(str(folder / "probe"), name="probe")
    artifact.add_file(str(folder / "config.yaml"), name="config.yaml")
    run.log_artifact(artifact, aliases=["best", f"layer-{probe.layer}"])
    run.finish()
    (folder / RUN_ID).unlink()


def is_offline() -> bool:
    """Whether to keep the run on disk: it was asked for, or there is no account, for which wandb would stop and ask."""
    if "WANDB_MODE" in os.environ:
        return os.environ["WANDB_MODE"] != "online"
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return False
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    # `wandb login` writes the key to the netrc file, as every tool's log-in does.
    paths = [Path(os.environ["NETRC"])] if "NETRC" in os.environ else [Path.home() / ".netrc", Path.home() / "_netrc"]
    return not any(path.is_file() and netrc(path).authenticators(host) for path in paths)


def log_simulation(report: Report, study: Study, config: dict[str, Any], folder: Path) -> None:
    """Logs a simulation's figures and plots to Weights & Biases (offline without an account).

    Args:
        report: Tables at fixed thresholds; the whole chain is logged.
        study: What was chosen.
        config: The settings.
        folder: Whose plots are logged, too.
    """
    import wandb

    config = {key: str(value) if isinstance(value, Path) else value for key, value in config.items()}
    with wandb.init(project="confidence-cascade", job_type="simulate", config=config) as run:
        whole = report.chains[-1]
        figures: dict[str, Any] = {"fixed/accuracy": whole.accuracy, "fixed/pd_points": whole.pd_points}
        for unit, ledgers in whole.saved.items():
            figures |= {f"fixed/saved/{unit}/{name}": value for name, value in ledgers.items()}
        chosen = study.chosen.reported
        figures |= {"chosen/accuracy": chosen.accuracy.estimate, "chosen/cost": chosen.cost_ratio.estimate}
        figures["aiq"] = study.aiq
        figures |= {f"plots/{path.stem}": wandb.Image(str(path)) for path in sorted(folder.rglob("*.png"))}
        run.log(figures)
