"""Are promises kept, and what are they worth? `python -m experiments.promises`.

Draws questions from a chain's logs, taken for all the questions there are, so that the true loss of every policy is
known. Counts how often a rule loses more than ε there (a promise: at most δ of the draws), what it saves, and how often
it gives up. Three rules stand side by side:

- *no promise*: the cheapest thresholds that lose at most ε on the draw itself;
- *on halves*: Pareto Testing, one half to choose and the other to certify (`experiments.pareto_testing`);
- *promised*: what `cascade.simulate` recommends.

Chains of real models come from `python -m experiments.real_logs FOLDER`; without them a made-up chain stands alone.
A cell that was drawn before is not drawn again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from jsonargparse import ArgumentParser
from scipy import stats
from scipy.special import expit
from tqdm import tqdm

from cascade.errors import one_line_errors
from cascade.policies.base import LivePolicy
from cascade.policies.ledgers import pass_costs
from cascade.policies.tuning import Goal
from cascade.report.names import short_names
from cascade.scores.arrays import ChainScores, ModelScores, align
from cascade.scores.columns import ModelInfo, Signals, Usage
from cascade.scores.reading import read_scores
from cascade.simulation.frontier import choose, frontier
from cascade.simulation.guarantee import certification
from cascade.simulation.simulator import play, spent
from experiments.pages import write_blocks
from experiments.pareto_testing import pareto_testing
from probes.files import file_name, write_atomically

CHAINS = (
    "Qwen-14B,Qwen-72B",
    "Qwen-7B,Qwen-72B",
    "Qwen3-4B-f16,Qwen3-14B-f16",
    "Qwen-7B,Qwen-14B,Qwen-72B",
    "Qwen3-4B-f16,Qwen3-8B-f16,Qwen3-14B-f16",
    "Llama-2-7b,Llama-2-13b,Llama-2-70b",
)
LEDGER = "full-path"
Rule = Callable[[ChainScores, float, float], LivePolicy | None]


@dataclass(frozen=True)
class Kept:
    """What became of a rule over many draws: shares of the draws, and the mean share of cost saved in truth."""

    broken: float
    saved: float
    given_up: float


def population(questions: int = 40_000, seed: int = 0) -> ChainScores:
    """A small model whose P(T) is informative, and a large one that is right more often."""
    rng = np.random.default_rng(seed)
    ease = rng.normal(size=questions)
    small, large = (rng.random(questions) < expit(2.5 * ease + shift) for shift in (0.5, 2.5))
    p_t = expit(2.5 * ease + 0.5 + rng.normal(size=questions))
    models = (
        ModelScores(ModelInfo("small", parameters=10), Signals(questions, p_t), Usage(questions), small),
        ModelScores(ModelInfo("large", parameters=100), Signals(questions), Usage(questions), large),
    )
    return ChainScores(tuple(map(str, range(questions))), models)


def unpromised(drawn: ChainScores, epsilon: float, delta: float) -> LivePolicy | None:
    """The cheapest thresholds that lose at most ε on the draw itself."""
    found = frontier(drawn, pass_costs(drawn), LEDGER, "P(T)")
    return choose(found, "cost", float(drawn.models[-1].correct.mean()) - epsilon).policy


def on_halves(drawn: ChainScores, epsilon: float, delta: float) -> LivePolicy | None:
    """Pareto Testing."""
    half = len(drawn) // 2
    return pareto_testing(drawn.take(np.arange(half)), drawn.take(np.arange(half, len(drawn))), LEDGER, epsilon, delta)


def promised(drawn: ChainScores, epsilon: float, delta: float) -> LivePolicy | None:
    """What `cascade.simulate` recommends for logs without parts; ``None`` for the last model alone."""
    made = certification(drawn, pass_costs(drawn), Goal(ledger=LEDGER, epsilon=epsilon, delta=delta), None, None)
    found = made.found
    return None if found is None or found.rung is None else made.policy(found)


RULES: dict[str, Rule] = {"no promise": unpromised, "on halves": on_halves, "promised": promised}


def truth(everyone: ChainScores, policy: LivePolicy) -> tuple[float, float]:
    """A policy's loss against the last model and its cost, as shares, on all questions there are."""
    played, costs = play(everyone, policy), pass_costs(everyone)
    cost = spent(everyone, policy, played.outcome, costs, LEDGER).sum() / costs.whole[-1].sum()
    return float(everyone.models[-1].correct.mean() - played.correct.mean()), float(cost)


def draw(
    everyone: ChainScores, rule: Rule, questions: int, draws: int, epsilon: float, delta: float, seed: int = 1
) -> Kept:
    """Applies a rule again and again, and looks up the true loss of what it chose.

    Args:
        everyone: The population.
        rule: One of `RULES`.
        questions: Of a draw, with replacement.
        draws: How many.
        epsilon: ε.
        delta: δ.
        seed: Of the draws, the same for every rule.
    """
    rng, broken, saved, given_up = np.random.default_rng(seed), 0, 0.0, 0
    seen: dict[LivePolicy, tuple[float, float]] = {}
    ids = tuple(map(str, range(questions)))
    for _ in tqdm(range(draws), desc=f"{questions} questions", delay=2, leave=False):
        drawn = replace(everyone.take(rng.integers(len(everyone), size=questions)), question_ids=ids)
        policy = rule(drawn, epsilon, delta)
        if policy is None:
            given_up += 1
            continue
        loss, cost = seen[policy] if policy in seen else seen.setdefault(policy, truth(everyone, policy))
        broken, saved = broken + (loss > epsilon), saved + 1 - cost
    return Kept(broken / draws, saved / draws, given_up / draws)


