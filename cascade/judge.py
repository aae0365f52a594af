"""Judges the answers in score tables anew: `python -m cascade.judge`.

Takes the predictions of open-ended questions, asks the judge of `--judge` about each (a language model as YAML, see
`configs/judges`, or `exact`, which needs none), and writes a score table with the columns `correct` and `attempted` by
its verdicts, whole or not at all. A run that was cut off goes on where it was, from the language model's cache. Prints
how far the verdicts agree with the former `correct`.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
from jsonargparse import ArgumentParser

from cascade.commands import verb_parser
from cascade.errors import one_line_errors
from cascade.judging.agreement import Agreement
from cascade.judging.tables import Judged, judge
from cascade.report.table import Column, Table, count, decimals
from cascade.report.tables import print_table, wide_console
from cascade.statistics.metrics import hallucination_rate
from cascade.tasks.judging import Verdict
from cascade.yaml_files import found_flags


def print_judged(judged: Judged) -> None:
    """Verdicts by model, and how far they agree with what `correct` said before."""
    names = np.array(judged.table["model"].to_pylist(), dtype=object)
    before, now = (t["correct"].to_numpy().astype(bool) for t in (judged.before, judged.table))
    attempted = judged.table["attempted"].to_numpy().astype(bool)
    rows = []
    for name in sorted(set(names)):
        mine = names == name
        counts = Counter(np.array(judged.verdicts, dtype=object)[mine])
        found = Agreement.of(before[mine], now[mine])
        cells = [found.both, found.only_first, found.only_second, found.neither]
        hallucination = f"{hallucination_rate(now[mine], attempted[mine]):.1%}"
        rows.append([name, *(counts[v] for v in Verdict), hallucination, *cells, f"{found.share:.1%}", found.kappa])
    counted = ("both right", "only before", "only now", "both wrong")
    heads = [*(Column(str(v), count) for v in Verdict), Column("halluc."), *(Column(name, count) for name in counted)]
    title = "Verdicts, and how far they agree with the former `correct`"
    shown = Table.of("verdicts", title, ["model", *heads, Column("agree"), Column("Cohen's κ", decimals)], rows)
    print_table(shown, wide_console())


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
    values = build_parser().parse_args(found_flags(args)).as_dict()
    values.pop("config", None)
    judged = judge(**values)
    print_judged(judged)
    print(f"Wrote {values['out']}")


if __name__ == "__main__":
    main()
