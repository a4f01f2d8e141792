"""Steps planned as earlier ones like them: every query still meets every key it sees once."""

from __future__ import annotations

from dataclasses import replace
from unittest.mock import patch

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from weft.runtime.attention import known_plans
from weft.runtime.attention.cost import Cost
from weft.runtime.attention.grown_lists import AFTER_LEAVING, AFTER_LIKE, LONG
from weft.runtime.attention.known_plans import KnownPlans, likeness
from weft.runtime.attention.lists import AttentionLists
from weft.runtime.attention.plan import Batch, Rates, Way, plan_among
from weft.runtime.attention.sharing import Sharing
from weft.runtime.execution.step import StepInput
from weft.tests.each_time import examples
from weft.tests.runtime.attention.test_attention_plan import (
    LLAMA,
    SHAPE,
    batches,
    forks,
    sees_everything_once,
)

WAYS = [
    Way("few", SHAPE, Rates(resident=6), many=False),
    Way("many", SHAPE, Rates(resident=6), few=False),
]


@settings(max_examples=examples(150), deadline=None)
@given(st.lists(batches(), min_size=2, max_size=5))
def test_what_any_step_was_planned_like_every_query_meets_what_it_sees_once(several) -> None:
    plans = KnownPlans()
    with patch.object(known_plans, "likeness", lambda batch, nodes: ()):  # all are alike
        for batch in several:
            way, work = plans.plan(batch, WAYS)
            sees_everything_once(work, batch)
            assert way.takes(int(work.item_rows.max(initial=0)))


@settings(max_examples=examples(100), deadline=None)
@given(batches())
def test_the_same_step_is_planned_the_same_again(batch: Batch) -> None:
    plans = KnownPlans()
    wanted, first, again = (plan(batch, WAYS) for plan in (plan_among, plans.plan, plans.plan))
    for way, work in (first, again):
        assert way is wanted[0] and work.seconds == wanted[1].seconds
        for name in ("item_page", "item_low", "item_high", "row_query", "row_limit", "row_slot"):
            assert getattr(work, name).tolist() == getattr(wanted[1], name).tolist()


