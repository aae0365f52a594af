"""`python -m cascade.run`: what it writes, what a crash leaves, and what it refuses."""

from __future__ import annotations

import json
import os
import signal
import time
from contextlib import suppress
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cascade.engines.base import Engine, Failure, Reply
from cascade.errors import CascadeError
from cascade.policies.base import Thresholds
from cascade.policies.file import read_policy
from cascade.policies.outcome import Outcome
from cascade.policies.thresholds import ThresholdPolicy
from cascade.report.run_table import print_run
from cascade.run import main
from cascade.runtime import Cascade
from cascade.runtime.answering import asked_of, run
from cascade.runtime.journal import Journal, answered_in
from cascade.scores.arrays import align
from cascade.scores.reading import read_scores
from cascade.tasks.files import read_questions
from cascade.tasks.hub import HUB_TASKS
from cascade.tasks.load import load_task
from probes import stratified_split
from tests.cascade.faulty_server import FaultyServer, right_letter
from tests.processes import Forked

CHAIN = {"models": [{"model": f"mini-llama-{size}", "batch_size": 2} for size in ("small", "medium", "large")]}


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "cascade.yaml"
    path.write_text(yaml.safe_dump(CHAIN))
    return str(path)


def test_what_is_written_agrees_with_the_task_itself(config, tmp_path, capsys):
    main(["--config", config, "--questions", "mini-mmlu", "--limit", "120", "--out", str(tmp_path / "run")])
    answers = pq.read_table(tmp_path / "run" / "answers.parquet").to_pylist()
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    truth = {q.id: q.answers[0] for q in load_task("mini-mmlu").questions}
    right = [row["answer"] == truth[row["question_id"]] for row in answers]
    assert [row["correct"] for row in answers] == right and len(answers) == 120
    assert summary["accuracy"] == sum(right) / 120
    for stage in summary["stages"]:
        mine = [r for row, r in zip(answers, right, strict=True) if row["model"] == stage["model"]]
        assert (stage["answered"], stage["right"]) == (len(mine), sum(mine)) and mine
    steps = pq.read_table(tmp_path / "run" / "steps.parquet").to_pylist()
    assert [s["question_id"] for s in steps if s["outcome"] == "ANSWERED"] == [row["question_id"] for row in answers]
    scores = read_scores([tmp_path / "run" / "scores.parquet"])
    asked = {(s["question_id"], s["model"]) for s in steps if s["outcome"] != "REJECTED_BY_P_IK"}
    assert set(zip(scores["question_id"].to_pylist(), scores["model"].to_pylist(), strict=True)) == asked
    said = capsys.readouterr().out
    assert f"accuracy {sum(right) / 120:.2%}" in said and "early-exit" in said


def test_what_a_simulation_promises_is_what_answers(tmp_path):
    from cascade.miniature.families import ASSETS
    from cascade.simulate import main as simulate

    tables = [str(ASSETS / f"mini-llama-{size}" / "validation.parquet") for size in ("small", "medium", "large")]
    simulate(["--scores", *tables, "--epsilon", "0.03", "--out", str(tmp_path / "sim")])
    study = json.loads((tmp_path / "sim" / "report.json").read_text())["study"]
    chosen, promise = study["chosen"]["to_run"], study["guarantee"]
    assert promise["holds"] and promise["policy"] == chosen
    policy = ["--policy", str(tmp_path / "sim" / "report.json")]
    main([*policy, "--split=validation", "--out", str(tmp_path / "run")])
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["policy"] == chosen
    # Live, on the questions that certified it, it does what was certified.
    assert summary["accuracy"] == pytest.approx(promise["accuracy"])
    large = read_scores([Path(tables[-1])])["correct"].to_numpy().mean()
    assert large - summary["accuracy"] == pytest.approx(promise["loss"]) and promise["loss"] < 0.03


