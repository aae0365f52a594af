"""How deep a probe should read: its quality against what an early exit saves: `python -m experiments.probe_depth`.

A probe on an early layer turns questions away sooner, and knows less. For probes at each depth: the paper's thresholds
as they are, and the cheapest thresholds at most one point below the last model by one standard error (found on
validation, early-exit).
"""

from __future__ import annotations

from cascade.policies.thresholds import ThresholdPolicy
from cascade.simulation.simulator import all_costs, simulate
from cascade.simulation.study import LayerPoint, layer_point
from cascade.simulation.tuning import Goal
from experiments.deciding_ledger import FAMILIES
from experiments.paper.command import Finding, command
from experiments.paper.comparison import markdown_table
from experiments.paper.lab import BOTH, Lab
from experiments.paper.scales import ARROW


def build(lab: Lab) -> Finding:
    lines, sentences, values = [], [], {}
    for family, sizes in FAMILIES.items():
        names = [lab.scale.family(family)[size] for size in sizes]
        depths = [lab.scored(name, lab.scale.mmlu).store.key.layers[-1] for name in names[:-1]]
        found: dict[str, LayerPoint] = {}
        for layer in range(1, max(depths) + 1):
            share = layer / max(depths)
            choose_on, report_on = (lab.chain(names, lab.scale.mmlu, split, share) for split in ("validation", "test"))
            layers = [max(1, round(share * depth)) for depth in depths]
            point = layer_point(choose_on, report_on, Goal(ledger="early-exit"), layers, share)
            fixed = simulate(report_on, ThresholdPolicy.whole([BOTH] * len(depths)), all_costs(report_on))
            cost, drop = point.measured.reported.cost_ratio, point.measured.reported.difference
            which = ", ".join(f"{at} of {depth}" for at, depth in zip(layers, depths, strict=True))
            found[which] = point
            saved = [100 * fixed.saved["flops"][ledger] for ledger in ("full-path", "early-exit")]
            lines.append(
                [
                    f"{family}, {which}",
                    " / ".join(f"{value:.3f}" for value in point.auroc),
                    f"{fixed.pd_points:+.2f}",
                    *(f"{share:.1f} %" for share in saved),
                    f"{100 * drop.estimate:+.2f}",
                    f"{100 * (1 - cost.estimate):.1f} [{100 * (1 - cost.high):.1f}, {100 * (1 - cost.low):.1f}] %",
                ]
            )
            values[f"{family}, {which}"] = {"auroc": point.auroc, "fixed": fixed.saved["flops"], **_plain(point)}
        best = max(found, key=lambda which: 1 - found[which].measured.reported.cost_ratio.estimate)
        sure = max(found, key=lambda which: sum(found[which].auroc))
        exits = [float(line[4].rstrip(" %")) for line in lines if line[0].startswith(family)]
        points = {line[2] for line in lines if line[0].startswith(family)}
        sentences.append(
            f"{ARROW.join(sizes)} ({family}): the probes know most at layers {sure}. At the paper's thresholds "
            f"early-exit saves {exits[0]:.1f} % with the shallowest probes and {exits[-1]:.1f} % with the deepest, at "
            f"a PD of {' or '.join(sorted(points))} points. With thresholds for each depth it saves "
            f"most with probes at {best}."
        )
    head = ["layers", "AUROC", "PD", "full-path", "early-exit", "PD, tuned", "early-exit, tuned"]
    after = (
        "Where two depths' 95 % intervals overlap, their difference is no finding; and a depth that saves more may "
        "have lost more (PD, tuned). Where P(T) follows, a weak early probe can only pass questions on that P(T) would "
        "have kept, so that accuracy hardly moves with the depth."
    )
    return Finding(
        "probe_depth",
        "The probe's layer against early-exit cost",
        "\n\n".join([*sentences, markdown_table(head, lines), after]),
        values,
    )


def _plain(point: LayerPoint) -> dict[str, object]:
    return {"layers": list(point.layers), "tuned": point.measured.reported.to_json()}


main = command(build, family="both")

if __name__ == "__main__":
    main()
