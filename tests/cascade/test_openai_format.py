"""What is sent to an endpoint, and replies against probabilities worked out by hand."""

from __future__ import annotations

import copy
import json
import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cascade.engines.base import Failure, Gate, Prompt, Reply, prompt_of
from cascade.engines.openai_format import MalformedResponseError, build_request, parse_response
from cascade.errors import CascadeError
from cascade.tasks.base import Question
from tests.cascade.faulty_server import FaultyServer, good_body
from tests.cascade.test_endpoint import endpoint, prompts


def body_of(kind: str, text: str, tokens: list[tuple[str, float, dict[str, float]]], finish: str = "stop"):
    """A response in either format, from tokens with probabilities."""
    if kind == "chat":
        content = []
        for token, probability, top in tokens:
            shown = [{"token": other, "logprob": math.log(p)} for other, p in top.items()]
            content.append({"token": token, "logprob": math.log(probability), "top_logprobs": shown})
        choice = {"message": {"role": "assistant", "content": text}, "logprobs": {"content": content}}
    else:
        choice = {
            "text": text,
            "logprobs": {
                "tokens": [t for t, _, _ in tokens],
                "token_logprobs": [math.log(p) for _, p, _ in tokens],
                "top_logprobs": [{o: math.log(q) for o, q in top.items()} for _, _, top in tokens],
            },
        }
    usage = {"prompt_tokens": 7, "completion_tokens": len(tokens)}
    return {"choices": [choice | {"index": 0, "finish_reason": finish}], "usage": usage}


def ask(tmp_path, kind: str, prompt: Prompt, *body, **more) -> Reply | Failure:
    with FaultyServer(body=lambda request: body_of(kind, *body)).running() as server:
        (reply,) = endpoint(server, tmp_path, kind=kind, **more).answer([prompt])
    return reply


ABC = Prompt("q0", "Question 0 Answer:", ("A", "B", "C"))
# shown probabilities of the first token, the token generated → text, p_t, p_t_normalized, option_mass, unseen_mass
BY_HAND = {
    "all shown": ({"B": 0.5, "A": 0.25, "C": 0.125}, "B", ("B", 0.5, 0.5 / 0.875, 0.875, 0.125)),
    "best spelling": ({" B": 0.4, "B": 0.3, "A": 0.1, "C": 0.1}, " B", ("B", 0.4, 0.4 / 0.6, 0.6, 0.1)),
    "one unseen": ({"A": 0.6, "B": 0.2, "the": 0.1}, "A", ("A", 0.6, None, None, 0.1)),
    "no letter": ({" The": 0.6, "b": 0.1}, " The", ("The", None, None, None, 0.3)),
    # C is generated though it is not among the shown; they leave 0.6, of which it has 0.3.
    "unseen generated": ({"A": 0.25, "B": 0.15}, "C", ("C", 0.3, 0.3 / 0.7, 0.7, 0.3)),
    # A is the best shown, but what is unseen (0.65) could beat it: the generated letter is believed.
    "unseen could win": ({"A": 0.2, "B": 0.15}, "B", ("B", 0.15, None, None, 0.65)),
    "generated no letter": ({"A": 0.2, "x": 0.3}, "x", ("A", 0.2, None, None, 0.5)),
    "pieces": ({"▁B": 0.5, "ĠA": 0.25, "C": 0.125}, "▁B", ("B", 0.5, 0.5 / 0.875, 0.875, 0.125)),
}


@pytest.mark.parametrize("kind", ["chat", "completions"])
@pytest.mark.parametrize("case", BY_HAND)
def test_letters_by_hand(tmp_path, kind, case):
    shown, generated, (text, p_t, normalized, mass, unseen) = BY_HAND[case]
    probability = shown.get(generated, 0.3)
    reply = ask(tmp_path, kind, ABC, generated, [(generated, probability, shown)], "length")
    assert reply.text == text
    assert (reply.p_t, reply.p_t_normalized, reply.option_mass) == tuple(
        None if value is None else pytest.approx(value) for value in (p_t, normalized, mass)
    )
    assert reply.unseen_mass == pytest.approx(unseen)
    assert (reply.prompt_tokens, reply.completion_tokens, reply.finish_reason) == (7, 1, "length")
    assert reply.tokens[0].token == generated and reply.tokens[0].logprob == pytest.approx(math.log(probability))
    assert reply.tokens[0].top == ()  # `Prompt.top_logprobs` is 0


