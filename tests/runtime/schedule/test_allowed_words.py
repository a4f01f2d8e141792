"""Steps that compute logits of allowed words only: the same draw, bounded memory, no logprobs."""

from dataclasses import dataclass, field
from itertools import count

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from weft.ir.constraints.token_masks import ALONE, WORTH, few_words
from weft.runtime.execution.sampler import sample_rows
from weft.runtime.schedule import allowed_words
from weft.runtime.schedule.allowed_words import AllowedWords

VOCAB, ROWS = 700, 4


@dataclass
class Asker:
    logprobs: bool = False


@dataclass
class Rows:
    """What is looked at of a batch."""

    masks: np.ndarray
    constrained: int
    requests: list[Asker] = field(default_factory=list)
    shown: list[np.ndarray | None] = field(default_factory=list)
    changes: int = field(default_factory=count().__next__)


def bits(sets):
    found = np.zeros((len(sets), 32 * -(-VOCAB // 32)), bool)
    for row, words in enumerate(sets):
        found[row, sorted(words)] = True
    return np.packbits(found, axis=1, bitorder="little").view(np.int32)


def rows_of(sets, logprobs=False):
    asking = [Asker() for _ in sets[1:]] + [Asker(logprobs)]
    return Rows(bits(sets), len(sets), asking, [None] * len(sets))


def chooser():
    return AllowedWords(VOCAB, ROWS)


def drawn(logits, sets, temperature, chosen=None, of=None, rows=None):
    """Draw a word a row, of all logits or of those of the chosen words."""
    u = torch.linspace(0.1, 0.8, len(sets))
    warm = torch.full((len(sets),), temperature)
    rest = (warm, torch.zeros(len(sets), dtype=torch.int32), torch.ones(len(sets)),
            torch.zeros(len(sets)), u)  # fmt: skip
    if chosen is None:
        return sample_rows(logits, torch.from_numpy(bits(sets)), *rest)
    mask = of.masks(rows or rows_of(sets), chosen, len(sets))
    narrow = torch.full((len(sets), few_words(VOCAB) if len(mask[0]) < 22 else VOCAB), 1e4)
    narrow[:, : len(chosen.words)] = logits[:, chosen.ids.long()]
    return chosen.named(sample_rows(narrow, mask, *rest))


word_sets = st.lists(
    st.sets(st.integers(0, VOCAB - 1), min_size=1, max_size=120), min_size=1, max_size=ROWS
)


@settings(max_examples=60, deadline=None)
@given(word_sets, st.integers(0, 10), st.sampled_from([0.0, 0.7]))
def test_a_draw_of_the_words_is_a_draw_of_all(sets, seed, temperature):
    logits = torch.randn(len(sets), VOCAB, generator=torch.Generator().manual_seed(seed))
    of, rows = chooser(), rows_of(sets)
    chosen = of.choose(rows, len(sets), len(sets))
    union = set().union(*sets)
    most = WORTH if len(sets) > 1 else ALONE
    assert (chosen is None) == (len(union) > most * VOCAB)
    if chosen is not None:
        assert chosen.words.tolist() == sorted(union)
        found = drawn(logits, sets, temperature, chosen, of)
        expected = drawn(logits, sets, temperature)
        assert found[0].tolist() == expected[0].tolist()
        torch.testing.assert_close(found[2], expected[2])  # margins


def test_a_mask_over_other_words_draws_something_else():
    """The check above sees it when columns are named wrongly."""
    sets = [{1, 5, 9}]
    of = chooser()
    chosen = of.choose(rows_of(sets), 1, 1)
    logits = torch.zeros(1, VOCAB)
    logits[0, 9] = 1
    assert drawn(logits, sets, 0.0, chosen, of)[0].tolist() == [9]
    object.__setattr__(chosen, "words", chosen.words - 1)
    assert drawn(logits, sets, 0.0, chosen, of)[0].tolist() != [9]


@pytest.mark.parametrize(
    "rows, drawn, wanted",
    [
        (rows_of([{1}, {2}], logprobs=True), 2, 2),
        (rows_of([{1}, {2}]), 2, 3),  # some other row is scored
        (rows_of([{1}, {2}]), 3, 3),  # some other row is free
        (rows_of([{1}, {2}]), 0, 0),
    ],
)
def test_all_words_are_computed_where_some_row_needs_them(rows, drawn, wanted):
    assert chooser().choose(rows, drawn, wanted) is None


def test_sets_that_are_remembered_stay_within_their_memory(monkeypatch):
    monkeypatch.setattr(allowed_words, "KEPT_WORDS", 100)
    of = chooser()

    def ask(start):
        return of.choose(rows_of([set(range(start, start + 40))]), 1, 1)

    for start in range(0, 400, 40):
        found = ask(start)
        assert of._words <= 100
    assert ask(360) is found  # the last is kept
    first = ask(0)
    assert ask(0) is first and ask(360) is found and ask(320) is not None
    assert ask(0) is not first  # went first


def test_masks_over_a_set_of_words_stay_within_their_memory(monkeypatch):
    """Each of 3 words of 32 bits; what was let go is made again."""
    monkeypatch.setattr(allowed_words, "KEPT_MASKS", 4 * 3)
    of, rows = chooser(), rows_of([set(range(70))])
    chosen = of.choose(rows, 1, 1)
    shown = [rows_of([{number, 69}]).masks for number in range(20)]
    for _ in range(2):
        for number, mask in enumerate(shown):
            found = chosen.masks(mask[:1], [mask])
            assert len(found[0]) == 3 and 0 < len(chosen._packed) <= 4
            bits = np.unpackbits(found.view(np.uint8), bitorder="little")
            assert np.flatnonzero(bits).tolist() == [number, 69]


def test_nothing_is_looked_at_again_before_a_mask_changes():
    """The batch counts its changes: masks that are written over without one are not seen."""
    of, rows = chooser(), rows_of([{1, 5}, {5, 9}])
    chosen = of.choose(rows, 2, 2)
    mask = of.masks(rows, chosen, 2).clone()
    rows.masks[:] = bits([{2}, {3}])
    assert of.choose(rows, 2, 2) is chosen
    assert torch.equal(of.masks(rows, chosen, 2), mask)
    rows.changes = -7
    other = of.choose(rows, 2, 2)
    assert other.words.tolist() == [2, 3]
    assert not torch.equal(of.masks(rows, other, 2), mask)


@settings(max_examples=30, deadline=None)
@given(word_sets, st.integers(0, 10))
def test_masks_of_tables_that_come_again_are_those_of_their_words(sets, seed):
    logits = torch.randn(len(sets), VOCAB, generator=torch.Generator().manual_seed(seed))
    of = chooser()
    expected = drawn(logits, sets, 0.0)[0].tolist()
    tables = list(bits(sets))
    for order in (range(len(sets)), reversed(range(len(sets)))):
        places = list(order)
        rows = rows_of([sets[at] for at in places])
        rows.shown = [tables[at] for at in places]
        chosen = of.choose(rows, len(sets), len(sets))
        some = [sets[at] for at in places]
        found = drawn(logits[places], some, 0.0, chosen, of, rows)[0].tolist()
        assert found == [expected[at] for at in places]


def test_more_words_pay_for_several_rows_than_for_one():
    some, both = set(range(VOCAB // 2)), set(range(VOCAB * 3 // 4))
    of = chooser()
    assert of.choose(rows_of([both]), 1, 1) is None
    assert of.choose(rows_of([some, both]), 2, 2).words.tolist() == sorted(both)
    assert of.choose(rows_of([both]), 1, 1) is None
    assert of.choose(rows_of([some]), 1, 1).words.tolist() == sorted(some)
    assert of.choose(rows_of([set(range(VOCAB)), some]), 2, 2) is None
