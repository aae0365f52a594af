from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import replace
from importlib import import_module

import numpy as np
import pytest

from cascade.miniature.families import ASSETS
from cascade.tasks.base import Question, multiple_choice_prompt
from cascade.tasks.load import load_task
from experiments import all as everything
from experiments import figure, table_05, table_08, table_11, table_14, table_15
from experiments.paper.arithmetic import (
    discordant,
    dollars_from_counts,
    drops,
    from_counts,
    last_of,
    lowest_f1,
    reduced_cc,
)
from experiments.paper.comparison import Comparison
from experiments.paper.lab import Lab
from experiments.paper.live import live_times
from experiments.paper.numbers import paper
from experiments.paper.scales import API, ARROW, MINIATURE, SCALES
from experiments.table_07 import differences
from probes import Probe

PAPER = paper()
ROWS = {number: table.rows for number, table in PAPER.tables.items()}
SLOW = (1, 3, 4, 9, 13)  # live runs, or the API


class Retrained(Lab):
    """Where probes are not what they were."""

    def probe(self, *args) -> Probe:
        probe = super().probe(*args)
        probe.mean += 0.5
        return probe


@pytest.fixture(scope="module")
def lab(tmp_path_factory) -> Lab:
    folder = tmp_path_factory.mktemp("paper")
    return Lab(MINIATURE, folder, folder / "out")


# The data file


def test_every_table_is_there_and_has_a_script():
    assert list(PAPER.tables) == list(range(1, 16))
    for number in PAPER.tables:
        assert callable(import_module(f"experiments.table_{number:02d}").main)


@pytest.mark.parametrize("exact", [True, False])
def test_the_papers_savings_follow_from_its_counts(exact):
    for label, saved in from_counts(PAPER, "answered-only", exact).items():
        # Round sizes are off by a point where the smallest model weighs most.
        assert saved == pytest.approx(ROWS[1][label]["reduced_cc"], abs=0.5 if exact else 1.0)


def test_the_papers_small_chain_costs_more_than_it_saves_once_every_pass_counts():
    assert from_counts(PAPER, "full-path", exact=False)["3B → 8B"] == pytest.approx(-3.4, abs=0.05)
    assert reduced_cc([487, 943], [3e9, 8e9], "full-path") == pytest.approx(
        100 * (1 - (1430 * 3e9 + 943 * 8e9) / (1430 * 8e9))
    )


def test_the_papers_counts_are_of_the_test_set():
    for row in ROWS[8].values():
        assert sum(row.values()) == PAPER.questions["mmlu"]
    assert ROWS[6]["8B → 70B"]["accuracy"] == pytest.approx(100 * 232 / PAPER.questions["gpqa"], abs=0.01)


@pytest.mark.parametrize(
    ("number", "column", "relative", "scale"),
    [(1, "pd_points", 0, 1), (3, "pd_relative", 1, 1), (4, "pd_points", 0, 1), (6, "pd_points", 0, 1),
     (11, "pd_relative", 1, 1)],
)  # fmt: skip
def test_the_papers_drops_follow_from_its_accuracies(number, column, relative, scale):
    found = drops(PAPER.tables[number], bool(relative))
    assert found
    for label, drop in found.items():
        assert drop == pytest.approx(ROWS[number][label][column], abs=0.011), label


def test_table_15_and_table_5_are_of_table_1s_accuracies():
    last = ROWS[1]["70B"]["accuracy"] / 100
    for row in ROWS[15].values():
        assert 100 * (row["accuracy"] / last - 1) == pytest.approx(row["pd_relative"], abs=0.011)
    assert ROWS[15]["P(T) ≥ 0.90"]["accuracy"] == pytest.approx(ROWS[1]["8B → 70B"]["accuracy"] / 100)
    without = ROWS[15]["P(T) ≥ 0.90, w/o P(IK)"]
    assert 100 * (without["accuracy"] - last) == pytest.approx(ROWS[5]["8B → 70B, w/o P(IK)"]["pd_points"], abs=0.011)
    for label in ("8B → 70B", "3B → 8B → 70B"):
        for column in ("pd_points", "reduced_cc"):
            assert ROWS[5][label][column] == ROWS[1][label][column]


