"""Table 12, prices: the file that ships with this project against the paper's: `python -m experiments.table_12`."""

from __future__ import annotations

from experiments.paper.command import command, compare
from experiments.paper.comparison import Comparison
from experiments.paper.lab import Lab
from experiments.paper.numbers import paper


def build(lab: Lab) -> Comparison:
    prices, models = lab.prices, lab.scale.family("llama")
    priced = {size: prices.models[models[size]] for size in paper().tables[12].rows}
    cells = {size: {"input": read, "output": written} for size, (read, written) in priced.items()}
    note = f"Ours are those of configs/prices/table-12.yaml ({prices.source}); models of any scale are priced by size."
    return compare(12, lab, cells, notes=(note,))


main = command(build, tasks=())

if __name__ == "__main__":
    main()
