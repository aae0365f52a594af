"""A policy of one file and one entry is simulated, tuned, reported, written, read, run and served like any other."""

from __future__ import annotations

import io
import json
import urllib.request

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from cascade.engines.base import OPEN, Reply
from cascade.errors import CascadeError
from cascade.policies.file import policy_from_json, read_policy
from cascade.policies.ledgers import pass_costs
from cascade.policies.registry import POLICIES
from cascade.policies.tuning import Goal
from cascade.report.recommendation import recommendation
from cascade.report.study_tables import policies_table, print_study
from cascade.runtime import Cascade
from cascade.runtime.answering import run
from cascade.scores.arrays import ChainScores, align, parts
from cascade.scores.schema import validate_scores
from cascade.simulate import main as simulate
from cascade.simulation.simulator import all_costs
from cascade.simulation.simulator import simulate as row_of
from cascade.simulation.study import Study, study
from tests.serving.running import Plain, running
from tests.toys.toy_policy import MeanPolicy

NAMES = ("m0", "m1", "m2")


@pytest.fixture(autouse=True)
def registered():
    """The one entry."""
    POLICIES.append(MeanPolicy)
    yield
    POLICIES.remove(MeanPolicy)


def table(questions: int = 1200) -> pa.Table:
    """A model but the last is right where the mean of its two confidences is at least 0.3, the last one always."""
    rng, rows = np.random.default_rng(0), []
    for i, name in enumerate(NAMES):
        p_t, p_ik = rng.uniform(0, 0.95, (2, questions))
        p_ik += 0.03 * ((p_t + p_ik >= 0.58) & (p_t + p_ik < 0.6))  # nothing lies at the threshold itself
        columns = {"question_id": [f"q{q}" for q in range(questions)], "model": [name] * questions, "p_t": p_t}
        columns |= {"correct": (p_t + p_ik >= 0.6) | (i == 2), "parameters": [10 ** (i + 1)] * questions}
        rows.append(pa.table(columns | ({"p_ik": p_ik} if i < 2 else {})))
    return pa.concat_tables(rows, promote_options="default")


@pytest.fixture(scope="module")
def chain() -> ChainScores:
    return align(validate_scores(table(), "made up"), NAMES)


@pytest.fixture
def found(chain) -> Study:
    return study(*parts(chain, (0.5, 0.5)), Goal())


def by_loop(chain: ChainScores, threshold: float) -> list[int]:
    """Who answers, one question after another."""
    who = []
    for q in range(len(chain)):
        for place, model in enumerate(chain.models):
            said = [column[q] for column in (model.signals.p_t, model.signals.p_ik) if column is not None]
            if place == 2 or sum(said) / len(said) >= threshold:
                who.append(place)
                break
    return who


def test_it_is_simulated_and_pays_for_the_probes_that_it_asks(chain):
    row, who = row_of(chain, MeanPolicy((0, 1, 2), 0.3), all_costs(chain)), by_loop(chain, 0.3)
    assert row.answered == tuple(who.count(place) for place in range(3))
    assert row.accuracy == np.mean([chain.models[place].correct[q] for q, place in enumerate(who)])
    assert row.uses_p_ik
    asked = sum((place + 1 > i) * 2 * 10 ** (i + 1) for place in who for i in range(3))
    assert row.saved["flops"]["full-path"] == pytest.approx(1 - asked / (2 * 1000 * len(chain)))


def test_it_is_tuned_for_the_goal_and_competes_to_be_chosen(chain, found):
    (mine,) = (m for m in found.policies if m.policy.name == "mean confidence")
    assert mine.chosen[0] >= found.limit
    choose_on = parts(chain, (0.5, 0.5))[0]
    costs = pass_costs(choose_on).whole
    right = np.stack([m.correct for m in choose_on.models])
    kept = []
    for threshold in np.linspace(0, 1, 101):
        who = np.array(by_loop(choose_on, threshold))
        if right[who, np.arange(len(who))].mean() >= found.limit - 1e-9:
            spent = sum(costs[i, 0] * (who >= i).sum() for i in range(3))
            kept.append(spent / costs[-1].sum())
    assert mine.chosen[1] == pytest.approx(min(kept))


def test_without_its_entry_nobody_knows_it_and_nothing_else_changes(chain, found):
    POLICIES.remove(MeanPolicy)
    try:
        without = study(*parts(chain, (0.5, 0.5)), Goal(limit=found.limit))
        with pytest.raises(CascadeError, match="to be one that can be run"):
            policy_from_json({"models": list(NAMES), "mean_at_least": 0.3}, NAMES)
    finally:
        POLICIES.append(MeanPolicy)
    told = [json.dumps(m.to_json(NAMES, False)) for m in without.policies]
    others = [m for m in found.policies[1:] if m.policy.name != "mean confidence"]  # the first is the promised one
    assert told == [json.dumps(m.to_json(NAMES, False)) for m in others]


