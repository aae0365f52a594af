"""Table 14, P(IK) as a classifier: accuracy, F1 and AUROC on test: `python -m experiments.table_14`."""

from __future__ import annotations

from cascade.simulation.simulator import confidence_quality
from cascade.statistics.metrics import binary_f1
from experiments.paper.arithmetic import f1_note
from experiments.paper.cells import Cells
from experiments.paper.command import command, compare
from experiments.paper.comparison import Comparison
from experiments.paper.lab import BOTH, Lab
from experiments.paper.numbers import Column, paper
from experiments.paper.scales import ARROW, LLAMA

MORE = {
    "f1_right": Column("F1 of right answers", "percent"),
    "knows": Column("model's own accuracy", "percent"),
    "layer": Column("probe's layer", "text"),
    "p_t_auroc": Column("P(T)'s AUROC", "percent"),
}


def build(lab: Lab) -> Comparison:
    chain, cells = lab.of(ARROW.join(LLAMA)), Cells()
    quality = {(q.model, q.confidence): q for q in confidence_quality(chain, BOTH)}
    for size, model in zip(paper().tables[14].rows, chain.models, strict=False):
        p_ik, p_t = quality[model.name, "P(IK)"], quality[model.name, "P(T)"]
        known = model.signals.p_ik
        assert known is not None and BOTH.p_ik is not None
        unknown = binary_f1(known < BOTH.p_ik, ~model.correct)
        cells[size] = {"accuracy": 100 * p_ik.accuracy, "f1": 50 * (p_ik.f1 + unknown), "auroc": 100 * p_ik.auroc}
        cells[size]["f1_right"] = 100 * p_ik.f1
        depth = model.info.num_layers or 0
        layer = f"{round(model.info.exit_share * depth)} of {depth}"
        cells[size] |= {"knows": 100 * float(model.correct.mean()), "layer": layer, "p_t_auroc": 100 * p_t.auroc}
    return compare(14, lab, cells, MORE, (f1_note(paper()),))


main = command(build)

if __name__ == "__main__":
    main()
