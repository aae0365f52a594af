"""Which prompts share a forward pass."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cascade.engines.passes import cpu_tokens, of_like_length


@given(
    st.lists(st.integers(0, 60), max_size=40),
    st.integers(1, 12),
    st.none() | st.integers(1, 200),
)
def test_a_batch_is_as_large_as_it_may_be_and_no_larger(lengths, size, tokens):
    batches = list(of_like_length(range(len(lengths)), lengths, size, tokens))
    assert sorted(place for batch in batches for place in batch) == list(range(len(lengths)))
    taken = [lengths[place] for batch in batches for place in batch]
    assert taken == sorted(taken, reverse=True)

    def fits(places):
        padded = len(places) * max(1, *(lengths[place] for place in places), 1)
        return len(places) <= size and (tokens is None or padded <= tokens or len(places) == 1)

    assert all(map(fits, batches))
    assert not any(fits([*batch, following[0]]) for batch, following in pairwise(batches))


@pytest.mark.parametrize(("hidden", "tokens"), [(576, 1820), (896, 1170), (1536, 682), (8192, 128), (10**9, 1)])
def test_what_a_cpu_is_quick_with_stays_within_16_mib(hidden, tokens):
    assert cpu_tokens(hidden) == tokens
    assert tokens == 1 or tokens * 4 * hidden * 4 <= 2**24 < (tokens + 1) * 4 * hidden * 4
