"""Eviction: never a change of results; of stated prompts as few computed again as can be."""

from __future__ import annotations

from functools import cache

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from weft.runtime.memory.kv_cache import PagedKV
from weft.runtime.memory.prefix_tree import PrefixTree
from weft.runtime.memory.upcoming import Prompt, UpcomingRows
from weft.tests.each_time import examples

PROMPTS = st.lists(
    st.lists(st.integers(0, 2), min_size=1, max_size=4).map(tuple), min_size=2, max_size=7
)


class Ahead:
    """Tells a tree the prompts that are still to come; with `remembers`, where they were found."""

    def __init__(self, prompts, remembers=True) -> None:
        self.left = list(prompts)
        self.version = 0
        self.remembers = remembers
        self.known = {}

    def prompts(self):
        for at, ids in enumerate(self.left):
            prompt = self.known.setdefault(ids, Prompt(b"", np.array(ids, np.int32)))
            yield at, prompt.ids, prompt if self.remembers else None


class LeastRecent(PrefixTree):
    """Evicts by last use alone."""

    def _push(self, node) -> None:
        super()._push(node)
        self._heap = [(0.0, *entry[1:]) for entry in self._heap]


class Stamping(PrefixTree):
    """Notes on every node of a way that it is used, and finds each way from the root."""

    def _used(self, tokens, of=None):
        found = super()._used(tokens)
        node = found[0]
        while (node := node.parent) is not None:
            node.stamp = found[0].stamp
        return found


TURNS = st.lists(st.tuples(st.integers(0, 5), st.lists(st.integers(0, 2), max_size=4)), max_size=24)


