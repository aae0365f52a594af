"""A prompt of the paper's Table 7 as the turns of a conversation.

A chat template makes tokens of the turns (`cascade.engines.prompts`). The question is the same in both forms.
"""

from __future__ import annotations

from dataclasses import dataclass

from cascade.tasks.base import ANSWER_PREFIX, OPEN_ENDED_HEADER


@dataclass(frozen=True)
class Turns:
    """Who says what.

    Attributes:
        system: Instruction before the conversation; empty for none.
        user: The question.
        assistant: How the answer begins; the model continues it. Empty where it begins by itself.
    """

    system: str
    user: str
    assistant: str


def turns_of(prompt: str) -> Turns:
    """Splits a raw prompt into turns.

    Multiple choice: the paper names no roles. The user says all but the last line. The assistant's turn begins with
    that line, "Answer:", so that the letter is the next token, as in the raw prompt. Without it an instructed model may
    begin with anything ("The correct …").

    Open-ended: system and user are as in Table 7. The assistant's turn is empty, since P(T) is the probability that the
    model begins it with "Answer" by itself (appendix F).

    Examples stay in the user's turn with the question, as in lm-evaluation-harness without ``--fewshot_as_multiturn``:
    raw models, chat templates and endpoints then get the same text.

    The user says any other text as a whole.
    """
    if prompt.startswith(f"{OPEN_ENDED_HEADER}\n"):
        return Turns(OPEN_ENDED_HEADER, prompt[len(OPEN_ENDED_HEADER) + 1 :].removesuffix("\n"), "")
    if prompt.endswith(f"\n{ANSWER_PREFIX}"):
        return Turns("", prompt.removesuffix(f"\n{ANSWER_PREFIX}"), ANSWER_PREFIX)
    return Turns("", prompt, "")
