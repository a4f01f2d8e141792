"""Prompts of one step that begin alike: what they share is computed once, and read by all."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from weft.runtime.engine import Engine
from weft.runtime.execution.slot_copies import SlotCopies
from weft.runtime.memory.kv_cache import PagedKV
from weft.runtime.memory.prefix_tree import common_prefix
from weft.runtime.schedule import scheduler
from weft.runtime.schedule.batch import Chunk
from weft.runtime.schedule.policy import Policy
from weft.runtime.schedule.request import Request, Sampling
from weft.runtime.schedule.same_step import SameStep
from weft.runtime.simulator import ToyExecutor
from weft.tests.each_time import examples
from weft.tests.runtime.schedule.toy_engine import VOCABULARY, generate


def machine(**limits):
    limits = {"num_pages": 200, "max_batch": 8, "max_tokens": 64, **limits}
    executor = ToyExecutor(VOCABULARY, **limits)
    executor.copies_slots = True
    return Engine(executor, policy=Policy(least_gain=100))  # which asks nothing of such prompts


def ask(engine, row, ids, count=2, fill=False, critical=0):
    sequence = engine.create((row, 0))
    sequence.append(ids)
    sampling = None if fill else Sampling(count)
    request = Request(sequence, f"gen {row}", sampling, row=row, critical=critical)
    engine.submit(request)
    return request


def drain(engine):
    while engine:
        yield from engine.step()
        engine.check()


@pytest.mark.parametrize("page_size", [1, 4, 5, 16])
@pytest.mark.parametrize("shared", [1, 3, 8, 17])
def test_a_step_computes_once_what_its_prompts_share(page_size, shared):
    engine, start = machine(page_size=page_size, num_pages=400), list(range(shared))
    prompts = [[*start, 40, 41], [*start, 50], [*start, 40, 42, 43], [*start, 40, 42, 7]]
    requests = [ask(engine, row, ids) for row, ids in enumerate(prompts)]
    engine.step()
    assert engine.computed_tokens == shared + 2 + 1 + 2 + 1  # the edges of their tree
    assert len(list(drain(engine))) == 4
    for request, ids in zip(requests, prompts, strict=True):
        assert request.sequence.ids() == generate(ids, 2)


def test_it_is_known_whose_tokens_others_of_the_step_read(monkeypatch):
    engine, found = machine(), []
    monkeypatch.setattr(engine._pace, "more", lambda: True)
    monkeypatch.setattr(scheduler, "packed", lambda chunks, running, read: [
        found.append(read(chunk)) or chunk for chunk in chunks])  # fmt: skip
    for row, ids in enumerate(([1, 2, 3, 9], [1, 2, 3, 4, 5], [7, 8, 9], [1, 2, 3, 4, 6])):
        ask(engine, row, ids)
    engine.step()
    assert found == [True, True, False, False]


def test_what_a_leader_shares_with_others_before_is_copied_from_who_computes_it():
    """The third reads a page of the second, whose first slots are the first one's."""
    engine = machine(page_size=8)
    for row, ids in enumerate(([1, 2, 3, 9], [1, 2, 3, 4, 5, 9], [1, 2, 3, 4, 5, 6, 9])):
        ask(engine, row, ids)
    steps, forward = [], engine.executor.forward
    engine.executor.forward = lambda step: steps.append(step) or forward(step)
    engine.step()
    source, target = steps[0].copies.tolist()
    slots = steps[0].slots.tolist()
    assert set(source) <= set(slots) and not set(source) & set(target)
    assert [len(source), len(set(target))] == [3 + 5, 3 + 5]


