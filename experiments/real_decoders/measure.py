"""What real decoders say of real questions, with P(IK) of heads that did not see the question, as score tables.

A record is a score table of one model on one task, and beside its own columns holds P(IK) of a head on every layer, out
of fold (`linear/12`, `mlp/12`; `soft/12` learns from the probability of the right option), the fold that tested each
question (`fold`), P(IK) by heads that learnt from fewer questions (`linear_of/200`), and P(IK) by the heads of another
multiple-choice task (`p_ik_from/arc`). ``p_ik`` itself is the linear head's, three quarters of the way up: chosen
before any label was seen.

Small models answer open questions in whole sentences. Right is therefore an answer that holds an accepted text, and
not only one that is such a text.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterable
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
from cascade.tasks.judging import normalize_answer
from cascade.tasks.load import load_task
from experiments.folds import FOLDS, Fold, fit, fold_of
from probes import Probe, ProbeConfig
from probes.files import file_name, write_atomically
from probes.layers import TrainedHead
from probes.states import open_states

SEED, PER_SUBJECT, OF_POPQA = 0, 30, 1500
TASKS = ("mmlu", "arc", "popqa")
OPEN = "popqa"
KINDS = {"linear": "linear", "mlp": "mlp", "soft": "linear"}  # of heads, in a record's words and in those of `HEADS`
SIZES = (100, 200, 400, 800)
_VALIDATION = 2  # twentieths
_DIGITS = 3  # of P(IK) by layer: an area under the curve moves by less than 0.0005


def write_questions(data: Path, folder: Path) -> dict[str, Path]:
    """Question files by task: MMLU (30 of each subject's test questions), ARC-Challenge (its test part) and PopQA.

    Of PopQA they are 1,500, drawn from those whose accepted answers are known.

    Args:
        data: Holds ``mmlu/questions.parquet``, ``arc_challenge/questions.parquet`` and ``popqa/popqa.parquet``.
        folder: Of the files.

    Raises:
        CascadeError: If they are not there.
    """
    sources = [
        data / place for place in ("mmlu/questions.parquet", "arc_challenge/questions.parquet", "popqa/popqa.parquet")
    ]
    if missing := [str(source) for source in sources if not source.is_file()]:
        raise CascadeError(f"Expected `data` to hold {missing[0]}, but it is not there")
    mmlu, arc, popqa = (pq.read_table(source).to_pylist() for source in sources)
    draw, questions = random.Random(SEED), []
    for subject in sorted({row["subject"] for row in mmlu}):
        test, dev = ([r for r in mmlu if r["subject"] == subject and r["split"] == part] for part in ("test", "dev"))
        chosen = sorted(draw.sample(range(len(test)), PER_SUBJECT))
        questions += [_of_mmlu(test[place], f"mmlu-{test[place]['qid']}") for place in chosen]
        questions += [_of_mmlu(row, f"mmlu-dev-{subject}-{row['row']}") | {"split": "dev"} for row in dev]
    known = [row for row in popqa if row["possible_answers"] is not None]
    lines = {
        "mmlu": questions,
        "arc": [_of_arc(row) for row in arc if row["split"] == "test"],
        "popqa": [_of_popqa(known[place]) for place in sorted(draw.sample(range(len(known)), OF_POPQA))],
    }
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


def _of_popqa(row: dict[str, Any]) -> dict[str, object]:
    asked = {"id": f"popqa-{row['id']}", "question": row["question"], "answers": json.loads(row["possible_answers"])}
    return asked | {"subject": row["prop"], "popularity": row["s_pop"]}


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
    with tqdm(unit="fit", desc=engine.name, file=sys.stderr, disable=None) as bar:
        for task, asked in scored.items():
            tables[task], probes[task] = _out_of_fold(asked, engine.num_layers, depth, bar)
    for task, table in tables.items():
        for other, theirs in probes.items():
            if other != task and OPEN not in (other, task):
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
    if "p_right" not in table.column_names:
        accepted = [question.answers for question in scored.task.questions]
        right = [holds(said, texts) for said, texts in zip(table["prediction"].to_pylist(), accepted, strict=True)]
        table = table.set_column(table.column_names.index("correct"), "correct", pa.array(right))
    ids = table["question_id"].to_pylist()
    subjects = table["subject"].to_pylist() if "subject" in table.column_names else [""] * len(ids)
    subjects = [subject or "" for subject in subjects]
    right = table["correct"].to_numpy(zero_copy_only=False).astype(bool)
    key = store.key
    origin = ProbeConfig(
        store.hidden_size, 0, key.model, key.model_revision, num_layers, task=key.task, task_revision=key.task_revision,
        position=key.position, template_hash=key.template_hash, dtype=key.precision,
    )  # fmt: skip
    origins = [replace(origin, layer=layer) for layer in store.layers]
    asked = ids, subjects, right
    p_right = table["p_right"].to_numpy() if "p_right" in table.column_names else None
    every, alone = open_states(store, store.layers), open_states(store, (depth,))
    columns: dict[str, np.ndarray] = {}
    probes = []
    for kind in KINDS if p_right is not None else ("linear", "mlp"):
        found = np.zeros((len(store.layers), len(ids)))
        for fold in range(FOLDS):
            targets = p_right if kind == "soft" else None
            for trained, rows in _fitted(Fold(every, origins, *asked, fold, targets, _VALIDATION), KINDS[kind], bar):
                found[store.layers.index(trained.probe.config.layer), rows] = trained.p_ik["after"].numpy()
                if kind == "linear" and trained.probe.config.layer == depth:
                    probes.append(trained.probe)
        if kind == "linear":
            columns["p_ik"] = found[store.layers.index(depth)]
        columns |= {f"{kind}/{layer}": _rounded(found[place]) for place, layer in enumerate(store.layers)}
    for size in SIZES:
        few = np.zeros(len(ids))
        for fold in range(FOLDS):
            data = Fold(alone, [replace(origin, layer=depth)], *asked, fold, None, _VALIDATION, size)
            for trained, rows in _fitted(data, "linear", bar):
                few[rows] = trained.p_ik["after"].numpy()
        columns[f"linear_of/{size}"] = _rounded(few)
    columns |= {"probe_layer": np.full(len(ids), depth), "hidden_size": np.full(len(ids), store.hidden_size)}
    columns |= {"probe_parameters": np.full(len(ids), sum(p.numel() for p in probes[0].parameters()))}
    columns["fold"] = fold_of(ids).astype(np.int8)
    for name, values in columns.items():
        table = table.append_column(name, pa.array(values))
    return table, probes


def holds(said: str, accepted: Iterable[str]) -> bool:
    """Whether an answer holds one of the accepted texts, whole words of it, case and punctuation aside."""
    words = f" {normalize_answer(said)} "
    return any(f" {text} " in words for text in map(normalize_answer, accepted) if text)


def _fitted(data: Fold, head: str, bar: tqdm) -> list[tuple[TrainedHead, np.ndarray]]:
    """A fold's heads, each with the rows that it was tested on."""
    module = fit(data, head)
    bar.update()
    return [(trained, np.array(data.split.test)) for trained in module.heads]


def _rounded(p_ik: np.ndarray) -> np.ndarray:
    return p_ik.round(_DIGITS).astype(np.float32)


def columns_of(table: pa.Table, head: str) -> dict[int, np.ndarray]:
    """P(IK) by layer of a kind of head (`linear`, `mlp`, `soft`), or by size (`linear_of`), ``[questions]`` each."""
    names = [name for name in table.column_names if name.startswith(f"{head}/")]
    return {int(name.partition("/")[2]): table[name].to_numpy().astype(np.float64) for name in names}


__all__ = ["TASKS", "columns_of", "measure", "record_path", "write_questions"]
