"""Benchmarks: the Hub's rows become questions, and the Hub's troubles one clear line."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections import Counter

import pyarrow.parquet as pq
import pytest

from cascade.errors import CascadeError
from cascade.tasks.benchmarks import arc_questions, gpqa_questions, mmlu_questions, popqa_questions
from cascade.tasks.hub import HUB_TASKS
from tests.cascade.fake_hub import NOWHERE, FakeHub, ask, card, parquet, table

MMLU_ROW = {"question": "What is 1?", "subject": "abstract_algebra", "choices": ["0", "1", "2", "3"], "answer": 1}
ARC_ROW = {
    "id": "Mercury_1",
    "question": "Why?",
    "choices": {"text": ["x", "y", "z"], "label": ["1", "2", "3"]},
    "answerKey": "3",
}
POPQA_ROW = {
    "id": 4222362,
    "subj": "George Rankin",
    "prop": "occupation",
    "obj": "politician",
    "subj_id": 1850297,
    "prop_id": 22,
    "obj_id": 2834605,
    "s_aliases": '["George James Rankin"]',
    "o_aliases": '["political leader"]',
    "s_uri": "http://www.wikidata.org/entity/Q5543720",
    "o_uri": "http://www.wikidata.org/entity/Q82955",
    "s_wiki_title": "George Rankin",
    "o_wiki_title": "Politician",
    "s_pop": 142,
    "o_pop": 25692,
    "question": "What is George Rankin's occupation?",
    "possible_answers": '["politician", "political leader"]',
}


def gpqa_row(record: str) -> dict:
    """A row of GPQA's columns; its questions themselves are not to be put online."""
    return {
        "Pre-Revision Question": f"Before {record}?",
        "Question": f' What of {record}, "so called"?\n',
        "Correct Answer": "right\n",
        "Incorrect Answer 1": " wrong 1",
        "Incorrect Answer 2": "wrong 2",
        "Incorrect Answer 3": "wrong 3\n\n",
        "Subdomain": "Optics",
        "Record ID": record,
        "High-level domain": random.Random(record).choice(["Physics", "Chemistry", "Biology"]),
        "Canary String": "canary",
    }


def test_rows_of_each_benchmark_become_its_questions():
    (mmlu, again), (arc,), (popqa,) = (
        mmlu_questions([MMLU_ROW] * 2),
        arc_questions([ARC_ROW]),
        popqa_questions([POPQA_ROW]),
    )
    assert (mmlu.id, again.id) == ("mmlu/abstract_algebra/0", "mmlu/abstract_algebra/1")
    assert (mmlu.subject, mmlu.answers, mmlu.choices) == ("abstract algebra", ("B",), ("0", "1", "2", "3"))
    assert (arc.id, arc.letters, arc.answers) == ("arc-challenge/Mercury_1", ("A", "B", "C"), ("C",))
    assert (popqa.id, popqa.subject, popqa.popularity) == ("popqa/4222362", "occupation", 142)
    assert (popqa.choices, popqa.answers) == ((), ("politician", "political leader"))
    (gpqa,) = gpqa_questions([gpqa_row("rec06pnAkLOr2t2mp")])
    assert (gpqa.id, gpqa.text) == ("gpqa/rec06pnAkLOr2t2mp", 'What of rec06pnAkLOr2t2mp, "so called"?')
    assert sorted(gpqa.choices) == ["right", "wrong 1", "wrong 2", "wrong 3"]
    assert gpqa.choices["ABCD".index(gpqa.answers[0])] == "right"


def test_gpqas_options_follow_the_record_and_favour_no_letter():
    rows = [gpqa_row(f"rec{i}") for i in range(8000)]
    whole = {q.id: q for q in gpqa_questions(rows)}
    some = random.Random(0).sample(rows, 500)
    assert all(whole[q.id] == q for q in gpqa_questions(some))
    assert any(whole[q.id] != q for q in gpqa_questions(some, seed=1))
    letters, orders = Counter(q.answers[0] for q in whole.values()), Counter(q.choices for q in whole.values())
    # Chi-squared with 3 and 23 degrees of freedom: below these with probability .999.
    assert sum((letters[x] - 2000) ** 2 / 2000 for x in "ABCD") < 16.3
    assert len(orders) == 24 and sum((n - 8000 / 24) ** 2 / (8000 / 24) for n in orders.values()) < 49.7


