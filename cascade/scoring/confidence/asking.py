"""Asks a model its questions, and every confidence beside: a score table with what each of them cost.

The free ones come from the pass that answers. The others are further prompts through the model's own interface
(`cascade.engines.base`), whose tokens and seconds are counted, so that the ledgers can charge them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import pyarrow as pa

from cascade.engines.base import Engine, Failure, Prompt, Reply, TokenLogprob, prompt_of
from cascade.errors import CascadeError
from cascade.scores.schema import CONFIDENCE_COLUMNS, CONFIDENCES, EXTRA, SCHEMA, validate_scores
from cascade.scoring.confidence.asked import (
    do_you_know_question,
    first_option_share,
    p_true_question,
    read_verbalized,
    verbalized_prompt,
)
from cascade.scoring.confidence.distributions import OF_TOKENS, margin, option_certainty
from cascade.scoring.confidence.parts import Parts
from cascade.scoring.confidence.samples import self_consistency, semantic_certainty
from cascade.scoring.rows import reply_row
from cascade.tasks.base import Question
from cascade.tasks.task import Task

BATCH = 64
SAMPLED = frozenset({"self_consistency", "semantic_entropy"})
# Alternatives to show of each token: what an option's or a rival's probability is read from at an endpoint.
_SHOWN = 20
_STATED_TOKENS = 12
_LETTER_TOKENS = 4
# An option that an endpoint does not show may have as much as all that is not shown; beyond this it is not taken for 0.
_NEGLIGIBLE = 0.01


@dataclass(frozen=True)
class Asking:
    """What is asked beside the questions.

    Attributes:
        methods: Of `cascade.scores.schema.CONFIDENCES`.
        samples: Answers sampled for each question, where a method needs some.
        temperature: Of the samples.
        seed: Of the samples; draws follow it, the question's id and the sample's number, and nothing else.
        unreadable: What a verbalised confidence that cannot be read counts as; by default null.
        max_new_tokens: Of an open-ended answer.
    """

    methods: tuple[str, ...] = tuple(CONFIDENCES)
    samples: int = 10
    temperature: float = 1.0
    seed: int = 0
    unreadable: float | None = None
    max_new_tokens: int = 16

    def __post_init__(self) -> None:
        if unknown := [name for name in self.methods if name not in CONFIDENCES]:
            raise CascadeError(
                f"Expected `confidences` to be of {', '.join(CONFIDENCES)}, but got {', '.join(unknown)}"
            )
        if len(set(self.methods)) != len(self.methods):
            raise CascadeError(
                f"Expected `confidences` to name each confidence once, but got {', '.join(self.methods)}"
            )
        if self.samples < 2:
            raise CascadeError(f"Expected `samples` to be at least 2, but got {self.samples}")
        if not 0 < self.temperature < float("inf"):
            raise CascadeError(f"Expected `temperature` to be above 0, but got {self.temperature}")
        if self.unreadable is not None and not 0 <= self.unreadable <= 1:
            raise CascadeError(f"Expected `unreadable` to be in [0, 1], but got {self.unreadable}")


@dataclass
class _Asked:
    """One question, its answer, and its row as it fills."""

    question: Question
    reply: Reply
    lettered: bool
    row: dict[str, Any] = field(default_factory=dict)

    @property
    def prediction(self) -> str:
        """The answer."""
        answer: str = self.row["prediction"]
        return answer

    def put(self, name: str, value: float | None, replies: Sequence[Reply] = ()) -> None:
        """A confidence, and what it took."""
        self.row[f"confidence_{name}"] = value
        if replies:
            took = {
                "prompts": len(replies),
                "prompt_tokens": sum(reply.prompt_tokens for reply in replies),
                "completion_tokens": sum(reply.completion_tokens for reply in replies),
                "seconds": sum(reply.seconds for reply in replies),
            }
            self.row |= {f"confidence_{name}_{extra.name}": took[extra.name] for extra in EXTRA}


def ask_confidences(
    model: Engine,
    task: Task,
    asking: Asking,
    batch: int = BATCH,
    on_answered: Callable[[int], object] | None = None,
    parts: Parts | None = None,
) -> pa.Table:
    """A score table of a model's answers with a column for each confidence.

    Args:
        model: Any, with probabilities for those that need them.
        task: Whose questions all have accepted answers.
        asking: What is asked beside.
        batch: Questions at a time; the result does not depend on it beyond rounding.
        on_answered: Told how many questions are done, for a progress bar.
        parts: Where each batch is kept, and not asked again; of this model, these questions and this batch size.

    Raises:
        CascadeError: If the model gives some prompt no reply; the question is named. Or if a question has no accepted
            answer, or a method does not go with the questions.
    """
    questions = task.questions
    if unanswered := [question.id for question in questions if not question.answers]:
        raise CascadeError(f"Expected accepted answers of every question, but {unanswered[0]!r} has none")
    if "entropy" in asking.methods and not all(map(task.letters, questions)):
        raise CascadeError(
            "Expected multiple-choice questions for the confidence entropy, which is of their options, but got "
            "open-ended ones; semantic_entropy is for these"
        )
    tables = []
    for number, start in enumerate(range(0, len(questions), batch)):
        some = questions[start : start + batch]
        table = parts.read(number, [question.id for question in some]) if parts else None
        if table is None:
            table = _table([asked.row for asked in _ask(model, some, task, asking)])
            if parts:
                parts.write(number, table)
        tables.append(table)
        if on_answered is not None:
            on_answered(len(some))
    whole = pa.concat_tables(tables, promote_options="default")
    return validate_scores(whole, f"the answers of {model.name}")


def _table(rows: list[dict[str, Any]]) -> pa.Table:
    """Rows as a score table, with the columns of the confidences that were asked."""
    names = [column for column in CONFIDENCE_COLUMNS if any(column.name in row for row in rows)]
    schema = pa.schema([*SCHEMA, *(pa.field(column.name, column.type) for column in names)])
    return pa.Table.from_pylist(rows, schema=schema)


def _ask(model: Engine, questions: Sequence[Question], task: Task, asking: Asking) -> list[_Asked]:
    prompts = [replace(prompt_of(q, task, asking.max_new_tokens), top_logprobs=_SHOWN) for q in questions]
    probe_parameters = model.probe_parameters if model.probe_layer is not None else None
    asked = []
    for question, prompt, reply in zip(questions, prompts, _replies(model, prompts), strict=True):
        row = reply_row(model, reply, task, question, probe_parameters=probe_parameters)
        asked.append(_Asked(question, reply, bool(prompt.letters), row))
    for one in asked:
        _free(one, asking.methods)
    for name in asking.methods:
        if name in _PROMPTED:
            _prompted(model, asked, name, asking)
    if SAMPLED & set(asking.methods):
        _sampled(model, asked, task, asking)
    return asked


def _replies(model: Engine, prompts: Sequence[Prompt]) -> list[Reply]:
    found = model.answer(prompts)
    failed = [reply for reply in found if isinstance(reply, Failure)]
    if failed:
        raise CascadeError(
            f"Expected {model.name!r} to reply to every prompt, but {len(failed):,} of {len(prompts):,} have no reply, "
            f"such as one of question {failed[0].question_id!r}: {failed[0].reason}"
        )
    return [reply for reply in found if isinstance(reply, Reply)]


def _free(asked: _Asked, methods: Iterable[str]) -> None:
    """Confidences of the answer's own pass; null where an endpoint does not show what they need."""
    reply, lettered = asked.reply, asked.lettered
    logprobs = [t.logprob for t in (reply.tokens[:1] if lettered else answer_tokens(reply.tokens))]
    for name, confidence in OF_TOKENS.items():
        if name in methods:
            asked.put(name, confidence(logprobs) if logprobs else None)
    if "entropy" in methods:
        asked.put("entropy", option_certainty(reply.options) if sum(reply.options) else None)
    if "margin" in methods:
        if lettered:
            asked.put("margin", margin(reply.options) if sum(reply.options) else None)
        else:
            asked.put("margin", first_token_margin(reply.tokens))


