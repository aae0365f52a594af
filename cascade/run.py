"""Answers a file of questions, or a task, with a live cascade: `python -m cascade.run`.

Without arguments: the miniature chain on the test split of mini-mmlu. The same policy as the simulator's decides; what
leaves early is not computed. A run that was killed goes on where it stopped, and no question is asked twice. Writes
answers.parquet (who answered what, at which cost), steps.parquet (every model that was tried) and scores.parquet (a
score table of every answer given), and summary.json.
"""

from __future__ import annotations

from pathlib import Path

from jsonargparse import ArgumentParser

from cascade.commands import PLAN_HELP, verb_parser
from cascade.errors import CascadeError, one_line_errors
from cascade.runtime.config import CascadeConfig
from cascade.yaml_files import found_flags
from probes.errors import ProbeError


def build_parser() -> ArgumentParser:
    """The command line: what a cascade is made of, and what it is asked."""
    parser = verb_parser("run", __doc__)
    parser.add_argument("--config", action="config", help="YAML file of these flags")
    parser.add_class_arguments(CascadeConfig)
    questions = "name of a task, or a file (JSON lines, CSV) with `question` and, where known, `id`, `subject`, "
    questions += "`choices` and `answers`; by default mini-mmlu, where there is a miniature among the models"
    parser.add_argument("--questions", type=str, help=questions)
    split = "of a task: train, validation or test (as its probes were), or all; by default test where probes are the "
    split += "task's own, and all where they are another's (mini-gpqa, mini-popqa, gpqa)"
    parser.add_argument("--split", type=str, help=split)
    parser.add_argument("--limit", type=int, help="only so many questions, from the first on")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of runs")
    parser.add_argument("--out", type=Path, help="folder of this one; by default one under RUNS/live")
    verdicts = "file (JSON lines, CSV) of `question_id`, `correct` and, where known, `reference_correct`, whether the "
    verdicts += "last model's answer would have been right: what the promise is watched by, in any order"
    parser.add_argument("--verdicts", type=Path, help=verdicts)
    parser.add_argument("--plan", action="store_true", help=PLAN_HELP)
    return parser


@one_line_errors(ProbeError)
def main(args: list[str] | None = None) -> None:
    """The entry point."""
    parser = build_parser()
    values = parser.instantiate(parser.parse_args(found_flags(args))).as_dict()
    values.pop("config", None)
    own = {name: values.pop(name) for name in ("questions", "split", "limit", "runs", "out", "verdicts")}
    if values.pop("plan"):
        from cascade.planning.costs import plan_cascade
        from cascade.planning.table import print_plan
        from cascade.runtime.answering import asked_of, folder_of

        config = CascadeConfig(**values)
        names = [member.name for member in config.members]
        task, label = asked_of(own["questions"], own["split"], own["limit"], names, config.shots)
        folder = own["out"] or folder_of(own["runs"], names, label, config.shots)
        print_plan(plan_cascade(config, task, label, folder / "journal.jsonl"))
        return
    from cascade.runtime.answering import run  # loads torch, which the help can do without

    result = run(CascadeConfig(**values), **own)
    from cascade.report.run_table import print_run

    print_run(result.to_json(), result.cascade.policy.name, result.cascade.names[-1], result.folder)
    if values["policy"] or values["calibration"] or own["verdicts"]:
        for line in result.watch.lines():
            print(line)
    if failed := [answer for answer in result.answers if answer.failure]:
        raise CascadeError(
            f"{len(failed):,} of {len(result.answers):,} questions have no answer, such as {failed[0].question_id!r}: "
            f"{failed[0].failure}; the same command asks them again"
        )


if __name__ == "__main__":
    main()
