"""Table 3, Qwen 3 models on MMLU: accuracy, drop, compute saved, and time: `python -m experiments.table_03`."""

from __future__ import annotations

from experiments.paper.cells import main_table
from experiments.paper.command import command
from experiments.paper.comparison import Comparison
from experiments.paper.lab import Lab


def build(lab: Lab) -> Comparison:
    return main_table(lab, 3, "qwen")


main = command(build, family="qwen", live=True)

if __name__ == "__main__":
    main()