def test_it_is_reported_in_the_table_in_words_and_on_the_terminal(chain):
    """A goal that it meets best: the words of the recommendation are its own."""
    made = study(*parts(chain, (0.5, 0.5)), Goal("cost", 1.0))
    (mine,) = (m for m in made.policies if m.policy.name == "mean confidence")
    told = f"m0 → m1 → m2, each at ≥ {mine.policy.threshold:.3f}"
    cells = [[str(cell) for cell in row] for row in policies_table(made).rows]
    assert any(row[0].startswith("mean confidence") and row[4] == told for row in cells)
    assert made.chosen is mine
    assert f"mean confidence {told}." in recommendation(made).sentences[0]
    console = Console(file=io.StringIO(), width=300)
    print_study(made, console)
    assert told in console.file.getvalue()


def test_it_is_written_read_back_and_asked_for_what_it_needs(tmp_path, capsys):
    pq.write_table(table(), tmp_path / "scores.parquet")
    goal = ["--limit", "1.0", "--report", str(tmp_path / "page")]
    simulate(["--scores", str(tmp_path / "scores.parquet"), *goal, "--out", str(tmp_path / "out")])
    assert "mean confidence m0 → m1 → m2, each at ≥" in " ".join(capsys.readouterr().out.split())
    values = json.loads((tmp_path / "out" / "report.json").read_text())["study"]["chosen"]["to_run"]
    assert set(values) == {"policy", "normalize", "models", "mean_at_least"}
    policy, normalize = read_policy(tmp_path / "out" / "report.json", NAMES)
    assert (policy, normalize) == (MeanPolicy((0, 1, 2), values["mean_at_least"]), False)
    assert "mean confidence" in (tmp_path / "page" / "report.html").read_text()
    with pytest.raises(CascadeError, match="to be one that can be run, .*could not convert"):
        policy_from_json(values | {"mean_at_least": "x"}, NAMES)
    with pytest.raises(CascadeError, match="to use models of m0, m1, but got m2"):
        policy_from_json(values, NAMES[:2])


class Scored(Plain):
    """Replies with the confidences of a score table, whatever is asked."""

    def __init__(self, chain: ChainScores, place: int) -> None:
        own = chain.models[place]
        super().__init__(own.name, own.name)
        self.signals, self.rows = own.signals, {id: row for row, id in enumerate(chain.question_ids)}
        self.identity, self.parameters = {"name": own.name}, own.info.parameters
        if self.signals.p_ik is not None:
            self.num_layers, self.probe_layer = 4, 2

    def answer(self, prompts, gate=OPEN, on_token=None):
        rows = [self.rows.get(prompt.question_id, 0) for prompt in prompts]
        p_t, p_ik = self.signals.p_t[rows], [None] * len(rows)
        if gate.p_ik is not None:
            p_ik = self.signals.p_ik[rows].tolist()
        return [Reply(self.text, 5, 1, 0.001, p_t=float(t), p_ik=ik) for t, ik in zip(p_t, p_ik, strict=True)]


def live(chain: ChainScores, threshold: float) -> Cascade:
    return Cascade([Scored(chain, place) for place in range(3)], MeanPolicy((0, 1, 2), threshold))


def test_it_is_run_as_it_was_simulated(chain, tmp_path):
    lines = [json.dumps({"id": id, "question": "Who?", "answers": ["m0"]}) for id in chain.question_ids[:200]]
    (tmp_path / "mine.jsonl").write_text("\n".join(lines))
    result = run(live(chain, 0.3), str(tmp_path / "mine.jsonl"), out=tmp_path / "run")
    some = chain.take(np.arange(200))
    assert [answer.model for answer in result.answers] == [NAMES[place] for place in by_loop(some, 0.3)]
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert policy_from_json(summary["policy"], NAMES) == MeanPolicy((0, 1, 2), 0.3)


def test_it_is_served(chain):
    with running(live(chain, 0.3)) as server:
        reply = server.ask("Who?")
        told = reply.model_extra["cascade"]
        overview = json.load(urllib.request.urlopen(f"{server.url}/v1/cascade", timeout=30))
    who = by_loop(chain.take(np.arange(1)), 0.3)[0]
    assert (reply.choices[0].message.content, told["answered_by"]) == (NAMES[who], NAMES[who])
    assert [stage["thresholds"] for stage in told["stages"]] == [None] * (who + 1)
    assert overview["policy"] == {"name": "mean confidence", "places": [0, 1, 2], "thresholds": [None] * 3}