def test_asking_for_p_ik_too_can_only_keep_less_but_the_paper_keeps_more_once():
    more = [
        label
        for label, row in ROWS[15].items()
        if "w/o" not in label and row["reduced_cc"] > ROWS[15][f"{label}, w/o P(IK)"]["reduced_cc"]
    ]
    assert more == ["P(T) ≥ 0.95"]


def test_the_papers_tokens_and_dollars_give_its_percentages():
    for label, row in ROWS[4].items():
        if ARROW in label:
            assert 100 * (1 - row["tokens"] / ROWS[4][API]["tokens"]) == pytest.approx(row["reduced_tokens"], abs=0.006)
    for number, step, digits in ((13, 0.0005, 0.006), (11, 0.00005, 0.006)):
        for label, row in ROWS[number].items():
            if ARROW not in label:
                continue
            last = ROWS[number][last_of(label)]["cost"]
            # Table 11's percentages are of dollars before they were rounded.
            slack = 100 * step * (1 / last + row["cost"] / last**2) if number == 11 else 0
            assert 100 * (1 - row["cost"] / last) == pytest.approx(row["reduced_cost"], abs=digits + slack), label


def test_the_papers_dollars_are_answered_only():
    answered, full = (dollars_from_counts(PAPER, ledger) for ledger in ("answered-only", "full-path"))
    for label, dollars in answered.items():
        printed = ROWS[13][label]["cost"]
        assert abs(dollars - printed) < 0.06 * printed < abs(full[label] - printed)
    assert ROWS[11]["3B → 8B"]["cost"] < min(ROWS[11]["3B"]["cost"], ROWS[11]["8B"]["cost"])


def test_the_papers_grounding_gains_and_macro_figures_are_its_own():
    for size in ("3B", "8B", "70B"):
        gain = ROWS[10][f"{size} (w/ grounding)"]["accuracy"] - ROWS[10][f"{size} (w/o grounding)"]["accuracy"]
        assert gain == pytest.approx(ROWS[10][f"{size} (w/ grounding)"]["delta"], abs=1e-9)
    for label, row in ROWS[2].items():
        assert row["recall"] == pytest.approx(ROWS[1][label]["accuracy"] / 100, abs=0.004)
        assert min(row["precision"], row["recall"]) - 0.002 < row["f1"] < max(row["precision"], row["recall"])
    for row in ROWS[11].values():
        assert row["accuracy"] + row["hallucination"] <= 1


@pytest.mark.parametrize(
    ("label", "way", "pair"),
    [("3B → 8B vs 8B", True, (7, 18)), ("8B → 70B vs 70B", None, (9, 14)), ("3B → GPT-4o vs GPT-4o", True, (9, 37)),
     ("8B → GPT-4o vs GPT-4o", True, (7, 18)), ("70B → GPT-4o vs GPT-4o", True, (54, 60))],
)  # fmt: skip
def test_the_papers_tests_are_corrected_ones_of_its_own_accuracies(label, way, pair):
    row, (chain, _, last) = ROWS[9][label], label.partition(" vs ")
    accuracies = ROWS[4 if last == API else 1]
    points = abs(accuracies[last]["accuracy"] - accuracies[chain]["accuracy"])
    assert pair[1] - pair[0] == pytest.approx(points * PAPER.questions["mmlu"] / 100, abs=0.15)
    assert pair in discordant(row.get("chi2"), row["p"], 130, way)


def test_two_of_the_papers_tests_come_from_one_table_of_disagreement():
    first, second = (ROWS[9][f"{chain} vs 70B"]["chi2"] for chain in ("3B → 8B → 70B", "3B → 70B"))
    both = set(discordant(first, None, 130, True)) & set(discordant(second, None, 130, False))
    assert both == {(9, 41)}


def test_the_papers_f1_is_not_that_of_right_answers():
    for size, row in ROWS[14].items():
        assert row["f1"] < 100 * lowest_f1(row["accuracy"] / 100, ROWS[1][size]["accuracy"] / 100)
    rng = np.random.default_rng(0)
    for _ in range(200):
        right, said = rng.random(60) < 0.7, rng.random(60) < 0.7
        hit = int((right & said).sum())
        f1 = 2 * hit / (2 * hit + int((right != said).sum()))
        assert f1 >= lowest_f1(float((right == said).mean()), float(right.mean())) - 1e-12


