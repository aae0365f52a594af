from __future__ import annotations

import json
from collections import Counter

import pytest
import torch
from safetensors import safe_open

from cascade.miniature.families import ASSETS, FAMILIES, MODEL_NAMES, Size
from cascade.tasks.miniature import BENCHMARKS, MMLU_SUBJECTS, benchmark, held_out_prompts
from cascade.tasks.world import RELATIONS, build_world
from experiments.miniature import build
from experiments.miniature.stream import TrainingStream
from experiments.miniature.tokenizer import build_tokenizer

# Hashes of the shipped models' world: another world needs other models.
REVISIONS = {
    "mini-mmlu": "6bea411e51b2097082b79ffbfc436f2f894e2a3897103f2741c6b23ddda43e90",
    "mini-gpqa": "7ee8c6f3085ca8343532b4f4cfe5416f4374286ab7884d0008fb8a9104055813",
    "mini-popqa": "ba26ce0ad8ef0d972c45859b8f650bd86b9112a83dd0587b1a10c11da3130a93",
}


def test_benchmarks_have_the_promised_sizes():
    mmlu, gpqa, popqa = (benchmark(name).questions for name in BENCHMARKS)
    assert len(mmlu) >= 6000
    assert len({q.subject for q in mmlu}) >= 8
    assert len(gpqa) >= 448
    assert len(popqa) >= 1400
    assert all(q.popularity > 0 for q in popqa)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_the_world_and_its_benchmarks_are_rebuilt_to_the_byte(name):
    benchmark.cache_clear()
    build_world.cache_clear()
    assert benchmark(name).revision == REVISIONS[name]
    assert benchmark(name, seed=1).revision != REVISIONS[name]


def test_right_answers_are_right_and_the_others_wrong():
    world = build_world()
    truth = {
        template.format(entity.name): world.facts[relation.name][entity.name]
        for relation in RELATIONS
        for entity in world.entities[relation.kind]
        for template in relation.templates
    }
    checked = Counter()
    for question in benchmark("mini-mmlu").questions:
        answer = question.choices["ABCD".index(question.answers[0])]
        assert len(set(question.choices)) == 4
        words = question.text.rstrip("?").replace(",", "").split()
        if question.text in truth:
            assert answer == truth[question.text]
        elif question.subject == "arithmetic":
            a, b = int(words[2]), int(words[4])
            assert int(answer) == (a + b if words[3] == "plus" else a - b)
        elif question.subject == "remainders":
            assert int(answer) == int(words[5]) % int(words[9])
        elif question.subject == "sequences":
            first, second, third = map(int, words[4:])
            assert int(answer) - third == third - second == second - first
        else:
            continue
        checked[question.subject] += 1
    assert set(MMLU_SUBJECTS) - set(checked) == {"calendar", "ordering"}


def test_calendar_and_ordering_answers_are_right():
    from cascade.tasks.miniature import DAYS, MONTHS

    ranks = {"tallest": 1, "oldest": 1, "richest": 1, "shortest": -1, "youngest": -1, "poorest": -1}
    for question in benchmark("mini-mmlu").questions:
        answer = question.choices["ABCD".index(question.answers[0])]
        words = question.text.rstrip("?").split()
        if question.subject == "calendar":
            names = DAYS if words[1] == "day" else MONTHS
            place = names.index(words[-1])
            for _ in range(int(words[3])):
                place += 1 if words[-2] == "after" else -1
            assert answer == names[place % len(names)]
        elif question.subject == "ordering":
            # "X is taller than Y. Z is shorter than Y. Who is the tallest?"
            above = set()
            for i in (0, 5):
                left, word, right = words[i], words[i + 2], words[i + 4].rstrip(".")
                above.add((left, right) if word in ("taller", "older", "richer") else (right, left))
            winner = ranks[words[-1]]
            people = {p for pair in above for p in pair}
            best = next(p for p in people if not any((lo if winner == 1 else hi) == p for hi, lo in above))
            assert answer == best


