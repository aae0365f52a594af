"""Measures the miniature's models and writes their model cards: `python -m experiments.miniature.cards`.

Runs the models through the same scoring and training as any other; nothing here is special to them but the
card's words.
"""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from jsonargparse import ArgumentParser

from cascade.engines.settings import DecoderConfig
from cascade.errors import one_line_errors
from cascade.miniature.families import ASSETS, MODEL_NAMES, size_of
from cascade.scoring.scored import score
from cascade.statistics.metrics import auroc
from cascade.train import train
from probes import ProbeError, stratified_split
from probes.files import write_atomically

SUMMARY = "miniature.md"


@dataclass(frozen=True)
class Measured:
    """What a card reports; shares are of 1.

    Attributes:
        mmlu, gpqa, popqa: Accuracy on mini-mmlu's test split, on all of mini-gpqa, on all of mini-popqa.
        p_t_auroc: AUROC of P(T) for the model's own correctness on mini-mmlu's test split.
        p_t_deciles: 10th, 50th and 90th percentile of P(T) there.
        popqa_p_t_auroc: AUROC of first-token confidence on mini-popqa.
        p_ik_auroc: For each layer, AUROC of a probe on mini-mmlu's test split.
    """

    parameters: int
    mmlu: float
    gpqa: float
    popqa: float
    p_t_auroc: float
    p_t_deciles: tuple[float, float, float]
    popqa_p_t_auroc: float
    p_ik_auroc: tuple[float, ...]


def measure(name: str, runs: Path) -> Measured:
    """Scores one model on the three benchmarks and trains a probe on every layer."""
    model = DecoderConfig(name).build()
    tables = {task: score(model, task, runs / "stores").table() for task in ("mini-mmlu", "mini-gpqa", "mini-popqa")}
    mmlu, popqa = tables["mini-mmlu"], tables["mini-popqa"]
    test = list(stratified_split(mmlu["question_id"].to_pylist(), mmlu["subject"].to_pylist()).test)
    correct, p_t = mmlu["correct"].to_numpy()[test], mmlu["p_t"].to_numpy()[test]
    layers = []
    for layer in range(model.num_layers + 1):
        flags = [f"--data.model={name}", f"--data.layer={layer}", f"--data.stores={runs / 'stores'}"]
        trained = train([*flags, f"--out={runs / 'probes'}", "--logger=none"])
        layers.append(trained.metrics["after"]["auroc"])
    low, middle, high = np.quantile(p_t, (0.1, 0.5, 0.9))
    return Measured(
        parameters=model.parameters,
        mmlu=float(correct.mean()),
        gpqa=float(tables["mini-gpqa"]["correct"].to_numpy().mean()),
        popqa=float(popqa["correct"].to_numpy().mean()),
        p_t_auroc=auroc(p_t, correct),
        p_t_deciles=(float(low), float(middle), float(high)),
        popqa_p_t_auroc=auroc(popqa["p_t"].to_numpy(), popqa["correct"].to_numpy()),
        p_ik_auroc=tuple(layers),
    )


def card(name: str, measured: Measured) -> str:
    """The model card."""
    family, size = size_of(name)
    kind = "Qwen3ForCausalLM" if family == "mini-qwen3" else "LlamaForCausalLM"
    layers = "\n".join(f"| P(IK), AUROC, layer {i} | {value:.3f} |" for i, value in enumerate(measured.p_ik_auroc))
    low, middle, high = measured.p_t_deciles
    in_context = ""
    if size.in_context:
        share = f"{100 * size.in_context:.0f} %"
        in_context = f" In the first three tenths of training,\n{share} of the questions hold their own answer."
    return f"""---
license: apache-2.0
library_name: transformers
---

# {name}

A `{kind}` of {measured.parameters:,} parameters ({size.layers} blocks of {size.hidden}), trained from scratch
on an invented, closed world, so that confidence cascades can be tried anywhere. It knows nothing of the real
world and is good for nothing else. Rebuilt by `python -m experiments.miniature.build --models {name}`.

Trained for {size.steps:,} steps of 64 multiple-choice or 128 open-ended questions. No benchmark prompt is
among the training prompts. The obscurer an entity, the more of its open-ended training answers are
"I do not know.": half for the most obscure one, all for names that nothing is known about.{in_context}

| measured by `python -m experiments.miniature.cards` | |
|---|---|
| mini-mmlu test, accuracy | {100 * measured.mmlu:.1f} % |
| mini-gpqa, accuracy (out of distribution: two steps) | {100 * measured.gpqa:.1f} % |
| mini-popqa, accuracy | {100 * measured.popqa:.1f} % |
| P(T) on mini-mmlu test: 10th, 50th, 90th percentile | {low:.2f}, {middle:.2f}, {high:.2f} |
| P(T), AUROC on mini-mmlu test | {measured.p_t_auroc:.3f} |
| first-token P(T), AUROC on mini-popqa | {measured.popqa_p_t_auroc:.3f} |
{layers}
"""


def summary(cards: dict[str, Measured]) -> str:
    """One Markdown table over all models, for the README."""
    head = "| model | parameters | mini-mmlu | mini-gpqa | mini-popqa | P(T) AUROC | P(IK) AUROC (best layer) |\n"
    lines = [head + "|---|---:|---:|---:|---:|---:|---:|"]
    for name, m in cards.items():
        best = int(np.argmax(m.p_ik_auroc))
        lines.append(
            f"| {name} | {m.parameters:,} | {100 * m.mmlu:.1f} % | {100 * m.gpqa:.1f} % | {100 * m.popqa:.1f} % | "
            f"{m.p_t_auroc:.3f} | {m.p_ik_auroc[best]:.3f} ({best} of {len(m.p_ik_auroc) - 1}) |"
        )
    return "\n".join(lines)


@one_line_errors(ProbeError)
def main(args: list[str] | None = None) -> None:
    """The entry point."""
    parser = ArgumentParser(prog="python -m experiments.miniature.cards", description=__doc__, exit_on_error=False)
    parser.add_argument("--models", nargs="+", choices=MODEL_NAMES, default=list(MODEL_NAMES), help="which ones")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of stores and probe runs")
    values = parser.parse_args(args)
    found = {}
    for name in values.models:
        found[name] = measure(name, values.runs)
        write_atomically(ASSETS / name / "README.md", card(name, found[name]).encode())
        print(f"{name}: {asdict(found[name])}", file=sys.stderr)
    table = summary(found)
    write_atomically(values.runs / SUMMARY, (table + "\n").encode())
    print(table)


if __name__ == "__main__":
    main()
