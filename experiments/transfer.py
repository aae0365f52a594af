"""Does a probe know more than it was trained on? `python -m experiments.transfer`.

Trains a probe for each model and data set, and tests it on the states of every other where widths match: on another
data set of its own model (out of distribution), and on another family's model, which it was not made for. A matrix
of AUROC and of ECE, as tables, as JSON and as a heat map.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cascade.probing.chain import check_base
from cascade.report.probe_plots import plot_transfer
from cascade.scoring.scored import Scored
from cascade.strict_json import strict_json
from experiments.paper.command import command
from experiments.paper.comparison import markdown_table
from experiments.paper.lab import Lab
from probes import Probe, stratified_split
from probes.files import write_atomically
from probes.metrics import probe_metrics

METRICS = {"AUROC": "auroc", "ECE": "ece"}
WORDS = "Means over a probe for each model and data set, tested on every other whose states are as wide. 0.5 is a coin."
COIN = 0.55  # an AUROC below this tells hardly more than a coin


@dataclass(frozen=True)
class Source:
    """A model on a data set: what a probe is trained on, and what another is tested on.

    Attributes:
        model: Its name.
        task: The data set's.
        scored: States and verdicts.
        probe: Trained on its training part.
    """

    model: str
    task: str
    scored: Scored
    probe: Probe

    @property
    def name(self) -> str:
        """``<model> · <task>``."""
        return f"{self.model} · {self.task}"

    @property
    def width(self) -> int:
        """Of the states."""
        return self.scored.store.hidden_size


@dataclass(frozen=True)
class Transfer:
    """What every probe is worth on every source.

    Attributes:
        sources: ``<model> · <task>`` and the width of the states, of each row and column.
        matrices: By the metric's name ``[trained on, tested on]``, NaN where widths differ.
    """

    sources: Mapping[str, int]
    matrices: Mapping[str, np.ndarray]
    heading: str = "From one data set to another"

    @property
    def markdown(self) -> str:
        """The means; the matrices are in the files."""
        return f"{WORDS} {self.finding}\n\n{self.summary}"

    def cells(self, own_model: bool, own_data: bool) -> list[tuple[int, int]]:
        """Those of a probe's own model or another one, on its own data set or another, where widths agree."""
        found = [name.split(" · ") for name in self.sources]
        return [
            (row, column)
            for row, (source, trained_on) in enumerate(found)
            for column, (target, tested_on) in enumerate(found)
            if (source == target) == own_model
            and (trained_on == tested_on) == own_data
            and not np.isnan(self.matrices["AUROC"][row, column])
        ]

    @property
    def finding(self) -> str:
        """What the means say, in a sentence; nothing where there is one data set alone."""
        own_cells, other_cells = (self.cells(own_model=True, own_data=own_data) for own_data in (True, False))
        if not other_cells:
            return ""
        own, elsewhere = (np.mean([self.matrices["AUROC"][c] for c in cells]) for cells in (own_cells, other_cells))
        lost = (own - elsewhere) / (own - 0.5)
        worth = "cannot lean on P(IK)" if elsewhere < COIN else "leans on a P(IK) that knows less than it did"
        return (
            f"A probe's AUROC is {own:.2f} on its own data set and {elsewhere:.2f} on another one of the same model, "
            f"which is {100 * lost:.0f} % of what it knew lost: what Table 6 does with MMLU's probes on GPQA {worth}."
        )

    @property
    def summary(self) -> str:
        """Means of the matrices' cells: own or other model, own or other data set."""
        lines = ["| tested on | cells | " + " | ".join(self.matrices) + " |", "|---|---:|" + "---:|" * len(METRICS)]
        for model in ("its own model", "the other family's"):
            for data in ("its own data set", "another data set"):
                if here := self.cells(model == "its own model", data == "its own data set"):
                    means = [f"{np.mean([values[cell] for cell in here]):.3f}" for values in self.matrices.values()]
                    lines.append(f"| {model}, {data} | {len(here)} | {' | '.join(means)} |")
        return "\n".join(lines)

    def tables(self) -> str:
        """The matrices, a table for each metric and width."""
        parts, names = [], list(self.sources)
        for label, values in self.matrices.items():
            for width in sorted(set(self.sources.values())):
                held = [place for place, name in enumerate(names) if self.sources[name] == width]
                head = ["trained on ╲ tested on", *(str(number) for number in range(1, len(held) + 1))]
                lines = [
                    [f"{number} {names[row]}"]
                    + ["" if np.isnan(values[row, column]) else f"{values[row, column]:.3f}" for column in held]
                    for number, row in enumerate(held, start=1)
                ]
                title = f"{label} of P(IK) on the test part, states of {width}:"
                parts.append(f"{title}\n\n{markdown_table(head, lines)}")
        return "\n\n".join(parts)

    def write(self, folder: Path) -> None:
        """Writes ``transfer.json``, ``transfer.md`` and ``transfer.png``."""
        folder.mkdir(parents=True, exist_ok=True)
        values = {"sources": list(self.sources), **{label: m.tolist() for label, m in self.matrices.items()}}
        write_atomically(folder / "transfer.json", strict_json(values).encode())
        page = f"# {self.heading}\n\n{self.markdown}\n\n{self.tables()}\n"
        write_atomically(folder / "transfer.md", page.encode())
        plot_transfer(folder / "transfer.png", list(self.sources), self.matrices)


def build(lab: Lab) -> Transfer:
    """Tests a probe for each of a scale's models and data sets on every other."""
    found = sources(lab)
    cells = [[tested(source, target, lab.limit) for target in found] for source in found]
    matrices = {
        label: np.array([[np.nan if cell is None else cell[metric] for cell in row] for row in cells])
        for label, metric in METRICS.items()
    }
    return Transfer({source.name: source.width for source in found}, matrices)


def sources(lab: Lab) -> list[Source]:
    """Every model of a scale on each of its data sets, narrow ones first.

    The model that stands behind the API is one of the family's where it has hidden states at all.
    """
    scale, found = lab.scale, []
    for model in dict.fromkeys((*scale.llama.values(), *scale.qwen.values())):
        for task in dict.fromkeys((scale.mmlu, scale.gpqa, scale.popqa)):
            found.append(Source(model, task, lab.scored(model, task), lab.probe(model, task)))
    return sorted(found, key=lambda source: source.width)


def tested(source: Source, target: Source, limit: int) -> dict[str, float] | None:
    """Metrics of one's probe on the other's test part, or its first ``limit``; ``None`` where widths differ."""
    config, store = source.probe.config, target.scored.store
    if source.width != target.width or config.layer not in store.layers:
        return None
    elsewhere = (source.model, source.task) != (target.model, target.task)
    check_base(source.probe, target.scored, allow_base_mismatch=elsewhere)
    table = target.scored.table()
    rows = list(stratified_split(table["question_id"].to_pylist(), table["subject"].to_pylist()).test)[: limit or None]
    labels = table["correct"].to_numpy()[rows].astype(np.float64)
    p_ik: np.ndarray = source.probe.predict(store.layer(config.layer)[rows])
    return probe_metrics(p_ik, labels, config.threshold)


main = command(build, family="both", tasks=("mmlu", "gpqa", "popqa"))

if __name__ == "__main__":
    main()
