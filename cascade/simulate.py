"""Simulates cascades: `python -m cascade.simulate`.

Without `--scores`: the miniature chain, scored and probed where that is missing. With `--scores FILE...`:
anybody's score tables (Parquet, CSV, JSON lines), and nothing of torch is loaded. Prints the paper's tables at
fixed thresholds, then thresholds found on some questions and reported on others. `--report DIR` writes it all
as a page. `python -m cascade.simulate validate FILE...` says whether score tables can be read, and what they allow.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
from jsonargparse import ArgumentParser

from cascade.engines.chain import ChainModels
from cascade.errors import CascadeError, one_line_errors
from cascade.planning.table import PLAN_HELP, print_plan
from cascade.policies.ledgers import Prices, available_units, read_prices
from cascade.policies.policy import Thresholds
from cascade.report.frontier_figures import plot_frontier
from cascade.report.html import write_report
from cascade.report.study_tables import print_study
from cascade.report.tables import print_report
from cascade.report.tracking import sweep_folder
from cascade.scores.arrays import ChainScores, align, check_chain, model_scores, parts
from cascade.scores.schema import join_scores, other_confidence, read_scores, read_table, write_scores
from cascade.simulation.simulator import Report, report
from cascade.simulation.study import LayerPoint, Study, layer_point, study
from cascade.simulation.tuning import Goal
from cascade.strict_json import strict_json
from cascade.tasks.load import TASKS, load_task, names_task
from probes.errors import ProbeError
from probes.files import file_name, write_atomically

DEFAULT_CHAIN = "mini-llama-small,mini-llama-medium,mini-llama-large"
OWN_MODELS = ChainModels()
_OF_PROBES = ("p_ik", "probe_layer", "probe_parameters")
ENDINGS = (".parquet", ".csv", ".jsonl", ".ndjson")


@dataclass(frozen=True)
class Simulation:
    """What one call of `simulate` found.

    Attributes:
        title: The chain and the data, in a line.
        report: The paper's tables at fixed thresholds.
        study: Thresholds found on some questions and reported on others.
        reported_on: The scores of those others.
        layers: One point a depth of the probes, where that was asked for.
        folder: Where the figures were written.
    """

    title: str
    report: Report
    study: Study
    reported_on: ChainScores
    layers: tuple[LayerPoint, ...]
    folder: Path


def simulate(
    chain: str | None = None,
    scores: list[Path] | None = None,
    columns: dict[str, str] | None = None,
    task: str = "mini-mmlu",
    evaluate_on: list[str] | None = None,
    p_t: float = 0.9,
    p_ik: float | None = 0.5,
    normalize: bool = False,
    split: str | None = None,
    objective: str = "cost",
    limit: float | None = None,
    ledger: str = "full-path",
    unit: str | None = None,
    epsilon: float | None = None,
    delta: float = 0.1,
    margin: float = 0.01,
    prices: Path | None = None,
    layers: bool = False,
    models: ChainModels = OWN_MODELS,
    runs: Path = Path("runs"),
    out: Path | None = None,
) -> Simulation:
    """Simulates every single model and every sub-chain of a chain, and finds the thresholds worth having.

    Args:
        chain: Models, smallest first, separated by commas; by default the miniature Llamas, or all models of
            SCORES by their parameters.
        scores: Score tables to simulate from (also: --calibrate-on); without them, or with the name of a task, the
            models are run where needed.
        columns: From the schema's names to those of SCORES, where they differ, as --columns.p_t=confidence.
        task: Task to simulate on, where the models are run, or a file of questions and answers (JSON lines, CSV).
            Probes are trained on it; those of mini-gpqa and mini-popqa on mini-mmlu, those of gpqa on mmlu.
        evaluate_on: More data for the chosen policy, everything frozen: tasks, score tables, or folders of these.
            Without a column correct they are taken for unlabelled logs.
        p_t: P(T) threshold of the fixed tables; below it a question moves on.
        p_ik: P(IK) threshold of the fixed tables; below it a question moves on. null leaves P(IK) out altogether: no
            probe is trained or asked.
        normalize: Read P(T) renormalised over the options instead of raw.
        split: Only questions of this split (not of EVALUATE_ON, whose test part is taken where there is one). By
            default thresholds are found on validation and all is reported on test; scores without these splits are
            halved by the questions' ids, training questions left out.
        objective: accuracy (the best at a budget), cost (the cheapest above a floor) or price.
        limit: The budget (share of the last model's cost; 0.5), the accuracy floor (one point below the last
            model, by one standard error of the difference where thresholds are found), or the accuracy that the last
            model's whole cost is worth (0.1).
        ledger: Ledger of the objective: answered-only, full-path or early-exit.
        unit: Its unit: flops, flops-context, tokens, dollars, seconds or calls; by default the first of these that the
            scores allow.
        epsilon: Ask for thresholds promised to lose at most this share of accuracy.
        delta: Probability with which the promise may fail.
        margin: Share of accuracy of the non-inferiority tests.
        prices: YAML of prices for dollars, such as configs/prices/table-12.yaml.
        layers: Sweep the probes' layer (models that are run here only).
        models: How models that are run here are loaded and probed.
        runs: Folder of stores and probe runs.
        out: Folder for report.json, plot.png and the score tables; by default one under RUNS/simulations.
    """
    thresholds = Thresholds(p_t=p_t, p_ik=p_ik)
    goal = Goal(objective, limit, ledger, unit, epsilon, delta, margin)
    known = None if prices is None else read_prices(prices)
    scores, task = _own_task(scores, task)
    if layers and scores:
        raise CascadeError("Expected `layers` for models that are run here, but got `scores`, which name one layer")
    if layers and p_ik is None:
        raise CascadeError("Expected `p_ik` to be a threshold where `layers` sweeps the probes, but got null")
    # What the policy is carried over to is read by the same probes.
    if not scores:
        asked = load_task(task, models.shots)
        models = replace(models, probe_task=models.probe_task or asked.probed_on or task)
    probes = p_ik is not None
    table = _asked(read_scores(scores, columns), probes) if scores else None
    names = _chain(chain, table)
    data = "scores" if scores else file_name(Path(task).name)
    marks = (*(() if scores else models.marks), *(() if probes else ("without-p_ik",)))
    out = out or runs / "simulations" / "--".join(["+".join(map(file_name, names)), data, *marks])
    out.mkdir(parents=True, exist_ok=True)
    if table is None:
        # Here and not above, so that somebody else's logs are simulated without loading torch.
        from cascade.probing.chain import own_scores

        table = own_scores(names, task, runs, settings=models, probes=probes)
        if not probes and split is None and "split" in table.column_names:
            table = table.drop_columns(["split"])  # nothing was trained on any of them
    choose_on, report_on, whole = _divide(table, names, split, normalize)
    others = {name: _other(name, names, runs, normalize, columns, models, probes) for name in evaluate_on or []}
    fixed = report(whole, thresholds, known)
    found = study(choose_on, report_on, goal, known, others)
    swept = _sweep_layers(names, task, runs, split, normalize, goal, known, models) if layers else []
    for name in names:
        write_scores(table, name, out / "scores" / f"{file_name(name)}.parquet")
    what = f"{len(whole):,} questions" if scores else f"{task}, {len(whole):,} questions"
    # Live, P(T) is P(T): a policy on anything else must not be run as if it were.
    stands_in = other_confidence(columns or {}) if scores else None
    what += f", {stands_in} in P(T)'s place" if stands_in else ""
    result = Simulation(f"{' → '.join(names)} on {what}", fixed, found, found.reported, tuple(swept), out)
    values = fixed.to_json() | {"study": found.to_json()} | ({"p_t": stands_in} if stands_in else {})
    write_atomically(out / "report.json", strict_json(values).encode())
    plot_frontier(out / "plot.png", fixed, result.title)
    return result


def _own_task(scores: list[Path] | None, task: str) -> tuple[list[Path] | None, str]:
    """Score tables, and the task where there are none: it may have been given in their place."""
    if scores and _is_task(scores[0]):
        task, *more = map(str, scores)
        if more:
            raise CascadeError(f"Expected one task to calibrate on, but got {task}, {', '.join(more)}")
        return None, task
    return scores, task


def _asked(table: pa.Table, probes: bool) -> pa.Table:
    """Scores without the columns of probes where these are not asked."""
    if probes:
        return table
    return table.drop_columns([name for name in _OF_PROBES if name in table.column_names])


def _is_task(data: Path) -> bool:
    """Whether a path is the name of a task, or a file of questions, and not of scores."""
    return names_task(str(data))


def _chain(chain: str | None, table: pa.Table | None) -> list[str]:
    if chain is None and table is not None:
        if "parameters" not in table.column_names or table["parameters"].null_count:
            raise CascadeError(
                "Expected `chain`, smallest model first, as the scores do not say every model's parameters"
            )
        sizes = dict(zip(table["model"].to_pylist(), table["parameters"].to_pylist(), strict=True))
        names = sorted(sizes, key=lambda name: (sizes[name], name))
    else:
        names = [name.strip() for name in (chain or DEFAULT_CHAIN).split(",") if name.strip()]
    check_chain(names)
    return names


def _divide(
    table: pa.Table, names: Sequence[str], split: str | None, normalize: bool
) -> tuple[ChainScores, ChainScores, ChainScores]:
    """The questions that choose, those that are reported on, and those of the fixed tables."""
    splits = set(table["split"].to_pylist()) if "split" in table.column_names else set()
    if split is None and {"validation", "test"} <= splits:
        test = align(table, names, "test", normalize)
        return align(table, names, "validation", normalize), test, test
    if split is None and "train" in splits:
        table = table.filter(pc.not_equal(table["split"], "train"))
        if not table.num_rows:
            raise CascadeError("Expected questions that no probe was trained on, but all are of the train split")
    whole = align(table, names, split, normalize)
    choose_on, report_on = parts(whole, (0.5, 0.5))
    return choose_on, report_on, whole


def _other(
    data: str,
    names: Sequence[str],
    runs: Path,
    normalize: bool,
    columns: dict[str, str] | None,
    models: ChainModels,
    probes: bool,
) -> ChainScores:
    """Other data for a frozen policy: a task, a score table, or a folder of them."""
    path = Path(data)
    if path.exists() and not _is_task(path):
        files = sorted(p for p in path.iterdir() if p.suffix in ENDINGS) if path.is_dir() else [path]
        if not files:
            raise CascadeError(f"Expected {path} to hold score tables ({', '.join(ENDINGS)}), but there is none")
        read = [(str(file), read_table(file)) for file in files]
        held = set.intersection(*(set(each.column_names) for _, each in read))
        # Other data may go by the schema's own names, or have no labels.
        mapped = {ours: theirs for ours, theirs in (columns or {}).items() if theirs in held}
        labelled = "correct" in held or "correct" in mapped
        table = _asked(join_scores(read, mapped, labelled), probes)
    else:
        if not _is_task(path):
            raise CascadeError(
                f"Expected `evaluate_on` to name a task ({', '.join(TASKS)}), a file of questions, a score table "
                f"or a folder of them, but got {data!r}"
            )
        from cascade.probing.chain import own_scores

        table, labelled = own_scores(names, data, runs, settings=models, probes=probes), True
    splits = set(table["split"].to_pylist()) if "split" in table.column_names else set()
    return align(table, names, "test" if "test" in splits else None, normalize, labelled)


def _sweep_layers(
    names: Sequence[str],
    task: str,
    runs: Path,
    split: str | None,
    normalize: bool,
    goal: Goal,
    prices: Prices | None,
    models: ChainModels,
) -> list[LayerPoint]:
    """The goal's best in the early-exit ledger, for probes at each depth of the deepest model that has one."""
    from cascade.probing.chain import own_models, own_scores

    depths = [model.depth for model in own_models(names, models)[:-1]]
    found = []
    for layer in range(1, max(depths) + 1):
        share = layer / max(depths)
        table = own_scores(names, task, runs, share, models)
        choose_on, report_on, _ = _divide(table, names, split, normalize)
        found.append(layer_point(choose_on, report_on, goal, [max(1, round(share * d)) for d in depths], share, prices))
    return found


