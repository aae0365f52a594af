"""A whole simulation: whose scores, which questions choose, what is found, and what is written of it.

What `cascade.simulate` calls. Somebody else's logs are simulated without loading torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from cascade.engines.chain import ChainModels
from cascade.errors import CascadeError
from cascade.policies.base import Thresholds
from cascade.policies.tuning import Goal
from cascade.tasks.files import holds_questions
from cascade.tasks.load import PROBED_ON, TASK_NAMES
from probes.files import file_name, write_atomically

if TYPE_CHECKING:
    import pyarrow as pa

    from cascade.policies.ledgers import Prices
    from cascade.scores.arrays import ChainScores
    from cascade.simulation.simulator import Report
    from cascade.simulation.study import LayerPoint, Study

DEFAULT_CHAIN = "mini-llama-small,mini-llama-medium,mini-llama-large"


@dataclass(frozen=True)
class Data:
    """What is simulated on.

    Attributes:
        chain: Models, smallest first, separated by commas; by default the miniature Llamas, or all models of
            SCORES by their parameters.
        scores: Score tables to simulate from; without them, or with the name of a task, the models are run where
            needed.
        columns: From the schema's names to those of SCORES, where they differ, as --columns.p_t=confidence.
        task: Task to simulate on, where the models are run, or a file of questions and answers (JSON lines, CSV).
            Probes are trained on it; those of mini-gpqa and mini-popqa on mini-mmlu, those of gpqa on mmlu.
        evaluate_on: More data for the chosen policy, everything frozen: tasks, score tables, or folders of these.
            Without a column correct they are taken for unlabelled logs.
        split: Only questions of this split (not of EVALUATE_ON, whose test part is taken where there is one). By
            default thresholds are found on validation and all is reported on test; scores without these splits are
            halved by the questions' ids, training questions left out.
        normalize: Read P(T) renormalised over the options instead of raw.
    """

    chain: str | None = None
    scores: list[Path] | None = None
    columns: dict[str, str] | None = None
    task: str = "mini-mmlu"
    evaluate_on: list[str] | None = None
    split: str | None = None
    normalize: bool = False

    def __post_init__(self) -> None:
        if self.scores and is_task(self.scores[0]):  # given in the place of score tables
            task, *more = map(str, self.scores)
            if more:
                raise CascadeError(f"Expected one task to calibrate on, but got {task}, {', '.join(more)}")
            object.__setattr__(self, "task", task)
            object.__setattr__(self, "scores", None)

    @property
    def names(self) -> list[str]:
        """The chain as it was given, or the miniature Llamas."""
        from cascade.scores.arrays import check_chain

        names = [name.strip() for name in (self.chain or DEFAULT_CHAIN).split(",") if name.strip()]
        check_chain(names)
        return names

    @property
    def label(self) -> str:
        """For the name of a folder."""
        return "scores" if self.scores else file_name(self.task if self.task in TASK_NAMES else Path(self.task).name)


def is_task(data: Path) -> bool:
    """Whether a path is the name of a task, or a file of questions, and not of scores."""
    return holds_questions(data) if data.exists() else str(data) in TASK_NAMES


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
    data: Data = Data(),
    thresholds: Thresholds = Thresholds(),  # noqa: B008
    goal: Goal = Goal(),  # noqa: B008
    models: ChainModels = ChainModels(),  # noqa: B008
    prices: Path | None = None,
    layers: bool = False,
    runs: Path = Path("runs"),
    out: Path | None = None,
) -> Simulation:
    """Simulates every single model and every sub-chain of a chain, and finds the thresholds worth having.

    Args:
        data: Whose scores, and which of them.
        thresholds: Of the fixed tables. Where that of P(IK) is ``None``, no probe is trained or asked.
        goal: What is wanted of the thresholds that are found.
        models: How models that are run here are loaded and probed.
        prices: YAML of prices for dollars, such as configs/prices/table-12.yaml.
        layers: Sweep the probes' layer (models that are run here only).
        runs: Folder of stores and probe runs.
        out: Folder for report.json, plot.png and the score tables; by default one under RUNS/simulations.

    Raises:
        CascadeError, ProbeError: If scores, models or settings are not what they have to be.
    """
    from cascade.policies.ledgers import read_prices
    from cascade.report.frontier_figures import plot_frontier
    from cascade.scores.logs import chain_of, divide, read_logs
    from cascade.scores.schema import other_confidence, write_scores
    from cascade.simulation import simulator
    from cascade.simulation import study as studies
    from cascade.strict_json import strict_json

    known, probes = None if prices is None else read_prices(prices), thresholds.p_ik is not None
    if layers and data.scores:
        raise CascadeError("Expected `layers` for models that are run here, but got `scores`, which name one layer")
    if layers and not probes:
        raise CascadeError("Expected `p_ik` to be a threshold where `layers` sweeps the probes, but got null")
    table = read_logs(data.scores, data.columns, probes) if data.scores else None
    names = chain_of(table) if table is not None and data.chain is None else data.names
    # What the policy is carried over to is read by the same probes.
    models = (
        models if data.scores else replace(models, probe_task=models.probe_task or PROBED_ON.get(data.task, data.task))
    )
    marks = (*(() if data.scores else models.marks), *(() if probes else ("without-p_ik",)))
    out = out or runs / "simulations" / "--".join(["+".join(map(file_name, names)), data.label, *marks])
    out.mkdir(parents=True, exist_ok=True)
    if table is None:
        table = _own_scores(names, data.task, runs, models, probes)
        if not probes and data.split is None and "split" in table.column_names:
            table = table.drop_columns(["split"])  # nothing was trained on any of them
    choose_on, report_on, whole = divide(table, names, data.split, data.normalize)
    others = {name: _other(name, names, runs, data, models, probes) for name in data.evaluate_on or []}
    fixed = simulator.report(whole, thresholds, known)
    found = studies.study(choose_on, report_on, goal, known, others)
    swept = _sweep_layers(names, data, runs, goal, known, models) if layers else ()
    for name in names:
        write_scores(table, name, out / "scores" / f"{file_name(name)}.parquet")
    what = f"{len(whole):,} questions" if data.scores else f"{data.task}, {len(whole):,} questions"
    # Live, P(T) is P(T): a policy on anything else must not be run as if it were.
    stands_in = other_confidence(data.columns or {}) if data.scores else None
    what += f", {stands_in} in P(T)'s place" if stands_in else ""
    result = Simulation(f"{' → '.join(names)} on {what}", fixed, found, found.reported, tuple(swept), out)
    values = fixed.to_json() | {"study": found.to_json()} | ({"p_t": stands_in} if stands_in else {})
    write_atomically(out / "report.json", strict_json(values).encode())
    plot_frontier(out / "plot.png", fixed, result.title)
    return result


def _own_scores(names: Sequence[str], task: str, runs: Path, models: ChainModels, probes: bool) -> pa.Table:
    # Here and not above, so that somebody else's logs are simulated without loading torch.
    from cascade.probing.chain import own_scores

    return own_scores(names, task, runs, settings=models, probes=probes)


def _other(name: str, names: Sequence[str], runs: Path, data: Data, models: ChainModels, probes: bool) -> ChainScores:
    """Other data for a frozen policy: a task, a score table, or a folder of them."""
    from cascade.scores.logs import other_part, read_other_logs

    path = Path(name)
    if path.exists() and not is_task(path):
        table, labelled = read_other_logs(path, data.columns, probes)
    elif is_task(path):
        table, labelled = _own_scores(names, name, runs, models, probes), True
    else:
        raise CascadeError(
            f"Expected `evaluate_on` to name a task ({', '.join(TASK_NAMES)}), a file of questions, a score table "
            f"or a folder of them, but got {name!r}"
        )
    return other_part(table, names, data.normalize, labelled)


def _sweep_layers(
    names: Sequence[str], data: Data, runs: Path, goal: Goal, prices: Prices | None, models: ChainModels
) -> list[LayerPoint]:
    """The goal's best in the early-exit ledger, for probes at each depth of the deepest model that has one."""
    from cascade.probing.chain import own_models, own_scores
    from cascade.scores.logs import divide
    from cascade.simulation.study import layer_point

    depths = [model.num_layers for model in own_models(names, models)[:-1]]
    found = []
    for layer in range(1, max(depths) + 1):
        share = layer / max(depths)
        table = own_scores(names, data.task, runs, share, models)
        choose_on, report_on, _ = divide(table, names, data.split, data.normalize)
        found.append(layer_point(choose_on, report_on, goal, [max(1, round(share * d)) for d in depths], share, prices))
    return found
