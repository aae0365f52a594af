"""The page, its figures, tables and numbers, from small made-up chains."""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from rich.console import Console

from cascade.policies.base import Thresholds
from cascade.policies.expected_utility import ExpectedUtilityPolicy
from cascade.policies.ledgers import UNITS
from cascade.policies.outcome import Outcome
from cascade.policies.thresholds import ThresholdPolicy
from cascade.report.frontier_figures import fixed_figure
from cascade.report.html import write_report
from cascade.report.names import short_names
from cascade.report.recommendation import recommendation
from cascade.report.study_tables import print_study, study_tables
from cascade.report.table import Column, Table, percent, percent_interval
from cascade.report.tables import print_report, report_tables
from cascade.scores.arrays import ChainScores
from cascade.simulation.climbing import fewest_questions
from cascade.simulation.evaluation import evaluate
from cascade.simulation.simulator import play, report
from cascade.simulation.study import LayerPoint, Study, study
from cascade.simulation.tuning import Goal
from cascade.statistics.significance import Interval
from tests.cascade.scored import changed, scored

NAMES = ("m-<b>&x", "m-$mid$ 'quoted\"", "m-large")
VOID = {"meta", "br", "img", "link", "hr", "input"}


def made(questions: int, seed: int, names=NAMES, p_ik=True, labelled=True, subjects=True, harder=0.0) -> ChainScores:
    rng = np.random.default_rng(seed)
    hard = rng.normal(harder, 1, questions)
    models = []
    for i, name in enumerate(names):
        ability = 2 * i / (len(names) - 1) - hard
        p_t, p_probe = 1 / (1 + np.exp(-2 * ability - rng.normal(0, 1, (2, questions))))
        models.append(
            scored(
                name,
                (rng.random(questions) < 1 / (1 + np.exp(-2 * ability))) & labelled,
                p_t,
                p_probe if p_ik and i < len(names) - 1 else None,
                parameters=10**i,
                num_layers=4,
                exit_share=0.5,
                seconds=np.full(questions, 0.1 * (i + 1)),
                prompt_tokens=np.full(questions, 20),
                completion_tokens=np.full(questions, 2),
            )
        )
    of = np.array([f"<i>subject {j}</i>" for j in rng.integers(0, 3, questions)]) if subjects else None
    return ChainScores(tuple(f"{seed}-{i}" for i in range(questions)), tuple(models), None, of, labelled)


def written(folder, a: ChainScores, b: ChainScores, goal: Goal | None = None, others=None, layers=False):
    found = study(a, b, goal or Goal(ledger="early-exit"), others=others)
    tried = report(b, Thresholds(0.9, 0.5))
    points = [LayerPoint(s, (1, 2), (0.7, float("nan")), found.chosen) for s in (0.25, 0.5)] if layers else []
    page = write_report(folder, "Title <script>", tried, found, b, points)
    return page.read_text(encoding="utf-8"), found, tried


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    folder = tmp_path_factory.mktemp("full")
    others = {"<u>else&where</u>": made(200, 2, harder=1), "unlabelled": made(150, 3, labelled=False)}
    goal = Goal(ledger="early-exit", epsilon=0.2)
    return folder, *written(folder, made(600, 0), made(500, 1), goal, others, layers=True)