def validate(files: list[Path], columns: dict[str, str] | None = None) -> None:
    """Says whether score tables can be read, and what they allow.

    Args:
        files: Parquet, CSV or JSON lines.
        columns: From the schema's names to those of the files, where they differ.
    """
    read = [(str(file), read_table(file)) for file in files]
    held = set.intersection(*(set(each.column_names) for _, each in read))
    labelled = (columns or {}).get("correct", "correct") in held
    wanted = {ours: theirs for ours, theirs in (columns or {}).items() if labelled or ours != "correct"}
    table = join_scores(read, wanted, labelled)
    print(f"{', '.join(map(str, files))}: {table.num_rows:,} rows, columns {', '.join(table.column_names)}")
    if not labelled:
        print("no column correct: good for --evaluate-on as unlabelled logs, not to choose thresholds on")
    for name in sorted(set(table["model"].to_pylist())):
        rows = table.filter(pc.equal(table["model"], name))
        model = model_scores(name, rows, labelled=labelled)
        has = [column for column in ("p_t", "p_ik", "p_ik_reader") if getattr(model, column) is not None]
        one = ChainScores(tuple(rows["question_id"].to_pylist()), (model,), labelled=labelled)
        units = ", ".join(available_units(one))
        if units == "calls":
            units += " of the last model alone; parameters, prompt_tokens and completion_tokens, or seconds allow more"
        confidences = ", ".join(has) or "none, so that it can only be the last of a chain"
        print(f"  {name}: {len(one):,} questions; confidences: {confidences}; costs in {units}")


