"""Simulates cascades: `python -m cascade.simulate`.

Without `--scores`: the miniature chain, scored and probed where that is missing. With `--scores FILE...`:
anybody's logs (score tables as Parquet, CSV or JSON lines, logs of other tools), and nothing of torch is loaded. Prints
the paper's tables at fixed thresholds, then thresholds found on some questions and reported on others. `--report DIR`
writes it all as a page. `python -m cascade.simulate validate FILE...` says whether score tables can be read, and what
they allow.
"""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from jsonargparse import ArgumentParser

from cascade.commands import PLAN_HELP, verb_parser
from cascade.errors import CascadeError, one_line_errors
from cascade.policies.base import Thresholds
from cascade.policies.tuning import Goal
from cascade.probing.choice import ProbeChoice
from cascade.runtime.config import CascadeConfig
from cascade.simulation.data import Data, is_task
from cascade.studies import names_of, simulate
from cascade.yaml_files import found_flags
from probes.errors import ProbeError
from probes.files import make_writable

T = TypeVar("T")


def validate(files: list[Path], columns: dict[str, str] | None = None) -> None:
    """Says whether score tables can be read, and what they allow.

    Args:
        files: Parquet, CSV or JSON lines.
        columns: From the schema's names to those of the files, where they differ.
    """
    from cascade.report.logs import print_logs
    from cascade.scores.logs import check_logs
    from cascade.scores.reading import remarks

    print_logs(files, *check_logs(files, columns))
    for remark in remarks(files):
        print(remark)


def _print_plan(data: Data, probed: bool, runs: Path, cascade: CascadeConfig, probes: ProbeChoice) -> None:
    """What `simulate` with these arguments would cost."""
    from cascade.planning.costs import plan_chain
    from cascade.planning.table import print_plan

    if data.scores:
        raise CascadeError("Expected `plan` for models that are run here, but got `scores`, from which nothing is run")
    others = [name for name in data.evaluate_on or [] if not Path(name).exists() or is_task(Path(name))]
    names_of(cascade)
    chain = [member.settings for member in cascade.members]
    print_plan(plan_chain(chain, [data.task, *others], runs, probes, probed, cascade.shots))


def build_parser() -> ArgumentParser:
    """The command line: the parts of `simulate`, flat, and where its results go."""
    parser = verb_parser("simulate", __doc__)
    parser.add_argument("--config", action="config", help="YAML file of these flags")
    scores = "score tables to simulate from, of any origin, or the name of a task"
    parser.add_argument("--scores", "--calibrate-on", nargs="+", type=Path, help=scores)
    others = "tasks, score tables or folders of them for the chosen policy, frozen; unlabelled without a column correct"
    parser.add_argument("--evaluate_on", "--evaluate-on", nargs="+", type=str, help=others)
    parser.add_argument("--cascade", type=Path, help="YAML of a cascade, such as `cascade.run` and `.serve` take")
    chain = "instead, models, smallest first, separated by commas; by default the miniature Llamas, or all of SCORES"
    parser.add_argument("--chain", type=str, help=chain)
    parser.add_argument("--each", type=dict, default={}, help="settings of each of CHAIN, as --each.dtype=bfloat16")
    shots = "examples in each prompt, from the dev split of the task that is asked"
    parser.add_argument("--shots", type=int, default=0, help=shots)
    order = "take the chain as it is, where its models do not become larger or dearer"
    parser.add_argument("--any_order", type=bool, default=False, help=order)
    parser.add_class_arguments(Data, skip={"scores", "evaluate_on"})
    parser.add_class_arguments(Thresholds, skip={"p_ik_reader"})
    parser.add_class_arguments(Goal)
    parser.add_class_arguments(ProbeChoice, "probes")
    prices = "YAML of prices for dollars, such as configs/prices/table-12.yaml; by default those of CASCADE"
    parser.add_argument("--prices", type=Path, help=prices)
    layers = "sweep the probes' layer (models that are run here only)"
    parser.add_argument("--layers", type=bool, default=False, help=layers)
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of stores and probe runs")
    out = "folder for report.json, plot.png and the score tables; by default one under RUNS/simulations"
    parser.add_argument("--out", type=Path, help=out)
    parser.add_argument("--plan", action="store_true", help=f"of models that are run here: {PLAN_HELP}")
    parser.add_argument("--report", type=Path, help="folder for report.html, plots and tables")
    parser.add_argument("--logger", type=Literal["none", "wandb"], default="none", help="where figures go, too")
    return parser


