"""`docs/results-real.md` from the records: blocks of tables, a figure, and one sentence that answers the question."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np

from cascade.policies.base import Thresholds
from cascade.policies.thresholds import ThresholdPolicy
from cascade.report.figures import COLORS, MUTED, Plot, new_figure, styled
from cascade.report.recommendation import recommendation
from cascade.scores.arrays import ChainScores, parts
from cascade.simulation.simulator import all_costs, simulate
from cascade.simulation.study import study
from cascade.simulation.tuning import Goal
from cascade.statistics.metrics import ece
from experiments.pages import ROOT, write_blocks
from experiments.real_decoders.evidence import FUSED, MEAN, MLP, P_IK, P_T, Area, Record, chain_of, models_of, tuned
from experiments.real_decoders.measure import TASKS, columns_of
from probes.files import write_atomically

FIGURE = Path("experiments/figures/real_layers.png")
TITLES = {"mmlu": "MMLU", "arc": "ARC-Challenge"}
PAPER_P_T, PAPER_P_IK = 0.9, 0.5
Records = Mapping[tuple[str, str], Record]


def write(records: Records) -> list[Path]:
    """Writes the figure and the blocks, and gives the pages."""
    write_figure(records)
    return write_blocks(blocks(records))


def blocks(records: Records) -> dict[str, str]:
    """Every block of the page, by name."""
    chains = chains_of(records)
    return {
        "real_answer": answer(records),
        "real_models": models_table(records),
        "real_confidences": confidences_table(records),
        "real_layers": f"![P(IK) by layer](../{FIGURE})\n\n{layers_table(records)}",
        "real_transfer": transfer_table(records),
        "real_fixed": fixed_table(chains),
        "real_tuned": tuned_table(chains),
        "real_promised": promises(chains),
    }


def chains_of(records: Records) -> dict[str, ChainScores]:
    """Every pair of models on every task, in words."""
    found = {}
    for task in TASKS:
        here = [records[model, task] for model in models_of(records) if (model, task) in records]
        for small, large in combinations(here, 2):
            found[f"{small.model} → {large.model}, {TITLES[task]}"] = chain_of([small, large])
    return found


def answer(records: Records) -> str:
    """Whether P(IK) adds to P(T), in one sentence, which the intervals say."""
    gains = {f"{r.model} on {TITLES[r.task]}": r.gain for r in records.values()}
    more = [name for name, gain in gains.items() if gain.low > 0]
    less = [name for name, gain in gains.items() if gain.high < 0]
    span = f"{min(g.value for g in gains.values()):+.3f} to {max(g.value for g in gains.values()):+.3f}"
    if not more:
        said = "P(IK) is not shown to add anything to P(T)"
    elif len(more) == len(gains):
        said = "P(IK) adds to P(T)"
    else:
        said = f"P(IK) is shown to add to P(T) for {_and(more)}, and not for {_and(sorted(set(gains) - set(more)))}"
    return (
        f"**{said}: with both, the area under the ROC curve differs from that of P(T) alone by {span} over "
        f"{len(gains)} pairs of a model and a data set; {_count(len(more))} of the 95 % intervals lie above 0, "
        f"{_count(len(less))} below.**"
    )


def _and(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _count(number: int) -> str:
    return "none" if number == 0 else f"{number:,}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], words: int) -> str:
    """Markdown, the first columns words and the others numbers."""
    rule = ["---"] * words + ["---:"] * (len(head) - words)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *rows))


def _area(area: Area, signed: bool = False) -> str:
    form = "{:+.3f}" if signed else "{:.3f}"
    value, low, high = (form.format(part) for part in area)
    return f"{value} [{low}, {high}]"


def models_table(records: Records) -> str:
    """Accuracy and calibration of every model on every task."""
    rows = []
    for record in records.values():
        right, p_t = record.right, record.column("p_t")
        rows.append(
            [
                record.model,
                TITLES[record.task],
                f"{len(right):,}",
                f"{right.mean():.1%}",
                f"{record.column('option_mass').mean():.2f}",
                *(f"{ece(values, right):.3f}" for values in (p_t, record.calibrated, record.confidences[P_IK])),
            ]
        )
    head = ["model", "questions of", "n", "right", "option mass", "ECE of P(T)", "calibrated", "ECE of P(IK)"]
    return _table(head, rows, 2)


def confidences_table(records: Records) -> str:
    """AUROC of each confidence, and what P(IK) adds to P(T)."""
    names = (P_T, P_IK, MLP, MEAN, FUSED)
    rows = [
        [r.model, TITLES[r.task], *(_area(r.area(r.confidences[name])) for name in names), _area(r.gain, True)]
        for r in records.values()
    ]
    return _table(["model", "questions of", *names, "both minus P(T)"], rows, 2)


def layers_table(records: Records) -> str:
    """AUROC of P(IK) at a few depths of each model."""
    shares = (0.0, 0.25, 0.5, 0.75, 1.0)
    rows = []
    for record in records.values():
        for head in ("linear", "mlp"):
            layers = columns_of(record.table, head)
            places = [round(share * max(layers)) for share in shares]
            best = max(layers, key=lambda layer: record.area(layers[layer]).value)
            cells = [_area(record.area(layers[place])) for place in places]
            rows.append([record.model, TITLES[record.task], head, *cells, f"{best} of {max(layers)}"])
    return _table(["model", "questions of", "head", *(f"ℓ/L = {s:g}" for s in shares), "best layer"], rows, 3)


@styled
def write_figure(records: Records, root: Path = ROOT) -> None:
    """AUROC of the linear heads by depth, and P(T)'s as a line."""
    figure = new_figure(9, 3.6)
    for place, task in enumerate(TASKS):
        axis = figure.add_subplot(1, len(TASKS), place + 1)
        for color, model in zip(COLORS, models_of(records), strict=False):
            if (model, task) not in records:
                continue
            record = records[model, task]
            layers = columns_of(record.table, "linear")
            areas = np.array([record.area(values) for values in layers.values()])
            x = np.array(list(layers)) / max(layers)
            axis.plot(x, areas[:, 0], color=color, label=model)
            axis.fill_between(x, areas[:, 1], areas[:, 2], color=color, alpha=0.15, lw=0)
            axis.axhline(record.area(record.column("p_t")).value, color=color, ls="--", lw=1)
            axis.legend(frameon=False, fontsize=8)
        axis.axhline(0.5, color=MUTED, lw=0.8)
        axis.set(title=TITLES[task], xlabel="depth, ℓ/L", ylabel="AUROC (dashed: P(T))")
    write_atomically(root / FIGURE, Plot("layers", "P(IK) of real decoders by layer", "", figure).png())


