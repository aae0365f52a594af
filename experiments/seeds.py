"""What a single run hides: every table that a model is run for, over five seeds: `python -m experiments.seeds`.

The paper gives "a single run per model configuration". Here the seed of the split and of the probe's training changes;
the models are the same. Each number is the mean over the seeds with its 95 % interval (Student's t); time is measured
by Tables 1 and 3 themselves, several times.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from importlib import import_module

import numpy as np
from scipy import stats
from tqdm import tqdm

from experiments.paper.cells import main_table
from experiments.paper.command import Finding, command
from experiments.paper.comparison import EMPTY, Comparison, markdown_table, shown
from experiments.paper.lab import Lab

SEEDS = range(5)
LEVEL, COUNTS = 0.05, ("count", "part")
# Tables 7 and 12 are of no run: prompts and prices.
TABLES: dict[int, Callable[[Lab], Comparison]] = {
    n: import_module(f"experiments.table_{n:02d}").build for n in (2, 4, 5, 6, 8, 9, 10, 11, 13, 14, 15)
} | {n: partial(main_table, number=n, family=family, timed=False) for n, family in ((1, "llama"), (3, "qwen"))}


def build(lab: Lab) -> Finding:
    runs: dict[int, list[Comparison]] = {number: [] for number in sorted(TABLES)}
    with tqdm(total=len(SEEDS) * len(TABLES), unit="table", disable=None, leave=False) as bar:
        for seed in SEEDS:
            here = replace(lab, seed=seed, _tables={}, _scored=lab._scored)
            for number, tables in runs.items():
                bar.set_description(f"seed {seed}, Table {number}")
                tables.append(TABLES[number](here))
                bar.update()
    parts, values, unsure, apart, rejected = [], {}, [], 0, Counter[str]()
    for number, tables in runs.items():
        table, name = tables[0], f"Table {number}"
        columns = {key: column for key, column in table.paper.columns.items() if key != "time"}
        lines = []
        for label in table.paper.rows:
            line = [label]
            for key, column in columns.items():
                theirs, found = table.cell(label, key)[0], [t.cell(label, key)[1] for t in tables]
                mean, half = interval(found)
                line.append(shown(theirs, column.unit))
                if np.isnan(mean):
                    line.append(EMPTY)
                    continue
                line.append(f"{shown(mean, column.unit)} ± {shown(half, column.unit, change=True).lstrip('+')}")
                values[f"{name}, {label}, {key}"] = {"mean": mean, "half": half, "paper": theirs}
                if key.startswith("pd") and abs(mean) <= half:
                    unsure.append(f"{label} ({name})")
                if column.unit == "p":
                    rejected[label] = sum(p < LEVEL for p in found if isinstance(p, float))
                # Counts are of another number of questions.
                apart += isinstance(theirs, float) and column.unit not in COUNTS and abs(theirs - mean) > half
            lines.append(line)
        head = [name, *(text for c in columns.values() for text in (f"{c.heading} (paper)", "ours"))]
        parts.append(markdown_table(head, lines))
    sentences = [
        f"{len(values)} numbers, {len(SEEDS)} seeds each; {apart} of the paper's, counts aside, lie outside of our "
        f"interval, as they should: these are other models.",
        f"Whether accuracy is lost at all is not settled by {len(SEEDS)} seeds for: {', '.join(unsure) or 'none'}.",
        f"How often McNemar's test finds a difference (p < {LEVEL}) hangs on the split: "
        f"{', '.join(f'{label} in {times} of {len(SEEDS)}' for label, times in rejected.items())}. Table 9's mean of p "
        f"is no p of its own.",
        "The seeds' test parts overlap by chance (each is a tenth of the questions; all of GPQA's are asked each "
        "time), and the models' own training is not repeated: the intervals are of the split and the probes alone.",
    ]
    return Finding(
        "seeds", "Five seeds for what the paper gives from one run", "\n\n".join([*sentences, *parts]), values
    )


def interval(found: Sequence[object]) -> tuple[float, float]:
    """Mean, and half of the 95 % interval by Student's t; NaN where a value is not there."""
    numbers = np.array([value if isinstance(value, (int, float)) else np.nan for value in found], dtype=float)
    half = stats.t.ppf(0.975, len(numbers) - 1) * numbers.std(ddof=1) / np.sqrt(len(numbers))
    return float(numbers.mean()), float(half)


main = command(build, family="both", tasks=("mmlu", "gpqa", "popqa"), api=SEEDS)

if __name__ == "__main__":
    main()
