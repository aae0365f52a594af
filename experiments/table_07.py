"""Table 7, the prompts: our templates against the paper's text: `python -m experiments.table_07`."""

from __future__ import annotations

import re
from difflib import SequenceMatcher

from cascade.tasks.base import Question, multiple_choice_prompt, open_ended_prompt
from experiments.paper.command import command, compare
from experiments.paper.comparison import Comparison
from experiments.paper.lab import Lab
from experiments.paper.numbers import paper


def build(lab: Lab) -> Comparison:
    cells = {}
    for name, ours in templates().items():
        found = differences(paper().tables[7].more["templates"][name], ours)
        cells[name] = {"same": "no" if found else "yes", "differences": "; ".join(found) or "nothing"}
    return compare(7, lab, cells)


def templates() -> dict[str, str]:
    """Our prompts with the paper's placeholders in them."""
    question = Question("", "{question}", "{subject}", choices=("", "", "", ""))
    options = "\n".join(f"{letter}. " for letter in question.letters)
    return {
        "multiple choice": multiple_choice_prompt(question).replace(options, "{choices}"),
        "open-ended": open_ended_prompt(Question("", "{question}", "")),
    }


def differences(theirs: str, ours: str) -> list[str]:
    """What it takes to come from one text to the other, word by word and space by space, in words."""
    first, second = (re.findall(r"\{\w+\}|\w+|\s|[^\w\s]", text) for text in (theirs, ours))
    found = []
    for kind, a, b, c, d in SequenceMatcher(None, first, second, autojunk=False).get_opcodes():
        gone, come = _quoted(first[a:b]), _quoted(second[c:d])
        after = f"after {_quoted(first[max(a - 3, 0) : a])}" if a else "at the beginning"
        if kind == "delete":
            found.append(f"{after} ours leaves out {gone}")
        elif kind == "insert":
            found.append(f"{after} ours adds {come}")
        elif kind == "replace":
            found.append(f"{after} ours has {come} for {gone}")
    return found


def _quoted(words: list[str]) -> str:
    text = "".join(words)
    named = {"": "nothing", " ": "a space", "\n": "a line break", "\n\n": "two line breaks"}
    return named.get(text) or "`" + text.replace("\n", "⏎").replace("|", "\\|") + "`"


main = command(build, tasks=())

if __name__ == "__main__":
    main()
