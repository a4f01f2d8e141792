"""A step of chunks as one of single tokens: the same keys, and the wanted logits first."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from weft.runtime.simulator import ToyExecutor
from weft.runtime.step import StepInput
from weft.runtime.token_rows import single_rows

SEQUENCES = st.lists(st.tuples(st.integers(0, 9), st.integers(1, 6)), min_size=1, max_size=5)


@given(SEQUENCES, st.randoms(use_true_random=False))
def test_rows_of_tokens_give_the_logits_of_chunks(sequences, random):
    """Each sequence has some tokens known, and feeds some."""
    tokens, positions, slots, lengths, starts = [], [], [], [], [0]
    for number, (known, fed) in enumerate(sequences):
        tokens += [random.randrange(50) for _ in range(fed)]
        positions += range(known, known + fed)
        slots += [16 * number + at for at in range(known, known + fed)]
        lengths.append(known + fed)
        starts.append(len(tokens))
    wanted = random.sample(range(len(tokens)), random.randint(1, len(tokens)))
    pages = np.arange(4 * len(sequences)).reshape(-1, 4)
    arrays = (tokens, positions, slots, starts, lengths, pages, wanted)
    step = StepInput(*(torch.from_numpy(np.array(array, np.int32)) for array in arrays))
    rows, order = single_rows(step, 4)
    assert rows.is_decode and sorted(order) == list(range(len(tokens)))
    assert order[: len(wanted)].tolist() == wanted
    one, other = (ToyExecutor(50, num_pages=20, max_batch=64) for _ in "ab")
    expected = one.forward(step)
    assert torch.equal(other.forward(rows)[: len(wanted)], expected)
    assert (one.kv == other.kv).all()
