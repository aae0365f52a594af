from __future__ import annotations

import contextlib
import json
import re
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module

import numpy as np
import pytest
from scipy import stats

from cascade.miniature.families import ASSETS, MODEL_NAMES
from cascade.policies.ledgers import LEDGERS
from cascade.scores.arrays import ChainScores
from cascade.tasks.base import Question, multiple_choice_prompt
from cascade.tasks.judging import Verdict
from cascade.tasks.load import load_task
from experiments import all as everything
from experiments import (
    deciding_ledger,
    figure,
    probe_depth,
    seeds,
    table_05,
    table_08,
    table_10,
    table_11,
    table_14,
    table_15,
)
from experiments.paper.comparison import Comparison
from experiments.paper.lab import Lab
from experiments.paper.live import live_times
from experiments.paper.numbers import paper
from experiments.paper.scales import API, ARROW, MINIATURE, SCALES
from experiments.table_07 import differences
from probes import Probe
from tests.processes import instead_of_popen

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
def lab(made_once, tmp_path_factory) -> Lab:
    """With the stores of MMLU and its probes, at whatever depth; those of other tasks are made on the way."""
    folder, layers = tmp_path_factory.mktemp("paper"), {"mini-llama-small": 3, "mini-llama-medium": 4}
    stores = [made_once.store(name) for name in MODEL_NAMES]
    probes = [made_once.probe(name, layer) for name, last in layers.items() for layer in range(1, last + 1)]
    made_once.copy(folder, *stores, *probes)
    return Lab(MINIATURE, folder, folder / "out")


def recount(chain: ChainScores, p_t: float, p_ik: float | None):
    """A chain question by question: right answers, who answered, FLOPs in the ledgers, all by loops."""
    right, answered, disagree = 0, [0] * len(chain.models), [0, 0]
    spent = {"answered-only": 0.0, "full-path": 0.0, "early-exit": 0.0}
    for q in range(len(chain)):
        for place, model in enumerate(chain.models):
            last = place == len(chain.models) - 1
            probe = 0 if last or p_ik is None else 2 * model.info.probe_parameters
            whole = 2 * model.info.parameters
            unknown = not last and p_ik is not None and model.signals.p_ik[q] < p_ik
            unsure = not last and model.signals.p_t[q] < p_t
            if not unknown and not unsure:
                right += bool(model.correct[q])
                answered[place] += 1
                for ledger in spent:
                    spent[ledger] += whole + probe
                if model.correct[q] != chain.models[-1].correct[q]:
                    disagree[int(not model.correct[q])] += 1
                break
            spent["full-path"] += whole + probe
            spent["early-exit"] += probe + whole * (model.info.exit_share if unknown else 1)
    alone = 2 * chain.models[-1].info.parameters * len(chain)
    saved = {ledger: 100 * (1 - cost / alone) for ledger, cost in spent.items()}
    return 100 * right / len(chain), answered, saved, disagree, 100 * chain.models[-1].correct.mean()


def test_our_cells_are_what_a_plain_recount_gives(lab):
    ablation, stages, thresholds = table_05.build(lab), table_08.build(lab), table_15.build(lab)
    for label in ROWS[5]:
        chain, _, without = label.partition(", w/o")
        accuracy, _, saved, _, last = recount(lab.of(chain), 0.9, None if without else 0.5)
        cells = ablation.ours[label]
        assert cells["pd_points"] == pytest.approx(accuracy - last)
        for column, ledger in (
            ("reduced_cc", "answered-only"), ("full_path", "full-path"), ("early_exit", "early-exit"),
        ):  # fmt: skip
            assert cells[column] == pytest.approx(saved[ledger])
    for label in ROWS[8]:
        answered = recount(lab.of(label), 0.9, 0.5)[1]
        assert [stages.ours[label][size] for size in label.split(ARROW)] == answered
    for label, p_t, p_ik in (("P(T) ≥ 0.70", 0.7, 0.5), ("P(T) ≥ 0.50, w/o P(IK)", 0.5, None)):
        accuracy, _, saved, _, last = recount(lab.of("8B → 70B"), p_t, p_ik)
        assert thresholds.ours[label]["accuracy"] == pytest.approx(accuracy / 100)
        assert thresholds.ours[label]["pd_relative"] == pytest.approx(100 * (accuracy / last - 1))
        assert thresholds.ours[label]["reduced_cc"] == pytest.approx(saved["answered-only"])


def test_the_probes_figures_are_scikit_learns(lab):
    from sklearn.metrics import accuracy_score, f1_score, roc_auc_score

    table = table_14.build(lab)
    for size, model in zip(("3B", "8B"), lab.of("3B → 8B → 70B").models, strict=False):
        said, cells = model.signals.p_ik >= 0.5, table.ours[size]
        assert cells["accuracy"] == pytest.approx(100 * accuracy_score(model.correct, said))
        assert cells["f1"] == pytest.approx(100 * f1_score(model.correct, said, average="macro"))
        assert cells["f1_right"] == pytest.approx(100 * f1_score(model.correct, said))
        assert cells["auroc"] == pytest.approx(100 * roc_auc_score(model.correct, model.signals.p_ik))