def test_a_policy_on_normalised_p_t_is_run_on_it(tmp_path, capsys):
    from cascade.miniature.families import ASSETS
    from cascade.simulate import main as simulate

    tables = [str(ASSETS / f"mini-qwen3-{size}" / "validation.parquet") for size in ("small", "medium", "large")]
    simulate(["--scores", *tables, "--normalize=true", "--ledger=answered-only", f"--out={tmp_path / 'sim'}"])
    report = tmp_path / "sim" / "report.json"
    names = [f"mini-qwen3-{size}" for size in ("small", "medium", "large")]
    policy, normalize = read_policy(report, names)
    assert normalize is True
    # The questions that chose it, live: each is answered by the model that the simulated policy has answer it.
    main(["--chain", ",".join(names), "--policy", str(report), "--split=validation", f"--out={tmp_path / 'run'}"])
    rows = pq.read_table(tmp_path / "run" / "answers.parquet").to_pylist()
    outcomes = {}
    for raw in (False, True):
        chain = align(read_scores(list(map(Path, tables))), names, normalize=not raw)
        by = (policy.route(chain) == Outcome.ANSWERED).argmax(axis=0)
        outcomes[raw] = dict(zip(chain.question_ids, (names[place] for place in by), strict=True))
    assert {row["question_id"]: row["model"] for row in rows} == outcomes[False] != outcomes[True]
    with pytest.raises(SystemExit):
        main(["--chain", ",".join(names), "--policy", str(report), "--normalize=false", f"--out={tmp_path / 'no'}"])
    assert "Expected `normalize` to be true" in capsys.readouterr().err.splitlines()[-1]
    # A file from before it was said is what the configuration says it is.
    values = json.loads(report.read_text())["study"]["chosen"]["to_run"]
    del values["normalize"]
    (tmp_path / "old.json").write_text(json.dumps(values))
    assert read_policy(tmp_path / "old.json", names) == (policy, None)


def journal_of(folder) -> dict[str, dict]:
    lines = (folder / "journal.jsonl").read_bytes()
    known = [json.loads(line) for line in lines[: lines.rfind(b"\n") + 1].splitlines()]
    return {line["question_id"]: line for line in known if "question_id" in line}


def test_a_killed_run_goes_on_and_asks_nothing_twice(config, tmp_path):
    flags = ["--config", config, "--questions", "mini-mmlu", "--limit", "400", "--out"]
    main([*flags, str(tmp_path / "whole")])
    killed = tmp_path / "killed"
    process = Forked("-m", "cascade.run", *flags, str(killed))
    while not (killed / "journal.jsonl").exists() or (killed / "journal.jsonl").stat().st_size < 20_000:
        assert process.poll() is None
        time.sleep(0.001)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    with (killed / "journal.jsonl").open("ab") as file:
        file.write(b'{"question_id": "mini-mmlu/000')  # a line that the crash cut short
    before = journal_of(killed)
    assert before and not (killed / "summary.json").exists()
    main([*flags, str(killed)])
    after = journal_of(killed)
    for question, line in before.items():
        # Measured seconds would differ if a step had been taken again.
        assert after[question]["steps"][: len(line["steps"])] == line["steps"]
    columns = ["question_id", "model", "answer"]
    resumed, whole = (pq.read_table(tmp_path / run / "answers.parquet", columns=columns) for run in ("killed", "whole"))
    assert resumed.equals(whole)


def test_ctrl_c_says_where_the_run_goes_on(config, tmp_path, monkeypatch, capsys):
    steps, write = [], Journal.write

    def stopped(journal, some):
        write(journal, some)
        steps.append(len(some))
        if len(steps) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(Journal, "write", stopped)
    with pytest.raises(SystemExit) as ended:
        main(["--config", config, "--questions", "mini-mmlu", "--limit", "400", "--out", str(tmp_path / "run")])
    assert ended.value.code == 130
    path = tmp_path / "run" / "journal.jsonl"
    said = capsys.readouterr().err.splitlines()[-1]
    assert said == f"Stopped; what was answered is in {path}, and the same command goes on there"
    assert 0 < len(journal_of(tmp_path / "run")) < 400


def test_another_runs_journal_is_refused(config, tmp_path, capsys):
    main(["--config", config, "--limit", "5", "--out", str(tmp_path / "run")])
    with pytest.raises(SystemExit):
        main(["--config", config, "--limit", "6", "--out", str(tmp_path / "run")])
    with pytest.raises(SystemExit):
        main(["--config", config, "--limit", "5", "--p_t", "0.5", "--out", str(tmp_path / "run")])
    errors = capsys.readouterr().err.splitlines()
    assert [e for e in errors if "questions differ" in e] and [e for e in errors if "policy differ" in e]


class Sketch(Engine):
    """A model that replies what it is told to."""

    identity = None
    parameters, num_layers, hidden_size, probe_layer = 10, 2, 4, 1
    probe_parameters, batch_size, parallel = 0, 4, 1

    def __init__(self, name: str, reply: Reply | None) -> None:
        self.name, self.reply, self.identity = name, reply, {"name": name}

    def answer(self, prompts, gate=None, on_token=None):
        return [self.reply or Failure(prompt.question_id, f"{self.name} is down") for prompt in prompts]


