"""The command line that all tables and findings share: `--scale`, `--runs`, `--out`, `--limit`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

from jsonargparse import ArgumentParser

from cascade.commands import PLAN_HELP
from cascade.engines.settings import EndpointConfig
from cascade.errors import CascadeError, one_line_errors
from cascade.planning.costs import plan_chain
from cascade.planning.table import print_plan
from cascade.probing.choice import ProbeChoice
from cascade.strict_json import strict_json
from experiments.paper.api import api_plan
from experiments.paper.comparison import Comparison
from experiments.paper.lab import Lab
from experiments.paper.live import live_plan
from experiments.paper.numbers import Column, Values, paper
from experiments.paper.scales import API, SCALES
from probes.errors import ProbeError
from probes.files import write_atomically


class Result(Protocol):
    """What a script makes: something to show, and to write."""

    @property
    def heading(self) -> str: ...  # noqa: D102
    @property
    def markdown(self) -> str: ...  # noqa: D102

    def write(self, folder: Path) -> None:
        """Writes JSON and Markdown."""
        ...


R = TypeVar("R", bound=Result)
JUDGE_HELP = "YAML of an LLM judge for PopQA's answers (configs/judges/*.yaml), evidence and all; else exact match"
API_HELP = "YAML of the OpenAI-compatible endpoint that stands for GPT-4o: an entry of a cascade's `models`, with price"


@dataclass(frozen=True)
class Finding:
    """Something beyond the paper's tables.

    Attributes:
        name: Of its files.
        heading: What was asked.
        markdown: What was found, with its tables.
        values: The same as plain values.
    """

    name: str
    heading: str
    markdown: str
    values: dict[str, Any]

    def write(self, folder: Path) -> None:
        """Writes JSON and Markdown."""
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / f"{self.name}.json", strict_json(self.values).encode())
        write_atomically(folder / f"{self.name}.md", f"# {self.heading}\n\n{self.markdown}\n".encode())


def compare(
    number: int, lab: Lab, ours: Values, more: Mapping[str, Column] | None = None, notes: tuple[str, ...] = ()
) -> Comparison:
    """A table of the paper beside ours."""
    return Comparison(paper().tables[number], ours, lab.scale.name, more or {}, notes)


def command(
    build: Callable[[Lab], R],
    family: str = "llama",
    tasks: Sequence[str] = ("mmlu",),
    api: Sequence[int] = (),
    live: bool = False,
) -> Callable[..., R | None]:
    """The entry point of a script that makes one result.

    Args:
        build: Makes it.
        family: Whose models it runs, *llama*, *qwen* or *both*, for `--plan`.
        tasks: Those that it asks, as `Scale` calls them, the one that its probes are trained on first; the same. None
            where no model is run.
        api: Seeds of the splits of the first of them whose test questions the API is asked, if it is; the same.
        live: Whether the family's chains are run live; the same.
    """
    module = sys.modules[build.__module__]
    name = Path(str(module.__file__)).stem

    @one_line_errors(ProbeError)
    def main(args: list[str] | None = None) -> R | None:
        parser = ArgumentParser(prog=f"python -m experiments.{name}", description=module.__doc__, exit_on_error=False)
        add_arguments(parser)
        values = parser.parse_args(args)
        lab = lab_of(values)
        if values.plan:
            print_plans(lab, family, tasks, api, (family,) if live else ())
            return None
        result = build(lab)
        print(f"{result.heading}\n\n{result.markdown}\n\n{lab.scale.standing}\n")
        result.write(lab.out)
        return result

    return main


def add_arguments(parser: ArgumentParser) -> None:
    """The flags of every script."""
    parser.add_argument("--scale", choices=list(SCALES), default="miniature", help="whose models and tasks")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of stores and probe runs")
    parser.add_argument("--out", type=Path, help="folder of what is made; by default RUNS/paper/SCALE")
    parser.add_argument("--limit", type=int, default=0, help="only so many test questions; 0 for all")
    parser.add_argument("--api", type=Path, help=API_HELP)
    parser.add_argument("--judge", type=Path, help=JUDGE_HELP)
    parser.add_argument("--plan", action="store_true", help=PLAN_HELP)


def print_plans(lab: Lab, family: str, tasks: Sequence[str], api: Sequence[int] = (), live: Sequence[str] = ()) -> None:
    """Prints what scoring a scale's models, asking its API, and running its chains live, would cost."""
    if not tasks:
        print("No model is run: what ships with this project is held against the paper.")
        return
    for each in ("llama", "qwen") if family == "both" else (family,):
        names = [name for size, name in lab.scale.family(each).items() if size != API]
        asked = [getattr(lab.scale, task) for task in tasks]
        plans = []
        for style in dict.fromkeys(map(lab.scale.style, asked)):
            alike = [task for task in asked if lab.scale.style(task) == style]
            chain = [lab.scale.decoder(name, alike[0]) for name in names]
            plans.append(plan_chain(chain, alike, lab.runs, ProbeChoice(lab.scale.layer, alike[0])))
        print_plan(replace(plans[0], work=tuple(work for plan in plans for work in plan.work)))
    if api:
        task = getattr(lab.scale, tasks[0])
        # Splits of several seeds share questions, and each is asked once.
        wanted = {q.id: q for seed in api for q in replace(lab, seed=seed).questions(task)}
        if (asked_of_api := api_plan(lab.api, task, list(wanted.values()))) is not None:
            print_plan(asked_of_api)
    for each in live:
        print(live_plan(lab, each))


def lab_of(values: Any) -> Lab:
    """The lab that parsed flags ask for.

    Raises:
        CascadeError: If the limit is below 0.
    """
    if values.limit < 0:
        raise CascadeError(f"Expected `limit` to be at least 0, but got {values.limit}")
    out, scale = values.out or values.runs / "paper" / values.scale, SCALES[values.scale]
    if values.api is not None:
        scale = replace(scale, api=read_endpoint(values.api), served=None)
    return Lab(scale, values.runs, out, values.limit, judge=values.judge)


def read_endpoint(path: Path) -> EndpointConfig:
    """An endpoint as YAML.

    Raises:
        CascadeError: If there is no such file, or it is no endpoint with a price.
    """
    if not path.is_file():
        raise CascadeError(f"Expected an endpoint's settings at {path}, but there is no such file")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(EndpointConfig)
    try:
        settings = EndpointConfig(**parser.instantiate(parser.parse_path(path)).as_dict())
    except Exception as error:
        raise CascadeError(f"Expected {path} to be an endpoint's settings, but {error}") from error
    if settings.price is None:
        raise CascadeError(
            f"Expected {path} to have `endpoint` and `price`, as tables count dollars, but one is missing"
        )
    return settings
