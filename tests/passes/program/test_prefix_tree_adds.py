"""Calls put into a prefix tree one after another: against a plain trie, and what they take."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st
from weft.passes.program.prefixes.calls import Call
from weft.passes.program.prefixes.tree import PrefixTree
from weft.passes.program.prefixes.values import Element, Text, Unknown
from weft.tests.each_time import examples

A = Unknown(("a",), "a")


def _call(row: int, prompt: Text, first: int, sure: bool, left: Text | None = None) -> Call:
    return Call(row, (), "x", prompt, first, sure, None, left)


@st.composite
def call_lists(draw) -> list[Call]:
    """Calls that go on with an earlier text, as a stream and its branches do, or begin anew."""
    texts, calls = [Text()], []
    parts = st.lists(st.sampled_from([1, 2, A]), max_size=5)
    for _ in range(draw(st.integers(3, 9))):
        begun = draw(st.sampled_from(texts[-3:] + texts[:1]))
        prompt = begun.plus([1, *draw(parts)], "", None)
        left = draw(st.sampled_from([None, prompt.plus(draw(parts), "", None)]))
        first = draw(st.integers(0, len(prompt.elements)))
        calls.append(
            _call(draw(st.sampled_from([0, 0, 1])), prompt, first, draw(st.booleans()), left)
        )
        texts.append(left or prompt)
    return calls


@dataclass
class Plain:
    """An element of a plain trie, where every call walks from the root."""

    readers: int = 0
    sure: bool = False
    rows: set[int] = field(default_factory=set)
    ends: bool = False


def _put(trie: dict[tuple[Element, ...], Plain], call: Call, text: Text, reads: bool) -> int:
    known = len(text.elements)
    for end in range(len(text.elements), 0, -1):
        begun = text.elements[:end]
        if begun not in trie or (call.sure and not trie[begun].sure):
            known = end - 1
    for end in range(1, len(text.elements) + 1):
        plain = trie.setdefault(text.elements[:end], Plain())
        plain.readers += reads
        plain.sure |= call.sure
        plain.rows.add(call.row)
        plain.ends |= end == len(text.elements)
    return known


@settings(max_examples=examples(280), deadline=None, derandomize=True)
@given(call_lists(), st.booleans())
def test_calls_make_the_tree_that_walks_from_the_root_make(calls, looked_at):
    tree, trie = PrefixTree(), {}
    for call in calls:
        shared = min(_put(trie, call, call.prompt, reads=True), call.first_logits)
        if call.left is not None:
            _put(trie, call, call.left, reads=False)
        before = tree.counts.generated
        hits = sum(isinstance(each, int) for each in call.prompt.elements[:shared])
        assert tree.add(call) == hits
        assert tree.counts.generated - before == (shared - hits) * call.sure
        if looked_at:
            _equal(tree, trie)
    _equal(tree, trie)
    assert tree.root.readers == len(calls)
    sent = [isinstance(each, int) for call in calls if call.sure for each in call.prompt.elements]
    assert tree.counts.sent == sum(sent)


def _equal(tree: PrefixTree, trie: dict[tuple[Element, ...], Plain]) -> None:
    """The tree's nodes are the trie's stretches that neither end nor part before their ends."""
    followers = [begun[:-1] for begun in trie]
    seen = 0
    todo = [(tree.root, ())]
    while todo:
        node, before = todo.pop()
        assert node.start == len(before)
        for at in range(len(node.elements)):
            plain = trie[begun := before + node.elements[: at + 1]]
            assert (node.readers, node.sure, node.rows) == (plain.readers, plain.sure, plain.rows)
            stays = plain.ends or followers.count(begun) > 1
            assert stays == (at == len(node.elements) - 1)
        whole, seen = before + node.elements, seen + len(node.elements)
        begun = [each[-1] for each in trie if each[:-1] == whole]
        assert list(node.children) == begun  # in the order in which they came
        assert node.text.elements[: node.end] == whole
        todo += [(child, whole) for child in node.children.values()]
    assert seen == len(trie)


class Counted(int):
    """A token that counts how often tokens are looked up."""

    looked_up = 0

    def __hash__(self) -> int:
        Counted.looked_up += 1
        return int.__hash__(self)


def test_a_call_of_a_long_stream_looks_up_what_it_adds():
    Counted.looked_up, turns = 0, 200
    tree, text = PrefixTree(), Text()
    for turn in range(turns):
        prompt = text.plus([Counted(turn), Counted(turn)], "", None)
        text = prompt.plus([Counted(0)], "", None)
        tree.add(_call(0, prompt, len(prompt.elements) - 1, True, text))
    assert Counted.looked_up <= 8 * turns
    readers = [node.readers for node in tree.root.walk()]
    assert readers[:4] == [turns, turns, turns - 1, turns - 1] and readers[-1] == 0
