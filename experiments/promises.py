"""Are promises kept? `python -m experiments.promises`.

Draws questions from a population whose accuracy is known, asks for thresholds promised to lose at most ε, and
counts how often there is a promise (power), how often it is broken (must be at most δ of the draws), and what it
saves. The population is made up, or `--scores` of a chain of two or more models, taken for all there is.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jsonargparse import ArgumentParser
from scipy import stats
from scipy.special import expit
from tqdm import tqdm

from cascade.errors import CascadeError, one_line_errors
from cascade.policies.ledgers import pass_costs
from cascade.scores.arrays import ChainScores, ModelScores, align
from cascade.scores.columns import ModelInfo, Signals, Usage
from cascade.scores.reading import read_scores
from cascade.simulation.frontier import frontier
from cascade.simulation.guarantee import guarantee, losses


@dataclass(frozen=True)
class Kept:
    """What became of the promises of many draws: shares of the draws, and the mean share of cost saved."""

    promised: float
    broken: float
    saved: float


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


def draw(
    everyone: ChainScores, questions: int, draws: int, epsilon: float, delta: float, bound: str, seed: int = 1
) -> Kept:
    """Asks for a promise again and again, and looks up its true loss.

    Args:
        everyone: The population.
        questions: Of a draw, without replacement; half choose, half certify.
        draws: How many.
        epsilon: ε.
        delta: δ.
        bound: One of `cascade.simulation.guarantee.BOUNDS`.
        seed: Of the draws.

    Raises:
        CascadeError: If the population is smaller than a draw.
    """
    if questions > len(everyone):
        raise CascadeError(f"Expected a draw to be at most the population, {len(everyone)}, but got {questions}")
    rng = np.random.default_rng(seed)
    half, broken, saved = questions // 2, 0, []
    for _ in tqdm(range(draws), desc=f"{bound}, {questions} questions", delay=2, leave=False):
        drawn = everyone.take(rng.choice(len(everyone), questions, replace=False))
        choose_on, certify_on = drawn.take(np.arange(half)), drawn.take(np.arange(half, questions))
        found = frontier(choose_on, pass_costs(choose_on), "full-path", "P(T)")
        made = guarantee(choose_on, certify_on, found, pass_costs(certify_on), epsilon, delta, bound)
        if made.holds:
            broken += losses(everyone, [made.point]).mean() > epsilon
            saved.append(1 - made.cost)
    return Kept(len(saved) / draws, broken / draws, float(np.mean(saved)) if saved else 0.0)


@one_line_errors()
def main(args: list[str] | None = None) -> None:
    """The entry point."""
    parser = ArgumentParser(prog="python -m experiments.promises", description=__doc__, exit_on_error=False)
    parser.add_argument("--scores", nargs="+", type=Path, help="score tables of a chain to draw from")
    parser.add_argument("--chain", type=str, help="its models, smallest first, separated by commas")
    parser.add_argument("--draws", type=int, default=1000, help="draws of each size")
    parser.add_argument("--sizes", type=list[int], default=[600, 1200, 2400], help="questions of a draw")
    parser.add_argument("--epsilon", type=float, default=0.02, help="accuracy that may be lost")
    parser.add_argument("--delta", type=float, default=0.1, help="probability with which a promise may fail")
    values = parser.parse_args(args)
    if (values.scores is None) != (values.chain is None):
        raise CascadeError("Expected `scores` and `chain` together, or neither")
    everyone = align(read_scores(values.scores), values.chain.split(",")) if values.scores else population()
    most = stats.binom.ppf(0.999, values.draws, values.delta) / values.draws
    print(f"ε = {values.epsilon:g}, δ = {values.delta:g}, {values.draws} draws: broken may be up to {100 * most:.1f} %")
    for questions in values.sizes:
        for bound in ("auto", "betting", "binomial"):
            kept = draw(everyone, questions, values.draws, values.epsilon, values.delta, bound)
            print(
                f"{questions:>6} questions, {bound:>8}: promised {100 * kept.promised:5.1f} %, "
                f"broken {100 * kept.broken:4.1f} %, saved {100 * kept.saved:4.1f} %"
            )


if __name__ == "__main__":
    main()
