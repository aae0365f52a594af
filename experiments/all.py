"""Every table, the figure and the findings beyond the paper, as one page: `python -m experiments.all`.

Makes what is missing (stores, probes, live runs, the API's replies) and reuses what is there. At the miniature scale,
with every question, the page is `experiments/RESULTS.md`.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from jsonargparse import ArgumentParser
from tqdm import tqdm

from cascade.errors import one_line_errors
from experiments import deciding_ledger, figure, probe_depth, seeds, transfer
from experiments.paper.command import Result, add_arguments, lab_of, print_plans
from experiments.paper.lab import Lab
from experiments.paper.numbers import paper
from experiments.paper.scales import MINIATURE, ROOT
from probes.errors import ProbeError
from probes.files import write_atomically

PAGE, PICTURE = ROOT / "experiments/RESULTS.md", ROOT / "experiments/figures/paper.png"
TITLE = """\
# The paper's tables, and ours beside them

Written by `python -m experiments.all{flags}`; the words and the numbers are the scripts'. Δ is ours minus the paper's.
"""
ABOUT_MINIATURE = """\
**What the miniature can show.** That every table is one command and runs end to end; that the arithmetic is the
paper's (its own counts give its own savings); what the ledgers, the tests and the seeds do to a conclusion; that the
live cascade does what was simulated, early exits and HTTP included.

**What it cannot show.** Whether the paper's numbers hold for the paper's models. The miniature is an invented world
with models of 0.1 to 1.6 million parameters, made to be worth routing between: its subjects and the models' training
lengths were chosen after looking at these very accuracies (docs, "The miniature"). Where ours come near the
paper's, that is how it was made, and no confirmation; where they do not, that refutes nothing. Times are of models so
small that a pass's overhead counts for as much as its arithmetic, on a machine that had other things to do.

The same scripts with `--scale paper` take the paper's models and tasks on a machine that has them.
"""
ABOUT_PAPER = """\
The models and tasks are those that the paper names. What it leaves open is chosen here, and may be why numbers differ:
which test questions (the test part of our split), the probes' token, width and training, the weights' precision
({dtype}), greedy answers, and today's model behind the API's name.
"""
SCRIPTS: dict[str, Callable[[Lab], Result]] = {
    **{f"table_{n:02d}": import_module(f"experiments.table_{n:02d}").build for n in paper().tables},
    "figure": figure.build,
    "deciding_ledger": deciding_ledger.build,
    "probe_depth": probe_depth.build,
    "seeds": seeds.build,
    "transfer": transfer.build,
}


def page(results: dict[str, Result], lab: Lab) -> str:
    """The whole page."""
    small = lab.scale is MINIATURE
    title = TITLE.format(flags="" if small else f" --scale {lab.scale.name}")
    parts = [title, ABOUT_MINIATURE if small else ABOUT_PAPER.format(dtype=lab.scale.dtype), lab.scale.standing]
    for name, result in results.items():
        parts.append(f"## {result.heading}\n\n`python -m experiments.{name}`")
        if name == "figure":
            parts.append(f"![{result.heading}](figures/{PICTURE.name})")
        parts.append(result.markdown)
    return "\n\n".join(part.strip() for part in parts) + "\n"


@one_line_errors(ProbeError)
def main(args: list[str] | None = None) -> str | None:
    """The entry point; returns the page, or nothing for a plan."""
    parser = ArgumentParser(prog="python -m experiments.all", description=__doc__, exit_on_error=False)
    add_arguments(parser)
    parser.add_argument("--page", type=Path, help="where the page goes; by default experiments/RESULTS.md, or OUT")
    values = parser.parse_args(args)
    lab, results = lab_of(values), dict[str, Result]()
    if values.plan:
        print_plans(lab, "both", ("mmlu", "gpqa", "popqa"), api=seeds.SEEDS, live=("llama", "qwen"))
        return None
    with tqdm(SCRIPTS.items(), unit="table", disable=None) as bar:
        for name, build in bar:
            bar.set_description(name)
            results[name] = build(lab)
            results[name].write(lab.out)
    whole = lab.scale is MINIATURE and not lab.limit
    target = values.page or (PAGE if whole else lab.out / "RESULTS.md")
    if target == PAGE:
        shutil.copyfile(lab.out / "figure.png", PICTURE)
    text = page(results, lab)
    write_atomically(target, text.encode())
    print(f"Wrote {target}")
    return text


if __name__ == "__main__":
    main()
