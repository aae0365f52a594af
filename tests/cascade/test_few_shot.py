"""Examples in prompts: where they come from, that they are never what is asked, and who knows of them."""

from __future__ import annotations

import json

import pyarrow.parquet as pq
import pytest

from cascade.engines.settings import DecoderConfig
from cascade.errors import CascadeError
from cascade.run import main as run
from cascade.runtime.build import build_cascade
from cascade.runtime.config import CascadeConfig, Member
from cascade.scoring.scored import score, store_key
from cascade.simulate import main as simulate
from cascade.tasks.base import Question
from cascade.tasks.benchmarks import arc_questions, mmlu_questions
from cascade.tasks.chat import turns_of
from cascade.tasks.hub import HUB_TASKS
from cascade.tasks.load import load_questions, load_task
from cascade.tasks.task import MULTIPLE_CHOICE, MultipleChoice, OpenEnded
from cascade.train import train
from tests.cascade.fake_hub import FakeHub, ask, card, parquet

A = Question("a", "What is 1 plus 1?", "sums", ("B",), ("1", "2"))
B = Question("b", "What is 2 plus 2?", "sums", ("A",), ("4", "5"))


def test_each_example_is_a_question_in_table_7s_words_and_its_answer():
    task = MultipleChoice("t", (B,), dev=lambda: (A,)).with_shots(1)
    assert task.prompt(B) == (
        "The following are multiple choice questions about sums. Please determine the correct answer in the format "
        '"Answer: <answer>", where <answer> is A or B.\n'
        "Question: What is 1 plus 1?\nChoices:\nA. 1\nB. 2\nAnswer: B\n\n"
        "Question: What is 2 plus 2?\nChoices:\nA. 4\nB. 5\nAnswer:"
    )
    asked, shown = Question("1", "Who?", "s", ("Ann",)), Question("2", "Where?", "s", ("Bel", "Bell"))
    open_ended = OpenEnded("o", (asked,), dev=lambda: (shown,)).with_shots(1)
    header = open_ended.header(asked)
    assert open_ended.prompt(asked) == f"{header}\nQuestion: Where?\nAnswer: Bel\n\nQuestion: Who?\n"
    turns = turns_of(open_ended.prompt(asked))
    assert (turns.system, turns.user) == (header, "Question: Where?\nAnswer: Bel\n\nQuestion: Who?")
    assert turns_of(task.prompt(B)).assistant == "Answer:"


@pytest.mark.parametrize("name", ["mini-mmlu", "mini-gpqa", "mini-popqa"])
def test_no_miniature_question_is_an_example_of_its_own_benchmark(name):
    whole, task = load_task(name), load_task(name, 5)
    asked = {question.text for question in whole.questions}
    assert task.questions == whole.questions and task.prompt(whole.questions[0]) != whole.prompt(whole.questions[0])
    for question in task.questions:
        examples = task.examples_for(question)
        assert len({example.id for example in examples}) == 5
        assert not any(example.text in asked for example in examples)
        assert name == "mini-popqa" or {example.subject for example in examples} == {question.subject}


def test_no_shots_leave_every_hash_and_each_number_and_choice_of_examples_is_another_store():
    model, task = DecoderConfig("mini-llama-small").build(), load_task("mini-mmlu")
    assert task.with_shots(0) == task and task.with_shots(2).with_shots(0).revision == task.revision
    keys = [store_key(model, task.with_shots(shots)) for shots in (0, 1, 2)]
    assert len({key.digest for key in keys}) == len({key.template_hash for key in keys}) == 3
    assert keys[0].template_hash == MULTIPLE_CHOICE.template_hash
    other_example = Question("c", "?", "sums", ("A",), ("x", "y"))
    one, other = (MultipleChoice("t", (B,), dev=lambda d=d: (d,)).with_shots(1) for d in (A, other_example))
    assert one.revision != other.revision and one.template_hash == other.template_hash
    # What is not shown makes no other store.
    more = MultipleChoice("t", (B,), dev=lambda: (A, Question("d", "?", "other", ("A",), ("x", "y")))).with_shots(1)
    assert more.revision == one.revision


def test_a_probe_reads_prompts_with_as_many_examples_whatever_the_task_and_no_others():
    form = DecoderConfig("mini-llama-small").build().prompts
    mmlu, gpqa = load_task("mini-mmlu", 2), load_task("mini-gpqa", 2)
    assert form.template_hash(mmlu) in form.template_hashes(gpqa)
    assert form.template_hash(mmlu) not in form.template_hashes() | form.template_hashes(load_task("mini-gpqa", 1))


