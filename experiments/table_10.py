"""Table 10, PopQA judged strictly and generously: `python -m experiments.table_10`."""

from __future__ import annotations

from cascade.tasks.judging import exact_match
from cascade.tasks.load import load_task
from experiments.paper.cells import Cells
from experiments.paper.command import command, compare
from experiments.paper.comparison import Comparison
from experiments.paper.lab import Lab
from experiments.paper.scales import ARROW, LLAMA

NOT_GROUNDED = (
    'Ours is not grounding: nothing is searched. "w/o" is equality with the first accepted answer, character by '
    'character; "w/" is a normalised match (case, punctuation, articles) with any accepted alias. `--judge` takes a '
    "language model as judge, with evidence."
)
GROUNDED = (
    '"w/o" is a normalised match (case, punctuation, articles) with any accepted alias; "w/" is the verdict of the '
    "judge, which is grounded in so far as it was given evidence."
)


def build(lab: Lab) -> Comparison:
    accepted = {question.id: question.answers for question in load_task(lab.scale.popqa).questions}
    chain = lab.of(ARROW.join(LLAMA), task=lab.scale.popqa)
    cells, grounded = Cells(), lab.judge is not None
    for size, model in zip(LLAMA, chain.models, strict=True):
        assert model.predictions is not None
        pairs = [(str(said), accepted[id]) for said, id in zip(model.predictions, chain.question_ids, strict=True)]
        exact = sum(said == answers[0] for said, answers in pairs) / len(pairs)
        matched = sum(exact_match(said, answers) for said, answers in pairs) / len(pairs)
        without, with_it = (matched, float(model.correct.mean())) if grounded else (exact, matched)
        cells[f"{size} (w/o grounding)"] = {"accuracy": without}
        cells[f"{size} (w/ grounding)"] = {"accuracy": with_it, "delta": with_it - without}
    several = sum(len(accepted[id]) > 1 for id in chain.question_ids)
    note = f"{several} of {len(chain)} test questions have more than one accepted answer."
    return compare(10, lab, cells, notes=(GROUNDED if grounded else NOT_GROUNDED, note))


main = command(build, tasks=("popqa",))

if __name__ == "__main__":
    main()
