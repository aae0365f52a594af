"""A whole simulation: whose scores, which questions choose, what is found, and what is written of it.

What `cascade.simulate` calls. Somebody else's logs are simulated without loading torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cascade.errors import CascadeError
from cascade.policies.base import Thresholds
from cascade.policies.tuning import Goal
from cascade.probing.choice import ProbeChoice
from cascade.runtime.config import CascadeConfig
from cascade.simulation.data import Data, is_task
from cascade.tasks.load import TASKS, load_task
from probes.files import file_name, make_writable, write_atomically

if TYPE_CHECKING:
    import pyarrow as pa
    from matplotlib.figure import Figure
    from pandas import DataFrame

    from cascade.engines.base import EngineConfig
    from cascade.policies.ledgers import Prices
    from cascade.scores.arrays import ChainScores
    from cascade.simulation.simulator import Report
    from cascade.simulation.study import LayerPoint, Study

_MARKED = ("dtype", "quantization", "prompt_style", "letters")


def names_of(cascade: CascadeConfig) -> list[str]:
    """The chain's models, two or more, each once."""
    from cascade.scores.arrays import check_chain

    names = [member.name for member in cascade.members]
    check_chain(names)
    return names


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

    @property
    def figures(self) -> dict[str, Figure]:
        """The report's figures, of matplotlib, by their names, such as ``frontier``."""
        from cascade.report.figures import Plot
        from cascade.report.html import sections

        parts = sections(self.report, self.study, self.reported_on, self.layers)
        return {part.name: part.figure for section in parts for part in section.parts if isinstance(part, Plot)}

    def to_frame(self) -> DataFrame:
        """The report as a data frame of pandas: a row for each model and each chain, at the fixed thresholds.

        Raises:
            CascadeError: If pandas is not installed.
        """
        try:
            from pandas import DataFrame
        except ImportError as error:
            raise CascadeError("Expected pandas to be installed to make a data frame: pip install pandas") from error
        return DataFrame([row.to_flat() for row in (*self.report.singles, *self.report.chains)])

    def _repr_html_(self) -> str:
        """What a notebook shows: the recommendation, the ledgers, and the tables at fixed thresholds."""
        from cascade.report.html import overview

        return overview(self.title, self.report, self.study)


