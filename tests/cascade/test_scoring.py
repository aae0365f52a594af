"""One pass, resumable to the byte, on a real (miniature) model."""

from __future__ import annotations

import os
import random
import signal
import time
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import torch

from cascade.engines.base import Prompt
from cascade.engines.settings import DecoderConfig
from cascade.engines.states import StatesEngine
from cascade.errors import CascadeError, Interrupted
from cascade.scoring.scored import score, store_key
from cascade.scoring.unfinished import UnfinishedShard
from cascade.tasks.load import load_task
from cascade.tasks.task import MultipleChoice, Task
from probes import ProbeError
from tests.processes import FORKS, start_server

MODEL = "mini-llama-small"
TOLERANCE = {"rtol": 0, "atol": 1e-4}


def some(task: str, count: int) -> Task:
    """A few questions of a task, spread over its subjects."""
    whole = load_task(task)
    return whole.take(range(0, len(whole.questions), len(whole.questions) // count)[:count])


@pytest.fixture(scope="module")
def model() -> StatesEngine:
    return DecoderConfig(MODEL).build()


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir()) if not p.name.startswith("seconds")}


def test_results_do_not_depend_on_batch_size_or_padding_side(model):
    task = some("mini-mmlu", 60)
    prompts = [task.prompt(q) for q in task.questions]
    alone = [model.decoder.run([p]) for p in prompts]
    order = random.Random(0).sample(range(60), 60)
    for side in ("left", "right"):
        together = model.decoder.run([prompts[i] for i in order], padding_side=side)
        for place, i in enumerate(order):
            torch.testing.assert_close(together.first_token[place], alone[i].first_token[0], **TOLERANCE)
            for layer, state in alone[i].states.items():
                torch.testing.assert_close(together.states[layer][place], state[0], **TOLERANCE)


def test_one_pass_is_the_models_own_logits_and_states(model):
    """Against the model called plainly on one unpadded prompt, with `output_hidden_states`."""
    task = some("mini-mmlu", 5)
    for question in task.questions:
        ids = model.decoder.tokenizer(task.prompt(question), return_tensors="pt").input_ids
        with torch.no_grad():
            plain = model.decoder.model(input_ids=ids, output_hidden_states=True)
        ours = model.decoder.run([task.prompt(question)])
        torch.testing.assert_close(ours.first_token[0], plain.logits[0, -1].log_softmax(-1), **TOLERANCE)
        for layer in range(model.num_layers):
            torch.testing.assert_close(ours.states[layer][0], plain.hidden_states[layer][0, -1], **TOLERANCE)


def test_a_question_costs_one_forward_pass(model, tmp_path, monkeypatch):
    task, seen = some("mini-mmlu", 40), []
    original = model.decoder.model.forward

    def counting(*args, **kwargs):
        seen.append(len(kwargs["input_ids"]))
        return original(*args, **kwargs)

    counting.__signature__ = __import__("inspect").signature(original)
    monkeypatch.setattr(model.decoder.model, "forward", counting)
    score(model, task, tmp_path, batch_size=16)
    assert sum(seen) == 40
    assert score(model, task, tmp_path).reused
    assert sum(seen) == 40


def test_the_score_table_says_what_the_probabilities_say(model, tmp_path):
    task = some("mini-mmlu", 30)
    rows = score(model, task, tmp_path).table().to_pylist()
    for question, row in zip(task.questions, rows, strict=True):
        ids = model.decoder.tokenizer(task.prompt(question), return_tensors="pt").input_ids
        with torch.no_grad():
            p = model.decoder.model(input_ids=ids).logits[0, -1].softmax(-1)
        options = [float(p[model.decoder.tokenizer.convert_tokens_to_ids(f" {letter}")]) for letter in "ABCD"]
        assert row["question_id"] == question.id
        assert row["p_t"] == pytest.approx(max(options), abs=1e-4)
        assert row["option_mass"] == pytest.approx(sum(options), abs=1e-4)
        assert row["p_t_normalized"] == pytest.approx(max(options) / sum(options), abs=1e-4)
        right = options["ABCD".index(question.answers[0])]
        assert row["p_right"] == pytest.approx(right / sum(options), abs=1e-4)
        assert row["prediction"] == "ABCD"[options.index(max(options))]
        assert row["correct"] == (row["prediction"] == question.answers[0])
        assert row["prompt_tokens"] == ids.shape[1]
        assert row["parameters"] == sum(t.numel() for t in model.decoder.model.parameters())