@pytest.mark.parametrize("fails", [1, 2, 3])
def test_what_a_failed_step_did_not_compute_is_not_taken_for_computed(fails):
    """Neither of the leader nor of those that were to read its pages."""
    engine, start = machine(page_size=4, max_tokens=12), [7, 8, 9, 10, 11, 12]
    prompts = [[*start, 40 + row, *range(row)] for row in range(5)]
    requests = [ask(engine, row, ids) for row, ids in enumerate(prompts)]
    forward, steps = engine.executor.forward, []

    def failing(step):
        steps.append(step)
        if len(steps) == fails:
            raise RuntimeError("a kernel failed")
        return forward(step)

    engine.executor.forward = failing
    for _ in range(fails - 1):
        engine.step()
    with pytest.raises(RuntimeError, match="a kernel failed"):
        engine.step()
    engine.check()
    list(drain(engine))
    for request, ids in zip(requests, prompts, strict=True):
        assert request.sequence.ids() == generate(ids, 2)


@pytest.mark.parametrize("gone", range(4))
@pytest.mark.parametrize("after", [0, 1])
def test_others_go_on_where_one_is_cancelled(gone, after):
    engine, start = machine(page_size=4, max_tokens=9), [7, 8, 9, 10, 11, 12]
    prompts = [[*start, 40 + row, *range(row)] for row in range(4)]
    requests = [ask(engine, row, ids, count=4) for row, ids in enumerate(prompts)]
    for _ in range(after):
        engine.step()
    engine.cancel(requests[gone])
    engine.free(requests[gone].sequence)
    list(drain(engine))
    for row, (request, ids) in enumerate(zip(requests, prompts, strict=True)):
        if row != gone:
            assert request.sequence.ids() == generate(ids, 4)


def test_a_fill_of_what_another_computes_is_done_when_that_is():
    engine = machine()
    gen, fill = ask(engine, 0, [1, 2, 3, 4, 5]), ask(engine, 1, [1, 2, 3, 4], fill=True)
    assert fill in engine.step() and engine.computed_tokens == 5
    assert fill.sequence.resident == 4
    list(drain(engine))
    assert gen.sequence.ids() == generate([1, 2, 3, 4, 5], 2)


def test_what_a_step_cannot_hold_is_waited_for():
    engine = machine(max_tokens=8)
    start = list(range(12))
    requests = [ask(engine, row, [*start, 20 + row]) for row in range(3)]
    engine.step()
    assert engine.computed_tokens == 8
    list(drain(engine))
    assert [request.sequence.ids() for request in requests] == [
        generate([*start, 20 + row], 2) for row in range(3)
    ]
    assert engine.computed_tokens == 12 + 3 + 3  # and a token that each has drawn


def test_what_is_only_remembered_makes_room_for_what_a_step_shares():
    """A cache that has been used for a while has no page that is free."""
    engine = machine(page_size=4, num_pages=40)
    for row in range(20):
        ask(engine, row, [30 + row] * 17, 1)
        for request in drain(engine):
            engine.free(request.sequence)
    assert engine.kv.free == 0
    before, start = engine.computed_tokens, list(range(12))
    requests = [ask(engine, 20 + row, [*start, 20 + row, 9]) for row in range(4)]
    list(drain(engine))
    assert engine.computed_tokens - before == 12 + 4 * 2 + 4
    for row, request in enumerate(requests):
        assert request.sequence.ids() == generate([*start, 20 + row, 9], 2)


def test_where_a_step_has_no_pages_to_share_it_is_waited_for(monkeypatch):
    monkeypatch.setattr(SameStep, "follow", lambda *_: False)
    engine, start = machine(page_size=4), list(range(12))
    engine._scheduler._policy = Policy()
    for row in range(4):
        ask(engine, row, [*start, 20 + row, 9])
    list(drain(engine))
    assert engine.computed_tokens == 12 + 4 * 2 + 4


PROMPTS = st.lists(
    st.tuples(st.integers(0, 9), st.lists(st.integers(0, 1), min_size=1, max_size=6),
              st.integers(1, 6), st.booleans()),
    min_size=2, max_size=14,
)  # fmt: skip