BAD_ROWS = {
    "column": (
        mmlu_questions,
        {k: v for k, v in MMLU_ROW.items() if k != "choices"},
        "column 'choices' in row 0 of MMLU",
    ),
    "answer": (mmlu_questions, MMLU_ROW | {"answer": 4}, "0 to 3, but got 4"),
    "text": (mmlu_questions, MMLU_ROW | {"question": None}, "a text 'question' in row 0 of MMLU, but got None"),
    "options": (mmlu_questions, MMLU_ROW | {"choices": "0123"}, "to be a list of texts"),
    "record": (gpqa_questions, gpqa_row("r") | {"Incorrect Answer 2": None}, "'Incorrect Answer 2' in row 0 of GPQA"),
    "aliases": (popqa_questions, POPQA_ROW | {"possible_answers": "politician"}, "row 0 of PopQA to be a JSON list"),
    "no alias": (popqa_questions, POPQA_ROW | {"possible_answers": "[]"}, "to be texts"),
    "number": (popqa_questions, POPQA_ROW | {"s_pop": None}, "whole numbers, but got 4222362, None"),
    "key": (arc_questions, ARC_ROW | {"answerKey": "C"}, "1, 2, 3 and 'C'"),
    "struct": (arc_questions, ARC_ROW | {"choices": ["x"]}, "to hold text and label"),
}


@pytest.mark.parametrize("case", BAD_ROWS)
def test_a_row_that_is_not_of_the_schema_is_named(case):
    convert, row, said = BAD_ROWS[case]
    with pytest.raises(CascadeError, match=said):
        convert([row])


@pytest.fixture(scope="module")
def real_rows(shared_data) -> dict[str, list[dict]]:
    """The shared folder's real questions, in the Hub's schema."""
    mmlu = pq.read_table(shared_data / "mmlu" / "questions.parquet").to_pylist()
    popqa = pq.read_table(shared_data / "popqa" / "popqa.parquet").to_pylist()
    arc = pq.read_table(shared_data / "arc_challenge" / "questions.parquet").to_pylist()
    keep = ("id", "prop", "obj", "s_pop", "o_pop", "question")
    return {
        "mmlu": [
            {k: r[k] for k in ("question", "subject", "answer")} | {"choices": [r[c] for c in "ABCD"]}
            for r in mmlu
            if r["split"] == "test"
        ],
        "popqa": [
            {k: r[k] for k in keep} | {"possible_answers": r["possible_answers"] or json.dumps([r["obj"]])}
            for r in popqa
        ],
        "arc": [
            {"id": r["id"], "question": r["question"], "answerKey": r["answer"]}
            | {"choices": {"text": list(json.loads(r["choices"]).values()), "label": list(json.loads(r["choices"]))}}
            for r in arc
            if r["split"] == "test"
        ],
    }


def test_all_real_questions_are_taken_as_they_are(real_rows):
    mmlu, popqa, arc = (
        f(real_rows[n]) for f, n in ((mmlu_questions, "mmlu"), (popqa_questions, "popqa"), (arc_questions, "arc"))
    )
    assert (len(mmlu), len(popqa), len(arc)) == (14_042, 14_267, 1_172)
    for questions in (mmlu, popqa, arc):
        assert len({q.id for q in questions}) == len(questions)
    assert Counter(q.answers[0] for q in mmlu) == {"A": 3222, "B": 3462, "C": 3582, "D": 3776}
    assert len({q.subject for q in mmlu}) == 57
    for row, question in zip(real_rows["mmlu"], mmlu, strict=True):
        assert (question.text, list(question.choices)) == (row["question"], row["choices"])
    assert Counter(len(q.choices) for q in arc) == {4: 1165, 3: 4, 5: 3}
    for row, question in zip(real_rows["arc"], arc, strict=True):
        right = dict(zip(row["choices"]["label"], row["choices"]["text"], strict=True))[row["answerKey"]]
        assert question.choices["ABCDE".index(question.answers[0])] == right


def repository(name: str, files: dict[str, bytes]) -> dict[str, tuple[str, dict[str, bytes]]]:
    return {HUB_TASKS[name].repo: (HUB_TASKS[name].revision, files)}


LOAD = """
import sys, json
from cascade.tasks.load import load_task
print(json.dumps({name: [[q.id, q.text] for q in load_task(name).questions] for name in sys.argv[1:]}))
"""


