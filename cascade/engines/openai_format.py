"""The OpenAI protocol: how a prompt becomes a request, what a response has to hold, and how that becomes a reply.

Pure functions, no network. A response that a program downstream could trip over (a probability that is not a number,
a list of the wrong length) is refused here, before it is kept or used.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NoReturn, TypedDict

from cascade.engines.base import Prompt, Reply, TokenLogprob
from cascade.tasks.base import ANSWER_PREFIX
from cascade.tasks.chat import turns_of

Kind = Literal["chat", "completions"]
PATHS = {"chat": "/chat/completions", "completions": "/completions"}
LIMITS = ("max_completion_tokens", "max_tokens")

# Some servers round log-probabilities, and a certain token's 0 comes out a little above it, or a sum a little above 1.
_LOGPROB_TOLERANCE = 1e-6
_SUM_TOLERANCE = 0.01
_MOST_TOKENS = 10**9
# A token of today's vocabularies holds at most so many bytes (a run of blanks).
_LONGEST_TOKEN = 128
# Bytes that a response may have: so many, and so many for every token and every alternative that it may show.
_LEAST_ROOM, _TOKEN_ROOM, _MOST_ROOM = 2**20, 256, 2**26
_LEAST_LOGPROB = -1e9  # servers write -9999 and the like for a probability of 0
# Some servers show the tokenizer's own pieces, in which these stand for the space before a word.
_BLANKS = " \t\r\n▁Ġ"
_ANSWERED_LETTER = re.compile(rf"(?:{ANSWER_PREFIX})?[\s(*]*([A-J])(?![A-Za-z])")


class MalformedResponseError(Exception):
    """A response that is not what the protocol says. The message is one line."""


class NoLogprobsError(MalformedResponseError):
    """A response without the log-probabilities that were asked for."""


@dataclass(frozen=True)
class Completion:
    """A response that was checked.

    Attributes:
        text: The continuation.
        finish_reason: As the provider calls it.
        prompt_tokens, completion_tokens: Of ``usage``.
        tokens: With all the alternatives that were shown, best first; ``None`` where none were asked for.
        refusal: Why the provider did not answer, or ``None`` if it did.
    """

    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    tokens: tuple[TokenLogprob, ...] | None
    refusal: str | None = None


class Confidences(TypedDict, total=False):
    """Those of `cascade.engines.base.Reply` that are read from a token."""

    p_t: float | None
    p_t_normalized: float | None
    option_mass: float | None
    unseen_mass: float | None
    options: tuple[float, ...]


def build_request(
    kind: Kind,
    model: str,
    prompt: Prompt,
    top_logprobs: int,
    limit_field: str,
    options: Mapping[str, Any],
    continues: bool = False,
) -> dict[str, Any]:
    """What is sent for a prompt.

    Args:
        kind: ``chat`` sends the prompt's conversation or, without one, its text as one user message. ``completions``
            sends the text.
        model: As the provider calls it.
        prompt: The prompt.
        top_logprobs: Alternatives to show for each token; 0 asks for no log-probabilities.
        limit_field: What the provider calls the most tokens to generate, one of `LIMITS`.
        options: Further fields; they win over ours, and ``None`` leaves a field out.
        continues: Whether a chat server goes on with an assistant's turn that is begun: "Answer:" of multiple choice
            begins it then, as in `cascade.tasks.chat`, and the letter is the next token.
    """
    request: dict[str, Any] = dict(prompt.extra)
    request |= {"model": model, "temperature": prompt.temperature or 0, limit_field: _limit(prompt)}
    if prompt.temperature and prompt.top_p < 1:
        request["top_p"] = prompt.top_p
    if kind == "chat":
        turns = prompt.messages or (("user", prompt.text),)
        if continues and not prompt.messages and (begun := turns_of(prompt.text)).assistant:
            turns = (("user", begun.user), ("assistant", begun.assistant))
            request |= {"add_generation_prompt": False, "continue_final_message": True}
        request["messages"] = [{"role": role, "content": text} for role, text in turns]
        if top_logprobs:
            request |= {"logprobs": True, "top_logprobs": top_logprobs}
    else:
        request["prompt"] = prompt.text
        if top_logprobs:
            request["logprobs"] = top_logprobs
    if prompt.stop:
        request["stop"] = list(prompt.stop)
    # Samples of one prompt differ in their seed alone, and have to be different requests whatever the options say.
    seed = {"seed": prompt.seed} if prompt.temperature else {}
    return {name: value for name, value in (request | dict(options) | seed).items() if value is not None}


def _limit(prompt: Prompt) -> int:
    return 1 if prompt.letters else prompt.max_new_tokens


def most_bytes(request: Mapping[str, Any]) -> int:
    """The most bytes that a response to a request is given."""
    shown = int(request.get("top_logprobs") or request.get("logprobs") or 0)
    tokens = max((request[field] for field in LIMITS if field in request), default=0)
    return int(min(_LEAST_ROOM + tokens * (1 + shown) * _TOKEN_ROOM, _MOST_ROOM))


def usage_can_be(completion: Completion, request: Mapping[str, Any]) -> bool:
    """Whether so few tokens can hold the prompt and the answer: none holds more than 128 bytes."""
    messages = request.get("messages", ())
    prompt = request["prompt"] if "prompt" in request else "".join(message["content"] for message in messages)
    least_prompt = max(1, math.ceil(len(prompt.encode()) / _LONGEST_TOKEN))
    # The last token that is shown may be the one that ends the text, which some servers do not bill.
    shown = len(completion.tokens or ()) - 1
    least_answer = max(shown, math.ceil(len(completion.text.encode()) / _LONGEST_TOKEN))
    return completion.prompt_tokens >= least_prompt and completion.completion_tokens >= least_answer


def parse_response(kind: Kind, body: str | bytes, logprobs_wanted: bool) -> Completion:
    """Checks a response's body.

    Raises:
        NoLogprobsError: If log-probabilities are wanted and there are none.
        MalformedResponseError: If it is no JSON, or anything else that is needed is missing or cannot be.
    """
    try:
        content = json.loads(body if isinstance(body, str) else body.decode(), parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise MalformedResponseError(f"the response is no JSON ({error})") from error
    content = _mapping(content, "the response")
    if content.get("error"):
        raise MalformedResponseError(f"the response is an error: {str(content['error'])[:200]}")
    usage = _mapping(content.get("usage"), "usage")
    counts = [_count(usage.get(name), f"usage.{name}") for name in ("prompt_tokens", "completion_tokens")]
    choices = _list(content.get("choices"), "choices")
    if len(choices) != 1:
        raise MalformedResponseError(f"expected one choice, but got {len(choices)}")
    choice = _mapping(choices[0], "choices[0]")
    finish_reason = choice.get("finish_reason") or "stop"
    if finish_reason == "error":
        raise MalformedResponseError("the provider broke off with finish_reason 'error'")
    text, refusal = _text(kind, choice)
    if finish_reason == "content_filter":
        refusal = refusal or "the provider's content filter"
    tokens = None
    if logprobs_wanted and not refusal:
        tokens = _tokens(kind, choice)
        if text and not tokens:
            raise NoLogprobsError("the response has a text, but the log-probabilities of none of its tokens")
    return Completion(text, str(finish_reason), counts[0], counts[1], tokens, refusal)


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


def _mapping(value: object, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise MalformedResponseError(f"expected {what} to be an object, but got {str(value)[:80]!r}")
    return value


def _list(value: object, what: str) -> list[Any]:
    if not isinstance(value, list):
        raise MalformedResponseError(f"expected {what} to be a list, but got {str(value)[:80]!r}")
    return value


def _string(value: object, what: str) -> str:
    if not isinstance(value, str):
        raise MalformedResponseError(f"expected {what} to be a text, but got {str(value)[:80]!r}")
    # Where a limit cuts a character in two, some servers send the half; no file could hold it.
    return re.sub("[\ud800-\udfff]", "\ufffd", value)


def _count(value: object, what: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _MOST_TOKENS:
        raise MalformedResponseError(f"expected {what} to be a number of tokens, but got {str(value)[:80]!r}")
    return value


def _logprob(value: object, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not _LEAST_LOGPROB <= value < math.inf:
        raise MalformedResponseError(f"expected {what} to be a number, but got {str(value)[:80]!r}")
    if value > _LOGPROB_TOLERANCE:
        raise MalformedResponseError(f"expected {what} to be at most 0, but got {str(value)[:80]}")
    return min(float(value), 0.0)


def _text(kind: Kind, choice: dict[str, Any]) -> tuple[str, str | None]:
    """The continuation, and the refusal if it is one."""
    if kind == "completions":
        return _string(choice.get("text"), "choices[0].text"), None
    message = _mapping(choice.get("message"), "choices[0].message")
    refusal = message.get("refusal") or None
    # Null where every token was spent on reasoning.
    text = message.get("content")
    return "" if text is None else _string(text, "choices[0].message.content"), refusal and " ".join(
        str(refusal).split()
    )[:200]


def _tokens(kind: Kind, choice: dict[str, Any]) -> tuple[TokenLogprob, ...]:
    logprobs = choice.get("logprobs")
    if logprobs is None:
        raise NoLogprobsError("the response has no log-probabilities")
    logprobs = _mapping(logprobs, "choices[0].logprobs")
    if kind == "chat":
        if logprobs.get("content") is None:
            raise NoLogprobsError("the response has no log-probabilities of its content")
        entries = [_mapping(entry, "a token") for entry in _list(logprobs["content"], "logprobs.content")]
        shown = [
            [
                (_string(other.get("token"), "a token"), other.get("logprob"))
                for other in (_mapping(o, "a token") for o in _list(entry.get("top_logprobs"), "top_logprobs"))
            ]
            for entry in entries
        ]
        generated = [(_string(entry.get("token"), "a token"), entry.get("logprob")) for entry in entries]
    else:
        texts = _list(logprobs.get("tokens"), "logprobs.tokens")
        values = _list(logprobs.get("token_logprobs"), "logprobs.token_logprobs")
        tops = _list(logprobs.get("top_logprobs"), "logprobs.top_logprobs")
        if not len(texts) == len(values) == len(tops):
            raise MalformedResponseError(
                f"expected as many tokens as log-probabilities, but got {len(texts)}, {len(values)} and {len(tops)}"
            )
        shown = [
            [(_string(text, "a token"), value) for text, value in _mapping(top, "top_logprobs").items()] for top in tops
        ]
        generated = [(_string(text, "a token"), value) for text, value in zip(texts, values, strict=True)]
    return tuple(_token(*pair, top) for pair, top in zip(generated, shown, strict=True))


def _token(text: str, value: object, shown: Sequence[tuple[str, object]]) -> TokenLogprob:
    logprob = _logprob(value, f"the log-probability of {text!r}")
    top = [(token, _logprob(other, f"the log-probability of {token!r}")) for token, other in shown]
    token = TokenLogprob(text, logprob, tuple(sorted(top, key=lambda pair: -pair[1])))
    if (mass := sum(probability for _, probability in shown_probabilities(token))) > 1 + _SUM_TOLERANCE:
        raise MalformedResponseError(f"expected the probabilities of one token to add up to at most 1, but got {mass}")
    return token


def shown_probabilities(token: TokenLogprob) -> list[tuple[str, float]]:
    """Texts and probabilities of all that is known of a token: the alternatives and, if not one of them, itself."""
    pairs = list(token.top)
    if all(text != token.token for text, _ in pairs):
        pairs.append((token.token, token.logprob))
    return [(text, math.exp(logprob)) for text, logprob in pairs]


def read_reply(
    prompt: Prompt, completion: Completion, seconds: float, dollars: float | None, cached: bool, confidence: bool
) -> Reply:
    """The reply to a prompt.

    Args:
        prompt: The prompt.
        completion: Its response.
        seconds: That it took.
        dollars: That it costs.
        cached: Whether it came from disk.
        confidence: Whether P(T) is wanted.
    """
    text, confidences = completion.text, Confidences()
    if prompt.letters and completion.tokens and confidence:
        text, confidences = choose_letter(completion.tokens[0], prompt.letters)
    elif prompt.letters:
        match = _ANSWERED_LETTER.match(text.strip())
        text = match[1] if match and match[1] in prompt.letters else text.strip()
    elif completion.tokens and confidence and prompt.answer_prefix:
        confidences = answer_mass(completion.tokens[0])
    elif completion.tokens and confidence:
        confidences = {"p_t": math.exp(completion.tokens[0].logprob)}
    if not prompt.top_logprobs:
        confidences.pop("options", None)
    tokens = completion.tokens or ()
    return Reply(
        text=text,
        prompt_tokens=completion.prompt_tokens,
        completion_tokens=completion.completion_tokens,
        seconds=seconds,
        tokens=tuple(TokenLogprob(t.token, t.logprob, t.top[: prompt.top_logprobs]) for t in tokens),
        finish_reason="length" if completion.finish_reason == "length" else "stop",
        dollars=dollars,
        cached=cached,
        **confidences,
    )


def choose_letter(token: TokenLogprob, letters: Sequence[str]) -> tuple[str, Confidences]:
    """The option that the first token stands for, and P(T) of it, from what is shown of the token.

    A letter's probability is that of its likeliest spelling (``A`` or `` A``), as eq. 1 takes one token a letter.

    Returns:
        The letter, or the generated token where no letter is shown; and, of `Reply`: ``p_t``, ``None`` in that case;
        ``unseen_mass``; ``options``, ``option_mass`` and ``p_t_normalized``, missing where some letter is not shown,
        since it may have any probability up to ``unseen_mass``.
    """
    shown = shown_probabilities(token)
    unseen = max(0.0, 1 - sum(probability for _, probability in shown))
    best: dict[str, float] = {}
    for text, probability in shown:
        letter = text.strip(_BLANKS)
        if letter in letters:
            best[letter] = max(best.get(letter, 0.0), probability)
    generated = token.token.strip(_BLANKS)
    if not best:
        return generated, {"p_t": None, "unseen_mass": unseen}
    chosen = max(best, key=best.__getitem__)
    if len(best) < len(letters) and unseen > best[chosen] and generated in best:
        # A letter that is not shown might beat it; the model's own choice then says more than the list.
        chosen = generated
    confidences: Confidences = {"p_t": best[chosen], "unseen_mass": unseen}
    if len(best) == len(letters):
        confidences["options"] = tuple(best[letter] for letter in letters)
        mass = min(sum(best.values()), 1.0)
        # Where every letter's probability underflows there is no mass to share.
        confidences |= {"option_mass": mass, "p_t_normalized": min(best[chosen] / mass, 1.0) if mass else None}
    return chosen, confidences


def answer_mass(token: TokenLogprob) -> Confidences:
    """P(T) of an open-ended answer: the mass of the first tokens that can begin "Answer", as far as they are shown.

    A lower bound: tokens that are not shown may add up to ``unseen_mass`` to it.
    """
    prefix = ANSWER_PREFIX.rstrip(":")
    shown = shown_probabilities(token)
    begins = (p for text, p in shown if (piece := text.strip(_BLANKS)) and prefix.startswith(piece))
    return {"p_t": min(sum(begins), 1.0), "unseen_mass": max(0.0, 1 - sum(p for _, p in shown))}
