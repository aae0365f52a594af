"""The study of real decoders: what it asks, what it measures, and that its page says what its records do."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from cascade.errors import CascadeError
from cascade.miniature.families import MODEL_NAMES
from cascade.scores.reading import read_scores
from cascade.tasks.load import load_task
from experiments.folds import fold_of
from experiments.pages import ROOT
from experiments.real_decoders.__main__ import RECORDS
from experiments.real_decoders.evidence import Record, read_records
from experiments.real_decoders.measure import holds, measure, write_questions
from experiments.real_decoders.page import answer, blocks

SHARED = ROOT.parent / "shared" / "data"
ROWS = 900


def test_the_questions_are_thirty_of_each_subject_all_of_arc_and_some_of_popqa(tmp_path):
    if not SHARED.exists():
        pytest.skip(f"needs the benchmarks' questions in {SHARED}")
    paths = write_questions(SHARED, tmp_path)
    mmlu, arc = ([json.loads(line) for line in paths[task].read_text().splitlines()] for task in ("mmlu", "arc"))
    source = {row["qid"]: row for row in pq.read_table(SHARED / "mmlu/questions.parquet").to_pylist()}
    asked = [question for question in mmlu if question.get("split") != "dev"]
    assert len({question["id"] for question in asked}) == len(asked) == 57 * 30
    for question in asked:
        row = source[int(question["id"].removeprefix("mmlu-"))]
        assert row["split"] == "test" and row["question"] == question["question"]
        assert question["choices"]["ABCD".index(question["answer"])] == row["ABCD"[row["answer"]]]
    theirs = {row["id"]: row for row in pq.read_table(SHARED / "arc_challenge/questions.parquet").to_pylist()}
    assert len(arc) == sum(row["split"] == "test" for row in theirs.values())
    for question in arc:
        row = theirs[question["id"]]
        assert question["choices"]["ABCDE".index(question["answer"])] == json.loads(row["choices"])[row["answer"]]
    popqa = [json.loads(line) for line in paths["popqa"].read_text().splitlines()]
    theirs = {f"popqa-{row['id']}": row for row in pq.read_table(SHARED / "popqa/popqa.parquet").to_pylist()}
    assert len({question["id"] for question in popqa}) == len(popqa) == 1500
    for question in popqa:
        row = theirs[question["id"]]
        assert question["question"] == row["question"] and question["answers"] == json.loads(row["possible_answers"])
    with pytest.raises(CascadeError, match=r"Expected `data` to hold .*questions.parquet, but it is not there"):
        write_questions(tmp_path / "nowhere", tmp_path)


def test_an_open_answer_is_right_where_it_holds_an_accepted_text():
    assert holds("He was a German politician.", ["politician", "statesman"])
    assert holds("The United States of America", ["united states"])
    assert not holds("He was a mayor.", ["may", "an or"])
    assert not holds("", ["x", "the"]) and not holds("the", ["the"])  # an article is no text


def record(seed: int, p_ik_knows: float, task: str = "mmlu") -> Record:
    """A model whose P(T) knows something, and whose P(IK) knows something else, or nothing."""
    draw = np.random.default_rng(seed)
    seen, unseen = draw.normal(size=(2, ROWS))
    right = draw.random(ROWS) < 1 / (1 + np.exp(-(seen + unseen)))
    sigmoid = lambda z: 1 / (1 + np.exp(-z))  # noqa: E731
    p_ik = sigmoid(p_ik_knows * unseen + draw.normal(size=ROWS) * (1 - p_ik_knows))
    ids = [f"{task}-{i}" for i in range(ROWS)]
    columns = {"question_id": ids, "model": ["m"] * ROWS, "correct": right, "p_t": sigmoid(seen), "p_ik": p_ik}
    columns |= {
        "subject": ["s"] * ROWS,
        "fold": fold_of(ids),
        "linear/0": p_ik * 0 + 0.5,
        "linear/1": p_ik,
        "mlp/1": p_ik,
    }
    return Record("m", task, pa.table(columns | {"probe_layer": [1] * ROWS}))


def test_both_together_are_a_regression_that_has_not_seen_the_question():
    made = record(0, 1.0)
    features = np.log(np.column_stack([made.column("p_t"), made.column("p_ik")]))
    features -= np.log1p(-np.exp(features))
    fold, expected = made.column("fold"), np.zeros(ROWS)
    for number in range(5):
        rest = LogisticRegression(C=1e3).fit(features[fold != number], made.right[fold != number])
        expected[fold == number] = rest.predict_proba(features[fold == number])[:, 1]
    assert made.fused == pytest.approx(expected, abs=1e-3)
    assert made.gain.value == pytest.approx(
        roc_auc_score(made.right, expected) - roc_auc_score(made.right, made.column("p_t")), abs=1e-3
    )


@pytest.mark.parametrize(
    ("knows", "said"),
    [
        (
            (1.0, 1.0),
            r"\*\*Does P\(IK\) add to P\(T\)\? It adds on MMLU and ARC-Challenge.\*\* .* \(1 of 1\) on ARC-Ch",
        ),
        (
            (0.0, 0.0),
            r"\*\*Does P\(IK\) add to P\(T\)\? It is not shown to add on MMLU and ARC-Challenge.\*\* .* \(0 of 1\)",
        ),
        ((1.0, 0.0), r".* It adds on MMLU and it is not shown to add on ARC-Challenge.\*\*"),
    ],
)
def test_the_answer_is_what_the_intervals_say(knows, said):
    made = {
        ("m", task): record(seed, k, task) for seed, (k, task) in enumerate(zip(knows, ("mmlu", "arc"), strict=True))
    }
    assert re.match(said, answer(made))


def test_a_head_that_knows_the_subject_alone_adds_nothing_beside_it():
    """Subjects differ in how often the model is right; P(IK) is the subject's share, or more than that."""
    draw = np.random.default_rng(3)
    subject, own = draw.integers(0, 6, ROWS), draw.normal(size=ROWS)
    logit = np.linspace(-2, 2, 6)[subject]
    sigmoid = lambda z: 1 / (1 + np.exp(-z))  # noqa: E731
    right = draw.random(ROWS) < sigmoid(logit + own)
    made = {}
    for name, p_ik in (("subject", sigmoid(logit)), ("more", sigmoid(logit + own))):
        ids = [f"q-{i}" for i in range(ROWS)]
        columns = {"question_id": ids, "correct": right, "p_t": np.full(ROWS, 0.5) + 1e-3 * draw.normal(size=ROWS)}
        columns |= {"p_ik": p_ik, "fold": fold_of(ids), "subject": [f"s{s}" for s in subject]}
        made[name] = Record("m", "popqa", pa.table(columns))
    assert made["subject"].gain.low > 0 and made["more"].gain.low > 0
    assert abs(made["subject"].gain_beside_subject.value) < 0.01 and made["more"].gain_beside_subject.low > 0
    of = made["more"]
    pairs = [
        (a > b) + (a == b) / 2
        for a, s, r in zip(of.column("p_ik"), subject, right, strict=True)
        for b, t, w in zip(of.column("p_ik"), subject, right, strict=True)
        if s == t and r and not w
    ]
    assert of.within_subjects == pytest.approx(np.mean(pairs))
    assert made["subject"].within_subjects == pytest.approx(0.5)
    for fold, s in ((0, 0), (3, 5)):
        here = (of.column("fold") == fold) & (subject == s)
        known = right[(of.column("fold") != fold) & (subject == s)]
        share = (known.sum() + 10 * right[of.column("fold") != fold].mean()) / (len(known) + 10)
        assert of.subject_alone[here] == pytest.approx(share)