# Ours beside it


def recount(lab: Lab, label: str, p_t: float, p_ik: float | None):
    """A chain question by question: right answers, who answered, FLOPs in the ledgers, all by loops."""
    chain = lab.of(label)
    right, answered, disagree = 0, [0] * len(chain.models), [0, 0]
    spent = {"answered-only": 0.0, "full-path": 0.0, "early-exit": 0.0}
    for q in range(len(chain)):
        for place, model in enumerate(chain.models):
            last = place == len(chain.models) - 1
            probe = 0 if last or p_ik is None else 2 * model.probe_parameters
            whole = 2 * model.parameters
            unknown = not last and p_ik is not None and model.p_ik[q] < p_ik
            unsure = not last and model.p_t[q] < p_t
            if not unknown and not unsure:
                right += bool(model.correct[q])
                answered[place] += 1
                for ledger in spent:
                    spent[ledger] += whole + probe
                if model.correct[q] != chain.models[-1].correct[q]:
                    disagree[int(not model.correct[q])] += 1
                break
            spent["full-path"] += whole + probe
            spent["early-exit"] += probe + whole * (model.exit_share if unknown else 1)
    alone = 2 * chain.models[-1].parameters * len(chain)
    saved = {ledger: 100 * (1 - cost / alone) for ledger, cost in spent.items()}
    return 100 * right / len(chain), answered, saved, disagree, 100 * chain.models[-1].correct.mean()


def test_our_cells_are_what_a_plain_recount_gives(lab):
    ablation, stages, thresholds = table_05.build(lab), table_08.build(lab), table_15.build(lab)
    for label in ROWS[5]:
        chain, _, without = label.partition(", w/o")
        accuracy, _, saved, _, last = recount(lab, chain, 0.9, None if without else 0.5)
        cells = ablation.ours[label]
        assert cells["pd_points"] == pytest.approx(accuracy - last)
        for column, ledger in (
            ("reduced_cc", "answered-only"), ("full_path", "full-path"), ("early_exit", "early-exit"),
        ):  # fmt: skip
            assert cells[column] == pytest.approx(saved[ledger])
    for label in ROWS[8]:
        answered = recount(lab, label, 0.9, 0.5)[1]
        assert [stages.ours[label][size] for size in label.split(ARROW)] == answered
    for label, p_t, p_ik in (("P(T) ≥ 0.70", 0.7, 0.5), ("P(T) ≥ 0.50, w/o P(IK)", 0.5, None)):
        accuracy, _, saved, _, last = recount(lab, "8B → 70B", p_t, p_ik)
        assert thresholds.ours[label]["accuracy"] == pytest.approx(accuracy / 100)
        assert thresholds.ours[label]["pd_relative"] == pytest.approx(100 * (accuracy / last - 1))
        assert thresholds.ours[label]["reduced_cc"] == pytest.approx(saved["answered-only"])


def test_the_probes_figures_are_scikit_learns(lab):
    from sklearn.metrics import accuracy_score, f1_score, roc_auc_score

    table = table_14.build(lab)
    for size, model in zip(("3B", "8B"), lab.of("3B → 8B → 70B").models, strict=False):
        said, cells = model.p_ik >= 0.5, table.ours[size]
        assert cells["accuracy"] == pytest.approx(100 * accuracy_score(model.correct, said))
        assert cells["f1"] == pytest.approx(100 * f1_score(model.correct, said, average="macro"))
        assert cells["f1_right"] == pytest.approx(100 * f1_score(model.correct, said))
        assert cells["auroc"] == pytest.approx(100 * roc_auc_score(model.correct, model.p_ik))


