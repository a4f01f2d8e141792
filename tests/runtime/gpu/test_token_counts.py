"""Numbers of rows that steps are filled up to."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from weft.runtime.gpu.token_counts import STEP, filled, logit_counts, token_counts, tried


@given(st.integers(1, 40_000), st.data())
def test_every_step_has_a_number_that_holds_it_and_wastes_little(most, data):
    counts = token_counts(most)
    assert list(counts) == sorted(set(counts)) and counts[-1] == most
    tokens = data.draw(st.integers(1, most))
    found = filled(counts, tokens)
    assert found in counts and tokens <= found
    assert found < tokens + STEP


@given(st.integers(1, 1000), st.data())
def test_rows_of_logits_have_places_and_none_stay_none(most, data):
    counts = logit_counts(most)
    rows = data.draw(st.integers(0, most))
    assert counts[-1] == most and filled(counts, 0) == 0
    assert rows <= filled(counts, rows) <= max(16, 2 * rows, most if rows > 256 else 0)


def test_few_numbers_are_tried_and_all_small_ones():
    counts = token_counts(16384)
    assert tried(counts)[:4] == [16, 32, 64, 96] and tried(counts)[-1] == 16384
    assert len(tried(counts)) < 80 < len(counts)
    assert tried(logit_counts(256)) == [1, 16, 32, 64, 128, 256]
