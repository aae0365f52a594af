"""The Time column: chains and single models run live, early exits as they are, and their measured seconds.

Every run is one of `cascade.run`, with its journal on disk; what a journal holds is not run again.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from cascade.engines.base import Engine, prompt_of
from cascade.planning.costs import plan_cascade
from cascade.policies.thresholds import ThresholdPolicy
from cascade.runtime.answering import run
from cascade.runtime.config import CascadeConfig, Member
from cascade.runtime.costs import measured_seconds
from cascade.runtime.engine import Cascade
from cascade.runtime.results import Run
from cascade.tasks.load import load_task
from experiments.paper.lab import BOTH, Lab, say
from experiments.paper.scales import API, ARROW
from probes.files import file_name


@dataclass(frozen=True)
class Timed:
    """How long the test questions take.

    Attributes:
        seconds: In the models, one for each live run; the fastest counts, as what else a machine does only adds.
        answered: Questions answered at each stage.
    """

    seconds: tuple[float, ...]
    answered: tuple[int, ...]

    def change(self, other: Timed) -> float:
        """Per cent more than another; negative is faster."""
        return 100 * (min(self.seconds) / min(other.seconds) - 1)

    def changes(self, other: Timed) -> list[float]:
        """The same, run by run."""
        return [100 * (a / b - 1) for a, b in zip(self.seconds, other.seconds, strict=True)]


def live_times(lab: Lab, family: str, labels: list[str]) -> dict[str, Timed]:
    """Runs single models and chains live on MMLU's test questions.

    The runs take turns, so that a machine that is busy for a while is so for all of them.

    Args:
        lab: Where.
        family: *llama* or *qwen*.
        labels: As the paper's rows, such as ``3B`` and ``3B → 8B``.
    """
    scale = lab.scale
    sizes = {size: model for size, model in scale.family(family).items() if size != API}
    last = list(sizes)[-1]
    models = [
        scale.decoder(model, scale.mmlu).build(None if size == last else lab.probe(model, scale.mmlu))
        for size, model in sizes.items()
    ]
    found: dict[str, list[Run]] = {label: [] for label in labels}
    warm = False
    for repeat in range(scale.repeats):
        for label in labels:
            places = tuple(list(sizes).index(size) for size in label.split(ARROW))
            policy = ThresholdPolicy(places, (BOTH,) * (len(places) - 1))
            cascade = Cascade(models, policy, keep_loaded=scale.keep_loaded)
            # A probe that was trained anew makes another run, and not one that its journal refuses.
            made_of = hashlib.sha256(json.dumps([models[place].identity for place in places]).encode()).hexdigest()[:8]
            name = "--".join([family, *map(file_name, label.split(ARROW)), made_of, str(repeat)])
            folder = lab.out / "live" / (name + (f"--first-{lab.limit}" if lab.limit else ""))
            if not (folder / "summary.json").exists():
                if not warm and scale.keep_loaded:
                    _warm_up(models, scale.mmlu)
                    warm = True
                say(f"Running {label} live ({family}, {repeat + 1} of {scale.repeats})")
            with contextlib.redirect_stderr(io.StringIO()):
                found[label].append(run(cascade, scale.mmlu, "test", lab.limit or None, lab.runs, folder))
    return {label: _timed(runs, label, list(sizes)) for label, runs in found.items()}


def live_plan(lab: Lab, family: str) -> str:
    """What running a family live would cost at the most, in words: every model of a chain asked every question."""
    scale = lab.scale
    sizes = {size: model for size, model in scale.family(family).items() if size != API}
    chains = [places for n in range(1, len(sizes) + 1) for places in combinations(sizes, n)]
    questions = tuple(lab.questions(scale.mmlu))
    asked = replace(load_task(scale.mmlu), questions=questions)
    hours = {}
    for size, model in sizes.items():
        member = Member(scale.decoder(model, scale.mmlu), probe="none")
        plan = plan_cascade(CascadeConfig(models=[member]), asked, scale.mmlu, lab.out / "live" / "none.jsonl")
        hours[size] = sum(work.gpu_hours for work in plan.work)
    whole = scale.repeats * sum(hours[size] for chain in chains for size in chain)
    passes = scale.repeats * len(questions) * sum(map(len, chains))
    shown = "less than 0.01" if whole < 0.01 else f"{whole:.2g}"
    return (
        f"The time of {', '.join(sizes)} and their {len(chains) - len(sizes)} chains is measured on top, by what is "
        f"run live: up to {passes:,} passes, {shown} GPU hours."
    )


def _warm_up(models: Sequence[Engine], task: str) -> None:
    """The first batches of a process are slower than all others."""
    prompts = [prompt_of(question) for question in load_task(task).questions[:64]]
    for model in models:
        model.answer(prompts)


def _timed(runs: list[Run], label: str, sizes: list[str]) -> Timed:
    seconds = tuple(sum(map(measured_seconds, run.answers)) for run in runs)
    places = [sizes.index(size) for size in label.split(ARROW)]
    by = [sum(answer.model == runs[0].cascade.names[place] for answer in runs[0].answers) for place in places]
    return Timed(seconds, tuple(by))