class Parser(HTMLParser):
    """Every element opened is closed, in order; collects text, attributes and ids."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open, self.text, self.attributes = [], [], []

    def handle_starttag(self, tag, attrs):
        self.attributes += [(tag, *pair) for pair in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.attributes += [(tag, *pair) for pair in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text.append(data)


def parsed(page: str) -> Parser:
    parser = Parser()
    parser.feed(page)
    parser.close()
    assert parser.open == []
    return parser


def numbers(text: str) -> list[str]:
    return re.findall(r"[-+]?\d[\d,]*(?:\.\d+)?", text)


def test_the_page_is_well_formed_and_its_ids_are_its_own(full):
    parser = parsed(full[1])
    ids = [value for _, name, value in parser.attributes if name == "id"]
    assert len(ids) == len(set(ids)) > 20
    targets = [v[1:] for _, n, v in parser.attributes if n in ("href", "xlink:href") and v.startswith("#")]
    assert set(targets) <= set(ids)
    assert set(re.findall(r"url\(#([^)]+)\)", full[1])) <= set(ids)
    headings = [v for t, n, v in parser.attributes if t == "section" and n == "id"]
    assert headings == [
        *("answer", "ledgers", "frontier", "flow", "thresholds", "confidences"),
        *("data", "subjects", "layers", "fixed", "reading"),
    ]


def test_the_page_asks_nothing_of_a_network_and_runs_nothing(full):
    parser = parsed(full[1])
    for tag, name, value in parser.attributes:
        if name in ("src", "href", "xlink:href", "srcset", "action", "data"):
            assert value.startswith(("#", "data:")), (tag, name, value[:60])
        assert not name.startswith("on")
    assert not re.search(r"url\((?!#)|@import", full[1])
    assert not {tag for tag, *_ in parser.attributes} & {"script", "link", "iframe", "img"}
    assert "<script" not in full[1]


def test_plots_follow_the_pages_ink_and_have_a_file_each(full):
    folder, page, *_ = full
    inline = page.count("<svg ")
    assert inline == len(list((folder / "plots").glob("*.svg"))) == len(list((folder / "plots").glob("*.png"))) == 7
    assert "currentColor" in page
    assert "#1f2933" not in page.split("</style>", 1)[1]
    assert "prefers-color-scheme: dark" in page
    for file in (folder / "plots").glob("*.png"):
        assert file.read_bytes()[:4] == b"\x89PNG"


def test_every_word_on_the_early_exit_ledger_charges_the_first_token_where_p_t_rejected(full):
    """As `charges` does: the page's card, its last section, and the caption of the fixed table."""
    shown = " ".join(" ".join(parsed(full[1]).text).split())
    assert len(re.findall("the prefill and the first token where P\\(T\\) did", shown)) == 3
    assert "the prefill where P(T)" not in shown


def test_names_are_escaped_wherever_they_stand(full):
    page = full[1]
    text = " ".join(parsed(page).text)
    for name in ("<b>&x", "$mid$ 'quoted\"", "<i>subject 1</i>", "<u>else&where</u>", "Title <script>"):
        assert name in text
    for tag in ("<b>", "<i>", "<u>", "<script>"):
        assert tag not in page
    assert "&lt;b&gt;&amp;x" in page


def test_every_number_of_the_recommendation_is_the_studys(full):
    found = full[2]
    said = recommendation(found)
    first, promise, measured = (text.replace("$mid$", "") for text in said.sentences)
    assert isinstance(found.chosen.policy, ThresholdPolicy | ExpectedUtilityPolicy)
    if isinstance(found.chosen.policy, ThresholdPolicy):
        limits = [v for t in found.chosen.policy.thresholds for v in (t.p_ik, t.p_t) if v is not None]
    else:
        limits = [found.chosen.policy.price]
    assert [float(n) for n in numbers(first)] == pytest.approx(limits, rel=1e-2)
    made = found.guarantee
    assert numbers(promise) == [
        *("20", "0.9", f"{made.certified_on}"),
        *(f"{100 * made.loss:.2f}", f"{100 * made.point.cost:.1f}"),
    ]
    r, last = found.chosen.reported, found.singles[-1]
    assert numbers(measured.split(", in the")[0]) == [
        f"{100 * r.accuracy.estimate:.1f}",
        "95",
        *(f"{100 * x:.1f}" for x in (r.accuracy.low, r.accuracy.high, last[1])),
        *(f"{100 * x:+.2f}" for x in (r.difference.estimate, r.difference.low, r.difference.high)),
        *(f"{100 * x:.1f}" for x in (r.cost_ratio.estimate, r.cost_ratio.low, r.cost_ratio.high)),
    ]
    assert found.goal.ledger in measured
    assert not said.non_inferiority  # a promise says more
    told = [(f"{f.questions:,}", f"{100 * f.saved:.1f}")[: 1 + (f.saved > 0)] for f in made.foreseen]
    assert numbers(said.outlook) == [n for each in told for n in each]
    assert len(said.elsewhere) == len(found.evaluations) - 1 > 0
    shown = " ".join(" ".join(parsed(full[1]).text).replace("\u00a0", " ").split())
    for line in (*said.sentences, said.non_inferiority, said.outlook, *said.elsewhere, *said.warnings):
        assert line in shown


