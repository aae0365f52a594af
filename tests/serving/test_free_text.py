"""Chat messages that are no question of a known form: asked as they are, and judged by the tokens of the answer."""

from __future__ import annotations

import json
import math

import openai
import pytest

from cascade.engines.base import Prompt, Reply, TokenLogprob
from cascade.engines.settings import DecoderConfig
from cascade.errors import CascadeError
from cascade.policies.base import Thresholds
from cascade.policies.thresholds import ThresholdPolicy
from cascade.runtime.build import build_cascade
from cascade.runtime.config import CascadeConfig
from cascade.runtime.engine import Cascade
from cascade.runtime.free_text import FreeText
from tests.serving.provider import Provider, completion
from tests.serving.running import Plain, running
from tests.serving.test_passing import endpoint

TURNS = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
POEM = "Write two lines about rain."


class Writes(Plain):
    """Says a text whose tokens have given log-probabilities."""

    def __init__(self, name: str, text: str, logprobs: list[float], **more) -> None:
        super().__init__(name, text=text, **more)
        self.logprobs, self.prompts = logprobs, []

    def answer(self, prompts, gate=None, on_token=None):
        super().answer(prompts, gate, on_token)
        self.prompts += prompts
        tokens = tuple(TokenLogprob(f"t{i}", value) for i, value in enumerate(self.logprobs))
        return [Reply(self.text, 5, len(tokens), 0.001, p_t=math.exp(self.logprobs[0]), tokens=tokens) for _ in prompts]


def chain(*models: Plain, signal: str = "likelihood", p_t: float = 0.5) -> Cascade:
    thresholds = [Thresholds(p_t, None)] * (len(models) - 1)
    own = ThresholdPolicy.whole([Thresholds(0.9, None)] * (len(models) - 1))
    return Cascade(models, own, free_text=FreeText(signal, ThresholdPolicy.whole(thresholds)))


# The mean of the second is exp(-0.6) = 0.55, its least token exp(-1.5) = 0.22, its first exp(-0.1) = 0.90.
LOGPROBS = [-0.1, -0.2, -1.5]


@pytest.mark.parametrize(
    ("signal", "threshold", "by", "value"),
    [
        ("likelihood", 0.5, "small", math.exp(-0.6)),
        ("likelihood", 0.6, "large", math.exp(-0.6)),
        ("minimum", 0.2, "small", math.exp(-1.5)),
        ("minimum", 0.3, "large", math.exp(-1.5)),
        ("first_token", 0.9, "small", math.exp(-0.1)),
        ("first_token", 0.95, "large", math.exp(-0.1)),
    ],
)
def test_the_named_signal_of_the_tokens_decides(signal, threshold, by, value):
    small = Writes("small", "Drops fall.\nAnswer: none.", LOGPROBS)
    models = small, Writes("large", "It pours.\nIt roars.", [-0.5])
    with running(chain(*models, signal=signal, p_t=threshold)) as server:
        reply = server.ask(POEM)
        assert reply.cascade["answered_by"] == by
        assert reply.choices[0].message.content == {m.name: m.text for m in models}[by]  # every line of it
        assert reply.cascade["stages"][0]["p_t"] == pytest.approx(value)
        (prompt,) = small.prompts
        assert prompt.text == POEM and prompt.messages == (("user", POEM),)


def test_questions_of_a_known_form_are_asked_and_judged_as_before():
    small = Writes("small", "A", [-0.01])
    with running(chain(small, Plain("large", text="B"))) as server:
        assert server.ask("Which?\nA. one\nB. two").choices[0].message.content == "A"
        (prompt,) = small.prompts
        assert prompt.letters == ("A", "B") and prompt.messages == ()


def test_what_shows_no_log_probabilities_is_not_answered_by_a_small_model(tmp_path):
    def silent(path, request):
        reply = completion("I am sure.")
        reply["choices"][0]["logprobs"] = None
        return 200, "application/json", [json.dumps(reply).encode()]

    with Provider(silent).running() as provider:
        small = endpoint(provider, tmp_path, "small", True)
        for first in (small, Writes("bare", "I am sure.", LOGPROBS)):
            if isinstance(first, Writes):
                first.answer = lambda prompts, gate=None, on_token=None: [Reply("Sure.", 5, 3, 0.001)] * len(prompts)
            with running(chain(first, Plain("large", text="It pours."), p_t=0.0)) as server:
                for _ in range(3):
                    reply = server.ask(POEM)
                    assert reply.cascade["answered_by"] == "large"
                    assert reply.choices[0].message.content == "It pours."


def test_an_endpoint_gets_the_conversation_as_it_is(tmp_path):
    with Provider().running() as provider:
        models = endpoint(provider, tmp_path, "small", True), Plain("large")
        with running(chain(*models, p_t=0.9)) as server:
            turns = [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "Hello."},
                {"role": "assistant", "content": "Good day."},
                {"role": "user", "content": POEM},
            ]
            reply = server.client().chat.completions.create(model="cascade", messages=turns)
            assert reply.cascade["answered_by"] == "small" and reply.choices[0].message.content == "Paris"
        (request,) = provider.requests
        assert request["messages"] == turns and request["logprobs"] is True
        assert request["max_completion_tokens"] == 1024