def sketched(tmp_path, first: Reply | None, last: Reply | None):
    (tmp_path / "mine.jsonl").write_text(json.dumps({"id": "q", "question": "Who?", "answers": ["Nobody"]}))
    models = [Sketch("m0", first), Sketch("m1", last)]
    cascade = Cascade(models, ThresholdPolicy.whole([Thresholds(0.5, 0.5)]))
    return run(cascade, str(tmp_path / "mine.jsonl"), out=tmp_path / "run")


def test_a_confidence_that_is_no_number_is_written_as_unknown(tmp_path):
    nothing = float("nan")
    sketched(tmp_path, Reply("Some", 3, 2, 0.1, p_ik=nothing, p_t=nothing), Reply("Nobody", 3, 2, 0.1))
    rows = read_scores([tmp_path / "run" / "scores.parquet"]).to_pylist()
    assert [(row["p_ik"], row["p_t"], row["correct"]) for row in rows] == [(None, None, False), (None, None, True)]
    steps = journal_of(tmp_path / "run")["q"]["steps"]
    assert [step["outcome"] for step in steps] == ["REJECTED_BY_P_IK", "ANSWERED"]


def test_an_empty_answer_is_a_wrong_one_and_one_that_was_never_generated_is_none(tmp_path):
    sketched(tmp_path, Reply("", 3, 0, 0.1, p_ik=0.1, rejected_by="p_ik"), Reply("", 3, 1, 0.1, p_ik=0.9, p_t=0.9))
    (row,) = read_scores([tmp_path / "run" / "scores.parquet"]).to_pylist()
    assert (row["model"], row["prediction"], row["correct"]) == ("m1", "", False)


def test_a_run_in_which_every_model_fails_is_written_and_gone_on_with(tmp_path):
    result = sketched(tmp_path, None, None)
    assert [answer.failure for answer in result.answers] == ["m1 is down"]
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["failed"] == 1
    assert not (tmp_path / "run" / "scores.parquet").exists()
    answered = sketched(tmp_path, None, Reply("Nobody", 3, 2, 0.1))
    assert answered.answers[0].text == "Nobody"


def test_why_a_stage_failed_is_said_even_where_a_later_one_answered(tmp_path, capsys):
    result = sketched(tmp_path, None, Reply("Nobody", 3, 2, 0.1))
    print_run(result.to_json(), result.cascade.policy.name, result.cascade.names[-1], result.folder)
    assert "m0 failed on 1, such as 'q': m0 is down" in capsys.readouterr().out.splitlines()
    stages = json.loads((tmp_path / "run" / "summary.json").read_text())["stages"]
    first = {"question_id": "q", "reason": "m0 is down"}
    assert [(stage["failed"], stage["first_failure"]) for stage in stages] == [(1, first), (0, None)]


HEAD = '{"run": {}}\n'


@pytest.mark.parametrize(
    ("lines", "number"),
    [
        ('{"run": 5}', 1),
        ("[]", 1),
        ("hello", 1),
        (HEAD + '{"question_id": "q"}', 2),
        (HEAD + '{"question_id": "q", "at": 0, "steps": []}\n{"question_id": "r", "at": 1, "steps": 7}', 3),
        (HEAD + '{"question_id": "q", "at": -1, "steps": []}', 2),
        (HEAD + '{"question_id": ["q"], "at": 0, "steps": []}', 2),
    ],
)
def test_what_is_no_journal_is_refused_by_file_and_line(lines, number, tmp_path):
    path = tmp_path / "journal.jsonl"
    path.write_text(lines + "\n")
    for read in (answered_in, lambda path: Journal(path, {})):
        with pytest.raises(CascadeError, match=f"Expected the journal of a run in {path}, but line {number}: "):
            read(path)
    assert path.read_text() == lines + "\n"


