"""Table 15, thresholds of P(T) with and without P(IK): `python -m experiments.table_15`."""

from __future__ import annotations

from cascade.policies.base import Thresholds
from experiments.paper.cells import OTHER_LEDGERS, accuracy_cells, only
from experiments.paper.command import command, compare
from experiments.paper.comparison import Comparison
from experiments.paper.lab import Lab
from experiments.paper.numbers import paper


def build(lab: Lab) -> Comparison:
    rows = {}
    for label in paper().tables[15].rows:
        named, _, without = label.partition(", w/o")
        thresholds = Thresholds(float(named.removeprefix("P(T) ≥ ")), None if without else paper().p_ik)
        rows[label] = lab.row("8B → 70B", thresholds=thresholds)
    return compare(15, lab, only(accuracy_cells(rows, "share"), 15), OTHER_LEDGERS)


main = command(build)

if __name__ == "__main__":
    main()