def test_hallucinations_dollars_and_abstentions_are_what_a_recount_gives(lab):
    table = table_11.build(lab)
    chain, label = lab.of("3B → 70B", task="mini-popqa"), "3B → 70B"
    wrong, dollars, alone = 0, 0.0, 0.0
    prices = {"mini-llama-small": (0.08, 0.16), "mini-llama-large": (0.60, 1.20)}
    for q in range(len(chain)):
        small, large = chain.models
        model = small if small.signals.p_ik[q] >= 0.5 and small.signals.p_t[q] >= 0.9 else large
        wrong += not model.correct[q] and model.predictions[q] != "I do not know."
        for who in {model.name, large.name}:
            one = next(m for m in chain.models if m.name == who)
            cost = (one.usage.prompt_tokens[q] * prices[who][0] + one.usage.completion_tokens[q] * prices[who][1]) / 1e6
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
    monkeypatch.setattr(subprocess, "Popen", instead_of_popen)
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
        disagree = recount(few.of(chain), 0.9, 0.5)[3] if API not in chain else None
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


class Doubting:
    """A judge that takes every second answer for right, and one in ten for no attempt."""

    def judge(self, cases, on_verdict=None):
        places = [int(case.question.id.rpartition("/")[2]) for case in cases]
        return [
            Verdict.CORRECT if place % 2 else Verdict.NOT_ATTEMPTED if place % 10 == 0 else Verdict.INCORRECT
            for place in places
        ]


def test_a_judge_decides_what_is_right_in_popqa_and_its_verdicts_are_the_tables(lab):
    judged = replace(lab, judge=Doubting(), _tables={})
    places = [int(question.id.rpartition("/")[2]) for question in lab.questions("mini-popqa")]
    right = np.mean([place % 2 == 1 for place in places])
    invented = np.mean([place % 2 == 0 and place % 10 != 0 for place in places])
    grounding, table = table_10.build(judged), table_11.build(judged)
    plain = table_10.build(lab)
    for size in ("3B", "8B", "70B"):
        assert grounding.ours[f"{size} (w/ grounding)"]["accuracy"] == pytest.approx(right)
        matched = plain.ours[f"{size} (w/ grounding)"]["accuracy"]
        assert grounding.ours[f"{size} (w/o grounding)"]["accuracy"] == pytest.approx(matched)
        assert table.ours[size]["accuracy"] == pytest.approx(right)
        assert table.ours[size]["hallucination"] == pytest.approx(invented)
    assert "nothing is searched" in plain.markdown and "nothing is searched" not in grounding.markdown