def test_a_plan_beside_a_corrupt_journal_ends_with_one_line(config, tmp_path, capsys):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "journal.jsonl").write_text(HEAD + '{"question_id": "q", "at"\n')
    with pytest.raises(SystemExit) as ended:
        main(["--config", config, "--limit", "5", "--plan", "--out", str(tmp_path / "run")])
    assert ended.value.code
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("journal.jsonl, but line 2: column 26: Expecting ':' delimiter")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.floats(0, 1), length=st.integers(0, 60), put=st.binary(max_size=8))
def test_a_journal_that_was_damaged_anywhere_is_read_or_refused(place, length, put, tmp_path):
    if not (tmp_path / "run").exists():
        sketched(tmp_path, Reply("Some", 3, 2, 0.1, p_ik=0.9, p_t=0.2), Reply("Nobody", 3, 2, 0.1))
    content = (tmp_path / "run" / "journal.jsonl").read_bytes()
    assert answered_in(tmp_path / "run" / "journal.jsonl") == {"q"}
    start = int(place * len(content))
    damaged = tmp_path / "damaged.jsonl"
    damaged.write_bytes(content[:start] + put + content[start + length :])
    with suppress(CascadeError):
        assert len(answered_in(damaged)) <= 1
        Journal(damaged, {}).close()


def test_a_journal_is_written_by_one_run_at_a_time(tmp_path):
    first = Journal(tmp_path / "journal.jsonl", {})
    with pytest.raises(CascadeError, match="one run at a time"):
        Journal(tmp_path / "journal.jsonl", {})
    first.close()
    Journal(tmp_path / "journal.jsonl", {}).close()


def test_questions_of_ones_own_and_an_endpoint_that_fails_at_first(tmp_path, capsys, monkeypatch):
    """The last model fails on one question: everything else is kept, and the same command asks that one again."""
    monkeypatch.setenv("OPENAI_API_KEY", "nothing secret")
    rows = [
        {"id": f"q{i}", "question": f"Question {i} of them?", "choices": list("wxyz"), "answer": right_letter(i)}
        for i in range(8)
    ]
    (tmp_path / "mine.jsonl").write_text("\n".join(map(json.dumps, rows)))
    broken = {3}
    with FaultyServer(fault=lambda question, attempt: "500" if question in broken else "ok").running() as server:
        endpoint = {"endpoint": "m", "base_url": server.url, "attempts": 1, "cache": str(tmp_path / "cache.sqlite")}
        endpoint |= {"price": {"input": 1.0, "output": 2.0}}
        first = {"model": "mini-llama-small", "price": {"input": 0.1, "output": 0.1}}
        (tmp_path / "c.yaml").write_text(yaml.safe_dump({"models": [first, endpoint], "p_t": 1.0}))
        flags = ["--config", str(tmp_path / "c.yaml"), "--questions", str(tmp_path / "mine.jsonl")]
        with pytest.raises(SystemExit) as ended:
            main([*flags, "--out", str(tmp_path / "run")])
        assert ended.value.code == 2
        assert "1 of 8 questions have no answer, such as 'q3'" in capsys.readouterr().err
        broken.clear()
        main([*flags, "--out", str(tmp_path / "run")])
        assert sorted(server.billed()) == list(range(8))
        assert len(server.requests) == 9
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["accuracy"], summary["failed"]) == (1.0, 0)
    assert set(summary["cost"]) == {"tokens", "dollars"}
    assert "Resuming: 8 of 8" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["llama3", "qwen3"])
