"""Table 9, McNemar's tests against the last model alone: `python -m experiments.table_09`."""

from __future__ import annotations

from experiments.paper.arithmetic import disagreement_notes
from experiments.paper.cells import Cells
from experiments.paper.command import command, compare
from experiments.paper.comparison import Comparison
from experiments.paper.lab import Lab
from experiments.paper.numbers import Column, paper

MORE = {
    "only_chain": Column("only the chain right", "count"),
    "only_last": Column("only the last right", "count"),
    "p_exact": Column("exact p", "p"),
    "chi2_plain": Column("χ², plain", "number"),
    "p_plain": Column("p, plain", "p"),
}


def build(lab: Lab) -> Comparison:
    table, cells = paper().tables[9], Cells()
    for label in table.rows:
        chain, _, _ = label.partition(" vs ")
        test = lab.row(chain).mcnemar
        exact = label in table.more["exact"]
        cells[label] = {
            "chi2": None if exact else test.chi2_corrected,
            "p": test.p_exact if exact else test.p_chi2_corrected,
            "only_chain": test.only_first,
            "only_last": test.only_second,
            "p_exact": test.p_exact,
            "chi2_plain": test.chi2,
            "p_plain": test.p_chi2,
        }
    return compare(9, lab, cells, MORE, disagreement_notes(paper()))


main = command(build, api=(0,))

if __name__ == "__main__":
    main()