def transfer_table(records: Records) -> str:
    """P(IK) of heads trained on the other task."""
    rows = []
    for record in records.values():
        for other in TASKS:
            if f"p_ik_from/{other}" in record.table.column_names:
                there = record.area(record.column(f"p_ik_from/{other}"))
                own = record.area(record.column("p_ik"))
                rows.append([record.model, TITLES[record.task], TITLES[other], _area(there), _area(own)])
    return _table(["model", "asked", "trained on", "AUROC", "trained on its own"], rows, 3)


def fixed_table(chains: Mapping[str, ChainScores]) -> str:
    """The paper's thresholds (Tables 1 and 5)."""
    rows = []
    for name, chain in chains.items():
        for words, p_ik in (("P(IK) ≥ 0.5, P(T) ≥ 0.9", PAPER_P_IK), ("P(T) ≥ 0.9", None)):
            row = simulate(chain, ThresholdPolicy.whole([Thresholds(PAPER_P_T, p_ik)]), all_costs(chain))
            saved = row.saved["flops"]
            kept = f"{saved_questions(chain, p_ik):,} of {len(chain):,}"
            cells = [f"{row.accuracy:.1%}", f"{row.pd_points:+.2f}", kept]
            rows.append([name, words, *cells, *(f"{saved[ledger]:.1%}" for ledger in saved)])
    head = ["chain, questions of", "thresholds", "right", "points", "kept by the first", *saved]
    return _table(head, rows, 2)


def saved_questions(chain: ChainScores, p_ik: float | None) -> int:
    """How many questions the first model keeps at the paper's thresholds."""
    signals = chain.models[0].signals
    assert signals.p_t is not None and signals.p_ik is not None
    return int(((signals.p_t >= PAPER_P_T) & (True if p_ik is None else signals.p_ik >= p_ik)).sum())


def tuned_table(chains: Mapping[str, ChainScores]) -> str:
    """Thresholds chosen on one half, on the other: with P(IK) and without."""
    rows = []
    for name, chain in chains.items():
        for ledger in ("full-path", "early-exit"):
            plain, both = (tuned(chain, ledger, signals) for signals in ("P(T)", "P(IK) + P(T)"))
            apart = both.saved - plain.saved
            cells = [f"{100 * part.saved.mean():.1f} %, {100 * part.drop.mean():+.2f}" for part in (plain, both)]
            rows.append([name, ledger, *cells, f"{100 * apart.mean():+.1f} (sd {100 * apart.std(ddof=1):.1f})"])
    head = ["chain, questions of", "ledger", "P(T): saved, points", "with P(IK): saved, points", "more saved, points"]
    return _table(head, rows, 2)


def promises(chains: Mapping[str, ChainScores]) -> str:
    """What `cascade simulate` recommends for each chain, in its own words."""
    lines = []
    for name, chain in chains.items():
        choose_on, report_on = parts(chain, (0.5, 0.5), 0)
        said = recommendation(study(choose_on, report_on, Goal(), certify_on=chain)).sentences
        lines.append(f"- *{name}*. {' '.join(said)}")
    return "\n".join(lines)
