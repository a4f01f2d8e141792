"""Paged KV and the prefix tree under random use: exact counts, no leak, the right tokens."""

from __future__ import annotations

from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    rule,
)
from weft.runtime.memory import kv_cache
from weft.runtime.memory.kv_cache import PagedKV
from weft.runtime.memory.prefix_tree import PrefixTree, common_prefix
from weft.tests.each_time import examples

PAGES = 24
FIRST = 5
"""The memory's first page that is not another's."""
TOKENS = st.lists(st.integers(0, 2), min_size=1, max_size=11)


class PagedKVMachine(RuleBasedStateMachine):
    """Sequences write their tokens into a fake memory; reading through tables must give them."""

    sequences = Bundle("sequences")

    def __init__(self) -> None:
        super().__init__()
        self.size = 3
        self.memory = np.full((FIRST + PAGES) * self.size, -1)
        self.kv = PagedKV(PAGES, self.size, 64, self._copy)
        self.kv.place(FIRST)
        self.tree = PrefixTree(self.kv)
        self.live: list = []

    def _copy(self, source: int, target: int) -> None:
        pages = self.memory.reshape(-1, self.size)
        pages[target] = pages[source]

    def _fill(self, sequence) -> None:
        """Compute the pending tokens, as a step of the model would."""
        if not self.kv.reserve(sequence, sequence.length):
            return
        for position in range(sequence.resident, sequence.length):
            page = sequence.pages[position // self.size]
            self.memory[page * self.size + position % self.size] = sequence.tokens[position]
        sequence.resident = sequence.length

    @initialize(few=st.sampled_from((1, kv_cache.FEW)))
    def count_pages_one_by_one_or_at_once(self, few):
        self.patch = patch.object(kv_cache, "FEW", few)
        self.patch.start()

    @rule(target=sequences, tokens=TOKENS)
    def create(self, tokens):
        sequence = self.kv.create((len(self.live),))
        sequence.append(tokens)
        known, pages = self.tree.match(sequence.tokens[: sequence.length])
        self.kv.adopt(sequence, pages, known)
        self.live.append(sequence)
        return sequence

    @rule(sequence=sequences)
    def fill(self, sequence):
        self._fill(sequence)

    @rule(sequence=sequences, tokens=TOKENS)
    def append(self, sequence, tokens):
        if sequence.length + len(tokens) <= 60:
            sequence.append(tokens)
            self._fill(sequence)

    @rule(target=sequences, sequence=sequences, data=st.data())
    def fork(self, sequence, data):
        child = self.kv.fork(sequence, data.draw(st.integers(0, sequence.length)), (0,))
        self.live.append(child)
        return child

    @rule(sequence=sequences, data=st.data())
    def truncate(self, sequence, data):
        self.kv.truncate(sequence, data.draw(st.integers(0, sequence.length)))

    @rule(sequence=sequences, data=st.data())
    def rewind(self, sequence, data):
        self.kv.rewind(sequence, data.draw(st.integers(0, sequence.length)))

    @rule(sequence=sequences, data=st.data())
    def reuse(self, sequence, data):
        tokens = sequence.tokens[: data.draw(st.integers(0, sequence.length))]
        known, pages = self.tree.match(tokens, sequence)
        if known > sequence.resident:
            self.kv.adopt_rest(sequence, pages, known)

    @rule(sequence=sequences)
    def drop(self, sequence):
        self.kv.drop(sequence)

    @rule(sequence=sequences)
    def remember(self, sequence):
        self.tree.insert(sequence.tokens[: sequence.resident], sequence.pages, sequence)
        known, _ = self.tree.match(sequence.tokens[: sequence.resident])
        assert known == sequence.resident

    @rule(sequence=consumes(sequences))
    def free(self, sequence):
        self.kv.drop(sequence)
        self.live.remove(sequence)

    @rule(wanted=st.integers(0, PAGES))
    def evict(self, wanted):
        self.tree.evict(wanted)

    @invariant()
    def books_are_right(self):
        self.kv.check(self.live, self.tree.held())

    def texts(self):
        """Yield the tokens from the root to the end of each node."""
        for node in self.tree._nodes():
            parts = []
            while node is not None:
                parts.append(node.tokens)
                node = node.parent
            yield np.concatenate(parts[::-1])

    @invariant()
    def ways_that_go_on_are_those_from_the_root(self):
        """Whatever was split, cut back or forgotten since a sequence's way was found."""
        for sequence in self.live:
            before = sequence.place
            for end in {sequence.length, sequence.length // 2, sequence.resident}:
                tokens = sequence.tokens[:end]
                assert self.tree._deepest(tokens, sequence) == self.tree._deepest(tokens)
                assert self.tree.known(tokens) == max(
                    (common_prefix(text, tokens) for text in self.texts()), default=0
                )
                sequence.place = before

    @invariant()
    def tables_show_the_tokens(self):
        for sequence in self.live:
            seen = np.arange(sequence.resident)
            slots = sequence.pages[seen // self.size] * self.size + seen % self.size
            assert self.memory[slots].tolist() == sequence.tokens[: sequence.resident].tolist()

    @invariant()
    def pages_of_others_are_left_alone(self):
        assert (self.memory[: FIRST * self.size] == -1).all()

    def teardown(self):
        self.patch.stop()
        for sequence in self.live:
            self.kv.drop(sequence)
        self.tree.clear()
        assert self.kv.free == PAGES and self.kv.live == 0 and self.tree.size == 0


PagedKVMachine.TestCase.settings = settings(
    max_examples=examples(60), stateful_step_count=40, deadline=None, derandomize=True
)
TestPagedKV = PagedKVMachine.TestCase


def filled(kv: PagedKV, tokens: list[int]):
    sequence = kv.create((0,))
    sequence.append(tokens)
    assert kv.reserve(sequence, len(tokens))
    sequence.resident = len(tokens)
    return sequence


def test_a_fork_copies_only_the_partial_page_and_only_when_written():
    copies = []
    kv = PagedKV(8, 4, 32, lambda source, target: copies.append((source, target)))
    parent = filled(kv, list(range(6)))
    child = kv.fork(parent, 6, (1,))
    assert kv.live == 2 and not copies
    child.append([9])
    assert kv.reserve(child, 7)
    assert copies == [(parent.pages[1], child.pages[1])] and kv.live == 3
    parent.append([8])
    assert kv.reserve(parent, 7)
    assert len(copies) == 1  # the parent is alone with its page now


def counted(size: int = 4):
    """Return a memory, and a list that gets the pages that it copies."""
    copies: list[tuple[int, int]] = []
    return PagedKV(8, size, 32, lambda source, target: copies.append((source, target))), copies


def test_nothing_is_taken_for_what_lies_there_already():
    kv, copies = counted()
    parent = filled(kv, list(range(6)))
    child = kv.fork(parent, 6, (1,))
    others = [filled(kv, list(range(4))) for _ in range(kv.free)]
    assert kv.free == 0 and kv.reserve(child, 6) and kv.reserve(child, 2)  # none is left to copy to
    assert not copies and child.pages[1] == parent.pages[1]
    assert not kv.reserve(child, 7)
    kv.check([parent, child, *others])


def test_pages_of_sequences_that_end_together_are_given_back_together():
    """A page as often as it was held, be nobody asked what is free in between."""
    kv, _ = counted()
    parent = filled(kv, list(range(6)))
    forks = [kv.fork(parent, 6, (number,)) for number in range(3)]
    other = filled(kv, list(range(9)))
    kept = parent.pages[:1].copy()
    kv.retain(kept)
    for sequence in (parent, forks[0], other, forks[1]):
        kv.drop(sequence)
    assert kv.references[forks[2].pages[:2]].tolist() == [2, 1]
    kv.check([forks[2]], [kept])
    assert (kv.free, kv.live, kv.peak) == (6, 2, 5)
    kv.drop(forks[2])
    assert (kv.free, kv.live) == (7, 0)
    assert kv.reserve(other, 9) and kv.peak == 5
    kv.drop(other)
    assert filled(kv, list(range(16))).held == 4 and kv.peak == 5  # without what was let go of


def test_pages_that_are_in_use_stay_where_they_are():
    kv = PagedKV(4, 4, 32, lambda source, target: None)
    tree, sequence = PrefixTree(kv), filled(kv, [1, 2])
    with pytest.raises(ValueError, match="in use"):
        kv.place(4)
    tree.insert(sequence.tokens[:2], sequence.pages)
    kv.drop(sequence)
    with pytest.raises(ValueError, match="in use"):  # the tree's
        kv.place(4)
    tree.clear()
    kv.place(4)
    assert filled(kv, [1, 2]).pages[0] == 4


def test_who_filled_a_page_writes_on_in_place():
    kv, copies = counted()
    tree = PrefixTree(kv)
    parent = filled(kv, list(range(6)))
    tree.insert(parent.tokens[:6], parent.pages)
    child, page = kv.fork(parent, 6, (1,)), parent.pages[1]
    parent.append([8])
    assert kv.reserve(parent, 7) and parent.pages[1] == page and not copies
    child.append([9])
    assert kv.reserve(child, 7) and copies == [(page, child.pages[1])]


@pytest.mark.parametrize("back", ["truncate", "rewind"])
def test_who_goes_back_in_a_shared_page_copies_it(back):
    kv, copies = counted()
    parent = filled(kv, list(range(7)))
    child = kv.fork(parent, 7, (1,))
    getattr(kv, back)(parent, 5)
    parent.append([8])
    assert kv.reserve(parent, parent.length) and copies == [(child.pages[1], parent.pages[1])]


def test_who_comes_back_to_a_page_of_its_own_copies_it():
    kv, copies = counted()
    tree = PrefixTree(kv)
    parent = filled(kv, list(range(7)))
    child = kv.fork(parent, 7, (1,))
    tree.insert(parent.tokens[:7], parent.pages)
    kv.drop(parent)
    kv.truncate(parent, 5)
    known, pages = tree.match(parent.tokens[:5])
    kv.adopt_rest(parent, pages, known)
    parent.append([8])
    assert kv.reserve(parent, 6) and copies == [(child.pages[1], parent.pages[1])]


def test_nothing_is_copied_for_who_forgets_a_page_to_make_room():
    kv, copies = counted()
    tree = PrefixTree(kv)
    parent = filled(kv, list(range(6)))
    tree.insert(parent.tokens[:6], parent.pages)
    kv.truncate(parent, 5)  # it is no longer the page's writer
    others = [filled(kv, list(range(10, 14))) for _ in range(kv.free)]
    page = parent.pages[1]
    parent.append([8])
    assert kv.reserve(parent, 6) and parent.pages[1] == page and not copies and not tree.size
    kv.check([parent, *others])


def test_the_tree_matches_single_tokens_across_pages():
    kv = PagedKV(16, 4, 64, lambda source, target: None)
    tree = PrefixTree(kv)
    first = filled(kv, [1, 2, 3, 4, 5, 6, 7])
    tree.insert(first.tokens[:7], first.pages)
    known, pages = tree.match(np.array([1, 2, 3, 4, 5, 9], np.int32))
    assert known == 5 and pages.tolist() == first.pages[:2].tolist()


def test_eviction_takes_the_least_recently_used():
    kv = PagedKV(4, 2, 16, lambda source, target: None)
    tree = PrefixTree(kv)
    for start in (10, 20, 30):
        sequence = filled(kv, [start, start + 1])
        tree.insert(sequence.tokens[:2], sequence.pages)
        kv.drop(sequence)
    tree.match(np.array([10, 11], np.int32))
    tree.match(np.array([20, 21], np.int32))
    assert kv.free == 1
    tree.evict(2)
    known = {start: tree.match(np.array([start], np.int32))[0] for start in (10, 20, 30)}
    assert known == {10: 1, 20: 1, 30: 0}
    tree.clear()
    assert tree.size == 0 and kv.free == 4
