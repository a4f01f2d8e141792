"""Partial values: what of a record is certain while the model still writes it."""

import json

from hypothesis import given
from hypothesis import strategies as st
from weft.runtime.programs.events import Finished, PartialValue, TextPiece, ValueBound
from weft.runtime.programs.partial import NOTHING, Known

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


def known_part(text):
    known = Known()
    known.feed(text)
    return known.value


def plainly_known(text, at=0):
    """What is known of the value that begins at a place, and where it ends (-1: it has not)."""
    at += len(text[at:]) - len(text[at:].lstrip())
    if text[at : at + 1] not in ("{", "["):
        try:
            value, end = json.JSONDecoder().raw_decode(text, at)
        except ValueError:
            return NOTHING, -1
        open_end = type(value) in (int, float) and text[end : end + 1] not in (*" ,]}",)
        return (NOTHING, -1) if open_end else (value, end)
    record = text[at] == "{"
    found, at = ({} if record else []), at + 1
    while True:
        rest = text[at:].lstrip(" ,")
        at = len(text) - len(rest)
        if rest[:1] in ("}", "]"):
            return found, at + 1
        key = None
        if record:
            key, at = plainly_known(text, at)
            if at < 0 or text[at : at + 1] != ":":
                return found, -1
            at += 1
        value, at = plainly_known(text, at)
        if value is not NOTHING:
            if record:
                found[key] = value
            else:
                found.append(value)
        if at < 0:
            return found, -1


@given(JSON, st.lists(st.integers(1, 9), min_size=1))
def test_known_parts_grow_to_the_value(value, sizes):
    text = json.dumps(value)
    known, parts, whole, end = Known(), [], [], 0
    while end < len(text) + 1:
        size = sizes[len(parts) % len(sizes)]
        grown = known.feed((text + " ")[end : end + size])
        end += size
        parts.append(known.value)
        whole.append(plainly_known((text + " ")[:end])[0])
        assert grown or len(parts) == 1 or parts[-1] is NOTHING or parts[-1] == parts[-2]
    assert all(map(grows, parts, parts[1:]))
    assert parts == whole and parts[-1] == value, "and what was told before has not changed"


def test_fields_are_known_once_they_have_ended():
    text = '{"name": "An", "lines": [{"count": 12, "ok": true}, {"co'
    assert known_part(text) == {"name": "An", "lines": [{"count": 12, "ok": True}, {}]}
    assert known_part('{"name": "A') == {} and known_part("[12") == []
    assert known_part("1") is known_part("") is NOTHING
    assert known_part("{[1]: 2}") == {}, "an endpoint may say anything"


def test_a_long_value_is_read_once():
    known, looked = Known(), []
    known._step = lambda: looked.append(1) or Known._step(known)  # type: ignore[method-assign]
    for number in range(2000):
        assert known.feed(f"[{number}, " if not number else f"{number}, ")
    assert known.value == list(range(2000)) and len(looked) < 4 * 2000


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