def test_hallucinations_dollars_and_abstentions_are_what_a_recount_gives(lab):
    table = table_11.build(lab)
    chain, label = lab.of("3B → 70B", task="mini-popqa"), "3B → 70B"
    wrong, dollars, alone = 0, 0.0, 0.0
    prices = {"mini-llama-small": (0.08, 0.16), "mini-llama-large": (0.60, 1.20)}
    for q in range(len(chain)):
        small, large = chain.models
        model = small if small.p_ik[q] >= 0.5 and small.p_t[q] >= 0.9 else large
        wrong += not model.correct[q] and model.predictions[q] != "I do not know."
        for who in {model.name, large.name}:
            one = next(m for m in chain.models if m.name == who)
            cost = (one.prompt_tokens[q] * prices[who][0] + one.completion_tokens[q] * prices[who][1]) / 1e6
            dollars += cost if who == model.name else 0
            alone += cost if who == large.name else 0
    assert table.ours[label]["hallucination"] == pytest.approx(wrong / len(chain))
    assert table.ours[label]["cost"] == pytest.approx(dollars)
    assert table.ours["70B"]["cost"] == pytest.approx(alone)
    assert table.ours[label]["reduced_cost"] == pytest.approx(100 * (1 - dollars / alone))


@pytest.mark.parametrize("number", [n for n in PAPER.tables if n not in SLOW])
def test_a_table_is_printed_and_written_as_json_and_markdown(lab, number, capsys):
    flags = [f"--runs={lab.runs}", f"--out={lab.out}"]
    table = import_module(f"experiments.table_{number:02d}").main(flags)
    assert isinstance(table, Comparison)
    said = capsys.readouterr().out
    assert table.markdown in said and "mini-llama-small" in said
    written = json.loads((lab.out / f"table_{number:02d}.json").read_text())
    assert set(written["rows"]) >= set(ROWS[number])
    for label, row in ROWS[number].items():
        for column, value in row.items():
            cell = written["rows"][label][column]
            assert cell["paper"] == value
            if cell["difference"] is not None and number != 8:
                assert cell["difference"] == pytest.approx(cell["ours"] - value)
    assert table.markdown in (lab.out / f"table_{number:02d}.md").read_text()


def test_the_live_and_the_served_tables_run_and_what_is_on_disk_is_not_run_again(lab, capsys, monkeypatch):
    out, once = lab.out / "few", replace(MINIATURE, repeats=1)
    monkeypatch.setitem(SCALES, "miniature", once)
    flags = [f"--runs={lab.runs}", f"--out={out}", "--limit=24"]
    mains = {number: import_module(f"experiments.table_{number:02d}").main for number in SLOW}
    tables = {number: mains[number](flags) for number in (1, 4, 9, 13)}
    chains = [label for label in ROWS[1] if ARROW in label]
    assert all(isinstance(tables[1].ours[label]["time"], float) for label in chains)
    assert "24 of 24 of its answers are the model's own" in tables[4].markdown
    few = Lab(once, lab.runs, out, 24)
    for label in ROWS[9]:
        chain = label.partition(" vs ")[0]
        disagree = recount(few, chain, 0.9, 0.5)[3] if API not in chain else None
        cells = tables[9].ours[label]
        assert disagree is None or [cells["only_chain"], cells["only_last"]] == disagree
    written = {path: path.stat().st_mtime_ns for path in out.rglob("journal.jsonl")}
    assert len(written) == 7
    monkeypatch.setattr(subprocess, "Popen", None)  # no server is started for replies that are there
    again = {number: mains[number](flags) for number in (1, 4)}
    assert {number: table.to_json() for number, table in again.items()} == {n: tables[n].to_json() for n in (1, 4)}
    assert capsys.readouterr().err.count("live (llama, 1 of 1)") == 7
    assert {path: path.stat().st_mtime_ns for path in out.rglob("journal.jsonl")} == written
    # With probes that were trained anew it is another run.
    live_times(Retrained(once, lab.runs, out, 24), "llama", ["3B → 8B"])
    journals = {path: path.stat().st_mtime_ns for path in out.rglob("journal.jsonl")}
    assert len(journals) == 8 and written.items() < journals.items()


def test_a_server_that_does_not_start_is_one_line(lab, tmp_path):
    from cascade.errors import CascadeError
    from experiments.paper.api import served

    with (
        pytest.raises(CascadeError, match="Expected the server of none.yaml to start, but error: Expected a cascade's"),
        served(tmp_path / "none.yaml", tmp_path),
    ):
        pass