def simulate(
    data: Data | Any = Data(),  # noqa: B008 - frozen, as all of these
    thresholds: Thresholds = Thresholds(),  # noqa: B008
    goal: Goal = Goal(),  # noqa: B008
    cascade: CascadeConfig | str = CascadeConfig(),  # noqa: B008
    probes: ProbeChoice = ProbeChoice(),  # noqa: B008
    prices: Path | str | None = None,
    layers: bool = False,
    runs: Path | str = Path("runs"),
    out: Path | str | None = None,
) -> Simulation:
    """Simulates every single model and every sub-chain of a chain, and finds the thresholds worth having.

    Args:
        data: Which questions, and whose scores of them; or the scores themselves: a data frame of pandas, polars or
            pyarrow, a relation of DuckDB, the path of a log or of a folder of logs, or several of these.
        thresholds: Of the fixed tables. Where that of P(IK) is ``None``, no probe is trained or asked.
        goal: What is wanted of the thresholds that are found.
        cascade: The chain, where its models are run here; with score tables the order of their models, if it is given.
            A text names the models, smallest first, separated by commas.
        probes: Which probes read models that are run here and name none.
        prices: YAML of prices for dollars, such as configs/prices/table-12.yaml; by default those of ``cascade``.
        layers: Sweep the probes' layer (models that are run here only).
        runs: Folder of stores and probe runs.
        out: Folder for report.json, plot.png and the score tables; by default one under RUNS/simulations.

    Raises:
        CascadeError, ProbeError: If scores, models or settings are not what they have to be.
    """
    from cascade.policies.ledgers import read_prices
    from cascade.report.frontier_figures import plot_frontier
    from cascade.scores.arrays import check_sizes
    from cascade.scores.logs import chain_of, divide, read_logs, sizes_of
    from cascade.scores.schema import other_confidence, write_scores
    from cascade.simulation import simulator
    from cascade.simulation import study as studies
    from cascade.strict_json import strict_json

    data = data if isinstance(data, Data) else Data(scores=_sources(data))
    cascade = CascadeConfig(chain=cascade) if isinstance(cascade, str) else cascade
    runs, prices = Path(runs), None if prices is None else Path(prices)
    known, probed = cascade.prices if prices is None else read_prices(prices), thresholds.p_ik is not None
    if layers and data.scores:
        raise CascadeError("Expected `layers` for models that are run here, but got `scores`, which name one layer")
    if data.recertify is not None and not goal.promised:
        asked = f"objective {goal.objective}" if goal.objective != "cost" else f"limit {goal.limit:g}"
        raise CascadeError(f"Expected `recertify` for a promise, but of what {asked} chooses nothing is promised")
    if layers and not probed:
        raise CascadeError("Expected `p_ik` to be a threshold where `layers` sweeps the probes, but got null")
    table = read_logs(data.scores, data.columns, probed) if data.scores else None
    names = chain_of(table) if table is not None and not cascade.is_given else names_of(cascade)
    # What the policy is carried over to is read by the same probes.
    if not data.scores:
        probes = replace(probes, task=probes.task or load_task(data.task, cascade.shots).probed_on or data.task)
    own = Own(cascade, probes, runs, probed)
    marks = (*(() if data.scores else own.marks), *(() if probed else ("without-p_ik",)))
    marks += () if data.recertify is None else (f"recertified-on-{file_name(Path(data.recertify).name)}",)
    out = Path(out) if out else runs / "simulations" / "--".join(["+".join(map(file_name, names)), data.label, *marks])
    make_writable(out)
    if not cascade.any_order:
        check_sizes(own.sizes() if table is None else sizes_of(table, names), known.models if known else None)
    if table is None:
        table = own.scores(data.task)
        if not probed and data.split is None and "split" in table.column_names:
            table = table.drop_columns(["split"])  # nothing was trained on any of them
    choose_on, report_on, whole = divide(table, names, data.split, data.normalize)
    # Where a validation part chooses, the test part certifies, as no probe was fitted to it; else all questions do.
    certify_on = None if whole is report_on else whole
    if data.recertify is not None:
        choose_on, report_on, certify_on = whole, _other("recertify", data.recertify, names, data, own), None
        _check_certifying(data.recertify, report_on, choose_on)
    others = {name: _other("evaluate_on", name, names, data, own) for name in data.evaluate_on or []}
    fixed = simulator.report(whole, thresholds, known)
    found = studies.study(choose_on, report_on, goal, known, others, certify_on=certify_on)
    swept = _sweep_layers(names, data, goal, known, own) if layers else ()
    for name in names:
        write_scores(table, name, out / "scores" / f"{file_name(name)}.parquet")
    what = f"{len(whole):,} questions" if data.scores else f"{data.task}, {len(whole):,} questions"
    # Live, P(T) is P(T): a policy on anything else must not be run as if it were.
    stands_in = other_confidence(data.columns or {}) if data.scores else None
    what += f", {stands_in} in P(T)'s place" if stands_in else ""
    result = Simulation(f"{' → '.join(names)} on {what}", fixed, found, found.reported, tuple(swept), out)
    values = fixed.to_json() | {"study": found.to_json()} | ({"p_t": stands_in} if stands_in else {})
    if not data.scores and probed:
        values["probe_layers"] = _probe_layers(table)
    write_atomically(out / "report.json", strict_json(values).encode())
    plot_frontier(out / "plot.png", fixed, result.title)
    return result


def _sources(given: Any) -> list[Any]:
    """Paths and data frames, of which there may be one."""
    from cascade.scores.readers.frames import is_frame

    several = list(given) if isinstance(given, list | tuple) else [given]
    if odd := [source for source in several if not isinstance(source, str | Path) and not is_frame(source)]:
        raise CascadeError(f"Expected `data` to be Data, a data frame or a path, but got {type(odd[0]).__name__}")
    return [Path(source) if isinstance(source, str) else source for source in several]


