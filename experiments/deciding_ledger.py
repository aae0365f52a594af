"""Does the ledger decide which chain is best? `python -m experiments.deciding_ledger`.

On the paper's own counts (its Table 8), on ours at the paper's thresholds, and with thresholds found for each ledger:
the cheapest policy at most one point below the last model on validation, measured on test.
"""

from __future__ import annotations

from itertools import permutations

import numpy as np

from cascade.policies.base import LivePolicy
from cascade.policies.ledgers import LEDGERS, pass_costs
from cascade.scores.arrays import ChainScores, parts
from cascade.simulation.frontier import frontier
from cascade.simulation.study import Measured, measure
from cascade.simulation.tuning import Goal, limit_for
from experiments.paper.arithmetic import from_counts
from experiments.paper.command import Finding, command
from experiments.paper.comparison import markdown_table
from experiments.paper.lab import Lab
from experiments.paper.numbers import paper
from experiments.paper.scales import ARROW, LLAMA, QWEN

FAMILIES = {"llama": LLAMA, "qwen": QWEN}
HALVINGS = 4


def build(lab: Lab) -> Finding:
    counts = {ledger: from_counts(paper(), ledger) for ledger in ("answered-only", "full-path")}
    drops = {label: paper().tables[1].rows[label]["pd_points"] for label in counts["full-path"]}
    theirs = [
        [label, f"{drops[label]:+.2f}", *(f"{saved[label]:+.1f} %" for saved in counts.values())] for label in drops
    ]
    ours, tuned, values = [], [], {}
    halved: dict[str, list[float]] = {}
    for family, sizes in FAMILIES.items():
        for label, row in lab.rows(family).items():
            if ARROW in label:
                saved = [f"{100 * row.saved['flops'][ledger]:+.1f} %" for ledger in LEDGERS]
                ours.append([f"{family} {label}", f"{row.pd_points:+.2f}", *saved])
        validation, test = (lab.of(ARROW.join(sizes), family, split=split) for split in ("validation", "test"))
        halves = [pair for i in range(HALVINGS) for pair in permutations(parts(test, (0.5, 0.5), f"halving {i}"), 2)]
        halved[family] = [
            100 * cheapest(half, other, "full-path").reported.difference.estimate for half, other in halves
        ]
        for ledger in LEDGERS:
            found = cheapest(validation, test, ledger)
            reported = found.reported
            cost, points = reported.cost_ratio, reported.difference
            policy = found.policy.describe(sizes)
            tuned.append(
                [
                    family,
                    ledger,
                    policy,
                    f"{100 * points.estimate:+.2f} [{100 * points.low:+.2f}, {100 * points.high:+.2f}]",
                    f"{100 * (1 - cost.estimate):.1f} [{100 * (1 - cost.high):.1f}, {100 * (1 - cost.low):.1f}] %",
                ]
            )
            values[f"{family}, {ledger}"] = {"policy": policy, **reported.to_json()}
    alone = "3B → 8B"
    front = [saved["3B → 8B → 70B"] - saved["8B → 70B"] for saved in counts.values()]
    price = float(drops["8B → 70B"] or 0) - float(drops["3B → 8B → 70B"] or 0)
    used = {f: {row[1]: _models(row[2]) for row in tuned if row[0] == f} for f in FAMILIES}
    changed = [f for f, models in used.items() if len(set(models.values())) > 1]
    said = [
        f"{family} {', '.join(f'{models} {ledger}' for ledger, models in used[family].items())}" for family in FAMILIES
    ]
    lost = [float(row[3].split()[0]) for row in tuned]
    curse = ", ".join(
        f"{f} {np.mean(found):+.2f} ({min(found):+.2f} to {max(found):+.2f})" for f, found in halved.items()
    )
    sentences = [
        f"On the paper's counts {alone} saves {counts['answered-only'][alone]:.1f} % of 8B's compute answered-only and "
        f"costs {-counts['full-path'][alone]:.1f} % more full-path: the ledger decides whether it is worth having.",
        f"Putting 3B in front of 8B → 70B saves another {front[0]:.1f} points answered-only and {front[1]:.1f} "
        f"full-path, for {price:.2f} points of accuracy.",
        f"With thresholds found for each ledger, the models that are used change with it in {len(changed)} of "
        f"{len(used)} families: {'; '.join(said)}.",
        f"What was at most one point below on validation is {min(lost):+.2f} to {max(lost):+.2f} points on test. Few "
        f"questions flatter the cheapest of many policies: chosen full-path on one half of the test questions, which "
        f"no probe has seen, and reported on the other, {2 * HALVINGS} times, it is, {curse}. What `cascade.simulate` "
        f"recommends is certified instead, and holds on new questions with the probability that is asked for.",
    ]
    head = ["", "PD, points"]
    paragraphs = [
        *sentences,
        "The paper's chains, compute saved by the counts of its Table 8:",
        markdown_table([*head, *counts], theirs),
        "Ours at the paper's thresholds:",
        markdown_table([*head, *LEDGERS], ours),
        "Ours, the cheapest at most one point below the last model on validation, on test with 95 % intervals:",
        markdown_table(["family", "ledger", "policy", "PD, points", "saved in this ledger"], tuned),
    ]
    return Finding(
        "deciding_ledger",
        "The ledger that decides the chain",
        "\n\n".join(paragraphs),
        {"paper": counts, "tuned": values, "halves, full-path": halved},
    )


def cheapest(choose_on: ChainScores, report_on: ChainScores, ledger: str) -> Measured[LivePolicy]:
    """Thresholds on P(IK) and P(T) for one ledger, chosen on some questions and measured on others.

    Args:
        choose_on: These; the thresholds are at most one point below the last model on them, of which nothing is
            promised.
        report_on: Those.
        ledger: In which cost is counted.
    """
    goal = Goal(ledger=ledger)
    found = frontier(choose_on, pass_costs(choose_on), ledger, "P(IK) + P(T)")
    return measure(report_on, found.best(goal, limit_for(goal, choose_on)), pass_costs(report_on), ledger)


def _models(policy: str) -> str:
    """The models alone of a policy that is described in words."""
    return ARROW.join(stage.split(" (")[0] for stage in policy.split(ARROW))


main = command(build, family="both")

if __name__ == "__main__":
    main()
