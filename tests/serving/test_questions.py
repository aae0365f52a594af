"""From a message to a question, and from a prompt back to it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cascade.serving.completions import answer_so_far
from cascade.serving.questions import read_question
from cascade.tasks.base import (
    Question,
    after_prefix,
    multiple_choice_prompt,
    open_ended_prompt,
    parse_prompt,
)
from cascade.tasks.load import load_task

LINE = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n"), max_size=30)
ANY = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


@given(text=LINE, subject=LINE, choices=st.lists(LINE, min_size=2, max_size=10))
def test_a_multiple_choice_prompt_is_read_back(text, subject, choices):
    question = Question("q", text, subject, choices=tuple(choices))
    assert parse_prompt(multiple_choice_prompt(question), "q") == question


@given(text=ANY)
def test_an_open_ended_prompt_is_read_back(text):
    question = Question("q", text, "")
    assert parse_prompt(open_ended_prompt(question), "q") == question


@given(text=ANY, subject=ANY, choices=st.lists(ANY, min_size=2, max_size=10))
def test_what_is_read_back_gives_the_very_same_prompt(text, subject, choices):
    prompt = multiple_choice_prompt(Question("q", text, subject, choices=tuple(choices)))
    found = parse_prompt(prompt)
    assert found is None or multiple_choice_prompt(found) == prompt


@given(text=ANY)
def test_other_texts_are_no_prompts(text):
    assert parse_prompt(text) is None


def test_every_benchmark_prompt_is_read_back():
    for name in ("mini-mmlu", "mini-gpqa"):
        for question in load_task(name).questions[::50]:
            found = parse_prompt(multiple_choice_prompt(question))
            assert (found.text, found.subject, found.choices) == (question.text, question.subject, question.choices)


FOUR = ("3", "4", "5", "6")


@pytest.mark.parametrize(
    ("text", "asked", "choices"),
    [
        ("What is 2 plus 2?\nA. 3\nB. 4\nC. 5\nD. 6", "What is 2 plus 2?", FOUR),
        ("Question: What is it?\n\nChoices:\nA. 3\n B. 4 \n\nAnswer:", "What is it?", ("3", "4")),
        ("Two lines\nof it?\nA. 3\nB. 4\n", "Two lines\nof it?", ("3", "4")),
        ("What is 2 plus 2?\nA. 3", "What is 2 plus 2?\nA. 3", ()),
        ("What?\nB. 3\nC. 4", "What?\nB. 3\nC. 4", ()),
        ("What?\nA. 3\nC. 4", "What?\nA. 3\nC. 4", ()),
        ("What?\nA. 3\nB. ", "What?\nA. 3\nB.", ()),
        ("A. 3\nB. 4", "A. 3\nB. 4", ()),
        ("Vitamin A. is B. what?", "Vitamin A. is B. what?", ()),
        ("Answer:", "Answer:", ()),
    ],
)
def test_lines_of_letters_at_the_end_are_choices(text, asked, choices):
    question = read_question(text)
    assert (question.text, question.choices) == (asked, choices)
    assert question.subject == "general knowledge"


def test_a_paper_prompt_in_a_message_is_asked_as_it_is():
    asked = Question("", "What?", "law", choices=FOUR)
    assert read_question(multiple_choice_prompt(asked)) == asked
    assert (
        read_question(open_ended_prompt(asked)).text == read_question(open_ended_prompt(asked).strip()).text == "What?"
    )
    assert read_question("What?", list(FOUR), "law") == asked


@given(st.lists(st.sampled_from(["Ans", "Answer:", "wer:", " ", "\n", "Ann", "é", "Answer", ":"]), max_size=6))
def test_what_is_shown_of_an_answer_is_never_taken_back(pieces):
    whole = "".join(pieces)
    shown = [answer_so_far("".join(pieces[:i])) for i in range(len(pieces) + 1)]
    for before, after in zip(shown, [*shown[1:], after_prefix(whole)], strict=True):
        assert after.startswith(before)
