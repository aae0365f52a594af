"""A local decoder as a stage: what it replies against plain forward passes and `generate`, and where rows stop."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from cascade.engines.base import Failure, Gate, Prompt, prompt_of
from cascade.engines.local import LocalModel
from cascade.engines.settings import DecoderConfig
from cascade.errors import CascadeError
from cascade.miniature.families import ASSETS
from cascade.miniature.shipped import shipped_probe
from cascade.tasks.load import load_task
from probes import Probe

NAME = "mini-llama-medium"


@pytest.fixture(scope="module")
def model() -> LocalModel:
    return DecoderConfig(NAME, batch_size=16).build(Probe.from_pretrained(shipped_probe(NAME)))


@pytest.fixture(scope="module")
def plain():
    """The same weights without any of our code."""
    return AutoModelForCausalLM.from_pretrained(
        ASSETS / NAME, dtype=torch.float32
    ).eval(), AutoTokenizer.from_pretrained(ASSETS / NAME)


def questions(task: str, count: int) -> list[Prompt]:
    return [prompt_of(q) for q in load_task(task).questions[:count]]


def test_open_answers_are_those_of_generate(model, plain):
    decoder, tokenizer = plain
    replies = model.answer(prompts := questions("mini-popqa", 40))
    assert len({reply.completion_tokens for reply in replies}) > 1  # rows that end at different times
    for prompt, reply in zip(prompts, replies, strict=True):
        ids = tokenizer(prompt.text, return_tensors="pt").input_ids
        made = decoder.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=16, do_sample=False)
        new = made[0, ids.shape[1] :]
        assert reply.text == tokenizer.decode(new, skip_special_tokens=True)
        assert (reply.prompt_tokens, reply.completion_tokens) == (ids.shape[1], len(new))
        assert reply.finish_reason == "stop"


def test_log_probabilities_are_those_of_a_plain_pass_over_prompt_and_answer(model, plain):
    decoder, tokenizer = plain
    prompts = [Prompt(p.question_id, p.text, top_logprobs=3) for p in questions("mini-popqa", 5)]
    for prompt, reply in zip(prompts, model.answer(prompts), strict=True):
        stem = tokenizer(prompt.text).input_ids
        tokens = [tokenizer.convert_tokens_to_ids(tokenizer.tokenize(t.token)) for t in reply.tokens[:-1]]
        whole = torch.tensor([stem + [t for (t,) in tokens]])
        with torch.no_grad():
            chances = decoder(whole).logits[0, len(stem) - 1 :].log_softmax(-1)
        assert len(reply.tokens) == reply.completion_tokens
        for place, token in enumerate(reply.tokens):
            best = chances[place].topk(3)
            assert token.logprob == pytest.approx(float(best.values[0]), abs=1e-4)
            assert [value for _, value in token.top] == pytest.approx(best.values.tolist(), abs=1e-4)


def test_rows_stop_where_a_confidence_is_too_low(model):
    prompts = questions("mini-mmlu", 60) + questions("mini-popqa", 60)
    everything = model.answer(prompts)
    p_ik = np.array([reply.p_ik for reply in everything])
    sure = float(np.median(p_ik)) - 1e-4  # no confidence lies within rounding of it
    seen: dict[str, list[int]] = {"p_ik": [], "p_t": []}

    def low(name: str, limit: float):
        def gate(places, values):
            seen[name] += places.tolist()
            return values >= limit

        return gate

    replies = model.answer(prompts, Gate(low("p_ik", sure), low("p_t", 0.9)))
    assert sorted(seen["p_ik"]) == list(range(120))
    assert sorted(seen["p_t"]) == [i for i in range(60, 120) if p_ik[i] >= sure]
    for i, (whole, reply) in enumerate(zip(everything, replies, strict=True)):
        assert reply.p_ik == pytest.approx(whole.p_ik, abs=1e-5)
        if p_ik[i] < sure:
            assert (reply.rejected_by, reply.text, reply.p_t, reply.completion_tokens) == ("p_ik", "", None, 0)
            continue
        assert reply.p_t == pytest.approx(whole.p_t, abs=1e-4)
        if i >= 60 and whole.p_t < 0.9:
            assert (reply.rejected_by, reply.text, reply.completion_tokens) == ("p_t", "", 1)
        else:
            assert (reply.rejected_by, reply.text) == (None, whole.text)
    assert {reply.rejected_by for reply in replies} == {None, "p_ik", "p_t"}


def test_an_answer_that_nobody_waits_for_any_more_is_broken_off(model):
    prompts = [replace(p, max_new_tokens=40, answer_prefix=False) for p in questions("mini-popqa", 4)]
    whole = model.answer(prompts)
    asked = [0] * 4

    def wanted(place: int) -> bool:
        asked[place] += 1
        return place != 2 or asked[place] < 3

    found = model.answer(prompts, Gate(wanted=wanted))
    assert whole[2].completion_tokens > 3 and found[2].completion_tokens == 3
    assert [found[i].text for i in (0, 1, 3)] == [whole[i].text for i in (0, 1, 3)]


def test_samples_follow_their_seed_and_stay_within_top_p(model, plain):
    decoder, tokenizer = plain
    prompt = replace(questions("mini-popqa", 1)[0], answer_prefix=False, max_new_tokens=1, temperature=1.5)
    many = [replace(prompt, question_id=f"q{i}", top_p=0.6, seed=i, draws="0") for i in range(200)]
    drawn = [reply.text for reply in model.answer(many)]
    again = model.answer([replace(p, question_id="another") for p in many])
    assert [reply.text for reply in again] == drawn and len(set(drawn)) > 1
    with torch.no_grad():
        logits = decoder(**tokenizer(prompt.text, return_tensors="pt")).logits[0, -1]
    chances = sorted(((logits / 1.5).softmax(-1)).tolist(), reverse=True)
    kept, mass = 0, 0.0
    while mass < 0.6:
        mass += chances[kept]
        kept += 1
    best = {tokenizer.decode([i], skip_special_tokens=True) for i in (logits / 1.5).topk(kept).indices.tolist()}
    assert set(drawn) <= best and kept < len(chances)
    greedy = [replace(p, top_p=0.0) for p in many[:20]]
    assert {reply.text for reply in model.answer(greedy)} == {
        tokenizer.decode([int(logits.argmax())], skip_special_tokens=True)
    }


def test_a_probe_that_nobody_asks_is_not_read(model):
    assert [reply.p_ik for reply in model.answer(questions("mini-mmlu", 3), Gate(p_ik=None))] == [None] * 3


def test_pieces_as_they_are_generated_are_the_answers_and_stop_texts_end_them(model):
    prompts = questions("mini-popqa", 6)
    plain = [reply.text for reply in model.answer(prompts)]
    stop = plain[0][3:6]
    prompts = [Prompt(p.question_id, p.text, stop=(stop, "never there")) for p in prompts]
    pieces = [""] * 6

    def listen(place: int, piece: str) -> None:
        pieces[place] += piece

    replies = model.answer(prompts, on_token=listen)
    expected = [text.split(stop)[0] for text in plain]
    assert expected[0] == plain[0][:3] and len(set(expected)) > 1
    assert [reply.text for reply in replies] == pieces == expected


def test_a_limit_on_the_answer_is_kept_and_said(model):
    prompts = [Prompt("q", questions("mini-popqa", 1)[0].text, max_new_tokens=n) for n in (1, 2, 16)]
    replies = model.answer(prompts)
    assert [reply.completion_tokens for reply in replies[:2]] == [1, 2]
    assert [reply.finish_reason for reply in replies] == ["length", "length", "stop"]
    assert replies[2].text.startswith(replies[1].text) and replies[1].text.startswith(replies[0].text)


def test_without_the_papers_format_p_t_is_the_first_tokens_probability(model, plain):
    decoder, tokenizer = plain
    text = questions("mini-mmlu", 1)[0].text
    with torch.no_grad():
        chances = decoder(**tokenizer(text, return_tensors="pt")).logits[0, -1].softmax(-1)
    (reply,) = model.answer([Prompt("q", text, answer_prefix=False, max_new_tokens=1)])
    assert reply.p_t == pytest.approx(float(chances.max()), abs=1e-5)
    assert reply.text == tokenizer.decode([int(chances.argmax())])


def test_what_is_wrong_with_one_prompt_is_that_prompts_failure(model):
    good = questions("mini-mmlu", 2)
    replies = model.answer([good[0], Prompt("long", "What is 1 plus 2? " * 300), good[1]])
    assert replies[0].text and replies[2].text
    assert isinstance(replies[1], Failure) and replies[1].bad_prompt and replies[1].question_id == "long"
    assert "at most 112 tokens" in replies[1].reason


def test_a_probe_of_another_model_is_refused():
    probe = Probe.from_pretrained(shipped_probe("mini-llama-small"))
    with pytest.raises(CascadeError, match="hidden_size=48"):
        DecoderConfig(NAME).build(probe)
    with pytest.raises(CascadeError, match="base_revision"):
        DecoderConfig("mini-qwen3-small").build(probe)


def test_weights_that_were_given_back_are_loaded_again():
    model = DecoderConfig("mini-llama-small").build()
    (before,) = model.answer(questions("mini-mmlu", 1))
    model.release()
    assert "model" not in model.decoder.__dict__
    (after,) = model.answer(questions("mini-mmlu", 1))
    assert (after.text, after.p_t) == (before.text, before.p_t)


def test_a_stop_text_ends_an_answer_of_one_token_too(model):
    (prompt,) = questions("mini-popqa", 1)
    (plain,) = model.answer([replace(prompt, max_new_tokens=1)])
    (stopped,) = model.answer([replace(prompt, max_new_tokens=1, stop=(plain.text,))])
    assert plain.text and (plain.finish_reason, stopped.finish_reason) == ("length", "stop")
    assert (stopped.text, stopped.p_t) == ("", plain.p_t)


def test_prompts_of_every_ending_take_no_more_and_more_memory(model):
    for i in range(1500):
        model.first_tokens(Prompt("q", f"Pick one.\n{i} Answer:", ("A", "B")))
    assert len(model._tokens) <= 1024