@contextlib.contextmanager
def provider(refuses: Callable[[str], bool]) -> Iterator[tuple[str, list[dict]]]:
    """A provider that answers A, or not at all, and shows no log-probabilities; its address, and what it was asked."""
    asked: list[dict] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append(request)
            silent = refuses(request["messages"][-1]["content"])
            message = {"role": "assistant", "content": None if silent else "A", "refusal": "No." if silent else None}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
            kind = {"id": "x", "object": "chat.completion", "created": 0, "model": request["model"]}
            body = json.dumps(kind | {"choices": [choice], "usage": usage}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1", asked
    server.shutdown()
    server.server_close()


def test_any_endpoint_stands_for_the_api_and_is_asked_each_question_once(lab, tmp_path):
    questions = {multiple_choice_prompt(question): question for question in lab.questions("mini-mmlu")[:20]}
    refused = {text for n, text in enumerate(questions) if n % 5 == 0}
    with provider(refused.__contains__) as (url, asked):
        (tmp_path / "api.yaml").write_text(f"endpoint: theirs\nbase_url: {url}\nprice: {{input: 3.0, output: 9.0}}\n")
        flags = [f"--runs={lab.runs}", f"--out={tmp_path}", f"--api={tmp_path / 'api.yaml'}"]
        table = import_module("experiments.table_04").main([*flags, "--limit=20"])
        dollars = import_module("experiments.table_13").main([*flags, "--limit=20"])
        assert sorted(request["messages"][-1]["content"] for request in asked) == sorted(questions)
        assert not any("logprobs" in request for request in asked)  # of the last model nobody asks a confidence
        right = sum(q.answers == ("A",) and text not in refused for text, q in questions.items())
        assert table.ours[API]["accuracy"] == pytest.approx(100 * right / 20)
        assert table.ours[API]["tokens"] == 3 * (20 - len(refused))
        assert "refused 4 of 20 questions" in table.markdown and "2.4 tokens a question" in table.markdown
        assert dollars.ours[API]["cost"] == pytest.approx((7 * 3 + 3 * 9) * (20 - len(refused)) / 1e6)
        import_module("experiments.table_04").main([*flags, "--limit=24"])
        assert len(asked) == 24


@pytest.mark.parametrize("text", ["model: mini-llama-small\n", "endpoint: x\n", "endpoint: [\n", None])
def test_an_endpoint_that_is_none_is_one_line(text, tmp_path, capsys):
    if text is not None:
        (tmp_path / "api.yaml").write_text(text)
    with pytest.raises(SystemExit) as stop:
        import_module("experiments.table_04").main([f"--api={tmp_path / 'api.yaml'}", f"--runs={tmp_path}"])
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: Expected") and "api.yaml" in line


def test_a_server_that_does_not_start_is_one_line(lab, tmp_path, monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", instead_of_popen)
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


def test_the_interval_over_seeds_is_scipys():
    values = [3.0, 4.5, 2.0, 8.25, 5.5]
    mean, half = seeds.interval(values)
    low, high = stats.t.interval(0.95, len(values) - 1, loc=np.mean(values), scale=stats.sem(values))
    assert (mean - half, mean + half) == (pytest.approx(low), pytest.approx(high))
    assert np.isnan(seeds.interval([1.0, None])[0])


def test_a_number_over_seeds_is_the_mean_of_splits_that_are_counted_one_by_one(lab, monkeypatch):
    monkeypatch.setattr(seeds, "SEEDS", range(2))
    monkeypatch.setattr(seeds, "TABLES", {8: table_08.build})
    found = seeds.build(lab).values
    runs = [recount(replace(lab, seed=seed, _tables={}).of("3B → 8B"), 0.9, 0.5)[1] for seed in range(2)]
    assert runs[0] != runs[1]
    for place, size in enumerate(("3B", "8B")):
        value = found[f"Table 8, 3B → 8B, {size}"]
        assert value["mean"] == pytest.approx(np.mean([run[place] for run in runs]))
        assert value["paper"] == ROWS[8]["3B → 8B"][size]


def test_the_findings_count_as_a_loop_does(lab, monkeypatch):
    monkeypatch.delitem(deciding_ledger.FAMILIES, "qwen")
    monkeypatch.setattr(deciding_ledger, "HALVINGS", 1)
    models = list(MINIATURE.llama.values())
    accuracy, _, saved, _, last = recount(lab.of("3B → 8B → 70B"), 0.9, 0.5)
    cells = [f"{accuracy - last:+.2f}", *(f"{saved[ledger]:+.1f} %" for ledger in LEDGERS)]
    (line,) = re.findall(r"\| llama 3B → 8B → 70B .*\|", deciding_ledger.build(lab).markdown)
    assert [cell.strip() for cell in line.strip("|").split("|")[1:]] == cells
    found = probe_depth.build(lab).values
    for which, share in (("1 of 3, 1 of 4", 0.25), ("3 of 3, 4 of 4", 1.0)):
        saved = recount(lab.chain(models, "mini-mmlu", depth=share), 0.9, 0.5)[2]
        assert {k: 100 * v for k, v in found[f"llama, {which}"]["fixed"].items()} == pytest.approx(saved)


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
    assert scale.scoring_batch_size <= scale.batch_size
    assert [scale.style(task) for task in ("mmlu", "gpqa", "popqa")] == ["raw", "raw", "chat"]
    assert {SCALES["miniature"].style(task) for task in ("mini-mmlu", "mini-gpqa", "mini-popqa")} == {"raw"}


def test_open_ended_questions_have_roles_where_the_scale_says_so(tmp_path):
    folder = shutil.copytree(ASSETS / "mini-llama-small", tmp_path / "chatty")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings["chat_template"] = "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}\n{% endfor %}"
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    scale = replace(MINIATURE, open_ended="chat")
    settings = [scale.decoder(str(folder), task) for task in ("mini-popqa", "mini-mmlu")]
    open_ended, lettered = (one.build().decoder for one in settings)
    tasks = {task: load_task(task) for task in ("mini-popqa", "mini-mmlu")}
    asked = {name: task.prompt(task.questions[0]) for name, task in tasks.items()}
    assert open_ended.prompts.render(asked["mini-popqa"]).startswith("[system] ")
    assert "[user] Question:" in open_ended.prompts.render(asked["mini-popqa"])
    assert lettered.prompts.render(asked["mini-mmlu"]) == asked["mini-mmlu"]
    assert [one.prompt_style for one in settings] == ["chat", "raw"]


def test_the_committed_page_holds_every_table_and_command():
    text = everything.PAGE.read_text()
    for number, table in PAPER.tables.items():
        assert f"## Table {number}: {table.title}\n\n`python -m experiments.table_{number:02d}`" in text
        for note in table.footnotes:
            assert f"- {note}\n" in text
    for name in ("figure", "deciding_ledger", "probe_depth", "seeds", "transfer"):
        assert f"`python -m experiments.{name}`" in text
    assert everything.PICTURE.exists()
