"""How long the frontier takes: `python -m experiments.benchmarks.frontier`.

Two models: the exact optimum over both thresholds at one price, indexing included. Three models: accuracy and
cost of all combinations of 32 quantile levels. Beside each a plain NumPy loop over thresholds, timed on some of
them and scaled up. For two models also, in seconds of CPU: the whole convex frontier, in turn with the same by sweeps
over all questions at every price, and the cheapest pair of thresholds above a floor. For three models also, in seconds
of CPU: the certification of every sub-chain's ladder of thresholds on P(T), the exact critical value included, and of
all ladders of thresholds, those on P(IK) too. Medians; the last line is the figures as JSON.
"""

from __future__ import annotations

import json
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
from jsonargparse import ArgumentParser
from tqdm import tqdm

from cascade.errors import one_line_errors
from cascade.policies.base import Thresholds
from cascade.policies.ledgers import pass_costs
from cascade.policies.thresholds import ThresholdPolicy
from cascade.policies.tuning import Goal
from cascade.scores.arrays import ChainScores, ModelScores
from cascade.scores.columns import ModelInfo, Signals, Usage
from cascade.simulation import window
from cascade.simulation.chain_search import ChainSearch
from cascade.simulation.climbing import certify
from cascade.simulation.frontier import choose, frontier
from cascade.simulation.simulator import play, spent
from cascade.simulation.tuning import StudyTuner
from cascade.statistics.tango import critical_value

PRICE = 0.2
LOOP = 20  # thresholds that the plain loop is timed on


def made_up(models: int, questions: int, seed: int = 0) -> ChainScores:
    """Scores with as many distinct confidences as questions."""
    rng = np.random.default_rng(seed)
    ease, made = rng.normal(size=questions), []
    for i in range(models):
        odds = 2 * ease + i
        p_t, p_ik = 1 / (1 + np.exp(-(odds + rng.normal(size=(2, questions)))))
        right = rng.random(questions) < 1 / (1 + np.exp(-odds))
        info = ModelInfo(f"m{i}", parameters=10**i, exit_share=0.75)
        made.append(ModelScores(info, Signals(questions, p_t, p_ik), Usage(questions), right))
    return ChainScores(tuple(map(str, range(questions))), tuple(made))


def seconds(run: Callable[[], object], repeats: int) -> float:
    """Median time of a call."""
    taken = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        taken.append(time.perf_counter() - start)
    return median(taken)


def whole_frontier(chain: ChainScores, repeats: int) -> dict[str, float]:
    """Median seconds of CPU of the convex frontier of two models, with and without bounds, and of a floor."""
    costs = pass_costs(chain)
    taken: dict[str, list[float]] = {"frontier": [], "by_sweeps": [], "floor": []}
    small = window.SMALL
    try:
        for _ in range(repeats + 1):
            for name, smallest in (("frontier", small), ("by_sweeps", 4 * len(chain))):
                window.SMALL = smallest
                start = time.process_time()
                found = frontier(chain, costs, "early-exit")
                taken[name].append(time.process_time() - start)
            window.SMALL = small
            floor = (found.vertices[0].accuracy + found.vertices[-1].accuracy) / 2
            start = time.process_time()
            choose(found, "cost", floor)
            taken["floor"].append(time.process_time() - start)
    finally:
        window.SMALL = small
    return {f"{name}_cpu_seconds": median(values[1:]) for name, values in taken.items()}


def certifying(chain: ChainScores, repeats: int) -> dict[str, float]:
    """Median seconds of CPU to certify every sub-chain's ladder on P(T), and all ladders of thresholds; how many."""
    costs, goal = pass_costs(chain), Goal()
    ladders = list(ThresholdPolicy.ladders(StudyTuner(chain, costs, goal)))
    found: dict[str, float] = {}
    for name, some in (("p_t", [one for one in ladders if one.name == "P(T)"]), ("all", ladders)):
        taken = []
        for _ in range(repeats):
            critical_value.cache_clear()
            start = time.process_time()
            for ladder in some:
                certify(ladder.tally(chain, costs, goal.ledger), goal.loss, goal.delta)
            taken.append(time.process_time() - start)
        found |= {f"ladders_{name}": len(some), f"certify_{name}_cpu_seconds": median(taken)}
    return found