def mixed(rng: np.random.Generator, rows: int, prefix: int, own: int) -> Batch:
    """Return rows behind a prefix, a fifth of which compute some tokens."""
    whole = forks(rows, prefix, own)
    lengths = whole.lengths - rng.integers(0, own // 8, rows)
    counts = np.where(rng.random(rows) < 0.2, rng.integers(2, 9, rows), 1)
    return Batch(whole.table, lengths, np.concatenate([[0], np.cumsum(counts)]))


def test_steps_that_are_alike_are_not_weighed_again_and_planned_nearly_as_well() -> None:
    ways = [Way("", LLAMA, Rates())]
    for rows, prefix, own in ((64, 0, 96), (40, 4096, 128), (3, 64, 4096), (12, 1024, 512)):
        rng, plans = np.random.default_rng(rows), KnownPlans()
        several = [mixed(rng, rows, prefix, own) for _ in range(12)]
        with patch.object(known_plans, "weigh", wraps=known_plans.weigh) as weighed:
            made = [plans.plan(batch, ways)[1] for batch in several]
        kinds = {likeness(batch, Sharing(batch, ways).nodes) for batch in several}
        assert weighed.call_count == len(kinds) < 6
        for batch, work in zip(several, made, strict=True):
            best = plan_among(batch, ways)[1]
            keys = int((work.item_high - work.item_low).max())
            taken = Cost(batch, work.runs, LLAMA, Rates()).seconds(keys)
            assert taken <= 1.25 * best.seconds + 1e-6


def test_unlike_steps_are_weighed_each() -> None:
    ways, plans = [Way("", LLAMA, Rates())], KnownPlans()
    unlike = [forks(64, 0, 4096), forks(64, 4064, 32), forks(64, 0, 96), forks(64, 4096, 96),
              forks(8, 0, 96)]  # fmt: skip
    for batch in unlike:
        wanted = plan_among(batch, ways)[1]
        assert plans.plan(batch, ways)[1].item_high.tolist() == wanted.item_high.tolist()
    longest = plans.plan(unlike[3], ways)[1].runs
    assert max(len(run.members) for run in longest) == 64


def step_of(counts: list[int], length: int, most: int = 8) -> StepInput:
    """Return a step of sequences that compute so many tokens, each of which has its own pages, at
    `most` so many."""
    total, rows = sum(counts), len(counts)
    starts = torch.tensor(np.concatenate([[0], np.cumsum(counts)]), dtype=torch.int32)
    pages = torch.arange(rows * most, dtype=torch.int32).view(rows, most)
    tokens, lengths = torch.zeros(total, dtype=torch.int32), torch.full((rows,), length)
    return StepInput(tokens, tokens, tokens, starts, lengths.int(), pages, tokens)


def test_rows_beside_prompts_are_planned_like_others_beside_prompts_only() -> None:
    ways, plans, batch = [Way("", LLAMA, Rates())], KnownPlans(), forks(64, 512, 96)
    for beside in (False, True):
        wanted = plan_among(batch, ways, beside=beside)[1]
        first, again = (plans.plan(batch, ways, beside)[1] for _ in range(2))
        assert (first.again, again.again) == (False, True)
        for made in (first, again):
            assert made.runs == wanted.runs and made.item_high.tolist() == wanted.item_high.tolist()


def rows_at(length: int, first: int) -> StepInput:
    """Return a decode step of eight rows of so many keys, whose pages begin with `first`."""
    step = step_of([1] * 8, length)
    pages = torch.arange(8 * 32, dtype=torch.int32).view(8, 32)
    return replace(step, page_table=pages + first)


def test_decode_steps_of_other_rows_are_planned_like_those_before_and_weighed_once_they_go_on():
    lists = AttentionLists(LLAMA, (0,), torch.device("meta"), 4096)
    with patch.object(known_plans, "weigh", wraps=known_plans.weigh) as weighed:
        first = lists.plan(rows_at(140, 0))
        others = lists.plan(rows_at(140, 100))  # all rows have left, and others have joined
        assert (first.again, others.again, weighed.call_count) == (False, True, 1)
        for name, array in first.arrays.items():
            if not name.endswith("pages"):
                assert array.tolist() == others.arrays[name].tolist()
        for more in range(AFTER_LIKE):
            assert lists.plan(rows_at(141 + more, 100)) is not None
        assert weighed.call_count == 1
        lists.plan(rows_at(141 + AFTER_LIKE, 100))
        assert weighed.call_count == 2
        for more in range(AFTER_LEAVING):
            lists.plan(rows_at(142 + AFTER_LIKE + more, 100))
        assert weighed.call_count == 2


def test_behind_a_step_of_many_tokens_rows_are_weighed_at_once_as_the_device_computes_meanwhile():
    lists = AttentionLists(LLAMA, (0,), torch.device("meta"), 4096)
    lists.plan(rows_at(140, 0))
    with patch.object(known_plans, "weigh", wraps=known_plans.weigh) as weighed:
        for tokens, again in ((LONG - 1, True), (LONG, False)):
            lists.plan(step_of([tokens], LONG, LONG // LLAMA.page))
            weighed.reset_mock()
            assert lists.plan(rows_at(140, 100)).again == again
            assert weighed.call_count == (not again)
        assert not lists.plan(rows_at(141, 100)).again and weighed.call_count == 1


def test_what_is_weighed_anew_is_what_steps_are_planned_like_from_then_on() -> None:
    """And it is not weighed a third time."""
    ways, plans = [Way("", LLAMA, Rates())], KnownPlans()
    with patch.object(known_plans, "likeness", lambda batch, nodes: ()):  # all are alike
        plans.plan(forks(64, 4096, 96), ways)
        shared = forks(8, 0, 4096)
        plans.plan(shared, ways, anew=True)
        wanted = plan_among(shared, ways)[1]
        with patch.object(known_plans, "weigh", wraps=known_plans.weigh) as weighed:
            for anew in (False, True):
                found = plans.plan(shared, ways, anew=anew)[1]
                assert not found.again and found.item_high.tolist() == wanted.item_high.tolist()
        assert not weighed.called


def test_a_step_for_whose_states_there_are_no_slots_is_not_cut_as_one_like_it_was() -> None:
    """One of long rows is cut into parts; where no part may leave a state, none is."""
    for slots in (4096, 0):
        lists = AttentionLists(LLAMA, (0,), torch.device("meta"), slots)
        for length in (1 << 14, (1 << 14) + 7):
            step = step_of([3, 1, 1, 4], length, 1 << 11)
            made = lists.plan(step, recorded=True)
            assert (made.extents["plan_S"] > 0) == (slots > 0)


def test_only_so_many_kinds_are_remembered() -> None:
    ways, plans = [Way("", LLAMA, Rates())], KnownPlans()
    with patch.object(known_plans, "MOST", 2):
        for rows in (1, 2, 3, 8, 1):
            plans.plan(forks(rows, 0, 96), ways)
            assert len(plans._known) <= 2


def test_a_step_is_planned_in_a_way_that_is_asked_for() -> None:
    plans, batch = KnownPlans(), forks(8, 0, 96)
    for way in [Way(name, LLAMA, Rates()) for name in ("one", "other")] * 2:
        assert plans.plan(batch, [way])[0] is way


def test_steps_with_half_as_many_keys_again_are_not_alike() -> None:
    for own in (64, 96, 1000, 4096):
        kinds = {likeness(batch, Sharing(batch, [Way("", LLAMA, Rates())]).nodes)
                 for batch in (forks(8, 0, own), forks(8, 0, own * 3 // 2))}  # fmt: skip
        assert len(kinds) == 2