@dataclass(frozen=True)
class Own:
    """Models that are run here.

    Attributes:
        cascade: Which.
        probes: Which probes read those that name none.
        runs: Folder of stores and probe runs.
        probed: Whether P(IK) is asked at all.
    """

    cascade: CascadeConfig
    probes: ProbeChoice
    runs: Path
    probed: bool

    @property
    def marks(self) -> tuple[str, ...]:
        """What answers and probes depend on and is not as by default, for the name of a folder."""
        named = () if self.cascade.name == CascadeConfig.name else (file_name(self.cascade.name),)
        each = (str(self.cascade.each[name]) for name in _MARKED if name in self.cascade.each)
        shots = (f"{self.cascade.shots}-shot",) if self.cascade.shots else ()
        return (*named, *each, *shots, *(() if self.probes.layer is None else (f"layer-{self.probes.layer}",)))

    @property
    def chain(self) -> list[EngineConfig]:
        """Settings of the engines."""
        return [member.settings for member in self.cascade.members]

    # Imports wait, so that somebody else's logs are simulated without loading torch.
    def scores(self, task: str, depth: float | None = None) -> pa.Table:
        """The models' scores of a task, with the P(IK) of their probes.

        Args:
            task: Name of the task, or a file of questions and answers.
            depth: How far up each model the probes read, in (0, 1]; by default as ``probes`` says.
        """
        from cascade.probing.chain import own_scores
        from cascade.runtime.build import named_probes

        named = named_probes(self.cascade.members) if self.probed and depth is None else {}
        return own_scores(self.chain, task, self.runs, depth, self.probes, self.probed, named, self.cascade.shots)

    def sizes(self) -> list[tuple[str, int | None]]:
        """Each model's name and parameters, none of them loaded."""
        from cascade.probing.chain import own_models

        return [(model.name, model.parameters) for model in own_models(self.chain)]

    def depths(self) -> list[int]:
        """Decoder blocks of all the models but the last."""
        from cascade.probing.chain import own_models

        return [model.num_layers for model in own_models(self.chain)[:-1]]


def _probe_layers(table: pa.Table) -> dict[str, int]:
    """The layer that each model's probe reads, of the models that have one: a live run takes the same."""
    if "probe_layer" not in table.column_names:
        return {}
    pairs = zip(table["model"].to_pylist(), table["probe_layer"].to_pylist(), strict=True)
    return {model: layer for model, layer in pairs if layer is not None}


def _check_certifying(name: str, certify_on: ChainScores, choose_on: ChainScores) -> None:
    """Refuses questions that have no labels, or whose labels choose what they are to certify.

    Questions of two data sets may go by the same ids. They are the same where all that share an id share all scores.
    """
    import numpy as np

    if not certify_on.labelled:
        raise CascadeError(f"Expected `recertify` to name labelled questions, but {name} has no labels")
    there = {id: row for row, id in enumerate(choose_on.question_ids)}
    rows = [(row, there[id]) for row, id in enumerate(certify_on.question_ids) if id in there]
    if not rows:
        return
    here, same = np.array(rows).T
    ours, theirs = certify_on.take(here), choose_on.take(same)
    alike = (
        np.array_equal(one.correct, other.correct)
        and all(
            np.array_equal(getattr(one.signals, name), getattr(other.signals, name))
            for name in one.signals.known & other.signals.known
        )
        for one, other in zip(ours.models, theirs.models, strict=True)
    )
    if all(alike):
        raise CascadeError(
            f"Expected `recertify` to name questions that are not among those that choose, but {len(rows):,} of {name} "
            f"are, such as {ours.question_ids[0]!r}"
        )


def _other(flag: str, name: str, names: Sequence[str], data: Data, own: Own) -> ChainScores:
    """Other data for a frozen policy: a task, a score table, or a folder of them, as a flag names it."""
    from cascade.scores.logs import other_part, read_other_logs

    path = Path(name)
    if path.exists() and not is_task(path):
        table, labelled = read_other_logs(path, data.columns, own.probed)
    elif is_task(path):
        table, labelled = own.scores(name), True
    else:
        raise CascadeError(
            f"Expected `{flag}` to name a task ({', '.join(TASKS)}), a file of questions, a score table "
            f"or a folder of them, but got {name!r}"
        )
    return other_part(table, names, data.normalize, labelled)


def _sweep_layers(names: Sequence[str], data: Data, goal: Goal, prices: Prices | None, own: Own) -> list[LayerPoint]:
    """The goal's best in the early-exit ledger, for probes at each depth of the deepest model that has one."""
    from cascade.scores.logs import divide
    from cascade.simulation.study import layer_point

    depths, found = own.depths(), []
    for layer in range(1, max(depths) + 1):
        share = layer / max(depths)
        choose_on, report_on, _ = divide(own.scores(data.task, share), names, data.split, data.normalize)
        found.append(layer_point(choose_on, report_on, goal, [max(1, round(share * d)) for d in depths], share, prices))
    return found
