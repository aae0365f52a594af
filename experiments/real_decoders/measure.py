"""What real decoders say of real questions, with P(IK) of heads that did not see the question, as score tables.

A record is a score table of one model on one task, and beside its own columns holds P(IK) of a head on every layer, out
of fold (`linear/12`, `mlp/12`), the fold that tested each question (`fold`), and P(IK) by the heads of the other task
(`p_ik_from/arc`). ``p_ik`` itself is the linear head's, three quarters of the way up: chosen before any label was seen.
"""

from __future__ import annotations

import json
import random
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from cascade.engines.settings import DecoderConfig
from cascade.errors import CascadeError
from cascade.probing.data import default_layer
from cascade.scores.schema import parquet_bytes
from cascade.scoring.scored import Scored, score
from cascade.tasks.load import load_task
from experiments.folds import FOLDS, HEADS, Fold, fit, fold_of
from probes import Probe, ProbeConfig
from probes.files import file_name, write_atomically
from probes.states import LayerStates, open_states

SEED, PER_SUBJECT = 0, 30
TASKS = ("mmlu", "arc")
_VALIDATION = 2  # twentieths
_DIGITS = 3  # of P(IK) by layer: an area under the curve moves by less than 0.0005


def write_questions(data: Path, folder: Path) -> dict[str, Path]:
    """Question files of MMLU (30 of each subject's test questions) and ARC-Challenge (its test part), by task.

    Args:
        data: Holds ``mmlu/questions.parquet`` and ``arc_challenge/questions.parquet``.
        folder: Of the files.

    Raises:
        CascadeError: If they are not there.
    """
    sources = [data / "mmlu" / "questions.parquet", data / "arc_challenge" / "questions.parquet"]
    if missing := [str(source) for source in sources if not source.is_file()]:
        raise CascadeError(f"Expected `data` to hold {missing[0]}, but it is not there")
    mmlu, arc = (pq.read_table(source).to_pylist() for source in sources)
    draw, questions = random.Random(SEED), []
    for subject in sorted({row["subject"] for row in mmlu}):
        test, dev = ([r for r in mmlu if r["subject"] == subject and r["split"] == part] for part in ("test", "dev"))
        chosen = sorted(draw.sample(range(len(test)), PER_SUBJECT))
        questions += [_of_mmlu(test[place], f"mmlu-{test[place]['qid']}") for place in chosen]
        questions += [_of_mmlu(row, f"mmlu-dev-{subject}-{row['row']}") | {"split": "dev"} for row in dev]
    lines = {"mmlu": questions, "arc": [_of_arc(row) for row in arc if row["split"] == "test"]}
    paths = {task: folder / f"{task}.jsonl" for task in TASKS}
    folder.mkdir(parents=True, exist_ok=True)
    for task, path in paths.items():
        write_atomically(path, "".join(json.dumps(line) + "\n" for line in lines[task]).encode())
    return paths


def _of_mmlu(row: dict[str, Any], name: str) -> dict[str, object]:
    choices = [row[letter] for letter in "ABCD"]
    asked = {"id": name, "question": row["question"], "choices": choices, "answer": "ABCD"[row["answer"]]}
    return asked | {"subject": row["subject"]}


def _of_arc(row: dict[str, str]) -> dict[str, object]:
    """Some questions' choices are 1 to 4: their places are letters here."""
    choices = json.loads(row["choices"])
    letter = "ABCDE"[list(choices).index(row["answer"])]
    return {"id": row["id"], "question": row["question"], "choices": list(choices.values()), "answer": letter}


def record_path(folder: Path, model: str, task: str) -> Path:
    """Where the record of a model on a task is."""
    return folder / f"{file_name(model)}--{task}.parquet"


