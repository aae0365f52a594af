"""Rewrites measured tables of the README and of `docs/`, and a picture: `python -m experiments.readme --logs FOLDER`.

Run `python -m experiments.miniature.cards` first. Writes the blocks `demo`, `recommendation`, `ood`, `chains`,
`transfer`, `miniature` and `columns` (see `experiments.pages`). `experiments.layer_sweeps` writes `layers`, and
`experiments.readers --readme true` writes `readers` and `gate`, `experiments.promises --readme true` writes `promises`.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from jsonargparse import ArgumentParser

from cascade.errors import CascadeError, one_line_errors
from cascade.policies.ledgers import LEDGERS
from cascade.report.names import chain_label, short_names
from cascade.report.recommendation import recommendation
from cascade.scores.schema import COLUMNS
from cascade.simulation.data import Data
from cascade.simulation.simulator import Report
from cascade.simulation.study import Study
from cascade.studies import simulate
from experiments import transfer
from experiments.miniature.cards import SUMMARY
from experiments.pages import ROOT, write_blocks
from experiments.paper.lab import Lab
from experiments.paper.scales import MINIATURE
from experiments.real_chains import markdown as real_chains
from experiments.real_logs import main as convert
from probes.errors import ProbeError

PICTURE = Path("experiments/figures/demo.png")


def markdown(report: Report, without_p_ik: bool = True) -> str:
    """The accuracy table and the three ledgers as Markdown."""
    short = short_names([row.models[0] for row in report.singles])
    lines = [f"| LLM(s) | accuracy | pd_points | {' | '.join(LEDGERS)} |", "|---|---:|---:|---:|---:|---:|"]
    groups = [(report.singles, ""), (report.chains, "")]
    if without_p_ik and report.without_p_ik:
        groups.append((report.without_p_ik, ", P(T) alone"))
    for rows, note in groups:
        for row in rows:
            single = len(row.models) == 1
            costs = ["–" if single else f"{100 * row.saved['flops'][ledger]:.1f} %" for ledger in LEDGERS]
            drop = "–" if single else f"{row.pd_points:+.2f}"
            label = chain_label(row.models, short) + note
            lines.append(f"| {label} | {100 * row.accuracy:.2f} % | {drop} | {' | '.join(costs)} |")
    return "\n".join(lines)


def column_table() -> str:
    """The schema's columns, as the documentation's table."""
    words = {"string": "text", "bool": "true or false, 0 or 1", "double": "number", "int64": "whole number"}
    lines = ["| column | type | needed | meaning |", "|---|---|---|---|"]
    for column in COLUMNS:
        limits = "" if column.low is None else f", ≥ {column.low:g}" if column.high is None else ", in [0, 1]"
        needed = "yes" if column.required else "one value" if column.per_model else ""
        lines.append(f"| `{column.name}` | {words[str(column.type)]}{limits} | {needed} | {column.meaning} |")
    return "\n".join(lines)


def quoted(study: Study) -> str:
    """What a study recommends, in its own words, as a quotation."""
    said = recommendation(study)
    lines = (*said.sentences, said.non_inferiority, said.outlook, *said.elsewhere, *said.warnings)
    return "\n>\n".join(f"> {line}" for line in lines if line)


@one_line_errors(ProbeError)
def main(args: list[str] | None = None) -> None:
    """The entry point."""
    parser = ArgumentParser(prog="python -m experiments.readme", description=__doc__, exit_on_error=False)
    parser.add_argument("--logs", type=Path, required=True, help="folder for experiments.real_logs")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of stores and probe runs")
    values = parser.parse_args(args)
    if not (values.runs / SUMMARY).exists():
        raise CascadeError(f"Expected {values.runs / SUMMARY}; run `python -m experiments.miniature.cards` first")
    out = values.runs / "simulations" / "readme"
    demo = simulate(runs=values.runs, out=out)
    elsewhere = simulate(Data(task="mini-gpqa"), runs=values.runs)
    lab = Lab(MINIATURE, values.runs, values.runs / "paper" / MINIATURE.name)
    real = values.runs / "real"
    convert([str(values.logs), "--out", str(real)])
    blocks = {
        "columns": column_table(),
        "demo": markdown(demo.report),
        "recommendation": quoted(demo.study),
        "ood": markdown(elsewhere.report, without_p_ik=False),
        "miniature": (values.runs / SUMMARY).read_text().strip(),
        "transfer": transfer.build(lab).summary,
        "chains": real_chains(real),
    }
    for page in write_blocks(blocks):
        print(f"Wrote {page}")
    (ROOT / PICTURE).parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(out / "plot.png", ROOT / PICTURE)


if __name__ == "__main__":
    main()