def test_without_a_promise_the_sentences_say_so():
    halves = made(600, 0), made(500, 1)
    unpromised = recommendation(study(*halves, Goal(limit=0.5)))
    assert unpromised.sentences[0].startswith("Nothing is promised of this: chosen on 600 questions as the cheapest")
    assert unpromised.non_inferiority and not unpromised.outlook
    few = tuple(half.take(np.arange(60)) for half in halves)
    others = {"like": made(300, 4), "unlike": made(300, 5, harder=2)}
    said = recommendation(study(*halves, Goal(epsilon=0.2), others=others)).elsewhere
    assert said[0].startswith(
        "like: the confidences are not shown to be distributed otherwise than on the questions that"
    )
    assert said[1].startswith("unlike: the confidences are distributed otherwise than on the questions that certify")
    assert "The promise does not reach there" in said[1] and "--recertify" in said[1]
    assert f"{fewest_questions(0.2, 0.1)} certify a policy that neither gains nor loses" in said[1]
    assert "what the thresholds keep" in recommendation(study(*halves, Goal(limit=0.5), others=others)).elsewhere[1]
    alone = recommendation(study(*few, Goal()))
    assert alone.sentences[0] == "Recommended: ask m-large alone."
    assert alone.sentences[1].startswith("Nothing cheaper can be promised to lie at most 1 point")
    assert alone.sentences[2].startswith("Not promised, and so not recommended: chosen on 60 questions as the cheapest")


def test_what_is_reported_of_a_promise_says_of_how_many_questions_and_no_policy_is_called_better_than_itself():
    whole = made(600, 0)
    halves = whole.take(np.arange(250)), whole.take(np.arange(250, 600))
    said = recommendation(study(*halves, Goal(epsilon=0.2), certify_on=whole)).sentences
    assert "600 questions certify it" in said[1]
    assert said[2].startswith(
        "Certified on four fifths of them and measured on the fifth as far as it is reported (350 q"
    )
    apart = recommendation(study(*halves, Goal(epsilon=0.2))).sentences
    assert "350 questions certify it" in apart[1]
    assert apart[2].startswith(
        "Certified on four fifths of them and measured on the fifth, five times over: it is right"
    )

    # Only the last model is ever right, and none of 250 questions may be lost: nothing cheaper is near it.
    def wrong(chain):
        models = [replace(m, correct=np.zeros(len(chain), bool)) for m in chain.models[:-1]]
        return replace(chain, models=(*models, replace(chain.models[-1], correct=np.ones(len(chain), bool))))

    alone = recommendation(study(*map(wrong, halves), Goal(epsilon=0.002)))
    assert alone.sentences[0] == "Recommended: ask m-large alone."
    nothing = "nothing cheaper that was tried lies at most 0.2 points below m-large on them."
    assert alone.sentences[2:] == (f"On the 250 questions that choose, too, {nothing}",)
    floor = recommendation(study(*halves, Goal(limit=0.555))).sentences[0]
    assert "the cheapest policy that is right on at least 55.5 % of them" in floor


def test_json_is_strict_and_holds_thresholds_unrounded(full):
    folder, _, found, tried = full

    def refuse(word):
        raise AssertionError(word)

    content = json.loads((folder / "report.json").read_text(), parse_constant=refuse)
    assert content["questions"] == tried.questions
    assert content["layers"][0]["auroc"] == [0.7, None]
    assert content["study"]["reported_on"] == found.reported_on == 500
    policy = content["recommendation"]["policy"]
    if isinstance(found.chosen.policy, ThresholdPolicy):
        assert [t["p_t"] for t in policy["thresholds"]] == [t.p_t for t in found.chosen.policy.thresholds]
    assert policy["policy"] == found.chosen.policy.name


