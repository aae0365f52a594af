"""`docs/results-real.md` from the records: blocks of tables, a figure, and one sentence that answers the question."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
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
from experiments.real_decoders.evidence import (
    FUSED,
    MEAN,
    MLP,
    P_IK,
    P_T,
    SOFT,
    Area,
    Record,
    chain_of,
    models_of,
    tuned,
)
from experiments.real_decoders.measure import KINDS, TASKS, columns_of
from probes.files import write_atomically

FIGURE = Path("experiments/figures/real_layers.png")
TITLES = {"mmlu": "MMLU", "arc": "ARC-Challenge", "popqa": "PopQA"}
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
        "real_short": short_table(records),
        "real_models": models_table(records),
        "real_confidences": confidences_table(records),
        "real_subjects": subjects_table(records),
        "real_layers": f"![P(IK) by layer](../{FIGURE})\n\n{layers_table(records)}",
        "real_curve": curve_table(records),
        "real_transfer": transfer_table(records),
        "real_fixed": fixed_table(chains),
        "real_tuned": tuned_table(chains),
        "real_promised": promises(chains),
    }


def chains_of(records: Records) -> dict[str, ChainScores]:
    """Every model before the largest one, on every task, in words."""
    found = {}
    for task in TASKS:
        here = [records[model, task] for model in models_of(records) if (model, task) in records]
        for small in here[:-1]:
            found[f"{small.model} → {here[-1].model}, {TITLES[task]}"] = chain_of([small, here[-1]])
    return found


def answer(records: Records) -> str:
    """Whether P(IK) adds to P(T), task by task, as the intervals say; and whether it does beside the subject."""
    by_task = _by_task(records)
    shown: dict[str, list[str]] = {"adds": [], "some": [], "not": []}
    figures = []
    for task, here in by_task.items():
        above = sum(record.gain.low > 0 for record in here)
        shown["adds" if above == len(here) else "some" if above else "not"].append(TITLES[task])
        figures.append(f"{_span([record.gain for record in here])} on {TITLES[task]}")
    said = [
        f"{words} on {_and(shown[kind])}"
        for kind, words in (("adds", "it adds"), ("some", "it adds for some models"), ("not", "it is not shown to add"))
        if shown[kind]
    ]
    short = _and(said)
    text = (
        f"**Does P(IK) add to P(T)? {short[0].upper()}{short[1:]}.** With both, the area under the ROC curve differs "
        f"from that of P(T) alone by {_and(figures)}. In brackets: for how many models the 95 % interval lies above 0."
    )
    beside = {task: [r for r in here if len(np.unique(r.subjects)) > 1] for task, here in by_task.items()}
    left = [
        f"{_span([r.gain_beside_subject for r in here])} on {TITLES[task]}" for task, here in beside.items() if here
    ]
    if left:
        text += f" Where the subject of a question is known too, P(IK) changes it by {_and(left)}."
    return text


def short_table(records: Records) -> str:
    """The answer in a row a task, for the README."""
    rows = []
    for task, here in _by_task(records).items():
        areas = [[r.area(r.column(name)).value for r in here] for name in ("p_t", "p_ik")]
        gains = [record.gain.value for record in here]
        cells = [f"{min(values):.2f} to {max(values):.2f}" for values in areas]
        above = sum(record.gain.low > 0 for record in here)
        rows.append([TITLES[task], *cells, f"{min(gains):+.3f} to {max(gains):+.3f}", f"{above} of {len(here)}"])
    return _table(["questions of", "P(T)", "P(IK)", "both minus P(T)", "shown to be more"], rows, 1)


def _by_task(records: Records) -> dict[str, list[Record]]:
    found: dict[str, list[Record]] = {}
    for record in records.values():
        found.setdefault(record.task, []).append(record)
    return found


def _span(gains: Sequence[Area]) -> str:
    values = [gain.value for gain in gains]
    above = sum(gain.low > 0 for gain in gains)
    span = " to ".join(f"{value:+.3f}" for value in dict.fromkeys((min(values), max(values))))
    return f"{span} ({above} of {len(gains)})"


def _and(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


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
                f"{record.column('option_mass').mean():.2f}" if "option_mass" in record.table.column_names else "–",
                *(f"{ece(values, right):.3f}" for values in (p_t, record.calibrated, record.confidences[P_IK])),
            ]
        )
    head = ["model", "questions of", "n", "right", "option mass", "ECE of P(T)", "calibrated", "ECE of P(IK)"]
    return _table(head, rows, 2)


def confidences_table(records: Records) -> str:
    """AUROC of each confidence, and what P(IK) adds to P(T)."""
    names = (P_T, P_IK, MLP, SOFT, MEAN, FUSED)
    rows = []
    for r in records.values():
        areas = [_area(r.area(r.confidences[name])) if name in r.confidences else "–" for name in names]
        rows.append([r.model, TITLES[r.task], *areas, _area(r.gain, True)])
    return _table(["model", "questions of", *names, "both minus P(T)"], rows, 2)


def subjects_table(records: Records) -> str:
    """What of P(IK) is the question's subject."""
    rows = [
        [
            r.model,
            TITLES[r.task],
            f"{len(np.unique(r.subjects))}",
            _area(r.area(r.subject_alone)),
            _area(r.area(r.column("p_ik"))),
            f"{r.within_subjects:.3f}",
            _area(r.gain_beside_subject, True),
        ]
        for r in records.values()
        if len(np.unique(r.subjects)) > 1
    ]
    head = ["model", "questions of", "subjects", "subject alone", "P(IK)", "P(IK) within subjects"]
    return _table([*head, "P(IK) added to P(T) and subject"], rows, 2)


def layers_table(records: Records) -> str:
    """AUROC of P(IK) at a few depths of each model."""
    shares = (0.0, 0.25, 0.5, 0.75, 1.0)
    rows = []
    for record in records.values():
        for head in KINDS:
            if not (layers := columns_of(record.table, head)):
                continue
            places = [round(share * max(layers)) for share in shares]
            best = max(layers, key=lambda layer: record.area(layers[layer]).value)
            cells = [_area(record.area(layers[place])) for place in places]
            rows.append([record.model, TITLES[record.task], head, *cells, f"{best} of {max(layers)}"])
    return _table(["model", "questions of", "head", *(f"ℓ/L = {s:g}" for s in shares), "best layer"], rows, 3)


@styled
def write_figure(records: Records, root: Path = ROOT) -> None:
    """AUROC of the linear heads by depth, and P(T)'s as a line."""
    figure = new_figure(4.5 * len(TASKS), 3.6)
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


def curve_table(records: Records) -> str:
    """AUROC of P(IK) by the number of questions that a linear head learnt from."""
    sizes = sorted({size for record in records.values() for size in columns_of(record.table, "linear_of")})
    rows = []
    for record in records.values():
        few = columns_of(record.table, "linear_of")
        cells = [_area(record.area(few[size])) if size in few else "–" for size in sizes]
        rows.append([record.model, TITLES[record.task], *cells, _area(record.area(record.column("p_ik")))])
    return _table(["model", "questions of", *(f"{size:,}" for size in sizes), "all"], rows, 2)


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
