"""Judges run over score tables: verdicts in the place of what `correct` said before."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from cascade.errors import CascadeError
from cascade.judging.base import Case, ExactMatchJudge, Judge
from cascade.judging.llm import JudgeConfig, LLMJudge
from cascade.progress import progress
from cascade.scores.reading import read_scores
from cascade.scores.row import with_columns
from cascade.scores.schema import parquet_bytes, validate_scores
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