def test_open_ended_answers_are_those_of_plain_generation(model, tmp_path):
    task = some("mini-popqa", 24)
    rows = score(model, task, tmp_path, batch_size=8).table().to_pylist()
    counted = model.decoder.answer_prefix_tokens()
    assert model.decoder.tokenizer.convert_tokens_to_ids("Answer") in counted
    for question, row in zip(task.questions, rows, strict=True):
        ids = model.decoder.tokenizer(task.prompt(question), return_tensors="pt").input_ids
        with torch.no_grad():
            first = model.decoder.model(input_ids=ids).logits[0, -1].softmax(-1)
            made = model.decoder.model.generate(ids, max_new_tokens=16, do_sample=False, pad_token_id=2)
            made = made[0, ids.shape[1] :]
        text = model.decoder.tokenizer.decode(made, skip_special_tokens=True)
        assert row["prediction"] == text.removeprefix("Answer:").strip()
        assert row["p_t"] == pytest.approx(float(first[list(counted)].sum()), abs=1e-4)
        assert row["correct"] == (row["prediction"] == question.answers[0])


def test_another_dtype_task_or_layer_is_another_key(model):
    task = some("mini-mmlu", 5)
    keys = {
        store_key(model, task).digest,
        store_key(model, task, [1]).digest,
        store_key(model, some("mini-mmlu", 6)).digest,
        store_key(DecoderConfig(MODEL, dtype="bfloat16").build(), task).digest,
        store_key(DecoderConfig("mini-llama-medium").build(), task, [1]).digest,
    }
    assert len(keys) == 5


QUESTIONS, SHARD = 800, 8


def _score(model: StatesEngine | str, root: Path) -> Path:
    torch.set_num_threads(1)
    return score(model, some("mini-mmlu", QUESTIONS), root, batch_size=4, shard_rows=SHARD).store.folder


def _forks(root: Path, orders: Connection) -> None:
    """Forks a run whenever it is told to, the model loaded already; says its process id, and later how it ended."""
    model = DecoderConfig(MODEL).build()
    model.decoder.run(["warm-up"])
    some("mini-mmlu", QUESTIONS)  # what its questions are made from stays in memory
    while orders.recv():
        if (pid := os.fork()) == 0:
            _score(model, root)
            os._exit(0)
        orders.send(pid)
        orders.send(os.waitpid(pid, 0)[1])


def test_a_run_killed_twenty_times_resumes_to_the_same_bytes(tmp_path):
    whole = _score(MODEL, tmp_path / "whole")
    folder = tmp_path / "killed" / whole.name
    orders, theirs = FORKS.Pipe()
    start_server()
    forks = FORKS.Process(target=_forks, args=(tmp_path / "killed", theirs))
    forks.start()
    clock, progress = random.Random(5), []
    for _ in range(20):
        there = len(list(folder.glob("scores-*")))
        orders.send(True)
        run = orders.recv()
        while not orders.poll() and len(list(folder.glob("scores-*"))) == there:
            time.sleep(0.001)
        time.sleep(clock.uniform(0, 0.01))  # a shard takes about that long: the kill lands anywhere in it
        assert not orders.poll(), "the run was faster than twenty kills; it needs more questions"
        os.kill(run, signal.SIGKILL)
        assert os.WTERMSIG(orders.recv()) == signal.SIGKILL
        progress.append(len(list(folder.glob("shard-*"))))
    orders.send(False)
    forks.join()
    assert progress == sorted(progress)
    assert progress[-1] > progress[0]
    assert progress[-1] < QUESTIONS / SHARD
    assert contents(_score(MODEL, tmp_path / "killed")) == contents(whole)


