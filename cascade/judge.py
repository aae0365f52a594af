"""Judges the answers in score tables anew: `python -m cascade.judge`.

Takes the predictions of open-ended questions, asks the judge of `--judge` about each (a language model as YAML, see
`configs/judges`, or `exact`, which needs none), and writes a score table with the columns `correct` and `attempted` by
its verdicts, whole or not at all. A run that was cut off goes on where it was, from the language model's cache. Prints
how far the verdicts agree with the former `correct`.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from jsonargparse import ArgumentParser
from rich.table import Table

from cascade.commands import verb_parser
from cascade.errors import CascadeError, one_line_errors
from cascade.judging.agreement import Agreement
from cascade.judging.base import Case, ExactMatchJudge, Judge
from cascade.judging.llm import JudgeConfig, LLMJudge
from cascade.progress import progress
from cascade.report.tables import wide_console
from cascade.scores.reading import read_scores
from cascade.scores.row import with_columns
from cascade.scores.schema import parquet_bytes, validate_scores
from cascade.statistics.metrics import hallucination_rate
from cascade.tasks.judging import Verdict
from cascade.tasks.load import load_questions
from probes.files import write_atomically

EXACT = Path("exact")


@dataclass(frozen=True)
class Judged:
    """A score table before and after.

    Attributes:
        table: With the judge's `correct` and `attempted`.
        before: As it was read.
        verdicts: One a row.
    """

    table: pa.Table
    before: pa.Table
    verdicts: tuple[Verdict, ...]


def judge_table(table: pa.Table, judge: Path | Judge, questions: str | None = None) -> Judged:
    """Judges every row of a score table; see `judge`."""
    cases = _cases(table, questions)
    asked = _named(judge) if isinstance(judge, Path) else judge
    with progress(len(cases), "judging", "answer") as bar:
        verdicts = tuple(asked.judge(cases, lambda: bar.update() and None))
    return Judged(_with_verdicts(table, verdicts), table, verdicts)


def judge(scores: list[Path], judge: Path | Judge, out: Path, questions: str | None = None) -> Judged:
    """Judges every row of some score tables, and writes them anew.

    Args:
        scores: Score tables with the columns prediction and, unless QUESTIONS is given, task.
        judge: A judge, or YAML of an LLM judge, or ``exact`` for normalised exact match.
        out: Parquet file for the new score table.
        questions: Name of a task, or a file of questions with their accepted answers, by whose ids the rows go; by
            default the tasks that the tables name.

    Raises:
        CascadeError: If the tables lack something, a question is not known or is multiple choice, or an answer gets no
            verdict; nothing is written then.
    """
    if out.suffix != ".parquet":
        raise CascadeError(f"Expected `out` to end in .parquet, but got {out}")
    judged = judge_table(read_scores(scores), judge, questions)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, parquet_bytes(judged.table))
    return judged


def _named(judge: Path) -> Judge:
    return ExactMatchJudge() if judge == EXACT else LLMJudge.from_config(JudgeConfig.read(judge))


def _cases(table: pa.Table, questions: str | None) -> list[Case]:
    wanted = ["prediction"] if questions else ["prediction", "task"]
    for name in wanted:
        if name not in table.column_names or table[name].null_count:
            hint = "; or give `questions`" if name == "task" else ""
            raise CascadeError(f"Expected every row of the score tables to have {name}, but some have none{hint}")
    names = [questions] * table.num_rows if questions else table["task"].to_pylist()
    tasks = {name: load_questions(name) for name in sorted(set(names))}
    known = {name: {question.id: question for question in task.questions} for name, task in tasks.items()}
    cases = []
    for name, id, prediction in zip(
        names, table["question_id"].to_pylist(), table["prediction"].to_pylist(), strict=True
    ):
        question = known[name].get(id)
        if question is None:
            raise CascadeError(f"Expected {name} to hold the question {id!r} of the score tables, but it does not")
        if tasks[name].letters(question):
            raise CascadeError(f"Expected open-ended questions to judge, but {id!r} of {name} is multiple choice")
        if not question.answers:
            raise CascadeError(f"Expected accepted answers to judge by, but {id!r} of {name} has none")
        cases.append(Case(question, prediction))
    return cases


def _with_verdicts(table: pa.Table, verdicts: tuple[Verdict, ...]) -> pa.Table:
    correct = pa.array([verdict is Verdict.CORRECT for verdict in verdicts])
    attempted = pa.array([verdict is not Verdict.NOT_ATTEMPTED for verdict in verdicts])
    return validate_scores(with_columns(table, {"correct": correct, "attempted": attempted}), "the judged scores")


def print_judged(judged: Judged) -> None:
    """Verdicts by model, and how far they agree with what `correct` said before."""
    console = wide_console()
    shown = Table(title="Verdicts, and how far they agree with the former `correct`")
    shown.add_column("model")
    for heading in (*Verdict, "halluc.", "both right", "only before", "only now", "both wrong", "agree", "Cohen's κ"):
        shown.add_column(heading, justify="right")
    names = np.array(judged.table["model"].to_pylist(), dtype=object)
    before, now = (t["correct"].to_numpy().astype(bool) for t in (judged.before, judged.table))
    attempted = judged.table["attempted"].to_numpy().astype(bool)
    for name in sorted(set(names)):
        mine = names == name
        counts = Counter(np.array(judged.verdicts, dtype=object)[mine])
        found = Agreement.of(before[mine], now[mine])
        cells = [found.both, found.only_first, found.only_second, found.neither]
        kappa = "–" if math.isnan(found.kappa) else f"{found.kappa:.3f}"
        hallucination = f"{hallucination_rate(now[mine], attempted[mine]):.1%}"
        shares = (f"{found.share:.1%}", kappa)
        shown.add_row(
            name, *(f"{counts[v]:,}" for v in Verdict), hallucination, *(f"{count:,}" for count in cells), *shares
        )
    console.print(shown)


_JUDGE_HELP = "YAML of an LLM judge, such as configs/judges/*.yaml, or exact for normalised exact match"


def build_parser() -> ArgumentParser:
    """The command line: the signature of `judge`."""
    parser = verb_parser("judge", __doc__)
    parser.add_argument("--config", action="config", help="YAML file of these flags")
    parser.add_argument("--scores", nargs="+", type=Path, required=True, help="score tables with predictions")
    parser.add_argument("--judge", type=Path, required=True, help=_JUDGE_HELP)
    parser.add_function_arguments(judge, skip={"scores", "judge"})
    return parser


@one_line_errors()
def main(args: list[str] | None = None) -> None:
    """The entry point."""
    values = build_parser().parse_args(args).as_dict()
    values.pop("config", None)
    judged = judge(**values)
    print_judged(judged)
    print(f"Wrote {values['out']}")


if __name__ == "__main__":
    main()