def test_a_model_is_measured_with_heads_that_did_not_see_the_question(tmp_path):
    """On the miniature, whose P(IK) tells right from wrong by its own heads, and by those of its other questions."""
    questions = {}
    for task, rows in (("mmlu", range(500)), ("arc", range(500, 900))):
        asked = [load_task("mini-mmlu").questions[row] for row in rows]
        lines = [{"id": q.id, "question": q.text, "choices": list(q.choices), "answer": q.answers[0]} for q in asked]
        questions[task] = tmp_path / f"{task}.jsonl"
        questions[task].write_text("".join(json.dumps(line) + "\n" for line in lines))
    measure(MODEL_NAMES[0], questions, tmp_path, tmp_path)
    found = read_records(tmp_path)
    assert list(found) == [(MODEL_NAMES[0], "mmlu"), (MODEL_NAMES[0], "arc")]
    whole = found[MODEL_NAMES[0], "mmlu"]
    depth = int(whole.column("num_layers")[0])
    assert {f"{head}/{layer}" for head in ("linear", "mlp", "soft") for layer in range(depth + 1)} <= set(
        whole.table.column_names
    )
    assert whole.column("p_ik").round(3) == pytest.approx(whole.column(f"linear/{int(whole.column('probe_layer')[0])}"))
    for other in found.values():
        assert other.area(other.column("p_ik")).low > 0.5
        assert other.area(other.column(f"soft/{depth}")).low > 0.5
    assert whole.area(whole.column("linear_of/100")).value < whole.area(whole.column("p_ik")).value
    assert whole.area(whole.column("p_ik_from/arc")).low > 0.5
    assert read_scores([tmp_path / f"{MODEL_NAMES[0]}--mmlu.parquet"]).num_rows == 500


@pytest.mark.skipif(not list(RECORDS.glob("*.parquet")), reason="no records")
def test_the_page_says_what_the_records_do():
    page = (ROOT / "docs" / "results-real.md").read_text() + (ROOT / "README.md").read_text()
    made = blocks(read_records(RECORDS))
    there = dict(re.findall(r"<!-- begin (real_\w+) -->\n(.*?)\n<!-- end", page, re.DOTALL))
    assert there == made


def test_no_records_are_said_in_one_line(tmp_path):
    with pytest.raises(CascadeError, match=r"Expected records \(MODEL--TASK.parquet\) in .*, but there is none"):
        read_records(Path(tmp_path))
