from __future__ import annotations

import math
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probes import ProbeError, stratified_split


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=120), st.integers(0, 3))
def test_each_stratum_gives_its_tenth_rounded_up(strata, seed):
    ids = [f"q{i}" for i in range(len(strata))]
    split = stratified_split(ids, strata, seed)
    assert sorted(split.train + split.validation + split.test) == list(range(len(ids)))
    for stratum, count in Counter(strata).items():
        assert sum(strata[row] == stratum for row in split.test) == math.ceil(count / 10)


def test_the_split_follows_the_id_and_not_the_order():
    ids = [f"q{i}" for i in range(300)]
    strata = [f"s{i % 7}" for i in range(300)]
    order = random.Random(0).sample(range(300), 300)
    split = stratified_split(ids, strata)
    moved = stratified_split([ids[i] for i in order], [strata[i] for i in order])
    assert {ids[r] for r in split.test} == {ids[order[r]] for r in moved.test}
    assert split.fingerprint == moved.fingerprint
    assert split.fingerprint != stratified_split(ids, strata, seed=1).fingerprint


def test_adding_a_question_moves_at_most_one_other_across_each_border():
    ids = [f"q{i}" for i in range(200)]
    before = stratified_split(ids, ["s"] * 200)
    after = stratified_split([*ids, "new"], ["s"] * 201)
    was, now = ({ids[r] for r in before.test}, {[*ids, "new"][r] for r in after.test} - {"new"})
    assert len(was - now) + len(now - was) <= 1


def test_mmlu_gives_the_papers_1430_test_questions(shared_data):
    import pyarrow.parquet as pq

    table = pq.read_table(shared_data / "mmlu" / "questions.parquet", filters=[("split", "=", "test")])
    split = stratified_split([str(q) for q in table["qid"].to_pylist()], table["subject"].to_pylist())
    assert len(split.test) == 1430


def test_repeated_ids_are_refused():
    with pytest.raises(ProbeError, match="'a' repeats"):
        stratified_split(["a", "b", "a"], ["s"] * 3)