def test_csv_files_read_back_to_the_tables(full):
    folder, _, found, tried = full
    layers = [LayerPoint(s, (1, 2), (0.7, float("nan")), found.chosen) for s in (0.25, 0.5)]
    tables = [*study_tables(found, layers), *report_tables(tried)]
    assert {t.name for t in tables} == {file.stem for file in (folder / "tables").glob("*.csv")}
    assert len({t.name for t in tables}) == len(tables) >= 14
    for table in tables:
        head, *rows = csv.reader(io.StringIO((folder / "tables" / f"{table.name}.csv").read_text()))
        assert len(rows) == len(table.rows)
        for values, row in zip(rows, table.rows, strict=True):
            wanted = []
            for column, cell in zip(table.columns, row, strict=True):
                if column.interval:
                    wanted += [None] * 3 if cell is None else [cell.estimate, cell.low, cell.high]
                else:
                    wanted.append(cell)
            assert len(head) == len(values) == len(wanted)
            for value, cell in zip(values, wanted, strict=True):
                if cell is None or (isinstance(cell, float) and np.isnan(cell)):
                    assert value == ""
                elif isinstance(cell, float):
                    assert float(value) == cell
                else:
                    assert value == str(cell)


def test_a_cell_looks_as_its_column_says_and_like_a_dash_where_it_is_nothing():
    nan = float("nan")
    cells = [(percent, x) for x in (0.1234, -0.000001, nan, None, float("inf"))]
    table = Table.of("t", "T", [Column("x", percent)], [[x] for _, x in cells])
    assert [row[0] for row in table.texts()] == ["12.34%", "0.00%", "–", "–", "–"]
    interval = Column("x", percent_interval, interval=True)
    shown = [interval.text(i) for i in (Interval(0.5, 0.4, 0.6), Interval(0.5, nan, nan), Interval(nan, nan, nan))]
    assert shown == ["50.0% [40.0, 60.0]", "50.0%", "–"]


def test_unlabelled_data_show_their_estimate_and_nothing_else(full):
    found = full[2]
    (table,) = [t for t in study_tables(found) if t.name == "evaluations"]
    texts = {row[0]: dict(zip([c.name for c in table.columns], row, strict=True)) for row in table.texts()}
    assert list(texts) == ["reported questions", "<u>else&where</u>", "unlabelled"]
    row, other = texts["unlabelled"], texts["<u>else&where</u>"]
    assert [row[name] for name in ("accuracy", "PD", "error")] == ["–"] * 3
    assert row["estimate"] == f"{100 * found.evaluations[2].estimate.accuracy:.2f}%"
    assert "right" not in " ".join(row.values())
    assert other["error"] == f"{found.evaluations[1].estimate.error:+.2f}"
    assert other["PD"] == f"{found.evaluations[1].row.pd_points:+.2f}"


def test_the_terminal_says_what_the_page_says(full):
    _, _, found, tried = full
    console = Console(file=io.StringIO(), width=400)
    print_study(found, console)
    print_report(tried, console)
    printed = console.file.getvalue()
    said = recommendation(found)
    for line in (*said.sentences, said.non_inferiority, said.outlook, *said.elsewhere, *said.warnings):
        assert line.replace("\n", " ")[:300] in printed
    for word in ("answered-only", "oracle", "<u>else&where</u>", "<b>&x → large", "Table 9"):
        assert word in printed


def test_the_flow_counts_every_question_once():
    from cascade.report.flow_figure import flow_figure

    chain = made(500, 1)
    policy = ThresholdPolicy.whole([Thresholds(0.8, 0.6), Thresholds(0.7, None)])
    texts = [t.get_text() for t in flow_figure(chain, policy).figure.axes[0].texts]
    outcome = play(chain, policy)
    ends = [int(t.split()[0]) for t in texts if t.endswith((" right", " wrong"))]
    assert sum(ends) == 500
    assert sum(int(t.split()[0]) for t in texts if t.endswith(" right")) == outcome.correct.sum()
    asked = [int(t.split()[0]) for t in texts if t.endswith(" asked")]
    assert asked == [(row != Outcome.NOT_ASKED).sum() for row in outcome.outcome]
    passed = [int(t) for t in texts if t.isdigit()]
    assert sorted(passed) == sorted(
        int((outcome.outcome[s] == o).sum())
        for s in (0, 1)
        for o in (Outcome.REJECTED_BY_P_IK, Outcome.REJECTED_BY_P_T)
        if (outcome.outcome[s] == o).any()
    )


