"""Who begins as a request does is found as if each other one were looked at."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from weft.runtime.memory.prefix_tree import common_prefix
from weft.runtime.memory.sequence import Sequence
from weft.runtime.schedule.alike import Alike
from weft.runtime.schedule.request import Request

prompts = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=9), min_size=1, max_size=12)


def asked(tokens: list[int]) -> Request:
    sequence = Sequence(64, 4)
    sequence.append(tokens)
    return Request(sequence, "a")


@given(prompts, st.lists(st.integers(0, 2), min_size=1, max_size=9), st.data())
def test_those_who_share_more_are_found_from_the_most_on_in_the_order_they_came_in(
    others, own, data
):
    alike, requests = Alike(), [asked(each) for each in others]
    for number, request in enumerate(requests):
        assert alike.size == number
        alike.add(request)
    tokens, more = np.array(own, np.int32), data.draw(st.integers(0, len(own) - 1))
    lengths = [common_prefix(tokens, np.array(each, np.int32)) for each in others]
    levels = sorted({length for length in lengths if length > more}, reverse=True)
    expected = [
        (level, [request for request, n in zip(requests, lengths, strict=True) if n >= level])
        for level in levels
    ]
    assert alike.sharing(tokens, more) == expected