def test_the_figure_shows_the_papers_chains_and_ours(lab):
    drawn = figure.main([f"--runs={lab.runs}", f"--out={lab.out}"])
    assert (lab.out / "figure.png").stat().st_size > 20_000
    theirs, ours = drawn.points.values()
    assert set(theirs) == set(ours) == set(ROWS[1])
    for _, answered, full in (*theirs.values(), *ours.values()):
        assert full >= answered - 1e-9


def test_prompts_differ_from_the_papers_by_what_is_said():
    assert differences("a b", "a b") == []
    assert differences("a  b", "a b") == ["after `a ` ours leaves out a space"]
    assert differences("Choices: {choices}", "Choices:\n{choices}") == [
        "after `Choices:` ours has a line break for a space"
    ]
    prompt = multiple_choice_prompt(Question("", "Q?", "law", choices=("1", "2", "3", "4")))
    printed = PAPER.tables[7].more["templates"]["multiple choice"]
    filled = printed.format(subject="law", question="Q?", choices="A. 1 B. 2 C. 3 D. 4")
    assert prompt.split() == filled.split()


@pytest.mark.parametrize("number", [1, 4, 6, 11])
def test_the_papers_scale_without_the_papers_models_is_one_line(number, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        import_module(f"experiments.table_{number:02d}").main(["--scale=paper", f"--runs={tmp_path}"])
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: Expected")


@pytest.mark.parametrize("name", ["table_03", "table_11", "all"])
def test_a_plan_says_what_it_would_cost_and_writes_nothing(name, tmp_path, capsys):
    import_module(f"experiments.{name}").main(["--plan", f"--runs={tmp_path}"])
    said = capsys.readouterr().out
    assert ("mini-qwen3-large" in said) == (name != "table_11") and ("mini-llama-large" in said) == (name != "table_03")
    assert ("mini-popqa" in said) == (name in ("table_11", "all"))
    assert not list(tmp_path.iterdir())


def test_the_papers_scale_is_the_papers_models():
    scale = SCALES["paper"]
    assert dict(scale.llama) == {size: model.id for size, model in PAPER.models.items()}
    assert scale.layer == 24 and scale.served is None
    assert scale.scoring_batch_size == scale.settings("mmlu").batch_size <= scale.batch_size
    assert [scale.style(task) for task in ("mmlu", "gpqa", "popqa")] == ["raw", "raw", "chat"]
    assert {SCALES["miniature"].style(task) for task in ("mini-mmlu", "mini-gpqa", "mini-popqa")} == {"raw"}


def test_open_ended_questions_have_roles_where_the_scale_says_so(tmp_path):
    folder = shutil.copytree(ASSETS / "mini-llama-small", tmp_path / "chatty")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings["chat_template"] = "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}\n{% endfor %}"
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    scale = replace(MINIATURE, open_ended="chat")
    open_ended, lettered = (scale.decoder(str(folder), task) for task in ("mini-popqa", "mini-mmlu"))
    tasks = {task: load_task(task) for task in ("mini-popqa", "mini-mmlu")}
    asked = {name: task.prompt(task.questions[0]) for name, task in tasks.items()}
    assert open_ended.prompts.render(asked["mini-popqa"]).startswith("[system] ")
    assert "[user] Question:" in open_ended.prompts.render(asked["mini-popqa"])
    assert lettered.prompts.render(asked["mini-mmlu"]) == asked["mini-mmlu"]
    assert (scale.settings("mini-popqa").prompt_style, scale.settings("mini-mmlu").prompt_style) == ("chat", "raw")


def test_the_committed_page_holds_every_table_and_command():
    text = everything.PAGE.read_text()
    for number, table in PAPER.tables.items():
        assert f"## Table {number}: {table.title}\n\n`python -m experiments.table_{number:02d}`" in text
        for note in table.footnotes:
            assert f"- {note}\n" in text
    for name in ("figure", "deciding_ledger", "probe_depth", "seeds", "transfer"):
        assert f"`python -m experiments.{name}`" in text
    assert everything.PICTURE.exists()
