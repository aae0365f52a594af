"""Prompts that no model can have room for: refused by their bytes, before anything is tokenised."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import openai
import pytest

from cascade.engines.huggingface import HuggingFaceModel
from cascade.policies.base import Thresholds
from cascade.policies.thresholds import ThresholdPolicy
from cascade.runtime import Cascade
from cascade.serving.service import Limits
from tests.serving.running import Plain, plain_cascade, running

MEGABYTE = "word " * 200_000


class Small(Plain):
    """A model of which the context is known: 10 tokens."""

    context = 10


@pytest.fixture
def longest_tokenised(monkeypatch):
    """The length of the longest text that any decoder was asked to count; those of one call add up."""
    found = [0]
    count = HuggingFaceModel.count_tokens

    def counting(self, prompts):
        found[0] = max(found[0], sum(map(len, prompts)))
        return count(self, prompts)

    monkeypatch.setattr(HuggingFaceModel, "count_tokens", counting)
    return found


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_that_is_longer_than_any_context_is_not_tokenised(server, longest_tokenised, stream):
    messages = [{"role": "user", "content": MEGABYTE}]
    client = server.client()
    for ask in (
        lambda: client.chat.completions.create(model="cascade", messages=messages, stream=stream),
        lambda: client.chat.completions.create(model="mini-llama-small", messages=messages, stream=stream),
        lambda: client.completions.create(model="cascade", prompt=["short", MEGABYTE], stream=stream),
    ):
        with pytest.raises(openai.BadRequestError) as caught:
            ask()
        assert caught.value.code == "context_length_exceeded"
        assert "at most 128 tokens for 'mini-llama" in caught.value.body["message"]
        assert "bytes" in caught.value.body["message"]
    assert longest_tokenised[0] == 0
    assert server.ask("Who?").choices


def test_a_prompt_that_may_fit_is_left_to_the_model_to_count(server, longest_tokenised):
    with pytest.raises(openai.BadRequestError) as caught:
        server.ask("word " * 500)
    assert caught.value.code == "context_length_exceeded" and "it has 5" in caught.value.body["message"]
    assert longest_tokenised[0] > 2500


def test_a_model_without_room_is_passed_by_and_one_that_has_no_known_limit_answers():
    small, large = Small("small"), Plain("large", text="Z")
    with running(plain_cascade(small, large), Limits(bytes_per_token=32)) as server:
        reply = server.ask("x" * 1000)
        assert reply.choices[0].message.content == "Z" and small.asked == []
        stage = reply.cascade["stages"][0]
        assert stage["outcome"] == "failed"
        assert stage["failure"].startswith("Expected a prompt of at most 10 tokens for 'small'")
        for text, asked in (("", 1), ("x" * 1000, 0)):
            before = len(small.asked)
            chunks = list(server.client().completions.create(model="cascade", prompt=text or "x" * 320, stream=True))
            assert "".join(choice.text for chunk in chunks for choice in chunk.choices) == "Z"
            assert len(small.asked) - before == asked


def test_a_reader_without_room_is_not_asked():
    read = []

    class Reader:
        name, identity, parameters, model = "reader", {}, 1, SimpleNamespace(context=10)

        def p_ik(self, prompts):
            read.extend(prompt.text for prompt in prompts)
            return np.ones(len(prompts))

    policy = ThresholdPolicy.whole([Thresholds(0.9, None, 0.5)])
    with running(Cascade((Plain("a"), Plain("b", text="Z")), policy, readers={0: Reader()})) as server:
        for text in ("x" * 320, "x" * 321):
            assert server.client().completions.create(model="cascade", prompt=text).choices[0].text == "Z"
    assert [len(text) for text in read if "x" in text] == [320]
