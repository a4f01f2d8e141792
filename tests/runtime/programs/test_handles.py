"""What a stream's handle has become: parts joined as one list of them would be, and kept."""

from __future__ import annotations

from itertools import groupby

from hypothesis import given, settings
from hypothesis import strategies as st
from weft.ir.core import walk
from weft.runtime.memory.sequence import Sequence
from weft.runtime.programs.frame import Handle
from weft.tests.each_time import examples


def joined(parts):
    """Join the texts that stand side by side."""
    found = []
    for text, some in groupby(parts, lambda part: isinstance(part, str)):
        several = list(some)
        found += ["".join(several)] if text else several
    return tuple(found)


PARTS = st.lists(st.sampled_from(["a", "bc", 1, 2]), max_size=4).map(joined)


@settings(max_examples=examples(100), deadline=None, derandomize=True)
@given(st.lists(PARTS, min_size=1, max_size=6), st.data())
def test_a_handle_has_all_parts_behind_what_was_settled_last(several, data):
    first = Handle(Sequence(64, 4), 3, several[0])
    handles = [first]
    for parts in several[1:]:
        handles.append(handles[-1].plus(parts))
    last = handles[-1]
    assert last.newest().pending == joined(part for parts in several for part in parts)
    assert last.newest() is last.newest()
    settled = data.draw(st.integers(0, len(handles) - 1))
    handles[settled].settled = Handle(first.sequence, 9)
    newest = last.newest()
    assert newest.length == 9
    assert newest.pending == joined(part for parts in several[settled + 1 :] for part in parts)


def test_a_handle_that_was_told_of_goes_on_from_what_it_became():
    handle = Handle(Sequence(64, 4), 3, ("a",)).plus(("b",))
    told = handle.newest()
    told.settled = Handle(told.sequence, 5)
    assert handle.newest().pending == ("ab",) and handle.newest() is not told


HEALED = """program healed(topic: str) -> str:
    "About {topic}: "
    gen first(max_tokens=2)
    return first
"""


def test_masks_of_what_gens_must_begin_with_are_there_before_a_row(toy, monkeypatch):
    executable = toy.compile(HEALED)
    heals = executable.machine.heals
    (gen,) = [op for op in walk(tuple(executable.machine.programs.values()))
              if op.name == "plan.decode"]  # fmt: skip
    assert gen.attribute("constraint") is None
    monkeypatch.setattr(heals, "_size", None)  # a mask that is made now fails
    assert executable.run(topic="x").value == toy.oracle(HEALED)(0, topic="x").value
    words = [toy.tokenizer.token_bytes(id) for id in range(toy.tokenizer.size)]
    bits = heals.mask(b" ").view("uint8")
    allowed = [bool(bits[id // 8] >> id % 8 & 1) for id in range(len(words))]
    assert allowed == [word.startswith(b" ") for word in words]


def test_a_chain_of_texts_is_kept_once():
    handle, several = Handle(Sequence(64, 4), 3), []
    for _ in range(50):
        handle = handle.plus(("abc",))
        handle.newest()
        several.append(handle)
    kept = [len(each.joined.pending[0]) for each in several if each.joined is not None]
    assert kept == [150]