def constant(chain: ChainScores) -> ChainScores:
    models = [changed(m, p_t=np.full(len(chain), 0.7), p_ik=None) for m in chain.models]
    return replace(chain, models=tuple(models))


def answered(chain: ChainScores, right: bool) -> ChainScores:
    return replace(chain, models=tuple(changed(m, correct=np.full(len(chain), right)) for m in chain.models))


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("without P(IK)", lambda c: replace(c, models=tuple(changed(m, p_ik=None) for m in c.models), subjects=None)),
        ("P(IK) alone", lambda c: replace(c, models=tuple(changed(m, p_t=None) for m in c.keep([0, 2]).models))),
        ("one stage", lambda c: c.keep([0, 2])),
        ("constant P(T)", constant),
        ("all right", lambda c: answered(c.keep([0, 2]), True)),
        ("all wrong", lambda c: answered(c.keep([1, 2]), False)),
        (
            "seconds alone",
            lambda c: replace(c, models=tuple(changed(m, parameters=None) for m in c.keep([0, 2]).models)),
        ),
    ],
)
def test_the_report_is_written_of_whatever_there_is(tmp_path, name, change):
    goal = Goal(unit="seconds") if name == "seconds alone" else Goal()
    a, b = (change(made(150, seed)) for seed in (0, 1))
    page, found, _ = written(tmp_path, a, b, goal)
    parser = parsed(page)
    sections = {v for t, n, v in parser.attributes if t == "section" and n == "id"}
    assert ("subjects" in sections) == (b.subjects is not None)
    assert "layers" not in sections
    assert (tmp_path / "plots" / "fixed-thresholds.svg").exists()
    assert (tmp_path / "plots" / "thresholds.png").exists()
    text = " ".join(parser.text)
    assert not re.search(r"\bnan\b|\binf\b|\bNone\b", text)
    assert ("P(IK)" in {c.confidence for c in found.curves}) == any(m.signals.p_ik is not None for m in b.models)
    json.loads((tmp_path / "report.json").read_text(), parse_constant=pytest.fail)


@pytest.mark.parametrize(
    ("unit", "without"),
    [
        ("flops", ()),
        ("tokens", ("parameters",)),
        ("seconds", ("parameters", "prompt_tokens")),
        ("calls", ("parameters", "prompt_tokens", "seconds")),
    ],
)
def test_the_fixed_tables_and_their_plot_count_in_what_there_is_and_say_in_what(unit, without):
    chain = made(300, 0)
    chain = replace(chain, models=tuple(changed(m, **dict.fromkeys(without)) for m in chain.models))
    tried = report(chain, Thresholds(0.8, 0.6))
    tables = {table.name: table for table in report_tables(tried)}
    for name, rows in (("accuracy", tried.chains), ("without-p-ik", (*tried.chains, *tried.without_p_ik))):
        shown = [list(row[-3:]) for row in tables[name].rows if row[-1] is not None]
        assert sorted(shown) == sorted(list(row.saved[unit].values()) for row in rows)
        assert np.isfinite(shown).all()
        assert UNITS[unit] in tables[name].caption
    assert unit not in [row[1] for row in tables["units"].rows] if "units" in tables else len(tried.units) == 1
    plot = fixed_figure(tried)
    assert UNITS[unit] in plot.caption
    axes = plot.figure.axes[0]
    assert ("FLOPs" if unit == "flops" else unit) in axes.get_xlabel()
    drawn = np.concatenate([c.get_offsets() for c in axes.collections])
    assert np.isfinite(drawn).all() and len(drawn) == 3 + 2 * 4


