"""How long the commands take before they do anything: `python -m experiments.benchmarks.startup`.

User time of whole processes, each beside `python -c pass`, alternated: every verb's `--help`, and `cascade.simulate` on
logs up to where its study begins. Medians of the rounds.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from jsonargparse import ArgumentParser
from rich.console import Console
from rich.table import Table

from cascade.__main__ import VERBS
from cascade.progress import progress

NOTHING = "python -c pass"
# Ends where the study would begin: by then everything that it needs has been loaded and read.
_TO_THE_STUDY = """
import sys
import cascade.simulate
import cascade.simulation.study
def begins(*_, **__):
    raise SystemExit(0)
cascade.simulation.study.study = begins
cascade.simulate.main(sys.argv[1:])
"""


def commands(folder: Path) -> dict[str, list[str]]:
    """What is measured, by name; a log of 10,000 questions and two models is written to ``folder``."""
    rng, log = np.random.default_rng(0), folder / "logs.csv"
    rows = [f"q{n},{model},{rng.random():.4f},{rng.integers(2)}" for model in "ab" for n in range(10_000)]
    log.write_text("\n".join(["question_id,model,p_t,correct", *rows]))
    found = {NOTHING: ["-c", "pass"]}
    found |= {f"cascade {verb} --help": ["-m", f"cascade.{verb}", "--help"] for verb in VERBS}
    logs = ["--scores", str(log), "--chain", "a,b", "--out", str(folder / "out")]
    return found | {"cascade simulate --scores logs.csv, to its study": ["-c", _TO_THE_STUDY, *logs]}


def user_seconds(command: list[str]) -> float:
    """User time of one process.

    Raises:
        subprocess.CalledProcessError: If it fails.
    """
    before = os.times().children_user
    subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return os.times().children_user - before


def main(args: list[str] | None = None) -> None:
    """The entry point."""
    parser = ArgumentParser(prog="python -m experiments.benchmarks.startup", description=__doc__)
    parser.add_argument("--repeats", type=int, default=5, help="rounds, after one that is not counted")
    repeats = parser.parse_args(args).repeats
    with tempfile.TemporaryDirectory() as folder:
        known = commands(Path(folder))
        measured: dict[str, list[float]] = {name: [] for name in known}
        with progress((repeats + 1) * len(known), "startup", "process") as bar:
            for number in range(repeats + 1):
                for name, command in known.items():
                    seconds = user_seconds(command)
                    measured[name] += [seconds] if number else []
                    bar.update()
    table = Table("command", "user seconds", "beyond an empty process", title=f"medians of {repeats} rounds")
    nothing = statistics.median(measured[NOTHING])
    for name, times in measured.items():
        table.add_row(name, f"{statistics.median(times):.2f}", f"{statistics.median(times) - nothing:.2f}")
    Console(width=None if sys.stdout.isatty() else 100).print(table)


if __name__ == "__main__":
    main()