def measure(model: str, questions: dict[str, Path], runs: Path, out: Path) -> None:
    """Writes the records of one model; what is scored already is not asked again.

    Args:
        model: Folder, Hub id or GGUF file.
        questions: Files, by task.
        runs: Folder of stores.
        out: Folder of records.
    """
    engine = DecoderConfig(model).build()
    scored = {task: score(engine, load_task(str(path)), runs / "stores") for task, path in questions.items()}
    engine.release()
    depth = default_layer(engine.num_layers)
    tables, probes = {}, {}
    with tqdm(
        total=FOLDS * len(HEADS) * len(scored), unit="fit", desc=engine.name, file=sys.stderr, disable=None
    ) as bar:
        for task, asked in scored.items():
            tables[task], probes[task] = _out_of_fold(asked, engine.num_layers, depth, bar)
    for task, table in tables.items():
        for other, theirs in probes.items():
            if other != task:
                states = scored[task].store.layer(depth).float()
                p_ik = np.mean([probe.predict(states) for probe in theirs], axis=0)
                table = table.append_column(f"p_ik_from/{other}", pa.array(p_ik.astype(np.float64)))
        name = Path(model).stem if model.endswith(".gguf") else Path(model).name
        table = table.set_column(table.column_names.index("model"), "model", pa.array([name] * table.num_rows))
        path = record_path(out, name, task)
        write_atomically(path, parquet_bytes(table))
        print(f"Wrote {path}")


def _out_of_fold(scored: Scored, num_layers: int, depth: int, bar: tqdm) -> tuple[pa.Table, list[Probe]]:
    """The score table with its heads' columns, and the linear head of each fold at one layer."""
    store, table = scored.store, scored.table()
    ids = table["question_id"].to_pylist()
    subjects = table["subject"].to_pylist() if "subject" in table.column_names else [""] * len(ids)
    subjects = [subject or "" for subject in subjects]
    right = table["correct"].to_numpy(zero_copy_only=False).astype(bool)
    key = store.key
    origin = ProbeConfig(
        store.hidden_size, 0, key.model, key.model_revision, num_layers, task=key.task, task_revision=key.task_revision,
        position=key.position, template_hash=key.template_hash, dtype=key.precision,
    )  # fmt: skip
    states: LayerStates = open_states(store, store.layers)
    origins = [replace(origin, layer=layer) for layer in store.layers]
    found = {head: np.zeros((len(store.layers), len(ids))) for head in HEADS}
    probes = []
    for head, fold in ((head, fold) for head in HEADS for fold in range(FOLDS)):
        module = fit(Fold(states, origins, ids, subjects, right, fold, validation=_VALIDATION), head)
        rows = np.array(module._data.split.test)
        for trained in module.heads:
            found[head][store.layers.index(trained.probe.config.layer), rows] = trained.p_ik["after"].numpy()
            if head == "linear" and trained.probe.config.layer == depth:
                probes.append(trained.probe)
        bar.update()
    columns: dict[str, np.ndarray] = {"p_ik": found["linear"][store.layers.index(depth)]}
    columns |= {"probe_layer": np.full(len(ids), depth), "hidden_size": np.full(len(ids), store.hidden_size)}
    columns |= {"probe_parameters": np.full(len(ids), sum(p.numel() for p in probes[0].parameters()))}
    columns["fold"] = fold_of(ids).astype(np.int8)
    for head, by_layer in found.items():
        for layer, values in zip(store.layers, by_layer, strict=True):
            columns[f"{head}/{layer}"] = values.round(_DIGITS).astype(np.float32)
    for name, values in columns.items():
        table = table.append_column(name, pa.array(values))
    return table, probes


def columns_of(table: pa.Table, head: str) -> dict[int, np.ndarray]:
    """P(IK) by layer of a record's head, ``[questions]`` each."""
    names = [name for name in table.column_names if name.startswith(f"{head}/")]
    return {int(name.partition("/")[2]): table[name].to_numpy().astype(np.float64) for name in names}


__all__ = ["TASKS", "columns_of", "measure", "record_path", "write_questions"]