def test_a_lone_model_as_the_choice_is_said_plainly(tmp_path):
    a, b = (made(200, seed, NAMES[1:]) for seed in (0, 1))
    found = study(a, b, Goal())
    alone = ThresholdPolicy((1,), ())
    chosen = replace(found.chosen, policy=alone)
    again = evaluate("reported questions", b, alone, a, "full-path", "flops")
    lone: Study = replace(found, chosen=chosen, evaluations=(again,))
    assert "ask m-large alone." in recommendation(lone).sentences[0]
    page = write_report(tmp_path, "t", report(b, Thresholds()), lone, b).read_text()
    parsed(page)
    assert "saves 0.0" in page


def test_a_report_needs_no_torch():
    code = (
        "import sys, cascade.report.html, cascade.report.study_tables, cascade.report.confidence_figures;"
        "assert not {'torch', 'transformers', 'lightning'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_writing_the_same_report_again_gives_the_same_bytes(full, tmp_path):
    folder, _, found, tried = full
    layers = [LayerPoint(s, (1, 2), (0.7, float("nan")), found.chosen) for s in (0.25, 0.5)]
    write_report(tmp_path, "Title <script>", tried, found, made(500, 1), layers)
    files = sorted(p.relative_to(folder) for p in folder.rglob("*") if p.is_file())
    assert files == sorted(p.relative_to(tmp_path) for p in tmp_path.rglob("*") if p.is_file())
    assert len(files) > 25
    for file in files:
        assert (folder / file).read_bytes() == (tmp_path / file).read_bytes(), file


def test_labels_beside_points_do_not_cover_each_other():
    from cascade.report.figures import label_points, new_figure, spread

    figure = new_figure(6, 4)
    axes = figure.subplots()
    at = [(0.5 + 0.01 * i, 50 + 0.1 * i) for i in range(6)] + [(0, 0), (1, 100)]
    axes.scatter(*np.array(at).T)
    label_points([axes], at, [f"a-long-name-{i}" for i in range(8)])
    figure.draw_without_rendering()
    boxes = [t.get_window_extent() for t in axes.texts if t.get_text()]
    assert len(boxes) == 8
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    places = spread([0.5, 0.1, 0.5, 0.52], 0.1, 0, 1)
    assert np.diff(sorted(places)).min() >= 0.1 - 1e-9
    assert list(np.argsort(places, kind="stable")) == [1, 0, 2, 3]


def test_short_names_keep_models_apart():
    assert len(set(short_names(NAMES).values())) == len(NAMES)


@pytest.mark.parametrize("first", ["=", "+", "-", "@", "\t", "\r", "\n"])
def test_no_text_begins_a_cell_of_csv_as_a_formula(first):
    name = f"{first}cmd|' /C calc'!A0"
    table = Table.of("t", "T", ["model", Column(name, percent)], [[name, -0.5], ["a", -1.5], [f"a{first}b", None]])
    head, *rows = csv.reader(io.StringIO(table.to_csv(), newline=""))
    read, first = (text.replace("\r", "\n") for text in (name, first))
    assert head == ["model", f"'{read}"]
    assert rows == [[f"'{read}", "-0.5"], ["a", "-1.5"], [f"a{first}b", ""]]  # numbers are numbers


def test_a_model_that_is_called_a_formula_is_text_in_every_table_of_the_report(tmp_path):
    rng = np.random.default_rng(0)
    names = ("=cmd|' /C calc'!A0", "@SUM(1+1)", "large")
    models = tuple(scored(name, rng.random(200) < 0.5, rng.random(200)) for name in names)
    scores = ChainScores(tuple(f"q{i}" for i in range(200)), models)
    fixed = report(scores, Thresholds(p_t=0.5, p_ik=None))
    tables = [*report_tables(fixed), *study_tables(study(scores, scores, Goal()))]
    cells = [cell for table in tables for row in csv.reader(io.StringIO(table.to_csv())) for cell in row]
    assert any("cmd|" in cell for cell in cells) and any("SUM(" in cell for cell in cells)
    for cell in cells:
        assert cell[:1] not in ("=", "+", "@") and (cell[:1] != "-" or float(cell) < 0)
