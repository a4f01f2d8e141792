"""Partial values: what of a record is certain while the model still writes it."""

import json

from hypothesis import given
from hypothesis import strategies as st
from weft.runtime.programs.events import Finished, PartialValue, TextPiece, ValueBound
from weft.runtime.programs.partial import NOTHING, known_part

JSON = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(-99, 99), st.floats(-9, 9), st.text(max_size=4)
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)


def grows(before, after) -> bool:
    """Whether `after` holds all that `before` does."""
    if before is NOTHING:
        return True
    if isinstance(before, dict) and isinstance(after, dict):
        return all(key in after and grows(before[key], after[key]) for key in before)
    if isinstance(before, list) and isinstance(after, list):
        return len(before) <= len(after) and all(map(grows, before, after))
    return before == after


@given(JSON)
def test_known_parts_grow_to_the_value(value):
    text = json.dumps(value)
    parts = [known_part(text[:end]) for end in range(len(text) + 1)]
    assert all(map(grows, parts, parts[1:]))
    assert known_part(text + " ") == value


def test_fields_are_known_once_they_have_ended():
    text = '{"name": "An", "lines": [{"count": 12, "ok": true}, {"co'
    assert known_part(text) == {"name": "An", "lines": [{"count": 12, "ok": True}, {}]}
    assert (
        known_part('{"name": "A') == {} and known_part("[12") == [] and known_part("1") is NOTHING
    )


def test_a_stream_tells_fields_as_they_come(toy):
    text = """
record Line:
    item: choice["a", "b"]
    count: int(1..9)

record Order:
    name: choice["Anna", "Tom"]
    lines: list[Line](max_items=2)

program p(arg: str) -> Order:
    "{arg} "
    gen order(max_tokens=200, temperature=1.0): Order
    return order
"""
    executable = toy.compile(text, seed=1)
    events = list(executable.stream(arg="x"))
    partial = [event.value for event in events if isinstance(event, PartialValue)]
    assert len(partial) >= 3 and all(map(grows, partial, partial[1:]))
    (bound,) = [event.value for event in events if isinstance(event, ValueBound)]
    assert partial[-1] == bound == events[-1].result.value
    assert isinstance(events[-1], Finished)
    written = "".join(event.text for event in events if isinstance(event, TextPiece))
    assert json.loads(written) == bound
