"""Request bodies that are valid, and what may be made of them; and the shape that every reply to one has."""

from __future__ import annotations

import copy
import json
import random
from typing import Any, NoReturn

import httpx

from cascade.runtime.engine import prompt_of
from cascade.tasks.load import load_task

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
MC, OPEN = (prompt_of(load_task(name).questions[7]).text for name in ("mini-mmlu", "mini-popqa"))


def user(text: object) -> dict[str, object]:
    return {"role": "user", "content": text}


VALID: list[tuple[str, dict[str, Any]]] = [
    (CHAT, {"model": "cascade", "messages": [user(MC)], "max_tokens": 2}),
    (CHAT, {"model": "mini-llama-small", "messages": [user(OPEN)], "max_tokens": 2, "stop": ["x"], "temperature": 0.5}),
    (CHAT, {"model": "cascade",
            "messages": [{"role": "system", "content": "s"}, user([{"type": "text", "text": "Who?"}])],
            "max_completion_tokens": 2, "logprobs": True, "top_logprobs": 2, "user": "u"}),
    (CHAT, {"model": "cascade", "messages": [user("Which?")], "max_tokens": 2,
            "cascade": {"choices": ["a", "b"], "subject": "s", "thresholds": [{"p_t": 0.5, "p_ik": None}, {}],
                        "fallback": "best_effort", "trace": True}}),
    (CHAT, {"model": "cascade", "messages": [user("Who?")], "max_tokens": 2, "stream": True,
            "stream_options": {"include_usage": True}, "cascade": {"budget": 0.5, "trace": True}}),
    (COMPLETIONS, {"model": "cascade", "prompt": ["a", MC], "max_tokens": 2, "logprobs": 1, "echo": False, "n": 1}),
    (COMPLETIONS, {"model": "mini-llama-medium", "prompt": OPEN, "max_tokens": 2, "stream": True, "seed": 1}),
]  # fmt: skip
ODD: list[Any] = [
    None, True, False, 0, 1, -1, 2, 0.5, -0.5, 10**30, 10**400, -(10**30), 1e308, 5e-324, float("nan"), float("inf"),
    "", " ", "A", "\x00", "\ud800", "\U0001f600", "e\u0301" * 30, "cascade", "word " * 300, "A. x\nB. y", "\n" * 50,
    [], {}, [[]], [None], [{}], {"": {}}, {"a": None}, ["x"] * 50, [1, 2, 3], {"type": "text"}, {"p_t": 0.5},
    {"p_t": float("inf")},
]  # fmt: skip
NAMES = [
    "model",
    "messages",
    "prompt",
    "stream",
    "n",
    "tools",
    "logit_bias",
    "cascade",
    "stop",
    "role",
    "content",
    "x",
    "",
]
RAW = [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100000, b'{"a":' * 5000, b"9" * 5000, b'{"model": NaN}']


def mutated(rng: random.Random) -> tuple[str, bytes]:
    """A valid body with some of its values, keys or bytes changed."""
    path, body = rng.choice(VALID)
    body = json.loads(json.dumps(body))
    for _ in range(rng.choice([0, 1, 1, 1, 2, 3])):
        at: Any = body
        while True:
            keys = list(at) if isinstance(at, dict) else list(range(len(at)))
            if not keys:
                break
            key = rng.choice(keys)
            if isinstance(at[key], dict | list) and at[key] and rng.random() < 0.7:
                at = at[key]
                continue
            kind = rng.random()
            if kind < 0.6:
                at[key] = copy.deepcopy(rng.choice(ODD))
            elif kind < 0.75:
                del at[key]
            elif isinstance(at, dict):
                at[rng.choice(NAMES)] = copy.deepcopy(rng.choice([*ODD, at[key]]))
            else:
                at.append(copy.deepcopy(rng.choice(ODD)))
            break
    text = json.dumps(body).encode()
    if rng.random() < 0.15:
        place = rng.randrange(len(text))
        text = rng.choice([
            text[:place],
            text[:place] + bytes([rng.randrange(256)]) + text[place + 1 :],
            text[:place] + text[place + rng.randrange(1, 9) :],
            text[:-1] + b', "model": "cascade"}',
            text + text[:place],
        ])  # fmt: skip
    return (path, rng.choice(RAW)) if rng.random() < 0.01 else (path, text)


def _no_json(constant: str) -> NoReturn:
    raise AssertionError(f"{constant} is no JSON")


def check(reply: httpx.Response) -> int:
    """Status of a reply that has the right shape."""
    assert reply.status_code in (200, 400, 404, 413), reply.text
    if reply.status_code == 200 and reply.headers["content-type"].startswith("text/event-stream"):
        events = [line.removeprefix("data: ") for line in reply.text.split("\n\n") if line]
        assert events[-1] == "[DONE]"
        for event in events[:-1]:
            json.loads(event, parse_constant=_no_json)
        return 200
    body = json.loads(reply.content, parse_constant=_no_json)
    if reply.status_code != 200:
        assert set(body["error"]) == {"message", "type", "param", "code"}
        assert isinstance(body["error"]["message"], str) and body["error"]["message"]
        assert body["error"]["type"] == "invalid_request_error"
        assert "Traceback" not in reply.text
    else:
        assert body["choices"] and body["usage"]["total_tokens"] > 0
    return reply.status_code