def peak_mib(run: Callable[[], object]) -> float:
    """Largest memory allocated during a call, beyond what was there before."""
    tracemalloc.start()
    run()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / 2**20


def measure(models: int, questions: int, repeats: int) -> dict[str, float]:
    """One size: the optimum at a price (two models) or the grid (more), and the loop."""
    chain = made_up(models, questions)
    costs, places = pass_costs(chain), tuple(range(models))

    def search() -> ChainSearch:
        return ChainSearch(chain, costs, places, "P(IK) + P(T)", "early-exit")

    def ours() -> object:
        return search().polish(PRICE, [(0.0, 0.0)]) if models == 2 else search().grid()

    rng = np.random.default_rng(1)

    def loop() -> None:
        for _ in range(LOOP):
            policy = ThresholdPolicy.whole([Thresholds(*rng.random(2)) for _ in places[1:]])
            played = play(chain, policy)
            played.correct.mean(), spent(chain, policy, played.outcome, costs, "early-exit").mean()

    ours()  # compiled and warm
    found = {"models": models, "questions": questions, "seconds": seconds(ours, repeats), "peak_mib": peak_mib(ours)}
    found["combinations"] = questions**2 if models == 2 else search().grid()[0].size
    found["loop_seconds_each"] = seconds(loop, 1) / LOOP
    if models == 2:
        found |= whole_frontier(chain, repeats)
    if models == 3:
        found |= certifying(chain, repeats)
    return found


def plot(rows: list[dict[str, float]], path: Path) -> None:
    """Time and memory against the number of questions, a line for each number of models."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for models in sorted({row["models"] for row in rows}):
        mine = [row for row in rows if row["models"] == models]
        what = "exact at a price" if models == 2 else "grid"
        for axis, column in zip(axes, ("seconds", "peak_mib"), strict=True):
            x = [row["questions"] for row in mine]
            axis.loglog(x, [row[column] for row in mine], marker="o", label=f"k = {models:g}, {what}")
    for axis, label in zip(axes, ("seconds", "peak memory, MiB"), strict=True):
        axis.set(xlabel="questions", ylabel=label)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)


@one_line_errors()
def main(args: list[str] | None = None) -> None:
    """The entry point."""
    parser = ArgumentParser(prog="python -m experiments.benchmarks.frontier", description=__doc__, exit_on_error=False)
    parser.add_argument("--sizes", type=list[int], default=[10_000, 100_000, 1_000_000], help="numbers of questions")
    parser.add_argument("--models", type=list[int], default=[2, 3, 4], help="lengths of chains")
    parser.add_argument("--repeats", type=int, default=5, help="of each measurement; medians are shown")
    parser.add_argument("--plot", type=Path, default=Path("experiments/figures/frontier_speed.png"), help="PNG file")
    values = parser.parse_args(args)
    sizes = [(k, n) for k in values.models for n in values.sizes]
    rows = [measure(k, n, values.repeats) for k, n in tqdm(sizes, desc="sizes")]
    for row in rows:
        loop = row["loop_seconds_each"] * row["combinations"]
        print(
            f"k = {row['models']}, N = {row['questions']:>9,}: {row['seconds']:.3f} s, {row['peak_mib']:.0f} MiB for "
            f"{row['combinations']:.3g} combinations; loop: {row['loop_seconds_each']:.4f} s each, {loop:.3g} s in all"
        )
        if row["models"] == 2:
            whole, sweeps, floor = (row[f"{name}_cpu_seconds"] for name in ("frontier", "by_sweeps", "floor"))
            print(
                f"    the whole frontier: {whole:.3f} s of CPU; by sweeps over all: {sweeps:.3f} s, "
                f"{sweeps / whole:.1f} times as long; the cheapest above a floor: {floor:.3f} s"
            )
        if row["models"] == 3:
            of_p_t, of_all = row["certify_p_t_cpu_seconds"], row["certify_all_cpu_seconds"]
            print(
                f"    certified: {row['ladders_p_t']} ladders of P(T) in {of_p_t:.3f} s of CPU, "
                f"all {row['ladders_all']} in {of_all:.3f} s"
            )
    plot(rows, values.plot)
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