def test_what_was_asked_of_a_shard_is_kept_when_it_is_stopped_and_is_not_asked_again(tmp_path, monkeypatch, capsys):
    """At Ctrl-C at once, and otherwise once a minute, here at every look at the clock; the bytes are the same."""
    torch.set_num_threads(1)
    task = some("mini-mmlu", 48)
    whole = score(MODEL, task, tmp_path / "whole", batch_size=4).store.folder
    for seconds, left in ((60.0, 28), (0.0, 28)):
        root = tmp_path / str(seconds)
        monkeypatch.setattr("cascade.scoring.unfinished.SECONDS", seconds)
        model, asked = DecoderConfig(MODEL).build(), []
        run = model.decoder.run

        def stopped(prompts, *args, run=run, asked=asked, **more):
            if len(asked) == 20:
                raise KeyboardInterrupt
            asked.extend(prompts)
            return run(prompts, *args, **more)

        monkeypatch.setattr(model.decoder, "run", stopped)
        with pytest.raises(
            Interrupted, match=r"^Stopped: 20 of 48 rows are in .*, and nothing is lost; the same command"
        ):
            score(model, task, root, batch_size=4)
        (folder,) = root.iterdir()
        assert {path.name[:10] for path in folder.iterdir()} == {"part-00000"}
        again = DecoderConfig(MODEL).build()
        rest: list[str] = []
        run_again = again.decoder.run
        counting = lambda p, *a, f=run_again, r=rest, **k: (r.extend(p), f(p, *a, **k))[1]  # noqa: E731
        monkeypatch.setattr(again.decoder, "run", counting)
        score(again, task, root, batch_size=4)
        assert sorted([*asked, *rest]) == sorted(task.prompt(q) for q in task.questions)
        assert len(rest) == left
        assert contents(folder) == contents(whole)


def test_scoring_keeps_to_the_tokens_of_a_pass_unless_a_number_is_given(tmp_path, monkeypatch, capsys):
    """What it says is what it does; and a run that was stopped goes on to the bytes of one that was not."""
    monkeypatch.setattr("cascade.engines.local.cpu_tokens", lambda hidden: 200)
    torch.set_num_threads(1)
    task = some("mini-mmlu", 40)

    def run(root, stop=None, **more):
        model, passes = DecoderConfig(MODEL).build(), []
        forward = model.decoder.run

        def watched(prompts, *args, **kwargs):
            if len(passes) == stop:
                raise KeyboardInterrupt
            passes.append(model.count_tokens(prompts))
            return forward(prompts, *args, **kwargs)

        monkeypatch.setattr(model.decoder, "run", watched)
        return score(model, task, tmp_path / root, **more).store.folder, passes

    whole, passes = run("whole")
    assert "at most 200 tokens a pass, which a CPU is quickest with (`scoring_batch_size` says otherwise)" in (
        capsys.readouterr().err
    )
    assert sum(map(len, passes)) == 40
    assert all(len(lengths) * max(lengths) <= 200 for lengths in passes)
    assert all(len(a) * max(a) + max(a) > 200 for a in passes[:-1])
    with pytest.raises(Interrupted):
        run("stopped", stop=3)
    assert contents(run("stopped")[0]) == contents(whole)
    capsys.readouterr()
    assert [len(lengths) for lengths in run("given", batch_size=16)[1]] == [16, 16, 8]
    assert "tokens a pass" not in capsys.readouterr().err


def test_a_damaged_part_is_said_and_its_questions_are_asked_again(tmp_path, monkeypatch, capsys):
    torch.set_num_threads(1)
    task = some("mini-mmlu", 24)
    whole = score(MODEL, task, tmp_path / "whole", batch_size=4).store.folder
    folder = tmp_path / "cut" / whole.name
    folder.mkdir(parents=True)
    shard = UnfinishedShard(folder, 0, range(24), (0, 1))
    shard.add([3, 1], {0: torch.ones(2, 8), 1: torch.zeros(2, 8)}, [{"a": 0.1}, {"a": 1 / 3}])
    shard.keep()
    back = UnfinishedShard(folder, 0, range(24), (0, 1))
    assert back.records == {3: {"a": 0.1}, 1: {"a": 1 / 3}}
    assert back.states[0][3].tolist() == [1.0] * 8
    (path,) = folder.iterdir()
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    score(MODEL, task, tmp_path / "cut", batch_size=4)
    assert contents(folder) == contents(whole)
    assert f"Left out {path}, whose questions are asked again: its checksum differs" in capsys.readouterr().err