def test_every_benchmark_is_loaded_once_and_then_without_the_hub(real_rows, tmp_path):
    """Through `datasets` itself; the files lie as they do on the Hub (Parquet, CSV, one TSV without a card)."""
    gpqa = [gpqa_row(f"rec{i:03}") for i in range(448)]
    hub = FakeHub(
        repository(
            "mmlu", {"README.md": card("all", "test", "all/test-*"), "all/test-0.parquet": parquet(real_rows["mmlu"])}
        )
        | repository(
            "gpqa", {"README.md": card("gpqa_main", "train", "gpqa_main.csv"), "gpqa_main.csv": table(gpqa, ",")}
        )
        | repository("popqa", {"README.md": b"# PopQA\n", "test.tsv": table(real_rows["popqa"], "\t")})
        | repository(
            "arc-challenge",
            {
                "README.md": card("ARC-Challenge", "test", "ARC-Challenge/test-*"),
                "ARC-Challenge/test-0.parquet": parquet(real_rows["arc"]),
            },
        )
    )
    first = ask(hub.url, tmp_path, "-c", LOAD, *HUB_TASKS)
    assert first.returncode == 0, first.stderr
    questions = json.loads(first.stdout)
    assert {name: len(each) for name, each in questions.items()} == {n: s.rows for n, s in HUB_TASKS.items()}
    assert [text for _, text in questions["mmlu"]] == [row["question"] for row in real_rows["mmlu"]]
    assert [text for _, text in questions["popqa"]] == [row["question"] for row in real_rows["popqa"]]
    assert not any("/main" in path for path in hub.requests)  # only ever the pinned commit
    before = len(hub.requests)
    hub.close()
    offline = ask(NOWHERE, tmp_path, "-c", LOAD, *HUB_TASKS, HF_HUB_OFFLINE="1")
    unreachable = ask(NOWHERE, tmp_path, "-c", LOAD, *HUB_TASKS)
    assert offline.stdout == unreachable.stdout == first.stdout, offline.stderr
    assert len(hub.requests) == before


COLUMNS_GONE = {"README.md": card("all", "test", "test.csv"), "test.csv": b"question,options\nq,o\n"}
HALF_THERE = {"README.md": card("ARC-Challenge", "test", "t.parquet"), "t.parquet": parquet([ARC_ROW] * 3)}
TROUBLES = {
    "gated": (
        repository("gpqa", {}),
        "gpqa",
        {},
        "huggingface.co/datasets/Idavidrein/gpqa, then `hf auth login` or put a token",
    ),
    "gone": ({}, "popqa", {}, "akariasai/PopQA at http://127.0.0.1"),
    "another commit": (
        {"cais/mmlu": ("0" * 40, {})},
        "mmlu",
        {},
        "commit c30699e8356da336a370243923dbaf21066bb9fe in cais/mmlu",
    ),
    "columns": (
        repository("mmlu", COLUMNS_GONE),
        "mmlu",
        {},
        "subject, choices, answer missing: the dataset has changed",
    ),
    "rows": (
        repository("arc-challenge", HALF_THERE),
        "arc-challenge",
        {},
        "1,172 rows in allenai/ai2_arc at 210d026faf99, but got 3",
    ),
    "offline": ({}, "mmlu", {"HF_DATASETS_OFFLINE": "1"}, "it is not there and offline mode is on"),
    "no network": ({}, "arc-challenge", {}, f"to reach {NOWHERE} for arc-challenge"),
}


# Entry points one after another in a process, since most of the time that each takes alone is spent on imports.
RUN = """
import contextlib, io, json, sys, time
from importlib import import_module
for module, *flags in json.loads(sys.argv.pop()):
    said, failed, code, main = io.StringIO(), io.StringIO(), 0, import_module(module).main
    start = time.perf_counter()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(failed):
        try:
            main(flags)
        except SystemExit as stop:
            code = stop.code
    print(json.dumps([code, said.getvalue(), failed.getvalue(), time.perf_counter() - start]))
"""
# Those that one Hub can have at once: in each group no two ask for the same benchmark.
TOGETHER = (("gated", "gone", "another commit", "rows"), ("columns",), ("offline",), ("no network",))


@pytest.fixture(scope="module")
def troubled(tmp_path_factory) -> dict[str, tuple[int, str, str, float]]:
    found = {}
    for cases in TOGETHER:
        repos = {name: files for case in cases for name, files in TROUBLES[case][0].items()}
        environment = TROUBLES[cases[0]][2]
        hub = FakeHub(repos, gated=("Idavidrein/gpqa",))
        if cases == ("no network",):
            hub.close()
        commands = [
            ("cascade.run", f"--questions={TROUBLES[case][1]}")
            if case in ("gated", "offline")
            else ("cascade.train", f"--data.task={TROUBLES[case][1]}")
            for case in cases
        ]
        done = ask(hub.url, tmp_path_factory.mktemp("home"), "-c", RUN, json.dumps(commands), **environment)
        if cases != ("no network",):
            hub.close()
        assert (done.returncode, done.stderr) == (0, "")
        found |= dict(zip(cases, map(json.loads, done.stdout.splitlines()), strict=True))
    return found


@pytest.mark.parametrize("case", TROUBLES)
def test_each_trouble_with_the_hub_is_one_line(case, troubled):
    code, printed, failed, seconds = troubled[case]
    assert (code, printed) == (2, "")
    assert TROUBLES[case][3] in failed and failed.startswith("error: Expected ") and failed.count("\n") == 1
    assert seconds < 60  # much of it imports, on a busy machine; without the first look `datasets` tries for 24 s more


def test_naming_tasks_imports_neither_datasets_nor_torch():
    code = "import sys; import cascade.tasks.load; print({'datasets', 'torch', 'pandas'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"