def test_what_has_no_dev_split_or_too_few_examples_is_refused_in_one_line(tmp_path):
    assert {name for name, source in HUB_TASKS.items() if source.dev is None} == {"popqa", "gpqa"}
    with pytest.raises(CascadeError, match="`shots` to be 0 for t, which has no dev split, but got 2"):
        MultipleChoice("t", (B,)).with_shots(2)
    with pytest.raises(CascadeError, match="2 dev questions of the subject 'sums' in t as examples, but there are 1"):
        MultipleChoice("t", (B,), dev=lambda: (A,)).with_shots(2)
    with pytest.raises(CascadeError, match="that is not asked, but 'b' is in both"):
        MultipleChoice("t", (B,), dev=lambda: (B,)).with_shots(1)
    with pytest.raises(CascadeError, match="`shots` to be 0, the examples in the prompts of any question, but got 3"):
        build_cascade(CascadeConfig(shots=3))


def test_a_files_dev_rows_are_shown_and_never_asked(tmp_path):
    path = tmp_path / "own.jsonl"
    lines = [{"question": f"What is {i}?", "answer": str(i)} | ({"split": "dev"} if i < 2 else {}) for i in range(5)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    for load in (load_task, load_questions):
        assert [question.id for question in load(str(path)).questions] == ["3", "4", "5"]
        shown = load(str(path), 2)
        assert [example.text for example in shown.examples_for(shown.questions[0])] == ["What is 0?", "What is 1?"]
    path.write_text(json.dumps(lines[2]) + "\n")
    with pytest.raises(CascadeError, match="`shots` to be 0 for own.jsonl, which has no dev split"):
        load_task(str(path), 1)
    path.write_text(json.dumps(lines[2] | {"split": "train"}) + "\n")
    with pytest.raises(CascadeError, match="`split` in .*own.jsonl, line 1 to be dev .* or test .*, but got 'train'"):
        load_task(str(path))


def test_a_miniature_is_scored_and_asked_live_with_the_same_examples(tmp_path):
    task = load_task("mini-mmlu", 2).take(range(0, 8000, 800))
    model = DecoderConfig("mini-llama-small").build()
    rows = score(model, task, tmp_path, layers=[1]).table().to_pylist()
    assert [row["prompt_tokens"] for row in rows] == model.count_tokens([task.prompt(q) for q in task.questions])
    small, large = Member(model="mini-llama-small", probe="none"), Member(model="mini-llama-large")
    cascade = build_cascade(CascadeConfig(models=[small, large], p_t=0.0, p_ik=None, shots=2), task)
    answers = cascade.answer_many(task.questions, progress=False)
    assert [answer.text for answer in answers] == [row["prediction"] for row in rows]
    assert [a.reply.p_t for a in answers] == pytest.approx([row["p_t"] for row in rows], abs=1e-4)
    # The probe that is shipped was trained without examples.
    with pytest.raises(CascadeError, match="prompts in the form that the probe of mini-llama-small was trained on"):
        build_cascade(CascadeConfig(models=[Member(model="mini-llama-small"), large], shots=2), task)


@pytest.fixture(scope="module")
def real(shared_data) -> dict[str, list[dict]]:
    """MMLU's real questions by split, in the Hub's schema."""
    rows = pq.read_table(shared_data / "mmlu" / "questions.parquet").to_pylist()
    found: dict[str, list[dict]] = {"test": [], "dev": []}
    for r in rows:
        if r["split"] in found:
            row = {k: r[k] for k in ("question", "subject", "answer")} | {"choices": [r[c] for c in "ABCD"]}
            found[r["split"]].append(row)
    return found


LOAD = """
import sys, json
from cascade.tasks.load import load_task
task = load_task("mmlu", 5)
print(json.dumps([[q.subject, q.text, [e.text for e in task.examples_for(q)]] for q in task.questions]))
"""


def test_mmlus_examples_are_the_five_of_the_subjects_dev_split(real, tmp_path):
    source = HUB_TASKS["mmlu"]
    both = (
        card("all", "test", "all/test-0.parquet").replace(b"---\n", b"", 1).removesuffix(b"---\n")
        + b"  - split: dev\n    path: all/dev-0.parquet\n---\n"
    )
    files = {
        "README.md": b"---\n" + both,
        "all/test-0.parquet": parquet(real["test"]),
        "all/dev-0.parquet": parquet(real["dev"]),
    }
    hub = FakeHub({source.repo: (source.revision, files)})
    done = ask(hub.url, tmp_path, "-c", LOAD)
    hub.close()
    assert done.returncode == 0, done.stderr
    dev: dict[str, list[str]] = {}
    for row in real["dev"]:
        dev.setdefault(row["subject"].replace("_", " "), []).append(row["question"])
    found = json.loads(done.stdout)
    assert len(found) == 14_042
    for subject, text, examples in found:
        assert examples == dev[subject] and len(examples) == 5 and text not in examples


def test_real_questions_with_an_example_go_through_a_real_llama(real, shared_data, tmp_path):
    dev = mmlu_questions(real["dev"])
    dev = tuple(q.__class__(f"dev/{q.id}", q.text, q.subject, q.answers, q.choices) for q in dev)
    model = DecoderConfig(str(shared_data / "stories260k_hf"), letters="bare").build()
    task = MultipleChoice("mmlu", mmlu_questions(real["test"]), dev=lambda: dev).with_shots(1)
    some = task.take(range(0, len(task.questions), 20))
    lengths = model.count_tokens([some.prompt(question) for question in some.questions])
    fits = some.take([row for row, length in enumerate(lengths) if length <= 512][:40])
    assert len(fits.questions) == 40
    rows = score(model, fits, tmp_path, layers=[4]).table().to_pylist()
    assert [row["prompt_tokens"] for row in rows] == [length for length in lengths if length <= 512][:40]
    assert all(row["prediction"] in "ABCD" for row in rows)


def test_arcs_examples_are_of_its_validation_split(shared_data):
    rows = pq.read_table(shared_data / "arc_challenge" / "questions.parquet").to_pylist()
    parts = {
        split: arc_questions(
            {"id": r["id"], "question": r["question"], "answerKey": r["answer"]}
            | {"choices": {"text": list(json.loads(r["choices"]).values()), "label": list(json.loads(r["choices"]))}}
            for r in rows
            if r["split"] == split
        )
        for split in ("test", "dev")
    }
    task = MultipleChoice("arc-challenge", parts["test"], dev=lambda: parts["dev"]).with_shots(5)
    for question in task.questions:
        assert question.text not in [example.text for example in task.examples_for(question)]
    assert HUB_TASKS["arc-challenge"].dev == "validation"


def test_few_shot_goes_from_training_and_simulation_to_a_live_run(tmp_path, capsys):
    chain, runs, own = "mini-llama-small,mini-llama-large", tmp_path / "runs", tmp_path / "own.jsonl"
    whole = load_task("mini-mmlu", 2)
    lines = [
        {
            "id": q.id,
            "question": q.text,
            "subject": q.subject,
            "choices": q.choices,
            "answer": q.answers[0],
            "split": split,
        }
        for split, questions in (("test", whole.questions[::9]), ("dev", whole.examples))
        for q in questions
    ]
    own.write_text("".join(json.dumps(line) + "\n" for line in lines))
    trained = [f"--out={runs / 'probes'}", f"--data.stores={runs / 'stores'}", "--trainer.max_epochs=3"]
    train([*trained, f"--data.task={own}", "--data.shots=2"])
    simulate(["--chain", chain, "--runs", str(runs), "--shots=2", "--task", str(own)])
    assert "Reusing the probe" in capsys.readouterr().err
    out = runs / "simulations" / "mini-llama-small+mini-llama-large--own.jsonl--2-shot"
    scored = pq.read_table(out / "scores" / "mini-llama-small.parquet")
    by_id = dict(zip(scored["question_id"].to_pylist(), scored["p_ik"].to_pylist(), strict=True))
    (probe,) = runs.glob("probes/mini-llama-small--own.jsonl-2-shot--layer-2--*/probe")
    config = tmp_path / "cascade.yaml"
    config.write_text(
        f"shots: 2\nmodels:\n- {{model: mini-llama-small, probe: {probe}}}\n- {{model: mini-llama-large}}\n"
    )
    run([f"--config={config}", "--limit=40", f"--runs={runs}", f"--questions={own}"])
    folder = runs / "live" / "mini-llama-small+mini-llama-large--own--2-shot"
    steps = pq.read_table(folder / "steps.parquet").to_pylist()
    first = [step for step in steps if step["model"] == "mini-llama-small"]
    assert len(first) == 40
    assert [step["p_ik"] for step in first] == pytest.approx([by_id[s["question_id"]] for s in first], abs=1e-4)
