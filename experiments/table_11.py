"""Table 11, PopQA: accuracy, hallucinations and dollars: `python -m experiments.table_11`."""

from __future__ import annotations

from cascade.statistics.metrics import hallucination_rate
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
    task, cells = lab.scale.popqa, Cells()
    for label in paper().tables[11].rows:
        if ARROW not in label:
            (model,) = lab.one(label, task).models
            cells[label] = {"accuracy": float(model.correct.mean()), "cost": lab.dollars(label, task)[0]}
            if model.attempted is not None:
                cells[label]["hallucination"] = hallucination_rate(model.correct, model.attempted)
            continue
        row, (alone, saved) = lab.row(label, task=task), lab.dollars(label, task)
        cells[label] = {
            "accuracy": row.accuracy,
            "cost": alone * (1 - saved["answered-only"] / 100),
            "pd_relative": row.pd_relative,
            "reduced_cost": saved["answered-only"],
            "full_path": saved["full-path"],
            "early_exit": saved["early-exit"],
        }
        if row.hallucination is not None:
            cells[label]["hallucination"] = row.hallucination
    judged = (
        "Ours are right by the judge's verdicts."
        if lab.judge is not None
        else "Ours are right by a normalised match with an accepted answer, where the paper's are by a grounding API."
    )
    own = f"{lab.scale.popqa} has probes of its own, as the paper's PopQA has."
    return compare(11, lab, cells, MORE, (judged, own))


main = command(build, tasks=("popqa",))

if __name__ == "__main__":
    main()