def log_to_wandb(result: Simulation, config: dict[str, Any], folder: Path) -> None:
    """Logs a simulation's figures and plots to Weights & Biases (offline without an account)."""
    import wandb

    config = {key: str(value) if isinstance(value, Path) else value for key, value in config.items()}
    with wandb.init(project="confidence-cascade", job_type="simulate", config=config) as run:
        whole = result.report.chains[-1]
        figures: dict[str, Any] = {"fixed/accuracy": whole.accuracy, "fixed/pd_points": whole.pd_points}
        for unit, ledgers in whole.saved.items():
            figures |= {f"fixed/saved/{unit}/{name}": value for name, value in ledgers.items()}
        chosen = result.study.chosen.reported
        figures |= {"chosen/accuracy": chosen.accuracy.estimate, "chosen/cost": chosen.cost_ratio.estimate}
        figures["aiq"] = result.study.aiq
        figures |= {f"plots/{path.stem}": wandb.Image(str(path)) for path in sorted(folder.rglob("*.png"))}
        run.log(figures)


def _print_plan(settings: dict[str, Any]) -> None:
    """What `simulate` with these arguments would cost."""
    from cascade.planning.costs import plan_chain

    scores, task = _own_task(settings["scores"], settings["task"])
    if scores:
        raise CascadeError("Expected `plan` for models that are run here, but got `scores`, from which nothing is run")
    others = [name for name in settings["evaluate_on"] or [] if not Path(name).exists() or _is_task(Path(name))]
    names = _chain(settings["chain"], None)
    probes = settings["p_ik"] is not None
    print_plan(plan_chain(names, [task, *others], settings["runs"], settings["models"], probes))


