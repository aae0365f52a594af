"""Table 6, out of distribution: probes trained on MMLU, asked GPQA: `python -m experiments.table_06`."""

from __future__ import annotations

from cascade.policies.outcome import Outcome
from experiments.paper.arithmetic import reduced_cc
from experiments.paper.cells import OTHER_LEDGERS, accuracy_cells, only
from experiments.paper.command import command, compare
from experiments.paper.comparison import Comparison
from experiments.paper.lab import BOTH, Lab
from experiments.paper.numbers import Paper, paper


def build(lab: Lab) -> Comparison:
    rows = {label: row for label, row in lab.rows(task=lab.scale.gpqa).items() if label in paper().tables[6].rows}
    cells = only(accuracy_cells(rows), 6)
    return compare(6, lab, cells, OTHER_LEDGERS, (routed_note(paper()), kept_note(lab)))


def routed_note(known: Paper) -> str:
    """What the text's count of questions kept by 8B would save, beside what the table says."""
    text, questions = known.tables[6].more["text"], known.questions["gpqa"]
    kept, right = text["routed_to_8b"], text["of_which_right"]
    sizes = [known.models[size].parameters for size in ("8B", "70B")]
    saved = reduced_cc([kept, questions - kept], sizes, "answered-only")
    full = reduced_cc([kept, questions - kept], sizes, "full-path")
    printed = known.tables[6].rows["8B → 70B"]["reduced_cc"]
    return (
        f"The paper's text has {kept} of {questions} questions routed to 8B, {right} of them rightly. That many would "
        f"save {saved:.2f} % answered-only, where the table says {printed} %; full-path 8B → 70B would cost "
        f"{-full:.1f} % more than 70B alone."
    )


def kept_note(lab: Lab) -> str:
    """How many questions our probe lets the middle model try, and how many of them it knows."""
    chain, played = lab.played("8B → 70B", lab.scale.gpqa)
    middle = chain.models[0]
    p_ik = middle.signals.p_ik
    assert p_ik is not None and BOTH.p_ik is not None
    passes, stays = p_ik >= BOTH.p_ik, played.outcome[0] == Outcome.ANSWERED
    return (
        f"Ours: P(IK) lets {int(passes.sum())} of {len(chain)} questions pass at 8B, {int(stays.sum())} stay there "
        f"after P(T), and {int((stays & middle.correct).sum())} of those are right."
    )


main = command(build, tasks=("mmlu", "gpqa"))

if __name__ == "__main__":
    main()