def answer_tokens(tokens: Sequence[TokenLogprob]) -> list[TokenLogprob]:
    """The tokens of an open-ended answer, its first line; what a model goes on to write is not of it."""
    text, found = "", list[TokenLogprob]()
    for token in tokens:
        text += token.token
        if "\n" in text.lstrip():
            break
        found.append(token)
    return found


def first_token_margin(tokens: Sequence[TokenLogprob]) -> float | None:
    """How far the most probable first token is ahead of the next; of open-ended answers, which have no options."""
    if not tokens or len(tokens[0].top) < 2:
        return None
    (_, first), (_, second) = tokens[0].top[:2]
    return math.exp(first) - math.exp(second)


_PROMPTED = frozenset({"p_true", "do_you_know", "verbalized"})


def _prompted(model: Engine, asked: Sequence[_Asked], name: str, asking: Asking) -> None:
    """One more prompt a question."""
    prompts = [_further_prompt(one, name) for one in asked]
    for one, reply in zip(asked, _replies(model, prompts), strict=True):
        if name == "verbalized":
            value = read_verbalized(reply.text)
            one.put(name, asking.unreadable if value is None else value, [reply])
        else:
            one.put(name, _first_option(reply), [reply])


def _further_prompt(asked: _Asked, name: str) -> Prompt:
    if name == "verbalized":
        text = verbalized_prompt(asked.question, asked.prediction)
        return Prompt(asked.question.id, text, answer_prefix=False, max_new_tokens=_STATED_TOKENS)
    if name == "p_true":
        question = p_true_question(asked.question, asked.prediction)
    else:
        question = do_you_know_question(asked.question)
    return replace(prompt_of(question), top_logprobs=_SHOWN)


def _first_option(reply: Reply) -> float | None:
    """P(True) or P(Yes); null where an endpoint hides so much that it cannot be told."""
    if sum(reply.options):
        return first_option_share(reply.options)
    if reply.p_t is None or (reply.unseen_mass or 0.0) > _NEGLIGIBLE:
        return None
    # Some option is not shown, and has next to nothing.
    return reply.p_t if reply.text == "A" else 0.0


def _sampled(model: Engine, asked: Sequence[_Asked], task: Task, asking: Asking) -> None:
    """The same question again and again, freely: an option's letter is read from what is generated."""
    prompts = [
        replace(
            prompt_of(one.question, task, _LETTER_TOKENS if one.lettered else asking.max_new_tokens),
            letters=(),
            answer_prefix=False,
            temperature=asking.temperature,
            seed=asking.seed * asking.samples + number,
        )
        for one in asked
        for number in range(asking.samples)
    ]
    replies = _replies(model, prompts)
    for place, one in enumerate(asked):
        mine = replies[place * asking.samples : (place + 1) * asking.samples]
        texts = [task.read_sample(one.question, reply.text) for reply in mine]
        same = partial(task.same, one.question)
        if "self_consistency" in asking.methods:
            one.put("self_consistency", self_consistency(texts, one.prediction, same), mine)
        if "semantic_entropy" in asking.methods:
            one.put("semantic_entropy", semantic_certainty(texts, same), mine)
