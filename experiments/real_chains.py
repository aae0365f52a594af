"""What cascades of real models save, ledger by ledger: `python -m experiments.real_chains`.

Run `python -m experiments.real_logs FOLDER` first. For each chain and ledger: the thresholds that all questions certify
(ε = 0.01, δ = 0.1), and what they save on questions that did not certify them; and beside these the cheapest thresholds
at most one point below the last model on one half of the questions, of which nothing is promised, and what they do on
the other. These logs have no P(IK): early-exit would be full-path but for a first token.
"""

from __future__ import annotations

from pathlib import Path

from jsonargparse import ArgumentParser

from cascade.errors import one_line_errors
from cascade.policies.ledgers import Prices, read_prices
from cascade.report.names import short_names
from cascade.scores.arrays import align, parts
from cascade.scores.reading import read_scores
from cascade.simulation.study import Study, study
from cascade.simulation.tuning import Goal
from cascade.statistics.significance import Interval
from probes.files import file_name, write_atomically

PRICES = Path(__file__).parents[1] / "configs/prices/table-12.yaml"
# The paper's prices, for models of the sizes that it gives prices for.
PRICED_AS = {
    "Llama-2-70b--mmlu": "Llama-3.3-70B-Instruct",
    "Qwen-72B--mmlu": "Llama-3.3-70B-Instruct",
    "openai_gpt-4o-2024-05-13": "gpt-4o",
}
CHAINS = {
    "Qwen-1_8B,Qwen-7B,Qwen-14B,Qwen-72B": "flops",
    "Llama-2-7b,Llama-2-13b,Llama-2-70b": "flops",
    "Qwen3-4B-f16,Qwen3-8B-f16,Qwen3-14B-f16": "flops",
    "Qwen3-4B-awq,Qwen3-8B-awq,Qwen3-14B-awq": "flops",
    "Qwen3-4B-llvq,Qwen3-8B-llvq,Qwen3-14B-llvq": "flops",
    "Llama-2-70b--mmlu,openai_gpt-4o-2024-05-13": "dollars",
    "Qwen-72B--mmlu,openai_gpt-4o-2024-05-13": "dollars",
}
LEDGERS = ("answered-only", "full-path")
HEAD = ("models", "unit", "ledger", "promised thresholds", "pd_points", "saved", "saved and pd_points unpromised")


def row(found: Study) -> list[str]:
    """One line of the table."""
    short = short_names(found.names)
    promised, other = found.chosen.reported, found.unpromised.reported
    assert found.guarantee is not None
    saved = Interval(*(1 - getattr(promised.cost_ratio, name) for name in ("estimate", "low", "high")))
    return [
        " → ".join(found.names),
        str(found.goal.unit),
        found.goal.ledger,
        found.chosen.policy.describe([short[name] for name in found.names]) if found.guarantee.holds else "none",
        points(promised.difference),
        points(saved) + " %",
        f"{100 * (1 - other.cost_ratio.estimate):+.1f} %, {points(other.difference)}",
    ]


def points(interval: Interval) -> str:
    """An interval of shares in points, low end first."""
    ends = sorted(100 * end for end in (interval.low, interval.high))
    return f"{100 * interval.estimate:+.1f} [{ends[0]:+.1f}, {ends[1]:+.1f}]"


def markdown(folder: Path, seed: int = 0) -> str:
    """The table of every chain and ledger.

    Args:
        folder: Of score tables, from `experiments.real_logs`.
        seed: Of the halves.
    """
    known = read_prices(PRICES)
    prices = Prices(known.source, {name: known.models[like] for name, like in PRICED_AS.items()})
    lines = [f"| {' | '.join(HEAD)} |", "|---|---|---|---|---:|---:|---:|"]
    for chain, unit in CHAINS.items():
        names = chain.split(",")
        scores = align(read_scores([folder / f"{file_name(name)}.parquet" for name in names]), names)
        choose_on, report_on = parts(scores, (0.5, 0.5), seed)
        for ledger in LEDGERS:
            found = study(choose_on, report_on, Goal(ledger=ledger, unit=unit), prices, certify_on=scores)
            lines.append(f"| {' | '.join(row(found))} |")
    return "\n".join(lines)


@one_line_errors()
def main(args: list[str] | None = None) -> None:
    """The entry point."""
    parser = ArgumentParser(prog="python -m experiments.real_chains", description=__doc__, exit_on_error=False)
    parser.add_argument("--scores", type=Path, default=Path("runs/real"), help="folder of score tables")
    parser.add_argument("--out", type=Path, default=Path("runs/real/chains.md"), help="the table as Markdown")
    parser.add_argument("--seed", type=int, default=0, help="another seed is another pair of halves")
    values = parser.parse_args(args)
    table = markdown(values.scores, values.seed)
    write_atomically(values.out, (table + "\n").encode())
    print(table)


if __name__ == "__main__":
    main()
