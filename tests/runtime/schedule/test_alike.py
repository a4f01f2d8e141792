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
def test_those_who_share_more_are_found_in_the_order_in_which_they_came(others, own, data):
    alike, requests = Alike(), [asked(each) for each in others]
    for number, request in enumerate(requests):
        assert alike.size == number
        alike.add(request)
    tokens, more = np.array(own, np.int32), data.draw(st.integers(0, len(own) - 1))
    expected = [request for request, each in zip(requests, others, strict=True)
                if common_prefix(tokens, np.array(each, np.int32)) > more]  # fmt: skip
    assert alike.sharing(tokens, more) == expected
