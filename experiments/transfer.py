"""Does a probe know more than it was trained on? `python -m experiments.transfer`.

Trains a probe for each model and data set, and tests it on the states of every other where widths match: on another
data set of its own model (out of distribution), and on another family's model, which it was not made for. A matrix
of AUROC and of ECE, as a table, as JSON and as a heat map.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jsonargparse import ArgumentParser
from rich.console import Console
from rich.table import Table

from cascade.errors import one_line_errors
from cascade.miniature.families import MODEL_NAMES
from cascade.miniature.questions import BENCHMARKS
from cascade.probing import check_base
from cascade.report.probe_plots import plot_transfer
from cascade.scoring import Scored, score
from cascade.train import train
from experiments.readme import ROOT, fill
from probes import Probe, stratified_split
from probes.errors import ProbeError
from probes.files import write_atomically
from probes.metrics import probe_metrics


@dataclass(frozen=True)
class Source:
    """A model on a data set: what a probe is trained on, and what another is tested on.

    Attributes:
        name: ``<model> · <task>``.
        width: Of the states.
        scored: States and verdicts.
        probe: Trained on its training part.
    """

    name: str
    width: int
    scored: Scored
    probe: Probe

    @property
    def model(self) -> str:
        """The model's name."""
        return self.scored.store.key.model

    @property
    def task(self) -> str:
        """The data set's name."""
        return self.scored.store.key.task


def read_matrices(runs: Path) -> tuple[list[str], dict[str, np.ndarray]]:
    """Names and matrices as an earlier run wrote them."""
    values = json.loads((runs / "transfer" / "transfer.json").read_text())
    names = values.pop("sources")
    return names, {label: np.array(rows, dtype=float) for label, rows in values.items()}


def sources(models: list[str], tasks: list[str], runs: Path, more: list[str]) -> list[Source]:
    """Scores every model on every task and trains a probe for each; ``more`` are flags of `cascade.train`."""
    found = []
    for model in models:
        for task in tasks:
            scored = score(model, task, runs / "stores")
            flags = [f"--data.model={model}", f"--data.task={task}", f"--data.stores={runs / 'stores'}"]
            done = train([*flags, f"--out={runs / 'probes'}", "--logger=none", *more])
            found.append(Source(f"{model} · {task}", scored.store.hidden_size, scored, done.probe))
    return sorted(found, key=lambda source: source.width)


def tested(source: Source, target: Source) -> dict[str, float] | None:
    """Metrics of one's probe on the other's test part; ``None`` where the widths or depths differ."""
    config, store = source.probe.config, target.scored.store
    if source.width != target.width or config.layer not in store.layers:
        return None
    check_base(source.probe, target.scored, allow_base_mismatch=source.model != target.model)
    table = target.scored.table()
    rows = list(stratified_split(table["question_id"].to_pylist(), table["subject"].to_pylist()).test)
    labels = table["correct"].to_numpy()[rows].astype(np.float64)
    p_ik: np.ndarray = source.probe.predict(store.layer(config.layer)[rows])
    return probe_metrics(p_ik, labels, config.threshold)


def matrix(found: list[Source], metric: str) -> np.ndarray:
    """One metric, ``[trained on, tested on]``, NaN where widths differ."""
    cells = [[tested(source, target) for target in found] for source in found]
    return np.array([[np.nan if cell is None else cell[metric] for cell in row] for row in cells])


def summary(names: list[str], matrices: dict[str, np.ndarray]) -> str:
    """Means of the matrices' cells as Markdown: own or other model, own or other data set.

    Args:
        names: ``<model> · <task>`` of each row and column.
        matrices: From `matrix`, by the metric's name.
    """
    found = [name.split(" · ") for name in names]
    lines = ["| tested on | cells | " + " | ".join(matrices) + " |", "|---|---:|" + "---:|" * len(matrices)]
    for model in ("its own model", "the other family's"):
        for data in ("its own data set", "another data set"):
            here = [
                (row, column)
                for row, (source, trained_on) in enumerate(found)
                for column, (target, tested_on) in enumerate(found)
                if (source == target) == (model == "its own model")
                and (trained_on == tested_on) == (data == "its own data set")
                and not np.isnan(matrices["AUROC"][row, column])
            ]
            means = [f"{np.mean([values[cell] for cell in here]):.3f}" for values in matrices.values()]
            lines.append(f"| {model}, {data} | {len(here)} | {' | '.join(means)} |")
    return "\n".join(lines)


def print_matrix(names: list[str], values: np.ndarray, title: str) -> None:
    """One matrix as a table."""
    table = Table(title=title, title_justify="left")
    table.add_column("trained on ╲ tested on", no_wrap=True)
    for number in range(1, len(names) + 1):
        table.add_column(str(number), justify="right")
    for number, (name, row) in enumerate(zip(names, values, strict=True), start=1):
        table.add_row(f"{number} {name}", *("" if np.isnan(value) else f"{value:.3f}" for value in row))
    Console(width=None if sys.stdout.isatty() else 180).print(table)


@one_line_errors(ProbeError)
def main(args: list[str] | None = None) -> dict[str, np.ndarray]:
    """The entry point; returns both matrices."""
    parser = ArgumentParser(prog="python -m experiments.transfer", description=__doc__, exit_on_error=False)
    parser.add_argument("--models", type=str, default=",".join(MODEL_NAMES), help="names, separated by commas")
    parser.add_argument("--tasks", type=str, default=",".join(BENCHMARKS), help="data sets, separated by commas")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of stores and probe runs")
    parser.add_argument("--epochs", type=int, default=100, help="at most; a head stops when it gets no better")
    parser.add_argument("--readme", type=bool, default=False, help="rewrite the README's summary")
    values = parser.parse_args(args)
    more = [f"--trainer.max_epochs={values.epochs}"]
    found = sources(values.models.split(","), values.tasks.split(","), values.runs, more)
    names = [source.name for source in found]
    matrices = {label: matrix(found, metric) for label, metric in (("AUROC", "auroc"), ("ECE", "ece"))}
    out = values.runs / "transfer"
    out.mkdir(parents=True, exist_ok=True)
    for label, numbers in matrices.items():
        for width in sorted({source.width for source in found}):
            held = [place for place, source in enumerate(found) if source.width == width]
            block = numbers[np.ix_(held, held)]
            print_matrix([names[i] for i in held], block, f"{label} of P(IK) on the test part, states of {width}")
    clean = {k: [[None if np.isnan(v) else v for v in row] for row in m.tolist()] for k, m in matrices.items()}
    write_atomically(out / "transfer.json", (json.dumps({"sources": names, **clean}, indent=1) + "\n").encode())
    plot_transfer(out / "transfer.png", names, matrices)
    if values.readme:
        readme = ROOT / "README.md"
        write_atomically(readme, fill(readme.read_text(), "transfer", summary(names, matrices)).encode())
    print(f"Wrote {out / 'transfer.json'} and {out / 'transfer.png'}")
    return matrices


if __name__ == "__main__":
    main()
