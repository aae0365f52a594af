"""Simulates cascades: `python -m cascade.simulate`.

Without `--scores`: the miniature chain, scored and probed where that is missing. With `--scores FILE...`:
anybody's score tables, and nothing of torch is loaded.
"""

from __future__ import annotations

from pathlib import Path

from jsonargparse import ArgumentParser

from cascade.errors import one_line_errors
from cascade.report.frontier_figures import plot_frontier
from cascade.report.strict_json import strict_json
from cascade.report.tables import print_report
from cascade.simulation.policy import Thresholds
from cascade.simulation.schema import read_scores, write_scores
from cascade.simulation.scores import align, check_chain
from cascade.simulation.simulator import Report, report
from probes.errors import ProbeError
from probes.files import file_name, write_atomically

DEFAULT_CHAIN = "mini-llama-small,mini-llama-medium,mini-llama-large"


def simulate(
    chain: str = DEFAULT_CHAIN,
    scores: list[Path] | None = None,
    task: str = "mini-mmlu",
    p_t: float = 0.9,
    p_ik: float = 0.5,
    normalize: bool = False,
    split: str | None = None,
    runs: Path = Path("runs"),
    out: Path | None = None,
) -> Report:
    """Simulates every single model and every sub-chain of a chain.

    Args:
        chain: Models, smallest first, separated by commas.
        scores: Score tables (Parquet) to simulate from; without them the models are run where needed.
        task: Task to simulate on, where the models are run. Probes are always those trained on mini-mmlu, so
            any other task is out of distribution.
        p_t: P(T) threshold; below it a question moves on.
        p_ik: P(IK) threshold; below it a question moves on.
        normalize: Read P(T) renormalised over the options instead of raw.
        split: Only questions of this split; by default the test split of the probes' own task, else all.
        runs: Folder of stores and probe runs.
        out: Folder for report.json, plot.png and the score tables; by default one under RUNS/simulations.
    """
    thresholds = Thresholds(p_t=p_t, p_ik=p_ik)
    names = [name.strip() for name in chain.split(",") if name.strip()]
    check_chain(names)
    out = out or runs / "simulations" / f"{'+'.join(map(file_name, names))}--{'scores' if scores else task}"
    out.mkdir(parents=True, exist_ok=True)
    if scores:
        table = read_scores(scores)
    else:
        # Here and not above, so that somebody else's logs are simulated without loading torch.
        from cascade.probing import PROBED_TASK, own_scores

        table = own_scores(names, task, runs)
        split = "test" if split is None and task == PROBED_TASK else split
    result = report(align(table, names, split, normalize), thresholds)
    for name in names:
        write_scores(table, name, out / "scores" / f"{file_name(name)}.parquet")
    write_atomically(out / "report.json", strict_json(result.to_json()).encode())
    what = f"{task}, {result.questions:,} questions" if not scores else f"{result.questions:,} questions"
    plot_frontier(out / "plot.png", result, f"{' → '.join(names)} on {what}")
    return result


@one_line_errors(ProbeError)
def main(args: list[str] | None = None) -> None:
    """The entry point."""
    parser = ArgumentParser(prog="python -m cascade.simulate", description=__doc__, exit_on_error=False)
    parser.add_argument("--config", action="config", help="YAML file of these flags")
    parser.add_argument("--scores", nargs="+", type=Path, help="score tables (Parquet) to simulate from, of any origin")
    parser.add_function_arguments(simulate, skip={"scores"})
    values = parser.parse_args(args)
    values.pop("config", None)
    result = simulate(**values.as_dict())
    print_report(result)


if __name__ == "__main__":
    main()