@pytest.mark.parametrize("gone", ["shard-00001.safetensors", "scores-00001.parquet", "seconds-00001.parquet"])
def test_only_what_is_missing_is_computed(model, tmp_path, monkeypatch, gone):
    task = some("mini-mmlu", 48)
    whole = score(model, task, tmp_path, shard_rows=16)
    before = contents(whole.store.folder)
    (whole.store.folder / gone).unlink()
    asked: list[str] = []
    run = model.decoder.run
    counting = lambda prompts, *a, **k: (asked.extend(prompts), run(prompts, *a, **k))[1]  # noqa: E731
    monkeypatch.setattr(model.decoder, "run", counting)
    again = score(model, task, tmp_path, shard_rows=16)
    assert sorted(asked) == sorted(task.prompt(q) for q in task.questions[16:32])
    assert contents(again.store.folder) == before


def test_what_another_run_wrote_meanwhile_is_not_asked_again(model, tmp_path, monkeypatch):
    task = some("mini-mmlu", 48)
    asked: list[int] = []
    run = model.decoder.run

    def slower(prompts, *args, **settings):
        if not asked:  # all of it is written by somebody else while this one asks its first shard
            asked.append(0)
            score(MODEL, task, tmp_path, shard_rows=16)
        asked.append(len(prompts))
        return run(prompts, *args, **settings)

    monkeypatch.setattr(model.decoder, "run", slower)
    scored = score(model, task, tmp_path, shard_rows=16)
    assert sum(asked) == 16
    assert scored.table().num_rows == 48
    assert contents(scored.store.folder) == contents(score(MODEL, task, tmp_path / "alone", shard_rows=16).store.folder)


def test_a_flipped_bit_in_the_score_table_is_refused(model, tmp_path):
    scored = score(model, some("mini-mmlu", 40), tmp_path)
    path = scored.store.folder / "scores-00000.parquet"
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 4
    path.write_bytes(data)
    with pytest.raises(CascadeError, match="corrupt"):
        scored.table()


def test_wrong_names_are_answered_with_the_right_ones(tmp_path):
    with pytest.raises(CascadeError, match="mini-llama-small.*but got 'mini-llama-huge'"):
        score("mini-llama-huge", "mini-mmlu", tmp_path)
    with pytest.raises(CascadeError, match="mini-mmlu, mini-gpqa, mini-popqa, mmlu.*but got 'mmmlu'"):
        score(MODEL, "mmmlu", tmp_path)
    with pytest.raises(ProbeError, match=r"0 \(embeddings\) to 3 \(last block\), but got \[9\]"):
        score(MODEL, "mini-mmlu", tmp_path, layers=[9])


def test_a_real_llama_runs_real_questions(shared_data, tmp_path):
    """TinyStories' 260 K model knows no MMLU; the point is that real text goes through the same code."""
    import pyarrow.parquet as pq

    from cascade.tasks.base import Question

    questions = [
        Question(
            id=f"dev/{i}",
            text=row["question"],
            subject=row["subject"].replace("_", " "),
            answers=("ABCD"[row["answer"]],),
            choices=(row["A"], row["B"], row["C"], row["D"]),
        )
        for i, row in enumerate(pq.read_table(shared_data / "mmlu" / "questions.parquet").to_pylist())
        if row["split"] == "dev"
    ]
    model = DecoderConfig(str(shared_data / "stories260k_hf")).build()
    prompts = [MultipleChoice("dev", tuple(questions)).prompt(q) for q in questions]
    short = [p for p, n in zip(prompts, model.count_tokens(prompts), strict=True) if n <= 512]
    output = model.decoder.run(short[:32])
    assert bool(torch.isfinite(output.first_token).all())
    alone = model.decoder.run(short[3:4])
    torch.testing.assert_close(output.first_token[3], alone.first_token[0], **TOLERANCE)
    torch.testing.assert_close(output.states[5][3], alone.states[5][0], **TOLERANCE)
    with pytest.raises(CascadeError, match="at most 512 tokens"):
        model.lengths([Prompt(str(i), prompt, tuple("ABCD")) for i, prompt in enumerate(prompts)])
