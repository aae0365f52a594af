"""Names of files: no two texts share one, and what lies on disk under a name keeps it."""

from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from probes.files import file_name

TEXT = st.text(st.sampled_from("ab-./ é:A") | st.characters(codec="utf-8"), max_size=12)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("mini-llama-small", "mini-llama-small"),
        ("gpt-4o-2024-08-06", "gpt-4o-2024-08-06"),
        ("own.jsonl", "own.jsonl"),
        ("mini_mmlu", "mini_mmlu"),
        ("meta-llama/Llama-3.1-8B-Instruct", "meta-llama--Llama-3.1-8B-Instruct"),
        ("/data/models/llama-3", "data--models--llama-3"),
        ("/home/me/.cache/hub/llama", "home--me--.cache--hub--llama"),
    ],
)
def test_a_name_that_was_never_in_doubt_is_what_it_always_was(text, name):
    assert file_name(text) == name


LOOK_ALIKE = [
    ["org/m", "org--m", "org m", "org:m", "/org/m", "org/m/", "./org/m", "-org/m", "org//m", "org-/-m", "org/-m"],
    ["阿里/通义", "百川", "智谱", "模型", "", "unnamed", "...", "-"],
    ["a/b/c", "/a/b/c", "a--b--c", "a b c", "/./a/b/c", "//a/b/c", "/a/b/c/", "/a//b/c"],
    ["m", "/m", "m/", "m-", "m.", ".m", " m", "m\n", "m\0"],
]


@pytest.mark.parametrize("alike", LOOK_ALIKE)
def test_texts_that_look_alike_have_names_of_their_own(alike):
    names = [file_name(text) for text in alike]
    assert len(set(names)) == len(alike), names


def test_the_name_that_a_text_was_given_is_another_texts_when_it_is_one_itself():
    given_name = file_name("org m")
    assert file_name(given_name) != given_name


@given(st.lists(TEXT, unique=True, max_size=6))
@example(["é" * 200, "é" * 199])
def test_different_texts_have_different_names_that_every_file_system_takes(texts):
    names = [file_name(text) for text in texts]
    assert len(set(names)) == len(texts)
    for name in names:
        assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", name) and not name.endswith((".", "-"))


def test_long_texts_have_short_names_of_their_own():
    texts = ["m" * 400, "m" * 401, "m" * 400 + "/x", "o" * 96 + "/" + "m" * 300, "/" + "a/" * 300 + "b", "模" * 400]
    names = [file_name(text) for text in texts]
    assert len(set(names)) == len(texts)
    # A store's folder has two of them and a digest, and a file half written a host and a process besides.
    assert all(len(name.encode()) <= 100 for name in names)
    longest_on_the_hub = "o" * 40 + "/" + "m" * 55  # 96 characters, its most
    assert file_name(longest_on_the_hub) == "o" * 40 + "--" + "m" * 55


def test_what_had_to_be_changed_differs_where_a_file_system_does_not_tell_cases_apart():
    texts = ["".join(case) + " m" for case in itertools.product(*zip("org", "ORG", strict=True))]
    assert len({file_name(text).lower() for text in texts}) == len(texts)