def test_a_stream_shows_nothing_of_an_answer_that_is_not_kept():
    unsure = Writes("small", "Wet wet.", [-5.0], pieces=("Wet ", "wet."))
    sure = Writes("large", "It pours.\nIt roars.", [-5.0], pieces=("It pours.\n", "It roars."))
    with running(chain(unsure, sure)) as server:
        pieces = [c.choices[0].delta.content for c in server.ask(POEM, stream=True) if c.choices]
        assert [piece for piece in pieces if piece] == ["It pours.\n", "It roars."]  # the last model's, as they come
    kept = Writes("small", "Wet wet.", [-0.1], pieces=("Wet ", "wet."))
    with running(chain(kept, sure)) as server:
        pieces = [c.choices[0].delta.content for c in server.ask(POEM, stream=True) if c.choices]
        assert [piece for piece in pieces if piece] == ["Wet wet."]  # known only when it is whole


def test_early_exit_saves_nothing_of_an_answer_that_had_to_be_whole():
    unsure = Writes("small", "Wet wet.", [-5.0] * 40)
    with running(chain(unsure, Writes("large", "It pours.", [-1.0]))) as server:
        cost = server.ask(POEM).cascade["stages"][0]["cost"]["tokens"]
        assert cost["early-exit"] == cost["full-path"] == 45
    with running(chain(unsure, Writes("large", "It pours.", [-1.0]), signal="first_token")) as server:
        cost = server.ask(POEM).cascade["stages"][0]["cost"]["tokens"]
        assert (cost["early-exit"], cost["full-path"]) == (6, 45)


def test_a_request_may_bring_a_threshold_of_its_own_and_no_budget():
    models = Writes("small", "Wet.", LOGPROBS), Writes("large", "It pours.", [-1.0])
    with running(chain(*models, p_t=0.6)) as server:
        assert server.ask(POEM).cascade["answered_by"] == "large"
        lower = {"cascade": {"thresholds": {"p_t": 0.5}}}
        assert server.ask(POEM, extra_body=lower).cascade["answered_by"] == "small"
        with pytest.raises(openai.BadRequestError) as caught:
            server.ask(POEM, extra_body={"cascade": {"budget": 0.5}})
        assert caught.value.param == "cascade.budget"


def test_a_policy_of_judged_logs_is_read_for_its_own_signal_only(tmp_path):
    names = ["mini-llama-small", "mini-llama-medium", "mini-llama-large"]
    policy = {"policy": "P(T)", "models": names[:1] + names[2:], "thresholds": [{"p_t": 0.7, "p_ik": None}]}
    report = tmp_path / "report.json"
    report.write_text(json.dumps({"p_t": "confidence_likelihood", "study": {"chosen": {"to_run": policy}}}))

    def built(yaml: str) -> Cascade:
        path = tmp_path / "cascade.yaml"
        path.write_text(f"chain: {','.join(names)}\n{yaml}\n")
        return build_cascade(CascadeConfig.read(path))

    found = built(f"free_text: {{signal: likelihood, policy: {report}}}").free_text
    assert found.policy.places == (0, 2) and found.policy.limits(0) == Thresholds(0.7, None)
    assert built("free_text: {signal: minimum, p_t: 0.4}").free_text.policy.limits(1) == Thresholds(0.4, None)
    assert built("p_t: 0.8").free_text is None
    with pytest.raises(CascadeError, match="on confidence_minimum to run, but .* are on confidence_likelihood"):
        built(f"free_text: {{signal: minimum, policy: {report}}}")
    with pytest.raises(CascadeError, match="`p_t` or `policy` of `free_text`, but got neither"):
        built("free_text: {signal: minimum}")
    with pytest.raises(CascadeError, match="likelihood"):
        built("free_text: {signal: entropy, p_t: 0.5}")
    policy["thresholds"] = [{"p_t": 0.7, "p_ik": 0.5}]
    report.write_text(json.dumps({"p_t": "confidence_likelihood", "study": {"chosen": {"to_run": policy}}}))
    with pytest.raises(CascadeError, match="likelihood alone"):
        built(f"free_text: {{signal: likelihood, policy: {report}}}")


def test_a_local_model_gives_the_conversation_to_its_chat_template(tmp_path):
    from cascade.engines.prompts import PromptForm

    model = DecoderConfig("mini-llama-small").build()
    tokenizer = model.decoder.tokenizer
    form = PromptForm(tokenizer, "m", "raw")
    tokenizer.chat_template = TURNS + "{% if add_generation_prompt %}<assistant>{% endif %}"
    try:
        chat = PromptForm(tokenizer, "m", "chat")
        turns = (("developer", "Be brief."), ("user", "Hello."), ("assistant", "Yes?"), ("user", POEM))
        assert chat.render(turns) == f"<system>Be brief.<user>Hello.<assistant>Yes?<user>{POEM}<assistant>"
        no_system = "{% if messages[0].role == 'system' %}{{ raise_exception('none') }}{% endif %}"
        tokenizer.chat_template = no_system + TURNS
        assert chat.render(turns) == f"<user>Be brief.\nHello.<assistant>Yes?<user>{POEM}"
    finally:
        tokenizer.chat_template = None
    assert form.render(POEM) == POEM
    # A raw model is given the text; what it says of its tokens is what `generate` would say.
    prompt = Prompt("q", POEM, answer_prefix=False, messages=(("user", POEM),), top_logprobs=1, max_new_tokens=5)
    (reply,) = model.answer([prompt])
    assert len(reply.tokens) == reply.completion_tokens
