"""A training run's figures as tables: by layer, and of the probe that was written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cascade.report.probe_plots import METRICS
from cascade.report.table import Column, Table
from probes.layers import Interval, LayerRow
from probes.probe import ProbeConfig

_HEADINGS = {"ece": "ECE", "ece_mass": "ECE mass", "brier": "Brier", "auroc": "AUROC", "nll": "NLL", "f1": "F1"}


def layers_table(config: ProbeConfig, rows: Sequence[LayerRow]) -> Table:
    """The figures by layer with their 95 % intervals, and how far they differ from seed to seed.

    Args:
        config: Of the probe that was written.
        rows: One a layer.
    """
    seeds, chosen = max(row.seeds for row in rows), f"Layer {config.layer} (*) is the best on validation"
    area = next(row.after["auroc"] for row in rows if row.layer == config.layer)
    if area.low <= 0.5 <= area.high:
        # The lowest of several losses that are all noise is no best.
        chosen = (
            f"No layer is shown to tell right from wrong: the interval of AUROC holds 0.5 at layer {config.layer} (*)"
        )
    caption = f"{chosen}; its probe was written."
    if seeds > 1:
        caption = f"Means over {seeds} seeds, ± their standard deviation. {chosen}; "
        caption += f"of its probes that of seed {config.trained_with['seed']} was written."

    def cell(row: LayerRow, name: str) -> str:
        found: Interval = row.after[name]
        spread = f" ±{row.spread[name]:.3f}" if row.spread else ""
        return f"{found.value:.3f}{spread}\n[{found.low:.3f}, {found.high:.3f}]"

    return Table.of(
        "layers",
        f"P(IK) of {config.base_model} by layer on {config.task} test, with 95 % intervals over questions",
        [Column("layer"), *(Column(label) for label in METRICS.values())],
        [
            [f"{row.layer}{' *' if row.layer == config.layer else ''}", *(cell(row, name) for name in METRICS)]
            for row in rows
        ],
        caption,
    )


def metrics_table(config: ProbeConfig, metrics: Mapping[str, Mapping[str, float]]) -> Table:
    """Accuracy, F1, AUROC, ECE, Brier and NLL before and after calibration, of the probe that was written."""
    return Table.of(
        "metrics",
        f"P(IK) of {config.base_model}, layer {config.layer} of {config.num_layers}, on {config.task} test",
        ["", *(Column(_HEADINGS.get(name, name), "{:.4f}".format) for name in metrics["after"])],
        [[f"{stage} {config.calibration} calibration", *metrics[stage].values()] for stage in ("before", "after")],
        f"The probe that was written: {config.told_apart}",
    )