def build_parser() -> ArgumentParser:
    """The command line: the signature of `simulate`, and where its results go."""
    parser = ArgumentParser(prog="python -m cascade.simulate", description=__doc__, exit_on_error=False)
    parser.add_argument("--config", action="config", help="YAML file of these flags")
    scores = "score tables to simulate from, of any origin, or the name of a task"
    parser.add_argument("--scores", "--calibrate-on", nargs="+", type=Path, help=scores)
    others = "tasks, score tables or folders of them for the chosen policy, frozen; unlabelled without a column correct"
    parser.add_argument("--evaluate_on", "--evaluate-on", nargs="+", type=str, help=others)
    parser.add_function_arguments(simulate, skip={"scores", "evaluate_on"})
    parser.add_argument("--plan", action="store_true", help=f"of models that are run here: {PLAN_HELP}")
    parser.add_argument("--report", type=Path, help="folder for report.html, plots and tables")
    parser.add_argument("--logger", type=Literal["none", "wandb"], default="none", help="where figures go, too")
    return parser


@one_line_errors(ProbeError)
def main(args: list[str] | None = None) -> None:
    """The entry point."""
    args = sys.argv[1:] if args is None else args
    if args[:1] == ["validate"]:
        checker = ArgumentParser(prog="python -m cascade.simulate validate", exit_on_error=False)
        checker.add_argument("files", nargs="+", type=Path, help="score tables: Parquet, CSV or JSON lines")
        checker.add_function_arguments(validate, skip={"files"})
        validate(**checker.parse_args(args[1:]).as_dict())
        return
    values = build_parser().parse_args(args).as_dict()
    values.pop("config", None)
    folder, logger, planned = values.pop("report"), values.pop("logger"), values.pop("plan")
    settings = values | {"models": ChainModels(**values["models"])}
    if planned:
        _print_plan(settings)
        return
    base = settings["out"] or settings["runs"] / "simulations"
    if (own := sweep_folder(base)) != base:
        settings["out"] = own
    result = simulate(**settings)
    if stands_in := other_confidence(values["columns"] or {}):
        print(f"{stands_in} stands in P(T)'s place, and what it took is charged")
    print_report(result.report)
    print_study(result.study)
    if folder is not None:
        page = write_report(folder, result.title, result.report, result.study, result.reported_on, result.layers)
        print(f"Wrote {page}")
    if logger == "wandb":
        log_to_wandb(result, values, folder or result.folder)


if __name__ == "__main__":
    main()
