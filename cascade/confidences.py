"""Scores confidences beside P(T): `python -m cascade.confidences`.

Asks a model a task once, and whatever each confidence needs beside it, and writes a score table with a column
`confidence_…` for each and columns for what it took, whole or not at all. What was asked is kept beside it
(`OUT.parts`) until then, so that the same command goes on where it was stopped. `cascade.simulate` uses any confidence
in P(T)'s place: `--columns.p_t=confidence_margin`. Prints how well each tells right answers from wrong ones.
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
from jsonargparse import ArgumentParser
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from cascade.engines.base import Model
from cascade.errors import CascadeError, one_line_errors
from cascade.runtime.build import build_model
from cascade.runtime.config import Member
from cascade.scores.schema import CONFIDENCES, parquet_bytes
from cascade.scoring.confidence.asking import BATCH, Asking, ask_confidences
from cascade.scoring.confidence.parts import Parts
from cascade.statistics.metrics import auroc
from cascade.tasks.load import load_questions
from cascade.tasks.task import Task
from probes.errors import ProbeError
from probes.files import write_atomically


def confidences(
    member: Member,
    out: Path,
    task: str = "mini-popqa",
    methods: str | None = None,
    samples: int = 10,
    temperature: float = 1.0,
    seed: int = 0,
    unreadable: float | None = None,
    limit: int | None = None,
    max_new_tokens: int = 16,
) -> pa.Table:
    """Asks a model a task and its confidences, and writes the score table.

    Args:
        member: The model.
        out: Parquet file for the score table.
        task: Name of a task, or a file of questions with accepted answers.
        methods: Confidences, separated by commas; by default all that go with the questions.
        samples: Answers sampled for each question, for self_consistency and semantic_entropy.
        temperature: Of the samples.
        seed: Of the samples.
        unreadable: What a verbalised confidence that cannot be read counts as; by default null, which the simulator
            takes for no confidence only where all are.
        limit: Only so many questions, from the first on.
        max_new_tokens: The longest open-ended answer.
    """
    if out.suffix != ".parquet":
        raise CascadeError(f"Expected `out` to end in .parquet, but got {out}")
    if limit is not None and limit < 1:
        raise CascadeError(f"Expected `limit` to be at least 1, but got {limit}")
    whole = load_questions(task)
    asked = whole.take(range(len(whole.questions))[:limit])
    lettered = all(map(asked.letters, asked.questions))
    names = [n.strip() for n in methods.split(",") if n.strip()] if methods else list(CONFIDENCES)
    if methods is None and not lettered:
        names.remove("entropy")
    asking = Asking(tuple(names), samples, temperature, seed, unreadable, max_new_tokens)
    model = build_model(member)
    count, done = len(asked.questions), 0
    parts = Parts(out.with_name(f"{out.name}.parts"), _identity(model, asked, asking))
    try:
        with tqdm(total=count, desc=f"{model.name} · {task}", unit="q", disable=None, leave=False) as bar:

            def answered(more: int) -> None:
                nonlocal done
                done += more
                bar.update(more)

            table = ask_confidences(model, asked, asking, on_answered=answered, parts=parts)
    except CascadeError as error:
        if not done:
            raise
        raise CascadeError(
            f"{error}; {done:,} of {count:,} questions are kept in {parts.folder}, and the same command goes "
            f"on from there"
        ) from error
    finally:
        model.release()
    if whole.probed_on is None:
        table = _with_split(table, whole)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, parquet_bytes(table))
    parts.remove()
    return table


def _identity(model: Model, task: Task, asking: Asking) -> dict[str, Any]:
    """All that a table of confidences depends on."""
    asked = json.dumps([asdict(question) for question in task.questions], sort_keys=True)
    return {
        "model": model.identity,
        "task": task.name,
        "questions": hashlib.sha256(asked.encode()).hexdigest()[:16],
        "batch": BATCH,
        **asdict(asking),
    }


def _with_split(table: pa.Table, task: Task) -> pa.Table:
    """Says which questions a probe of the task was trained on, so that nothing is reported on these."""
    split = task.split()
    parts = {"train": split.train, "validation": split.validation, "test": split.test}
    of = {task.questions[row].id: name for name, rows in parts.items() for row in rows}
    names = pa.array([of[id] for id in table["question_id"].to_pylist()], pa.string())
    return table.set_column(table.column_names.index("split"), "split", names)


def print_confidences(table: pa.Table) -> None:
    """How well each confidence tells right from wrong, and what it took beyond the answer."""
    console = Console(width=None if sys.stdout.isatty() else 120)
    correct = table["correct"].to_numpy().astype(bool)
    shown = Table(title=f"{len(correct):,} questions, {correct.mean():.1%} right")
    shown.add_column("confidence")
    for heading in ("AUROC", "mean", "readable", "prompts", "tokens read", "tokens written", "seconds"):
        shown.add_column(heading, justify="right")
    for column in ("p_t", "p_ik", *(f"confidence_{name}" for name in CONFIDENCES)):
        if column not in table.column_names or (column == "p_ik" and table[column].null_count):
            continue
        there = table[column].is_valid().to_numpy()
        values = table[column].drop_null().to_numpy()
        area = auroc(values, correct[there]) if len(values) else float("nan")
        cells = ["–" if math.isnan(area) else f"{area:.3f}", f"{values.mean():.3f}" if len(values) else "–"]
        cells.append(f"{len(values):,}")
        for extra in ("prompts", "prompt_tokens", "completion_tokens", "seconds"):
            name = f"{column}_{extra}"
            mean = table[name].to_numpy().mean() if name in table.column_names and column != "p_t" else 0.0
            cells.append(f"{mean:.3g}" if mean else "–")
        shown.add_row(column.removeprefix("confidence_"), *cells)
    console.print(shown)
    console.print("AUROC of the answer's being right. The last four: beyond the answer's own pass, a question.")


def build_parser() -> ArgumentParser:
    """The command line: what a model is made of, and what it is asked."""
    parser = ArgumentParser(prog="python -m cascade.confidences", description=__doc__, exit_on_error=False)
    parser.add_argument("--config", action="config", help="YAML file of these flags")
    parser.add_class_arguments(Member)
    parser.add_function_arguments(confidences, skip={"member"})
    return parser


@one_line_errors(ProbeError)
def main(args: list[str] | None = None) -> None:
    """The entry point."""
    parser = build_parser()
    values = parser.instantiate(parser.parse_args(args)).as_dict()
    values.pop("config", None)
    names = ("out", "task", "methods", "samples", "temperature", "seed", "unreadable", "limit", "max_new_tokens")
    own = {name: values.pop(name) for name in names}
    table = confidences(Member(**values), **own)
    print_confidences(table)
    print(f"Wrote {own['out']}")


if __name__ == "__main__":
    main()