@pytest.mark.parametrize("plan", [["--plan"], []])
def test_real_models_are_not_asked_about_the_miniatures_world_unless_that_is_said(name, plan, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--config", str(Path(__file__).parents[2] / "configs" / "cascades" / f"{name}.yaml"), *plan])
    assert ended.value.code == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith("error: Expected `questions`, a task or a file, for ") and "mini-mmlu" in said


@pytest.mark.parametrize("member", [{"probe": "PROBE"}, {"reader": {"model": "mini-llama-small", "probe": "PROBE"}}])
def test_a_probe_that_is_not_trained_yet_is_a_line_that_says_what_trains_it(member, tmp_path, capsys):
    folder = tmp_path / "probes" / "layer-2" / "probe"
    first = json.loads(json.dumps({"model": "mini-llama-small"} | member).replace("PROBE", str(folder)))
    (tmp_path / "c.yaml").write_text(yaml.safe_dump({"models": [first, {"model": "mini-llama-large"}]}))
    with pytest.raises(SystemExit):
        main(["--config", str(tmp_path / "c.yaml"), "--out", str(tmp_path / "run")])
    (said,) = capsys.readouterr().err.splitlines()
    assert f"there is no folder '{folder}'" in said and said.endswith("is trained by `python -m cascade.train`")
    folder.mkdir(parents=True)  # what is there, and no probe, is not to be trained, but to be looked at
    with pytest.raises(SystemExit):
        main(["--config", str(tmp_path / "c.yaml"), "--out", str(tmp_path / "run")])
    assert capsys.readouterr().err.endswith(f"in {folder}, but there is no config.json\n")


def test_a_run_that_fails_before_its_first_step_leaves_nothing_and_a_later_one_keeps_what_was_done(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    endpoint = {"endpoint": "m", "base_url": "https://endpoint.invalid/v1", "cache": str(tmp_path / "cache.sqlite")}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump({"models": [endpoint, {"model": "mini-llama-large"}]}))
    (tmp_path / "back.yaml").write_text(yaml.safe_dump({"models": [{"model": "mini-llama-small"}, endpoint]}))
    flags = ["--questions", "mini-mmlu", "--limit", "20", "--p_t", "1.0"]
    (tmp_path / "mine").mkdir()
    for config, left in (("c.yaml", []), ("back.yaml", ["run"])):
        with pytest.raises(SystemExit):
            main(["--config", str(tmp_path / config), *flags, "--out", str(tmp_path / "mine" / "run" / "first")])
        (said,) = capsys.readouterr().err.splitlines()
        assert "variable OPENAI_API_KEY to hold the key" in said
        assert [path.name for path in (tmp_path / "mine").iterdir()] == left
    assert len(journal_of(tmp_path / "mine" / "run" / "first")) == 20


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"question": "x"}\n{"question": ', "a.jsonl, line 2, but column 14: Expecting value$"),
        ("a.jsonl", '\n\n{"question": "x" "id": 1}', "a.jsonl, line 3, but column 18: Expecting ',' delimiter$"),
        ("a.jsonl", '{"question": "x", "answer": ' + "9" * 5000 + "}", "a.jsonl, line 1, but Exceeds the limit"),
        ("a.jsonl", '{"question": "x"}\n\n[1]', "JSON object in .*line 3"),
        ("a.jsonl", '{"question": ""}', "text `question` in .*line 1"),
        ("a.jsonl", '{"question": "x", "chioces": []}', "got chioces"),
        ("a.jsonl", '{"question": "x", "choices": ["y"]}', "two or more `choices`"),
        ("a.jsonl", '{"question": "x", "choices": ["y", "z"], "answer": "C"}', "line 1: .*one of A, B, but got 'C'"),
        ("a.jsonl", '{"id": 1, "question": "x"}\n{"id": 1, "question": "y"}', "'1' in .*line 2 was there in line 1"),
        ("a.csv", "question,choices\nx,nothing\n", "`choices` in .*line 2 to be a JSON list, but column 1: Expecting"),
        ("a.csv", "question,answer\nx\n", "as many cells as columns in .*line 2"),
        ("a.jsonl", "", "holds none"),
        ("a.txt", "x", "jsonl"),
    ],
)
def test_a_malformed_line_is_named(name, content, message, tmp_path):
    from cascade.errors import CascadeError

    (tmp_path / name).write_text(content)
    with pytest.raises(CascadeError, match=message):
        read_questions(tmp_path / name)


def test_csv_and_json_lines_say_the_same(tmp_path):
    (tmp_path / "a.jsonl").write_text(
        '{"question": "Wörk?", "choices": ["a,b", "c\\"d"], "answer": "B"}\n{"question": "y"}'
    )
    (tmp_path / "a.csv").write_text('question,choices,answer\nWörk?,"[""a,b"", ""c\\""d""]",B\ny,,\n')
    first, second = read_questions(tmp_path / "a.jsonl"), read_questions(tmp_path / "a.csv")
    assert [(q.text, q.choices, q.answers) for q in first] == [(q.text, q.choices, q.answers) for q in second]
    assert first[0].choices == ("a,b", 'c"d') and first[1].answers == ()


def test_what_a_probe_was_trained_on_is_not_asked_by_default():
    """Of every task that has probes of its own; another's probes saw none of them."""
    assert {name: source.probed_on for name, source in HUB_TASKS.items() if source.probed_on} == {"gpqa": "mmlu"}
    task = load_task("mini-mmlu")
    split = stratified_split([q.id for q in task.questions], [q.subject for q in task.questions])
    asked, label = asked_of("mini-mmlu", None, None, [], 0)
    assert {q.id for q in asked.questions} == {task.questions[row].id for row in split.test} and label == "mini-mmlu"
    for name in ("mini-gpqa", "mini-popqa"):
        assert asked_of(name, None, None, [], 0)[0].questions == load_task(name).questions
