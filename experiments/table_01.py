"""Table 1, LLaMA models on MMLU: accuracy, drop, compute saved, and time: `python -m experiments.table_01`."""

from __future__ import annotations

from dataclasses import replace

from experiments.paper.cells import counts_note, main_table
from experiments.paper.command import command
from experiments.paper.comparison import Comparison
from experiments.paper.lab import Lab


def build(lab: Lab) -> Comparison:
    table = main_table(lab, 1, "llama")
    return replace(table, notes=(counts_note(), *table.notes))


main = command(build, live=True)

if __name__ == "__main__":
    main()