def test_no_training_prompt_is_a_benchmark_prompt():
    held_out, stream = held_out_prompts(), TrainingStream(seed=0, steps=100)
    assert len(held_out) == sum(len(benchmark(name).questions) for name in BENCHMARKS)
    prompts = {example.prompt for step in range(100) for example in stream.batch(step, 64)}
    assert len(prompts) > 3000
    assert not prompts & held_out


def test_two_step_questions_are_never_trained_on():
    stream = TrainingStream(seed=1, steps=40)
    trained = " ".join(example.prompt for step in range(40) for example in stream.batch(step, 64))
    for words in ("of the birthplace of", "of the author of", "of the setting of", "after the day"):
        assert words not in trained
        assert any(words in q.text for q in benchmark("mini-gpqa").questions)


def test_a_batch_depends_on_its_step_alone():
    one, other = TrainingStream(seed=0, steps=50), TrainingStream(seed=0, steps=50)
    for step in (7, 3):
        one.batch(step, 64)
    assert one.batch(20, 64) == other.batch(20, 64)
    assert one.batch(21, 64) != TrainingStream(seed=1, steps=50).batch(21, 64)


def test_every_prompt_survives_the_tokenizer():
    tokenizer = build_tokenizer()
    for name in BENCHMARKS:
        task = benchmark(name)
        for question in task.questions[::97]:
            ids = tokenizer(task.prompt(question)).input_ids
            assert tokenizer.unk_token_id not in ids
            assert tokenizer.decode(ids[1:]) == task.prompt(question)
            assert len(ids) < 40


def test_the_shipped_tokenizer_is_the_built_one(tokenizer):
    built = build_tokenizer()
    assert built.get_vocab() == tokenizer.get_vocab()
    for name in MODEL_NAMES:
        assert (ASSETS / name / "tokenizer.json").read_bytes() == (
            ASSETS / MODEL_NAMES[0] / "tokenizer.json"
        ).read_bytes()


def test_shipped_models_are_small_half_precision_and_documented():
    total = 0
    for name in MODEL_NAMES:
        folder = ASSETS / name
        total += sum(path.stat().st_size for path in folder.iterdir())
        config = json.loads((folder / "config.json").read_text())
        expected = "Qwen3ForCausalLM" if "qwen3" in name else "LlamaForCausalLM"
        assert config["architectures"] == [expected]
        with safe_open(folder / "model.safetensors", framework="pt") as file:
            assert {file.get_slice(key).get_dtype() for key in file.keys()} == {"F16"}  # noqa: SIM118
        assert "mini-mmlu test, accuracy" in (folder / "README.md").read_text()
    assert total < 25e6


def test_a_stopped_build_resumes_to_the_same_weights(tmp_path, monkeypatch):
    tiny = {"mini-llama": {"small": Size(layers=1, hidden=16, heads=2, steps=6, learning_rate=1e-3)}}
    monkeypatch.setitem(FAMILIES, "mini-llama", tiny["mini-llama"])
    monkeypatch.setattr(build, "SAVE_EVERY", 2)
    torch.set_num_threads(1)
    whole = build.train("mini-llama-small", tmp_path / "a", tmp_path / "whole")
    real, calls = build.encode_batch, []

    def stops(tokenizer, stream, step):
        calls.append(step)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return real(tokenizer, stream, step)

    monkeypatch.setattr(build, "encode_batch", stops)
    with pytest.raises(KeyboardInterrupt):
        build.train("mini-llama-small", tmp_path / "b", tmp_path / "resumed")
    resumed = build.train("mini-llama-small", tmp_path / "b", tmp_path / "resumed")
    assert calls == [0, 1, 2, 3, 4, 5, 4, 5]
    name = "model.safetensors"
    assert (resumed / name).read_bytes() == (whole / name).read_bytes()