@pytest.mark.parametrize("kind", ["chat", "completions"])
def test_open_ended_p_t_is_the_mass_of_what_can_begin_answer(tmp_path, kind):
    first = ("Answer", 0.5, {"Answer": 0.5, " Ans": 0.2, "A": 0.1, "Answers": 0.05, " ": 0.05, "answer": 0.04})
    second = (":", 0.9, {":": 0.9, " is": 0.05})
    prompt = Prompt("q0", "Question 0\n", max_new_tokens=12, top_logprobs=2, stop=("\n",))
    pieces: list[tuple[int, str]] = []
    with FaultyServer(body=lambda request: body_of(kind, "Answer: x", [first, second])).running() as server:
        model = endpoint(server, tmp_path, kind=kind)
        refuse_all = Gate(lambda places, values: values > 2, lambda places, values: values > 2)
        assert model.answer([prompt], refuse_all, lambda place, text: pieces.append((place, text)))[0].text
        assert pieces == []  # nothing is shown of what the gate turns away
        (reply,) = model.answer([prompt], on_token=lambda place, text: pieces.append((place, text)))
        (request,) = server.requests
    assert (reply.text, reply.rejected_by, reply.finish_reason) == ("Answer: x", None, "stop")
    assert reply.p_t == pytest.approx(0.8) and reply.unseen_mass == pytest.approx(0.06)
    assert pieces == [(0, "Answer: x")]
    assert [t.token for t in reply.tokens] == ["Answer", ":"]
    assert [token for token, _ in reply.tokens[0].top] == ["Answer", " Ans"]
    common = {"model": "m", "temperature": 0, "stop": ["\n"]}
    if kind == "chat":
        message = {"role": "user", "content": "Question 0\n"}
        expected = {"messages": [message], "max_completion_tokens": 12, "logprobs": True, "top_logprobs": 20}
    else:
        expected = {"prompt": "Question 0\n", "max_tokens": 12, "logprobs": 5}
    assert request == common | expected


def test_a_server_that_goes_on_with_a_begun_turn_is_given_answer_as_its_beginning():
    question = Question("a", "Two?", "sums", ("A",), ("2", "3"))
    prompt = prompt_of(question)
    options = {"logprob_token_ids": [5, 6]}
    sent = build_request("chat", "m", prompt, 20, "max_tokens", options, continues=True)
    assert sent["messages"] == [
        {"role": "user", "content": prompt.text.removesuffix("\nAnswer:")},
        {"role": "assistant", "content": "Answer:"},
    ]
    assert (sent["add_generation_prompt"], sent["continue_final_message"]) == (False, True)
    assert sent["logprob_token_ids"] == [5, 6]
    plain = build_request("chat", "m", prompt, 20, "max_tokens", options)
    assert plain["messages"] == [{"role": "user", "content": prompt.text}] and "continue_final_message" not in plain
    written = replace(prompt, text="Who?", letters=())  # nothing begins it
    for other in (written, replace(prompt, messages=(("user", "Who?"),))):
        same = [build_request("chat", "m", other, 0, "max_tokens", {}, continues=goes_on) for goes_on in (True, False)]
        assert same[0] == same[1]


def test_without_the_papers_format_p_t_is_the_first_tokens_probability(tmp_path):
    first = ("Paris", 0.7, {"Paris": 0.7, "Answer": 0.2})
    assert ask(
        tmp_path, "chat", Prompt("q0", "Question 0\n", answer_prefix=False), "Paris", [first]
    ).p_t == pytest.approx(0.7)


def test_a_text_without_a_first_token_has_no_p_t(tmp_path):
    reply = ask(tmp_path, "chat", Prompt("q0", "Question 0\n"), "", [])
    assert (reply.text, reply.p_t, reply.unseen_mass, reply.tokens) == ("", None, None, ())


