"""Prompts word for word as in the paper's Table 7, and how answers are judged."""

from __future__ import annotations

import pytest

from cascade.report.names import short_names
from cascade.tasks.base import Question, after_prefix
from cascade.tasks.judging import exact_match, normalize_answer
from cascade.tasks.task import MultipleChoice, OpenEnded

MULTIPLE = Question("1", "What is 2 plus 2?", "arithmetic", ("B",), ("3", "4", "5", "6"))


def test_the_multiple_choice_prompt_is_table_7():
    prompt = MultipleChoice("t", (MULTIPLE,)).prompt(MULTIPLE)
    assert prompt == (
        "The following are multiple choice questions about arithmetic. Please determine the correct answer in the "
        'format "Answer: <answer>", where <answer> is A, B, C or D.\n'
        "Question: What is 2 plus 2?\n"
        "Choices:\nA. 3\nB. 4\nC. 5\nD. 6\n"
        "Answer:"
    )


def test_the_letters_follow_the_number_of_choices():
    question = Question("1", "?", "s", ("C",), ("x", "y", "z"))
    assert "where <answer> is A, B or C." in MultipleChoice("t", (question,)).prompt(question)
    with pytest.raises(ValueError, match="A, B, C, but got 'D'"):
        Question("1", "?", "s", ("D",), ("x", "y", "z"))


def test_the_open_ended_prompt_is_table_7_up_to_the_answer():
    question = Question("1", "Who wrote it?", "author", ("Ann",))
    assert OpenEnded("t", (question,)).prompt(question) == (
        "The following are questions about entity relationship. Please determine the correct answer in the format "
        '"Answer: <answer>".\nQuestion: Who wrote it?\n'
    )


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Answer: Bel", "Bel"),
        (" Answer: Ann Bel\nQuestion: next", "Ann Bel"),
        ("I do not know.", "I do not know."),
        ("Bel", "Bel"),
        ("", ""),
    ],
)
def test_an_answer_is_found_in_what_was_generated(text, answer):
    assert after_prefix(text) == answer


def test_exact_match_ignores_case_articles_and_punctuation():
    assert normalize_answer("The  U.S.A.!") == "usa"
    assert exact_match("the Beatles", ["Beatles", "Fab Four"])
    assert exact_match("Fab-Four", ["fabfour"])
    assert not exact_match("Beatle", ["Beatles"])


def test_repeated_ids_and_single_choices_are_refused():
    with pytest.raises(ValueError, match="'1' repeats"):
        MultipleChoice("t", (MULTIPLE, MULTIPLE))
    with pytest.raises(ValueError, match="two choices"):
        MultipleChoice("t", (Question("1", "?", "s", ("A",), ("x",)),))


@pytest.mark.parametrize(
    ("models", "short"),
    [
        (["mini-llama-small", "mini-llama-large"], ["small", "large"]),
        (["Qwen-7B", "Qwen-72B"], ["7B", "72B"]),
        (["org/a", "other/b"], ["org/a", "other/b"]),
        (["org/Q-4B-it", "org/Q-8B-it", "org/Q-32B-it"], ["4B", "8B", "32B"]),
        (["q-8B-it", "q--it"], ["8B-it", "-it"]),
        (["q-b-it", "q-it"], ["b-it", "it"]),
        (["same", "same-more"], ["same", "same-more"]),
        (["one"], ["one"]),
    ],
)
def test_short_names_drop_what_all_begin_and_end_with(models, short):
    assert list(short_names(models).values()) == short
