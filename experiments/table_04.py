"""Table 4, a commercial API as the last model: accuracy and its output tokens: `python -m experiments.table_04`."""

from __future__ import annotations

import numpy as np

from experiments.paper.api import local_agreement
from experiments.paper.arithmetic import kept_share_note
from experiments.paper.cells import Cells
from experiments.paper.command import command, compare
from experiments.paper.comparison import Comparison
from experiments.paper.lab import Lab
from experiments.paper.numbers import paper
from experiments.paper.scales import API, ARROW


def build(lab: Lab) -> Comparison:
    cells: Cells = {}
    for label in (row for row in paper().tables[4].rows if ARROW in row):
        chain, played = lab.played(label)
        api = chain.models[-1]
        tokens = api.usage.completion_tokens
        assert tokens is not None
        whole = int(tokens.sum())
        spent = int(tokens[played.who == len(chain.models) - 1].sum())
        right, alone = 100 * float(played.correct.mean()), 100 * float(np.mean(api.correct))
        cells[API] = {"accuracy": alone, "tokens": whole}
        reduced = 100 * (1 - spent / whole)
        cells[label] = {"accuracy": right, "tokens": spent, "pd_points": right - alone, "reduced_tokens": reduced}
    notes = [kept_share_note(paper())]
    if refused := int((~api.attempted).sum()) if api.attempted is not None else 0:
        notes.append(f"The API refused {refused} of {len(chain)} questions, which count as wrong, and as no tokens.")
    if lab.scale.served is not None:
        mmlu = lab.scale.mmlu
        same, apart = local_agreement(lab.table(API, mmlu), lab.scale.decoder(lab.scale.api.name, mmlu), mmlu)
        notes.append(
            f"The API is {lab.scale.api.name} behind cascade.serve on loopback, asked over HTTP by the openai client. "
            f"It writes one token a question, so that reduced tokens are the share of questions kept from it. "
            f"{same} of {len(chain)} of its answers are the model's own, its P(T) within {apart:.1g} of what it is "
            f"without a server."
        )
    else:
        each, theirs = whole / len(chain), float(paper().tables[4].rows[API]["tokens"] or 0) / paper().questions["mmlu"]
        notes.append(f"The API writes {each:.1f} tokens a question, the paper's wrote {theirs:.1f}.")
    return compare(4, lab, cells, notes=tuple(notes))


main = command(build, api=(0,))

if __name__ == "__main__":
    main()