@pytest.mark.parametrize(("said", "text"), [("B", "B"), (" Answer: C.", "C"), ("(A)", "A"), ("Because", "Because")])
def test_the_last_model_is_asked_for_no_logprobs(tmp_path, said, text):
    def body(request):
        return {
            "choices": [{"message": {"content": said}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 7, "completion_tokens": 1},
        }

    options = {"temperature": None, "reasoning_effort": "low", "max_completion_tokens": 64}
    with FaultyServer(body=body).running() as server:
        (reply,) = endpoint(server, tmp_path, needs_confidence=False, options=options).answer([ABC])
        message = {"role": "user", "content": ABC.text}
        assert server.requests == [
            {"model": "m", "messages": [message], "reasoning_effort": "low", "max_completion_tokens": 64}
        ]
    assert (reply.text, reply.p_t) == (text, None)


def test_an_endpoint_without_logprobs_is_told_by_the_second_reply(tmp_path):
    with FaultyServer(fault=lambda question, attempt: "no logprobs").running() as server:
        with pytest.raises(CascadeError, match="'m' at .*; name an endpoint that does, or .*the last") as error:
            endpoint(server, tmp_path, concurrency=1).answer(prompts(20))
        assert "\n" not in str(error.value)
        assert len(server.requests) == 2


def test_a_refusal_is_a_failure_that_is_paid_for_once(tmp_path):
    def body(request):
        refused = {"message": {"content": None, "refusal": "I\ncannot"}, "logprobs": {"content": None}}
        return {"choices": [refused], "usage": {"prompt_tokens": 7, "completion_tokens": 1}}

    with FaultyServer(body=body).running() as server:
        for _ in range(2):
            assert endpoint(server, tmp_path).answer([ABC]) == [
                Failure("q0", "m refused to answer: I cannot", refusal=True)
            ]
        assert len(server.requests) == 1


# Responses that are wrong in any way


def places(value: Any, path: tuple = ()) -> list[tuple]:
    """Every place in a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(found for name, part in inner for found in places(part, (*path, name)))]


def put(value: Any, path: tuple, part: Any) -> Any:
    if not path:
        return part
    value = copy.deepcopy(value)
    at = value
    for name in path[:-1]:
        at = at[name]
    at[path[-1]] = part
    return value


ODD = st.recursive(
    st.none()
    | st.booleans()
    | st.sampled_from([-(10**400), 10**400, -1, 0, 1.5, -0.1, 1e308, float("nan"), float("-inf"), "", "A", "\ud83d"])
    | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["token", "logprob", "A"]), inner),
    max_leaves=4,
)
REQUESTS = {
    "chat": {"messages": [], "logprobs": True, "top_logprobs": 4},
    "completions": {"prompt": "", "logprobs": 4},
}


@pytest.mark.parametrize("kind", REQUESTS)
@given(data=st.data())
def test_whatever_is_wrong_with_a_response_it_is_refused_or_whole(kind, data):
    body = good_body(REQUESTS[kind], 1)
    wrong = put(body, data.draw(st.sampled_from(places(body))), data.draw(ODD))
    try:
        completion = parse_response(kind, json.dumps(wrong), logprobs_wanted=True)
    except MalformedResponseError:
        return
    assert 0 <= completion.prompt_tokens < 2**63 and 0 <= completion.completion_tokens < 2**63
    completion.text.encode()
    for token in completion.tokens or ():
        for text, logprob in [(token.token, token.logprob), *token.top]:
            text.encode()
            assert 0 <= math.exp(logprob) <= 1


@pytest.mark.parametrize("body", [b"", b"null", b"[]", b"\xff", b"[" * 100_000, b'{"error": {"message": "busy"}}'])
def test_what_is_no_response_is_refused(body):
    with pytest.raises(MalformedResponseError):
        parse_response("chat", body, logprobs_wanted=False)


def test_probabilities_that_add_up_to_more_than_one_are_refused():
    body = good_body(REQUESTS["completions"], 1)
    body["choices"][0]["logprobs"]["top_logprobs"] = [{"A": math.log(0.6), "B": math.log(0.6)}]
    with pytest.raises(MalformedResponseError, match="add up"):
        parse_response("completions", json.dumps(body), logprobs_wanted=True)
