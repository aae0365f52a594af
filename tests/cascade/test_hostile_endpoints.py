"""Endpoints that are hostile on purpose: the attack of `experiments.attacks.endpoints`, which says what holds."""

from __future__ import annotations

import json
import subprocess

import pytest

from cascade.engines.attempts import without_key
from cascade.engines.openai_format import most_bytes, parse_response, usage_can_be
from experiments.attacks.endpoints import ATTACKS, completion
from tests.processes import instead_of_popen


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
def test_the_client_holds_against(tmp_path, monkeypatch, attack):
    monkeypatch.setenv("CASCADE_ATTACK_KEY", "none yet")  # put back afterwards
    monkeypatch.setattr(subprocess, "Popen", instead_of_popen)
    assert attack(tmp_path) == []


def test_a_short_key_may_be_an_answer():
    """Servers of one's own are given keys like these."""
    for key in ("EMPTY", "none", "A"):
        body = completion(content=f"the answer is {key}")
        assert without_key(body, key) == body


def test_a_reply_without_the_key_is_kept_byte_for_byte():
    body = completion(content="é \\ / \u2028").replace(b": ", b" :  ")
    assert without_key(body, "sk-of-another-reply") == body


@pytest.mark.parametrize(
    ("prompt", "text", "usage", "can"),
    [
        ("a" * 1280, "A", (10, 1), True),
        ("a" * 1280, "A", (9, 1), False),
        ("é" * 640, "A", (9, 1), False),
        ("a", "A", (0, 1), False),
        ("a", "A", (1, 0), False),
        ("a", "", (1, 0), True),
        ("a", "b" * 129, (1, 1), False),
        ("a", "b" * 129, (1, 2), True),
    ],
)
def test_no_token_holds_more_than_128_bytes(prompt, text, usage, can):
    said = {"prompt_tokens": usage[0], "completion_tokens": usage[1]}
    reply = parse_response("chat", completion(said, content=text), logprobs_wanted=False)
    assert usage_can_be(reply, {"messages": [{"role": "user", "content": prompt}]}) is can
    assert usage_can_be(reply, {"prompt": prompt}) is can


def test_every_token_and_alternative_that_was_asked_for_has_room():
    whole = {"token": "\U0001f600" * 4, "logprob": -12.345678901234567, "bytes": list(b"\xf0\x9f\x98\x80" * 4)}
    token = whole | {"top_logprobs": [whole] * 20}
    body = completion().replace(b'"content": "A"', b'"content": "' + b"abcd" * 512 + b'"')
    request = {"logprobs": True, "top_logprobs": 20, "max_completion_tokens": 512}
    assert len(json.dumps([token] * 512, ensure_ascii=False).encode()) + len(body) < most_bytes(request) <= 2**26
