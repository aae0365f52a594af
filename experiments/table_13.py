"""Table 13, US dollars for each chain on MMLU, the API's included: `python -m experiments.table_13`."""

from __future__ import annotations

from experiments.paper.arithmetic import dollars_note
from experiments.paper.cells import Cells
from experiments.paper.command import command, compare
from experiments.paper.comparison import Comparison
from experiments.paper.lab import Lab
from experiments.paper.numbers import Column, paper
from experiments.paper.scales import ARROW

MORE = {
    "full_path": Column("Reduced cost, full-path", "percent"),
    "early_exit": Column("Reduced cost, early-exit", "percent"),
}


def build(lab: Lab) -> Comparison:
    cells = Cells()
    for label in paper().tables[13].rows:
        alone, saved = lab.dollars(label)
        if ARROW not in label:
            cells[label] = {"cost": alone}
            continue
        cells[label] = {
            "cost": alone * (1 - saved["answered-only"] / 100),
            "reduced_cost": saved["answered-only"],
            "full_path": saved["full-path"],
            "early_exit": saved["early-exit"],
        }
    return compare(13, lab, cells, MORE, (dollars_note(paper()),))


main = command(build, api=(0,))

if __name__ == "__main__":
    main()
