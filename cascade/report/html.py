"""The report as one page that opens without a network, with its plots, tables and numbers beside it.

What is said is `cascade.report.study_tables`' and the figures'; this module puts it in order and writes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from math import isfinite
from pathlib import Path

from cascade.policies.file import policy_json
from cascade.policies.ledgers import LEDGERS
from cascade.report.confidence_figures import reliability_figure, subjects_figure, thresholds_figure
from cascade.report.figures import Plot
from cascade.report.flow_figure import flow_figure
from cascade.report.frontier_figures import fixed_figure, frontier_figure, layers_figure
from cascade.report.recommendation import Recommendation, recommendation
from cascade.report.study_tables import ledgers_table, policies_table, study_tables
from cascade.report.table import Table
from cascade.report.tables import asked_thresholds, report_tables
from cascade.scores.arrays import ChainScores
from cascade.simulation.simulator import Report
from cascade.simulation.study import LayerPoint, Study
from cascade.strict_json import strict_json
from probes.files import write_atomically

STYLE = Path(__file__).with_name("page.css")
HOW_TO_READ = Path(__file__).with_name("how_to_read.html")
CHARGES = {
    "answered-only": "a whole pass to the model that answered; the passes of those that passed the question on are "
    "free (the paper's eq. 6)",
    "full-path": "a whole pass to every model that was tried",
    "early-exit": "ℓ/L of the prefill where the P(IK) probe at layer ℓ of L rejected, the prefill and the first token "
    "where P(T) did, a whole pass where the model answered",
}


@dataclass(frozen=True)
class Section:
    """A part of the page; ``parts`` are figures, tables and pieces of HTML."""

    anchor: str
    heading: str
    parts: tuple[Plot | Table | str | None, ...]


def sections(report: Report, study: Study, chain: ChainScores, layers: Sequence[LayerPoint] = ()) -> list[Section]:
    """The parts of the page from top to bottom; a part that the scores do not allow is left out."""
    tables = {table.name: table for table in study_tables(study, layers)}
    get = tables.get
    fixed = report_tables(report)
    found = [
        Section("answer", "Recommendation", (_answer(recommendation(study)),)),
        Section("ledgers", "What it saves", (_ledgers(study), get("ledgers"))),
        Section("frontier", "Frontier", (frontier_figure(study), get("policies"), get("frontier"))),
        Section("flow", "Flow", (flow_figure(chain, study.chosen.policy),)),
        Section("thresholds", "Thresholds", (thresholds_figure(chain, study),)),
        Section("confidences", "Confidences", (reliability_figure(chain), get("confidences"), get("calibration"))),
        Section("data", "In and out of distribution", (get("evaluations"), get("shifts"))),
        Section("subjects", "Subjects", (subjects_figure(study), get("subjects"))),
        Section("layers", "Probe layers", (layers_figure(layers) if layers else None, get("layers"))),
        Section(
            "fixed",
            "Fixed thresholds",
            (
                f"<p>Every sub-chain at {escape(asked_thresholds(report))} on {report.questions:,} questions, as the "
                f"paper's tables have it. Nothing here was chosen on any question.</p>",
                fixed_figure(report),
                *fixed,
            ),
        ),
        Section("reading", "How to read it", (HOW_TO_READ.read_text(encoding="utf-8"),)),
    ]
    return [section for section in found if any(section.parts)]


def overview(title: str, report: Report, study: Study) -> str:
    """A piece of HTML for a notebook: the recommendation, and the tables that say most."""
    tables = (ledgers_table(study), policies_table(study), *report_tables(report)[:1])
    shown = "".join(table.to_html() for table in tables if table.rows)
    return f"<h2>{escape(title)}</h2>{_answer(recommendation(study))}{shown}"


def _answer(said: Recommendation) -> str:
    lines = [f'<p class="answer">{_prose(line)}</p>' for line in said.sentences]
    lines += [f"<p>{_prose(line)}</p>" for line in (said.non_inferiority, said.outlook) if line]
    lines += [f'<p>{_prose(line)} <a href="#data">See which.</a></p>' for line in said.elsewhere]
    lines += [f'<p class="warning">{_prose(line)}</p>' for line in said.warnings]
    return "\n".join(lines)


def _prose(text: str) -> str:
    """Text as HTML: escaped, and without a line break before a per cent sign."""
    return escape(text).replace(" %", "\u00a0%")


def _ledgers(study: Study) -> str:
    saved = study.evaluations[0].saved.get(study.unit, {})
    cards = []
    for ledger in LEDGERS:
        share = saved.get(ledger, float("nan"))
        says = (
            f"{'saves' if share >= 0 else 'costs more:'} {100 * abs(share):.1f} %" if isfinite(share) else "not known"
        )
        goal = " class='goal'" if ledger == study.goal.ledger else ""
        cards.append(
            f"<div{goal}><h3>{ledger}</h3><p class='big'>{says}</p><p>charges {escape(CHARGES[ledger])}.</p></div>"
        )
    return (
        f"<p>Of {escape(study.names[-1])} alone, in {escape(study.unit)}; thresholds were chosen in the marked "
        f"ledger.</p><div class='cards'>{''.join(cards)}</div>"
    )


def render(title: str, parts: Sequence[Section]) -> str:
    """The page as HTML."""
    contents = " · ".join(f'<a href="#{s.anchor}">{escape(s.heading)}</a>' for s in parts)
    body = "\n".join(
        f'<section id="{s.anchor}"><h2>{escape(s.heading)}</h2>\n{"".join(map(_part, s.parts))}</section>'
        for s in parts
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta name="color-scheme" content="light dark">\n<title>{escape(title)}</title>\n'
        f"<style>\n{STYLE.read_text(encoding='utf-8')}</style>\n</head>\n<body>\n"
        f"<header><h1>{escape(title)}</h1><nav>{contents}</nav></header>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def _part(part: Plot | Table | str | None) -> str:
    if part is None or isinstance(part, str):
        return part or ""
    if isinstance(part, Table):
        return part.to_html()
    return (
        f'<figure><div class="scroll" tabindex="0" role="region" aria-label="{escape(part.title)}">'
        f"{part.inline_svg(escape(part.title))}</div>"
        f"<figcaption><strong>{escape(part.title)}.</strong> {escape(part.caption)}</figcaption></figure>"
    )


def write_report(
    folder: Path,
    title: str,
    report: Report,
    study: Study,
    chain: ChainScores,
    layers: Sequence[LayerPoint] = (),
) -> Path:
    """Writes ``report.html``, ``report.json``, ``plots/*.svg`` and ``*.png``, and ``tables/*.csv``.

    Args:
        folder: Made where it is not there. What an earlier report left in it under another name stays.
        title: Of the page.
        report: Every sub-chain at fixed thresholds.
        study: What was chosen, and how it does.
        chain: The questions that the study reports on, with labels.
        layers: Where probes at several layers were tried.

    Returns:
        The page.
    """
    parts = sections(report, study, chain, layers)
    for name in ("plots", "tables"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for part in (part for section in parts for part in section.parts):
        if isinstance(part, Plot):
            write_atomically(folder / "plots" / f"{part.name}.svg", part.svg().encode())
            write_atomically(folder / "plots" / f"{part.name}.png", part.png())
        elif isinstance(part, Table):
            write_atomically(folder / "tables" / f"{part.name}.csv", part.to_csv().encode())
    write_atomically(folder / "report.json", strict_json(_numbers(title, report, study, layers)).encode())
    page = folder / "report.html"
    write_atomically(page, render(title, parts).encode())
    return page


def _numbers(title: str, report: Report, study: Study, layers: Sequence[LayerPoint]) -> dict[str, object]:
    """The values of ``report.json``: the report's own at the top level, and the study's under ``study``."""
    said = recommendation(study)
    return report.to_json() | {
        "title": title,
        "recommendation": {
            "sentences": list(said.sentences),
            "non_inferiority": said.non_inferiority,
            "outlook": said.outlook,
            "elsewhere": list(said.elsewhere),
            "warnings": list(said.warnings),
            "policy": policy_json(study.chosen.policy, study.names, study.normalized),
        },
        "study": study.to_json(),
        "layers": [
            {
                "share": layer.share,
                "layers": list(layer.layers),
                "auroc": list(layer.auroc),
                "measured": layer.measured.to_json(study.names, study.normalized),
            }
            for layer in layers
        ],
    }
