"""Steps that compute logits of allowed words only: the same draw, bounded memory, no logprobs."""

from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from weft.ir.token_masks import WORTH, few_words
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


def bits(sets):
    found = np.zeros((len(sets), 32 * -(-VOCAB // 32)), bool)
    for row, words in enumerate(sets):
        found[row, sorted(words)] = True
    return np.packbits(found, axis=1, bitorder="little").view(np.int32)


def rows_of(sets, logprobs=False):
    asking = [Asker() for _ in sets[1:]] + [Asker(logprobs)]
    return Rows(bits(sets), len(sets), asking)


def chooser(gathered=None):
    def gather(words):
        if gathered is not None:
            gathered.append(len(words))
        return torch.from_numpy(words)[:, None].float()

    return AllowedWords(VOCAB, gather, ROWS)


def drawn(logits, sets, temperature, chosen=None, of=None):
    """Draw a word a row, of all logits or of those of the chosen words."""
    u = torch.linspace(0.1, 0.8, len(sets))
    warm = torch.full((len(sets),), temperature)
    rest = (warm, torch.zeros(len(sets), dtype=torch.int32), torch.ones(len(sets)),
            torch.zeros(len(sets)), u)  # fmt: skip
    if chosen is None:
        return sample_rows(logits, torch.from_numpy(bits(sets)), *rest)
    mask = of.masks(rows_of(sets), chosen, len(sets))
    narrow = torch.full((len(sets), few_words(VOCAB) if len(mask[0]) < 22 else VOCAB), 1e4)
    narrow[:, : len(chosen.words)] = logits[:, chosen.head[:, 0].long()]
    return chosen.named(sample_rows(narrow, mask, *rest))


word_sets = st.lists(
    st.sets(st.integers(0, VOCAB - 1), min_size=1, max_size=120), min_size=1, max_size=ROWS
)


@settings(max_examples=60, deadline=None)
@given(word_sets, st.integers(0, 10), st.sampled_from([0.0, 0.7]))
def test_a_draw_of_the_words_is_a_draw_of_all(sets, seed, temperature):
    logits = torch.randn(len(sets), VOCAB, generator=torch.Generator().manual_seed(seed))
    of, rows = chooser(), rows_of(sets)
    chosen = of.choose(rows, len(sets), len(sets)) or of.choose(rows, len(sets), len(sets))
    union = set().union(*sets)
    assert (chosen is None) == (len(union) > WORTH * VOCAB)
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


def test_a_large_set_is_gathered_when_it_comes_again_and_a_small_one_at_once():
    gathered: list[int] = []
    of = chooser(gathered)
    small, large = {1, 2}, set(range(300))
    assert of.choose(rows_of([small]), 1, 1) is of.choose(rows_of([small]), 1, 1)
    assert gathered == [2]
    assert of.choose(rows_of([large]), 1, 1) is None
    assert of.choose(rows_of([large]), 1, 1) is of.choose(rows_of([large]), 1, 1)
    assert gathered == [2, 300]


def test_gathered_rows_stay_within_their_memory(monkeypatch):
    monkeypatch.setattr(allowed_words, "KEPT_BYTES", 4 * 100)
    gathered: list[int] = []
    of = chooser(gathered)
    for start in range(0, 400, 40):
        of.choose(rows_of([set(range(start, start + 40))]), 1, 1)
        assert of._bytes <= 400
    before = len(gathered)
    of.choose(rows_of([set(range(360, 400))]), 1, 1)
    assert len(gathered) == before  # the last is kept
    of.choose(rows_of([set(range(40))]), 1, 1)
    assert len(gathered) == before + 1  # the first is not


def test_rows_that_could_not_be_kept_are_not_gathered_at_every_step(monkeypatch):
    monkeypatch.setattr(allowed_words, "KEPT_BYTES", 4 * 100)
    gathered: list[int] = []
    of = chooser(gathered)
    for _ in range(6):
        assert of.choose(rows_of([set(range(300))]), 1, 1) is None
    assert gathered == [300]
    assert of.choose(rows_of([{1, 2}]), 1, 1) is not None