@settings(max_examples=examples(150), deadline=None, derandomize=True)
@given(
    prompts=PROMPTS, page_size=st.sampled_from([1, 2, 3, 8]),
    room=st.sampled_from([28, 44, 300]), tokens=st.sampled_from([9, 16, 64]),
)  # fmt: skip
def test_any_prompts_go_on_as_alone(prompts, page_size, room, tokens):
    """Short of pages and of places in a step: leaders lose their pages, or are cut."""
    engine = machine(page_size=page_size, num_pages=-(-room // page_size), max_tokens=tokens)
    asked = []
    for row, (begin, own, new, fill) in enumerate(prompts):
        ids = [*range(begin), *own]
        asked.append((ask(engine, row, ids, new, fill), ids, 0 if fill else new))
    for request in drain(engine):
        assert request.error is None
        engine.free(request.sequence)
    for request, ids, new in asked:
        assert request.sequence.ids() == generate(ids, new)


def test_who_reads_what_is_not_computed_after_all_leaves_the_step(monkeypatch):
    """The oldest takes the pages of the first one after another has joined that one."""
    orphans, found = SameStep.orphans, []

    def watched(self, alive):
        for request in orphans(self, alive):
            found.append(request.row)
            yield request

    monkeypatch.setattr(SameStep, "orphans", watched)
    engine, start = machine(page_size=2, num_pages=12), list(range(8))
    prompts = [[60] * 10, [*start, 30], [*start, 40, 41, 42, 43, 44, 45]]
    requests = [ask(engine, row, ids, 1, critical=50 * row) for row, ids in enumerate(prompts)]
    engine.step()
    assert found == [1] and engine.computed_tokens == 10
    for request in drain(engine):
        engine.free(request.sequence)
    assert [each.sequence.ids() for each in requests] == [generate(ids, 1) for ids in prompts]


@pytest.mark.parametrize("pages", [2, 3])
def test_pages_for_all_that_is_ones_own_are_made_sure_of_before_another_is_followed(pages):
    """The page in which both go on is one of them: each has its own."""
    kv = PagedKV(pages, 4, 64, lambda source, target: None)
    same, chunks = SameStep(kv, True), {}
    same.begin(chunks)
    first, second = (Request(kv.create((row,)), sampling=Sampling(1)) for row in range(2))
    first.sequence.append([1, 2, 3, 4, 5, 6])
    second.sequence.append([1, 2, 3, 4, 5, 9])
    assert kv.reserve(first.sequence, 6)
    chunks[first] = Chunk(first, 0, 6)
    same.took(first, chunks[first])
    assert same.follow(second, (5, first)) == (pages == 3)
    assert second.sequence.held == (2 if pages == 3 else 0)


def test_who_reads_a_chunk_that_is_no_longer_its_leaders_leaves_the_step():
    """The leader lost its pages, and takes part again with another chunk."""
    kv = PagedKV(8, 4, 64, lambda source, target: None)
    same, chunks = SameStep(kv, True), {}
    same.begin(chunks)
    requests = [Request(kv.create((row,)), sampling=Sampling(1)) for row in range(2)]
    for request in requests:
        request.sequence.append([1, 2, 3, 4, 5, request.sequence.number])
        shared = [(5, other) for other in chunks]
        assert all(same.follow(request, leader) for leader in shared)
        assert kv.reserve(request.sequence, 6)
        start = request.sequence.resident
        chunks[request] = Chunk(request, start, 6 - start)
        same.took(request, chunks[request])
    assert list(same.orphans(chunks)) == []
    chunks[requests[0]] = Chunk(requests[0], 0, 3)
    assert list(same.orphans(chunks)) == [requests[1]]


def test_a_page_that_changes_hands_within_a_step_is_read_where_its_new_holder_writes():
    """Who was to have it copied had to give it back; the next one computes what is in it."""
    kv = PagedKV(8, 4, 64, lambda source, target: None)
    same, chunks = SameStep(kv, True), {}
    same.begin(chunks)

    def takes(ids, *others):
        sequence = kv.create((len(chunks),))
        sequence.append(ids)
        request = Request(sequence, sampling=Sampling(1))
        now, _ = same.leaders(request, others)
        assert not others or same.follow(request, now)
        assert kv.reserve(sequence, len(ids))
        chunks[request] = Chunk(request, sequence.resident, len(ids) - sequence.resident)
        same.took(request, chunks[request])
        return request, chunks[request].copied

    first, _ = takes([1, 2, 3, 4, 5, 6])
    second, copied = takes([1, 2, 3, 4, 5, 9], first)
    page = int(second.sequence.pages[1])
    assert copied.tolist() == [[4 * int(first.sequence.pages[1])], [4 * page]]
    kv.drop(second.sequence)
    del chunks[second]
    assert kv.free == 6  # which has its page given out first
    third, _ = takes([7, 8, 9])
    assert third.sequence.pages[0] == page
    fourth, copied = takes([7, 8, 5], first, third)
    other = int(fourth.sequence.pages[0])
    assert copied.tolist() == [[4 * page, 4 * page + 1], [4 * other, 4 * other + 1]]


def test_copies_stand_behind_the_launch_that_writes_a_layers_keys():
    k, v = (torch.arange(2 * 3 * 2 * 4 * 2).view(2, 3, 2, 4, 2).float() + add for add in (0, 500))
    before = [pool.clone() for pool in (k, v)]
    ran = []

    def copy(count, pages, heads, rows, width, *rest):
        (page, row, to_page, to_row), pools = (each.long() for each in rest[:4]), rest[4:]
        assert (count, pages, heads, rows, width) == (3, 3, 2, 4, 2)
        for pool in pools:
            pool[to_page, :, to_row] = pool[page, :, row]
        ran.append("copy")

    copies = torch.tensor([[0, 1, 9], [6, 7, 2]], dtype=torch.int32)
    launches = [(ran.append, (name,)) for name in ("a", "write 1", "b", "write 0")]
    slots = SlotCopies((k, v), copy)
    assert {len(array) for array in slots.lists(None).values()} == {0}
    lists = {name: torch.from_numpy(array) for name, array in slots.lists(copies).items()}
    for function, arguments in slots.among(lists, launches, [None, 1, None, 0]):
        function(*arguments)
        if ran == ["a", "write 1", "copy"]:
            assert torch.equal(k[0], before[0][0]) and not torch.equal(k[1], before[0][1])
    assert ran == ["a", "write 1", "copy", "b", "write 0", "copy"]
    for pool, old in zip((k, v), before, strict=True):
        flat, was = (each.transpose(2, 3).reshape(2, 12, 2, 2) for each in (pool, old))
        for source, target in copies.T.tolist():
            assert torch.equal(flat[:, target], was[:, source])
        kept = [slot for slot in range(12) if slot not in (6, 7, 2)]
        assert torch.equal(flat[:, kept], was[:, kept])


prompts = st.lists(st.lists(st.integers(0, 1), min_size=2, max_size=8), min_size=2, max_size=9)


@given(prompts, st.booleans(), st.data())
def test_leaders_share_as_much_as_the_best_that_a_look_at_each_finds(prompts, able, data):
    """Of what this step computes, and of what it or a later one does."""
    kv = PagedKV(8, 4, 64, lambda source, target: None)
    same, chunks, requests = SameStep(kv, able), {}, []
    same.begin(chunks)
    for ids in prompts:
        sequence = kv.create((len(requests),))
        sequence.append(ids)
        sequence.resident = data.draw(st.integers(0, len(ids) - 1))
        requests.append(Request(sequence, sampling=Sampling(1)))
    *others, own = requests
    for other in others:
        start = other.sequence.resident
        count = data.draw(st.integers(0, other.sequence.length - start))
        if count:
            chunks[other] = Chunk(other, start, count)
    known = own.sequence.resident

    def shared(other: Request) -> int:
        """Return what another shares and does not have yet; 0: nothing."""
        found = common_prefix(
            own.sequence.tokens[: own.first_logits], other.sequence.tokens[: other.sequence.length]
        )
        return found if found > max(known, other.sequence.resident) else 0

    def there(other: Request) -> int:
        chunk = chunks.get(other) if able else None
        return 0 if chunk is None else min(shared(other), chunk.start + chunk.count)

    for found, measure in zip(same.leaders(own, others), (there, shared), strict=True):
        best = max(map(measure, others))
        assert found[0] == max(best, known)
        assert found[1] is None if best <= known else measure(found[1]) == best