def best(everyone: ChainScores, epsilon: float) -> float:
    """The share of cost that the cheapest thresholds save which truly lose at most ε."""
    policy = unpromised(everyone, epsilon, 0.0)
    assert policy is not None
    return 1 - truth(everyone, policy)[1]


def populations(folder: Path, miniature: Path | None) -> dict[str, ChainScores]:
    """By its models, each chain whose logs are there; a made-up one where none is."""
    found = {}
    for chain in CHAINS:
        names = chain.split(",")
        files = [folder / f"{file_name(name)}.parquet" for name in names]
        if all(file.exists() for file in files):
            short = short_names(names)
            label = f"{names[0].split('-')[0]} {' → '.join(short[name] for name in names)}"
            found[label] = align(read_scores(files), names)
    if miniature is not None:
        from cascade.studies import simulate

        found["miniature"] = simulate(runs=miniature).reported_on
    return found or {"made up": population()}


def table(
    everyone: Mapping[str, ChainScores], sizes: Sequence[int], draws: int, epsilon: float, delta: float, kept: Path
) -> Iterator[str]:
    """The lines of the table in Markdown, each when its draws are done.

    Args:
        everyone: Populations by name.
        sizes: Questions of a draw.
        draws: How many.
        epsilon: ε.
        delta: δ.
        kept: A JSON file of what was drawn before, and is drawn now.
    """
    kept.parent.mkdir(parents=True, exist_ok=True)
    done: dict[str, dict[str, float]] = json.loads(kept.read_text()) if kept.exists() else {}
    yield f"| chain | questions | {' | '.join(RULES)} | best |"
    yield f"|---|---:|{'---:|' * (len(RULES) + 1)}"
    for label, chain in everyone.items():
        there_is = best(chain, epsilon)
        for questions in sizes:
            cells = []
            for name, rule in RULES.items():
                key = f"{label}, {questions}, {name}, {epsilon:g}, {delta:g}, {draws}"
                if key not in done:
                    done[key] = asdict(draw(chain, rule, questions, draws, epsilon, delta))
                    write_atomically(kept, json.dumps(done, indent=1).encode())
                cells.append(" / ".join(f"{100 * share:.1f}" for share in done[key].values()))
            yield f"| {label} | {questions:,} | {' | '.join(cells)} | {100 * there_is:.1f} |"


def summary(lines: Sequence[str], questions: int = 1000) -> str:
    """Of the lines of `table`, those of real models at one size: what the promise saves, and how often it is broken."""
    rows = [line.strip("| ").split(" | ") for line in lines[2:]]
    kept = [row for row in rows if row[1] == f"{questions:,}" and row[0] != "miniature"]
    made = ["| chain | saved by the promise | promise broken | most that could be saved |", "|---|---:|---:|---:|"]
    for chain, *_, promised, most in kept:
        broken, saved, _ = promised.split(" / ")
        made.append(f"| {chain} | {saved} % | {broken} % | {most} % |")
    return "\n".join(made)


@one_line_errors()
def main(args: list[str] | None = None) -> None:
    """The entry point."""
    parser = ArgumentParser(prog="python -m experiments.promises", description=__doc__, exit_on_error=False)
    parser.add_argument("--scores", type=Path, default=Path("runs/real"), help="folder of score tables of real models")
    parser.add_argument("--miniature", type=Path, help="folder of runs of the miniature, made where it is not there")
    parser.add_argument("--draws", type=int, default=1000, help="draws of each size")
    parser.add_argument("--sizes", type=list[int], default=[400, 1000, 4000], help="questions of a draw")
    parser.add_argument("--epsilon", type=float, default=0.01, help="accuracy that may be lost")
    parser.add_argument("--delta", type=float, default=0.1, help="probability with which a promise may fail")
    parser.add_argument("--out", type=Path, default=Path("runs/promises.json"), help="where the counts are kept")
    parser.add_argument("--readme", type=bool, default=False, help="write the tables of the README and of docs/, too")
    values = parser.parse_args(args)
    most = stats.binom.ppf(0.999, values.draws, values.delta) / values.draws
    print(
        f"ε = {values.epsilon:g}, δ = {values.delta:g}, {values.draws} draws: a promise kept with probability "
        f"{1 - values.delta:g} is broken in at most {100 * most:.1f} % of them, but for one case in a thousand.\n"
        f"broken / saved / given up, in %, and the most that could be saved\n"
    )
    everyone = populations(values.scores, values.miniature)
    lines = []
    for line in table(everyone, values.sizes, values.draws, values.epsilon, values.delta, values.out):
        print(line, flush=True)
        lines.append(line)
    if values.readme:
        for page in write_blocks({"promises": "\n".join(lines), "real": summary(lines)}):
            print(f"Wrote {page}")


if __name__ == "__main__":
    main()