def _taken(kind: type[T], values: dict[str, Any]) -> T:
    """A dataclass of those values that are its fields, which are taken out."""
    return kind(**{field.name: values.pop(field.name) for field in fields(kind) if field.name in values})  # type: ignore[arg-type]


def _cascade(path: Path | None, chain: str | None, each: dict[str, Any], shots: int) -> CascadeConfig:
    if path is None:
        return CascadeConfig(chain=chain, each=each, shots=shots)
    if chain is not None or each or shots:
        raise CascadeError(f"Expected `cascade` or `chain`, `each` and `shots`, but got both: {path} says these itself")
    return CascadeConfig.read(path)


@one_line_errors(ProbeError)
def main(args: list[str] | None = None) -> None:
    """The entry point."""
    args = found_flags(args)
    if args[:1] == ["validate"]:
        checker = verb_parser("simulate validate", validate.__doc__)
        checker.add_argument("files", nargs="+", type=Path, help="score tables: Parquet, CSV or JSON lines")
        checker.add_function_arguments(validate, skip={"files"})
        validate(**checker.parse_args(args[1:]).as_dict())
        return
    values = build_parser().parse_args(args).as_dict()
    settings = dict(values)
    folder, logger, planned = values.pop("report"), values.pop("logger"), values.pop("plan")
    if logger == "wandb" and not planned:
        import wandb  # noqa: F401 - that it is missing is said before anything is computed
    data, thresholds, goal = _taken(Data, values), _taken(Thresholds, values), _taken(Goal, values)
    probes = ProbeChoice(**values["probes"])
    cascade = _cascade(values["cascade"], values["chain"], values["each"], values["shots"])
    cascade = replace(cascade, any_order=cascade.any_order or values["any_order"])
    if values["cascade"] is not None and thresholds == Thresholds():
        thresholds = Thresholds(cascade.p_t, cascade.p_ik)  # the file's own, where no other are asked for
    data = replace(data, normalize=data.normalize or bool(cascade.normalize))
    if planned:
        _print_plan(data, thresholds.p_ik is not None, values["runs"], cascade, probes)
        return
    from cascade.report.base_models import of_chain, print_base
    from cascade.report.html import write_report
    from cascade.report.study_tables import print_study
    from cascade.report.tables import print_report
    from cascade.report.tracking import log_simulation, sweep_folder
    from cascade.scores.reading import remarks
    from cascade.scores.schema import other_confidence

    base, out = values["out"] or values["runs"] / "simulations", values["out"]
    if (own := sweep_folder(base)) != base:
        out = own
    if folder is not None:
        make_writable(folder)  # before anything is computed
    asked = (values["prices"], values["layers"], values["runs"], out)
    for remark in remarks(data.scores or ()):
        print(remark)
    result = simulate(data, thresholds, goal, cascade, probes, *asked)
    if stands_in := other_confidence(data.columns or {}):
        print(f"{stands_in} stands in P(T)'s place, and what it took is charged")
    print_base(of_chain(result.reported_on))
    print_report(result.report)
    print_study(result.study)
    if folder is not None:
        page = write_report(folder, result.title, result.report, result.study, result.reported_on, result.layers)
        print(f"Wrote {page}")
    print(f"Wrote report.json, plot.png and score tables to {result.folder}")
    if logger == "wandb":
        log_simulation(result.report, result.study, settings, folder or result.folder)


if __name__ == "__main__":
    main()
