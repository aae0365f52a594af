"""A watch over a run, and what its alarms say: every sentence is true of what was observed."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pytest

from cascade.errors import CascadeError
from cascade.policies.base import Thresholds
from cascade.policies.promise import Promise, Watched
from cascade.policies.thresholds import ThresholdPolicy
from cascade.runtime import Cascade
from cascade.runtime.verdicts import Verdict, read_verdicts, watch_run
from cascade.runtime.watch import LEVEL, Watch
from cascade.tasks.base import Question
from cascade.tasks.task import MultipleChoice
from tests.serving.running import Plain


def promised(p_t: float = 0.95) -> Cascade:
    """A small model that answers all, or none, and a promise of at most a point, which 1,000 questions certified."""
    models = Plain("small", p_t=p_t), Plain("large")
    policy = ThresholdPolicy.whole([Thresholds(0.9, None)])
    return Cascade(models, policy, watched=Watched(Promise(0.01, 0.1, 1_000, 0.9, 0.9)))


def asked(questions: int) -> MultipleChoice:
    choices = ("yes", "no")
    return MultipleChoice("t", tuple(Question(f"q{i}", f"{i}?", "s", ("A",), choices) for i in range(questions)))


def test_the_order_of_a_file_of_verdicts_raises_no_alarm():
    """No more is lost than was promised, and the losses stand first, as a spreadsheet sorts them."""
    task, cascade = asked(2_000), promised()
    answers = cascade.answer_many(task.questions, progress=False)
    lost = {f"q{i}": Verdict(i >= 20, True) for i in range(2_000)}
    assert watch_run(cascade, task, answers, lost).lines()[-1].startswith("No alarm on the promise by 2,000 verdicts")
    broken = {f"q{i}": Verdict(i >= 200, True) for i in range(2_000)}
    alarms = watch_run(cascade, task, answers, broken).alarms
    assert any("promise is broken" in line and "2,000 labelled answers 10.00% were" in line for line in alarms)


def test_an_answer_of_best_effort_is_none_of_the_promised_policys():
    task, cascade = asked(50), promised()
    answers = cascade.answer_many(task.questions, progress=False)
    forced = [replace(a, steps=(replace(a.steps[-1], best_effort=True),)) for a in answers]
    told = {question.id: Verdict(False, True) for question in task.questions}
    assert watch_run(cascade, task, forced, told).feedback == 0
    assert watch_run(cascade, task, answers, told).feedback == 50


@pytest.mark.parametrize("known", [True, False])
def test_an_alarm_after_a_long_time_without_losses_does_not_contradict_itself(known):
    """Losses of late alarm while the mean of all is still as promised; the sentence says both."""
    watch = Watch(promised())
    for _ in range(3_000):
        watch.verdict(True, True if known else None)
    found: list[str] = []
    while not found:
        new = watch.verdict(False, True if known else None)
        found = [one for one in new if ("promise is broken" if known else "accuracy is below") in one]
    (line,) = found
    wrong = watch.feedback - 3_000
    mean = wrong / watch.feedback
    if known:
        assert mean < 0.01
        assert f"{watch.feedback:,} labelled answers {mean:.2%} were in all, but more over a stretch of them" in line
    else:
        assert 1 - mean > watch.least_accuracy
        assert f"it was {1 - mean:.2%} in all, but lower over a stretch of them" in line
    level = float(re.findall(r"at most ([\d.]+) % over any time", line)[0]) / 100
    assert level <= LEVEL / 2


def test_what_is_said_of_the_accuracy_is_what_the_certifying_questions_bound():
    watch = Watch(promised())
    while not watch.alarms:
        watch.verdict(False, None)
    (line,) = watch.alarms
    bound = float(re.findall(r"right ([\d.]+)% of the time or more, by the 1,000 questions", line)[0]) / 100
    # 900 of 1,000 were right: so many or more have at most the stated level of probability at the bound.
    rng = np.random.default_rng(0)
    assert (rng.binomial(1_000, bound, 400_000) >= 900).mean() == pytest.approx(LEVEL / 6, rel=0.1)
    assert f"below {bound - 0.01:.2%}" in line


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("v.jsonl", "", "there is none"),
        ("v.jsonl", "{", "line 1"),
        ("v.jsonl", "[]", "JSON object"),
        ("v.jsonl", json.dumps({"question_id": "q9", "correct": True}), "was asked"),
        ("v.jsonl", json.dumps({"question_id": "q0", "correct": 2}), "`correct`"),
        ("v.jsonl", json.dumps({"question_id": "q0", "correct": True, "more": 1}), "more"),
        ("v.csv", "question_id,correct\nq0,true\nq0,true\n", "each question once"),
        ("v.csv", "question_id,correct,reference_correct\nq0,true,perhaps\n", "`reference_correct`"),
    ],
)
def test_what_is_no_file_of_verdicts_is_named(tmp_path, name, text, said):
    (tmp_path / name).write_text(text)
    with pytest.raises(CascadeError, match=said):
        read_verdicts(tmp_path / name, {"q0", "q1"})


def test_verdicts_are_read_from_json_lines_and_csv_alike(tmp_path):
    rows = [{"question_id": "q1", "correct": False, "reference_correct": True}, {"question_id": "q0", "correct": True}]
    (tmp_path / "v.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "v.csv").write_text("question_id,correct,reference_correct\nq1,false,true\nq0,1,\n")
    found = [read_verdicts(tmp_path / f"v.{end}", {"q0", "q1"}) for end in ("jsonl", "csv")]
    assert found[0] == found[1] == {"q1": Verdict(False, True), "q0": Verdict(True)}