@settings(max_examples=examples(300), deadline=None, derandomize=True)
@given(TURNS, st.integers(6, 20))
def test_what_is_forgotten_first_is_what_was_used_longest_ago(turns, pages):
    """A way's last node tells those before it: as if each of them had been told at once."""
    kept = []
    for kind in (PrefixTree, Stamping):
        kv = PagedKV(pages, 2, 64, lambda source, target: None)
        tree, open_ones = kind(kv), [kv.create((number,)) for number in range(6)]
        for number, tokens in turns:
            sequence = open_ones[number]
            if not tokens or sequence.length + len(tokens) > 2 * pages - 2:
                kv.truncate(sequence, sequence.length // 2)
            sequence.append(tokens if sequence.length else [0, *tokens])
            known, held = tree.match(sequence.tokens[: sequence.length - 1], sequence)
            if known > sequence.resident:
                kv.adopt_rest(sequence, held, known)
            assert kv.reserve(sequence, sequence.length)
            sequence.resident = sequence.length
            tree.insert(sequence.tokens[: sequence.length], sequence.pages, sequence)
            kv.drop(sequence)
            kv.check(open_ones, tree.held())
            kept.append(sorted((node.start, node.tokens.tolist()) for node in tree._nodes()))
    assert kept[: len(turns)] == kept[len(turns) :]


def test_a_way_whose_end_goes_was_used_when_that_was():
    """Two ways of the same worth, each with a cheap end: the one read last is kept."""
    kv = PagedKV(4, 2, 64, lambda source, target: None)
    tree = PrefixTree(kv)
    for tokens in ([1, 2], [7, 8], [1, 2, 3], [7, 8, 9]):
        sequence = kv.create((0,))
        sequence.append(tokens)
        known, held = tree.match(sequence.tokens[: sequence.length])
        kv.adopt(sequence, held, known)
        assert kv.reserve(sequence, sequence.length)
        sequence.resident = sequence.length
        tree.insert(sequence.tokens[: sequence.length], sequence.pages)
        kv.drop(sequence)
    for tokens in ([7, 8, 9], [1, 2, 3]):
        tree.match(np.array(tokens, np.int32))
    tree.evict(2)  # the ends
    tree.evict(3)
    assert [node.tokens.tolist() for node in tree._nodes()] == [[1, 2]]


def computed(prompts, pages: int, stated: bool) -> int:
    """Run prompts one after another through a tree; return how many tokens were computed."""
    kv = PagedKV(pages, 1, 64, lambda source, target: None)
    tree, total = (PrefixTree if stated else LeastRecent)(kv), 0
    tree.upcoming = ahead = Ahead(prompts) if stated else None
    for number, prompt in enumerate(prompts):
        if ahead is not None:
            ahead.left, ahead.version = prompts[number:], number
        sequence = kv.create((number,))
        sequence.append(prompt)
        known, held = tree.match(sequence.tokens[: sequence.length])
        kv.adopt(sequence, held, known)
        if ahead is not None:
            ahead.left, ahead.version = prompts[number + 1 :], -1 - number
        assert kv.reserve(sequence, sequence.length)
        total += sequence.length - known
        sequence.resident = sequence.length
        tree.insert(sequence.tokens[: sequence.length], sequence.pages)
        kv.drop(sequence)
    kv.check([], tree.held())
    return total


def fewest(prompts, pages: int) -> int:
    """Return the fewest tokens that any choice of what to keep computes, by trying them all."""

    @cache
    def after(number: int, kept: frozenset) -> int:
        if number == len(prompts):
            return 0
        needed = frozenset(prompts[number][: end + 1] for end in range(len(prompts[number])))
        everything = kept | needed
        return len(needed - kept) + min(
            after(number + 1, choice) for choice in choices(everything, needed)
        )

    def choices(nodes: frozenset, needed: frozenset):
        """Yield the sets, closed under prefixes, that evicting the fewest leaves can leave."""
        todo, seen = [nodes], {nodes}
        while todo:
            current = todo.pop()
            if len(current) <= pages:
                yield current
                continue
            inner = {node[:-1] for node in current}
            for leaf in current - needed:
                smaller = current - {leaf}
                if leaf not in inner and smaller not in seen:
                    seen.add(smaller)
                    todo.append(smaller)

    return after(0, frozenset())


@settings(max_examples=examples(150), deadline=None, derandomize=True)
@given(PROMPTS, st.integers(4, 7))
def test_stated_prompts_are_evicted_as_well_as_can_be(prompts, pages):
    best = fewest(tuple(prompts), pages)
    stated = computed(prompts, pages, stated=True)
    assert best == stated <= computed(prompts, pages, stated=False)


def test_a_prompt_that_comes_back_is_kept_where_the_least_recent_would_go():
    shared, tails = (1, 1, 1, 1), [(2, number) for number in range(4)]
    prompts = [shared, *tails, shared]
    assert computed(prompts, 8, stated=True) < computed(prompts, 8, stated=False)


LOOK = """program look(topic: str, turns: int) -> str:
    "Topic {topic}, in many words, so that it pays to keep them. "
    fork turns as parts:
        gen part(max_tokens=9, temperature=1.0)
        yield part
    " The end: "
    gen end(max_tokens=5)
    return end
"""


@settings(max_examples=examples(25), deadline=None, derandomize=True)
@given(
    topics=st.lists(st.sampled_from(["a b", "hello", "the"]), min_size=2, max_size=6),
    room=st.integers(150, 260),
    page_size=st.sampled_from([1, 4]),
)
def test_evictions_never_change_results(toy, topics, room, page_size):
    rows = [{"topic": topic, "turns": 2 + at % 2} for at, topic in enumerate(topics)]
    wide = toy.compile(LOOK, num_pages=4000)
    small = toy.compile(LOOK, num_pages=room // page_size, page_size=page_size, max_batch=2)
    assert small.run_rows(rows).values == wide.run_rows(rows).values
    toy.assert_clean(small)


def test_rows_that_wait_say_what_they_will_read():
    rows = UpcomingRows(lambda arguments: [tuple(arguments["ids"]), (7,)])
    first, second = {"ids": [1, 2]}, {"ids": [3]}
    rows.opened(first)
    rows.waiting = [(5, second)]
    assert [(when, ids.tolist()) for when, ids, _ in rows.prompts()] == [
        (0, [1, 2]), (0, [7]), (1, [3]),
    ]  # fmt: skip
    version = rows.version
    rows.closed(first)
    assert rows.version != version and [when for when, *_ in rows.prompts()] == [1, 1]


def test_what_another_prompt_begins_with_is_not_said_twice():
    rows = UpcomingRows(lambda arguments: [(1,), (1, 2, 3), (1, 2), (4,), (1, 5)])
    rows.opened({})
    assert [ids.tolist() for _, ids, _ in rows.prompts()] == [[1, 2, 3], [1, 5], [4]]


def test_a_batch_short_of_memory_computes_no_more_than_by_least_recent_use(toy):
    topics = ["hello", "the", "a b"] * 4
    rows = [{"topic": topic, "turns": 2} for topic in topics]
    counts = []
    for stated in (True, False):
        executable = toy.compile(LOOK, num_pages=60, page_size=4, max_batch=1)
        if not stated:
            executable.engine.tree.upcoming = None
        executable.run_rows(rows)
        counts.append(executable.engine.computed_tokens)
    assert counts[0] <= counts[1]


def test_rows_that_never_start_are_forgotten():
    rows = UpcomingRows(lambda arguments: [(arguments["n"],)])
    some = [{"n": number} for number in range(4)]
    rows.opened(some[0])
    rows.waiting = list(enumerate(some[1:], 1))
    assert [ids.tolist() for _, ids, _ in rows.prompts()] == [[0], [1], [2], [3]]
    before = rows.version
    rows.none_waits()
    assert rows.version > before and [ids.tolist() for _, ids, _ in rows.prompts()] == [[0]]
    assert [arguments for arguments, _ in rows._cache.values()] == some[:1]
    rows.closed(some[0])
    assert not rows._cache


ASIDE = """program replay(topic: str, steps: int) -> list[str]:
    "All rows begin with this. Topic {topic}. "
    let thoughts: list[str] = []
    for step in range(steps):
        fork 1 as said:
            "Thought {step}:"
            gen thought(max_tokens=8)
            yield thought
        "Step {step} was recorded, and it is so long that reading it again costs something. "
        thoughts += said
    return thoughts
"""


def test_what_an_open_stream_reads_again_is_kept_longer_than_what_nothing_reads(toy):
    rows = [{"topic": f"number {number}", "steps": 4} for number in range(12)]
    values, counts = [], []
    for stated in (True, False):
        executable = toy.compile(ASIDE, num_pages=240, page_size=4, max_batch=8)
        if not stated:
            tree = executable.engine.tree
            tree.streams, tree._expect_at = (lambda: ()), lambda *of: None
        values.append(executable.run_rows(rows).values)
        counts.append(executable.engine.computed_tokens)
        toy.assert_clean(executable)
    assert values[0] == values[1]
    assert counts[0] < counts[1]


def whole(node) -> tuple[int, ...]:
    """Return all tokens up to a node's end."""
    return () if node is None else (*whole(node.parent), *node.tokens.tolist())


class EverAnew(PrefixTree):
    """Looks at all prompts whenever a page is wanted."""

    def _mark(self, anew: bool = False) -> None:
        super()._mark(anew=True)


@settings(max_examples=examples(300), deadline=None, derandomize=True)
@given(PROMPTS, st.integers(4, 9), st.lists(st.integers(0, 6), min_size=4, max_size=14))
def test_marks_that_are_kept_are_those_that_looking_again_gives(prompts, pages, order):
    """What is inserted, cut, forgotten and computed again has the use that is stated for it."""
    kept = []
    for kind in (PrefixTree, EverAnew):
        kv = PagedKV(pages, 1, 64, lambda source, target: None)
        tree = kind(kv)
        tree.upcoming, tree.spare = Ahead(prompts[::2], remembers=kind is PrefixTree), 0
        for number in order:
            sequence = kv.create((0,))
            sequence.append(prompts[number % len(prompts)])
            known, held = tree.match(sequence.tokens[: sequence.length])
            kv.adopt(sequence, held, known)
            assert kv.reserve(sequence, sequence.length)
            sequence.resident = sequence.length
            tree.insert(sequence.tokens[: sequence.length], sequence.pages)
            kv.drop(sequence)
            kept.append(
                {text[:end] for text in map(whole, tree._nodes()) for end in range(len(text) + 1)}
            )
    assert kept[: len(order)] == kept[len(order) :]


@settings(max_examples=examples(200), deadline=None, derandomize=True)
@given(PROMPTS, st.lists(st.integers(0, 9), min_size=2, max_size=14))
def test_where_a_prompt_ended_last_is_where_it_ends_as_long_as_that_stands(prompts, order):
    """Whatever has been inserted behind it, split, cut short or forgotten since."""
    kv = PagedKV(40, 1, 64, lambda source, target: None)
    tree, ways = PrefixTree(kv), [Ahead(prompts[::2], remembers) for remembers in (True, False)]
    for number in order:
        if number < len(prompts):
            sequence = kv.create((0,))
            sequence.append(prompts[number])
            assert kv.reserve(sequence, sequence.length)
            sequence.resident = sequence.length
            tree.insert(sequence.tokens[: sequence.length], sequence.pages)
            kv.drop(sequence)
        elif leaves := [node for node in tree._nodes() if not node.children]:
            tree._shorten(min(leaves, key=whole), number - 6)
        marks = []
        for tree.upcoming in ways:
            tree._mark(anew=True)
            marks.append([(whole(node), node.next_use, node.nexts) for node in tree._nodes()])
            marks[-1].append((tree._root.nexts,))
        assert marks[0] == marks[1]


def test_only_what_an_open_row_will_read_counts_as_missed():
    """Prompts of open rows are sent `when` 0, those of rows that wait later, others never."""

    def missed(when):
        kv = PagedKV(3, 1, 64, lambda source, target: None)
        tree, sequence = PrefixTree(kv), kv.create((0,))
        prompt = np.array([1, 2, 3], np.int32)
        sequence.append(prompt)
        assert kv.reserve(sequence, 3)
        tree.insert(prompt, sequence.pages)
        kv.drop(sequence)
        tree.upcoming = Ahead([])
        tree.upcoming.prompts = lambda: [] if when is None else [(when, prompt, None)]
        tree.evict(3)
        assert kv.free == 3
        return tree.missed

    assert missed(0) > 0
    assert missed(1) == missed(None) == 0
