"""How a prompt reaches a model: as it is or through its chat template, and which tokens the option letters are there.

Tokenised once: a chat template brings its own special tokens, so that none are added to what it renders.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Literal, get_args

from cascade.errors import CascadeError
from cascade.tasks.base import ANSWER_PREFIX, LETTERS, PromptStyle, hash_template
from cascade.tasks.chat import turns_of
from cascade.tasks.task import MULTIPLE_CHOICE, Task, wordings

LetterForm = Literal["auto", "bare"]

Conversation = tuple[tuple[str, str], ...]
"""Roles and texts, in turn."""

Given = str | Conversation
"""What a model is given: a text, or where it has a chat template a conversation."""

# Llama 3.2's template writes today's date into every prompt unless it is given one. This is what it falls back on, and
# what Llama 3.1 and 3.3 have: with it a prompt is the same tomorrow.
TEMPLATE_DATE = "26 Jul 2024"


class PromptForm:
    """Renders and tokenises prompts for one tokenizer.

    Args:
        tokenizer: Of Hugging Face.
        name: Of the model, for errors.
        style: ``raw`` is the paper's Table 7 as text. ``chat`` gives the same as turns (`cascade.tasks.chat`) to the
            tokenizer's chat template with a generation prompt, thinking off (``enable_thinking=False``, Qwen3's name
            for it) and a fixed date; "Answer:" of multiple choice begins the assistant's turn.
        letters: ``auto`` reads option letters in the one form that a text has them in, with a space before: one token
            each, or everywhere the token of the space and one for the letter, and then the space belongs to the prompt.
            A tokenizer that mixes the two is refused. ``bare`` reads the letters' tokens without a space.

    Raises:
        CascadeError: If an argument is not known, or the tokenizer has no chat template.
    """

    def __init__(self, tokenizer: Any, name: str, style: PromptStyle = "raw", letters: LetterForm = "auto") -> None:
        if style not in get_args(PromptStyle):
            raise CascadeError(f"Expected `prompt_style` to be raw or chat, but got {style!r}")
        if letters not in get_args(LetterForm):
            raise CascadeError(f"Expected `letters` to be auto or bare, but got {letters!r}")
        if style == "chat" and not getattr(tokenizer, "chat_template", None):
            raise CascadeError(f"Expected the tokenizer of {name!r} to have a chat template, but it has none")
        self.tokenizer, self.name, self.style, self.letters = tokenizer, name, style, letters

    @property
    def settings(self) -> dict[str, str]:
        """What differs from the defaults."""
        chosen = {"prompt_style": (self.style, "raw"), "letters": (self.letters, "auto")}
        return {name: value for name, (value, default) in chosen.items() if value != default}

    @property
    def note(self) -> str:
        """In words, what is done to prompts; empty for raw ones."""
        if self.style == "raw":
            return ""
        return "chat template" + (", thinking off" if "enable_thinking" in self._template else "")

    @property
    def _template(self) -> str:
        template: str = self.tokenizer.get_chat_template()
        return template

    def render(self, prompt: Given) -> str:
        """The text that is tokenised."""
        if not isinstance(prompt, str):
            return self._conversation(prompt)
        text = self._rendered(prompt)
        return text + self._gap if prompt.endswith(ANSWER_PREFIX) else text

    def _rendered(self, prompt: str) -> str:
        if self.style == "raw":
            return prompt
        import jinja2

        turns = turns_of(prompt)
        user = {"role": "user", "content": turns.user}
        try:
            if not turns.system:
                return self._apply([user]) + turns.assistant
            try:
                return self._apply([{"role": "system", "content": turns.system}, user]) + turns.assistant
            except jinja2.TemplateError:  # some templates know no system turn; then the user says both
                return self._apply([{**user, "content": f"{turns.system}\n{turns.user}"}]) + turns.assistant
        except jinja2.TemplateError as error:
            raise CascadeError(f"Expected the chat template of {self.name!r} to take a prompt, but {error}") from error

    def _conversation(self, turns: Conversation) -> str:
        """A conversation in the chat template; where that knows no system turn, the first user says both."""
        import jinja2

        messages = [{"role": "system" if role == "developer" else role, "content": text} for role, text in turns]
        try:
            try:
                return self._apply(messages)
            except jinja2.TemplateError:
                said = [message["content"] for message in messages if message["role"] == "system"]
                others = [message for message in messages if message["role"] != "system"]
                if not said or not others:
                    raise
                others[0] = {**others[0], "content": "\n".join([*said, others[0]["content"]])}
                return self._apply(others)
        except jinja2.TemplateError as error:
            raise CascadeError(f"Expected the chat template of {self.name!r} to take turns, but {error}") from error

    def _apply(self, messages: list[dict[str, str]]) -> str:
        text: str = self.tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True, enable_thinking=False, date_string=TEMPLATE_DATE
        )
        if text.rstrip().endswith("<think>"):
            raise CascadeError(
                f"Expected a chat template whose thinking can be turned off, but that of {self.name!r} thinks before "
                f"every answer; ask it raw"
            )
        return text

    def encode(self, prompts: Sequence[Given], **options: Any) -> Any:
        """What the tokenizer makes of prompts; ``options`` are its own."""
        return self._tokenize([self.render(prompt) for prompt in prompts], **options)

    def _tokenize(self, texts: Sequence[str], **options: Any) -> Any:
        return self.tokenizer(list(texts), add_special_tokens=self.style == "raw", **options)

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self._tokenize([text]).input_ids[0]
        return ids

    @cached_property
    def _gap(self) -> str:
        """A space, where the tokenizer always makes a token of its own of the one before a letter; else nothing."""
        if self.letters == "bare":
            return ""
        text = self._rendered(MULTIPLE_CHOICE.sample_prompt)
        stem = self._ids(text)
        first, second = (self._after(text, stem, f" {letter}") for letter in LETTERS[:2])
        split = len(first) == len(second) == 2 and self._after(text, stem, " ") == first[:1] == second[:1]
        return " " if split else ""

    def _after(self, text: str, stem: list[int], more: str) -> list[int]:
        """Tokens of ``more`` after a text; none where they change the text's own."""
        whole = self._ids(text + more)
        return whole[len(stem) :] if whole[: len(stem)] == stem else []

    def option_tokens(self, prompt: str, letters: Sequence[str]) -> tuple[int, ...]:
        """The token that stands for each option letter right after a prompt.

        Raises:
            CascadeError: If they have not all one token of their own, in one form; that of the unknown is none's own.
        """
        text = self.render(prompt)
        stem = self._ids(text)
        bare = self.letters == "bare" or bool(self._gap)
        found = {letter: self._after(text, stem, letter if bare else f" {letter}") for letter in letters}
        if self._told_apart(found):
            return tuple(tokens[0] for tokens in found.values())
        shown = ", ".join(f"{letter!r} is {self._spell(tokens)}" for letter, tokens in found.items())
        where = "" if bare else ", with a space before it,"
        advice = ""
        if not bare and self._told_apart({letter: self._after(text, stem, letter) for letter in letters}):
            advice = "; without the space they have: letters=bare asks for that"
        raise CascadeError(
            f"Expected the tokenizer of {self.name!r} to give each option letter{where} one token of its own after the "
            f"prompt, but {shown}{advice}"
        )

    def _told_apart(self, found: dict[str, list[int]]) -> bool:
        firsts = {tokens[0] for tokens in found.values() if len(tokens) == 1}
        return len(firsts) == len(found) and self.tokenizer.unk_token_id not in firsts

    def _spell(self, tokens: list[int]) -> str:
        return " + ".join(map(repr, self.tokenizer.convert_ids_to_tokens(tokens))) or "merged with the prompt"

    def answer_prefix_tokens(self) -> tuple[int, ...]:
        """Every token that can begin "Answer": the paper's P(T) for open-ended questions is their mass."""
        prefix = ANSWER_PREFIX.rstrip(":")
        tokens = self.tokenizer.convert_ids_to_tokens(range(len(self.tokenizer)))
        special = set(self.tokenizer.all_special_ids)
        texts = (self.tokenizer.convert_tokens_to_string([t]).strip() if t else "" for t in tokens)
        return tuple(i for i, text in enumerate(texts) if text and prefix.startswith(text) and i not in special)

    def template_hash(self, task: Task) -> str:
        """Hash of all that is done to a question's wording: raw prompts' is `Task.template_hash`, any other differs."""
        sample = task.sample_prompt
        rendered = self.render(sample)
        bare = self.letters == "bare" and bool(task.letters(task.sample))
        if self.style == "raw" and rendered == sample and not bare:
            return hash_template(sample)
        template = self._template if self.style == "chat" else ""
        return hash_template(json.dumps([self.style, bare, rendered, template]))

    def template_hashes(self, task: Task | None = None) -> frozenset[str]:
        """Hashes of all prompts in this form, whose hidden states a probe of one of them may read.

        What must agree is what is done to a question: the paper's wording, the number of examples, the style, the chat
        template's own text, the space that some tokenizers want before a letter. What is asked may differ: a probe of
        multiple choice may read open-ended prompts, and one of letters with a space those without, where the text is
        the same.

        Args:
            task: That is asked, where its prompts have examples or a wording of their own.
        """
        tasks = (*wordings(0 if task is None else task.shots), *(() if task is None else (task,)))
        forms = [PromptForm(self.tokenizer, self.name, self.style, letters) for letters in get_args(LetterForm)]
        return frozenset(
            form.template_hash(each)
            for form in forms
            for each in tasks
            if form.render(each.sample_prompt) == self.render(each.sample_prompt)
        )
