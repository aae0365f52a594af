"""What it takes to read a body, whatever stands in it."""

from __future__ import annotations

import json
import time

import pytest

from cascade.serving.errors import ApiError
from cascade.serving.json_body import parse_object
from cascade.serving.protocol import ChatRequest, CompletionRequest, parse_request

TIMES = 60
"""How many times as much as `json` alone a body may take to read: what grows with the square takes thousands."""


def cpu_seconds(does) -> float:
    """Of this thread alone, so that others on the machine do not count."""
    started = time.thread_time()
    does()
    return time.thread_time() - started


@pytest.mark.parametrize("keys", [8_000, 40_000])
def test_a_repeated_key_is_found_in_a_time_that_grows_with_the_body(keys):
    body = ("{" + ",".join(f'"{key}": 0' for key in [*range(keys), keys - 1]) + "}").encode()

    def read() -> None:
        with pytest.raises(ApiError, match=f"'{keys - 1}' is there twice"):
            parse_object(body)

    assert cpu_seconds(read) < TIMES * max(cpu_seconds(lambda: json.loads(body)), 0.001)


def test_the_first_key_that_comes_again_is_the_one_that_is_named():
    with pytest.raises(ApiError, match="'b' is there twice"):
        parse_object(b'{"a": 1, "b": 2, "c": 3, "b": 4, "a": 5}')


ONE = '{"role": "user", "content": [%s]}'
LISTS = {
    "messages": (ChatRequest, '{"model": "m", "messages": [%s]}', "0"),
    "empty messages": (ChatRequest, '{"model": "m", "messages": [%s]}', "{}"),
    "parts": (ChatRequest, '{"model": "m", "messages": [' + ONE + "]}", "0"),
    "prompts": (CompletionRequest, '{"model": "m", "prompt": [%s]}', "0"),
    "thresholds": (CompletionRequest, '{"model": "m", "prompt": "", "cascade": {"thresholds": [%s]}}', "0"),
    "stops": (CompletionRequest, '{"model": "m", "prompt": "", "stop": [%s]}', "0"),
    "choices": (CompletionRequest, '{"model": "m", "prompt": "", "cascade": {"choices": [%s]}}', "0"),
}


@pytest.mark.parametrize(("kind", "body", "item"), LISTS.values(), ids=LISTS)
def test_a_list_of_nothing_but_mistakes_is_refused_at_the_first(kind, body, item):
    text = (body % ",".join([item] * 100_000)).encode()

    def read() -> None:
        with pytest.raises(ApiError) as caught:
            parse_request(kind, parse_object(text))
        assert caught.value.status == 400

    assert cpu_seconds(read) < TIMES * max(cpu_seconds(lambda: json.loads(text)), 0.001)
