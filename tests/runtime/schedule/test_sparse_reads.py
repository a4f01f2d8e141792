"""With sparse attention prompts and scored texts read all keys, and what a model says some, however
a step came to have one token of either."""

import numpy as np
import pytest
import torch
from weft.runtime.engine import Engine
from weft.runtime.execution.sparse_decode import decode_rows
from weft.runtime.execution.step import whole_rows
from weft.runtime.schedule.request import Request, Sampling
from weft.runtime.simulator import ToyExecutor, toy_logits
from weft.tests.runtime.schedule.toy_engine import VOCABULARY, drain

IDS = [3, 1, 4, 1, 5, 9, 2, 6, 5]


class SparseExecutor(ToyExecutor):
    """Rows of one token that are to be sparse read the last three tokens, all others everything."""

    def all_logits(self, step):
        self.kv[step.slots.numpy()] = step.tokens.numpy()
        rows = decode_rows(step)
        few = ~whole_rows(step, rows, True)
        owner = np.repeat(np.arange(len(step.kv_lengths)), np.diff(step.query_starts.numpy()))
        found = []
        for row in step.logits_rows.tolist():
            at = np.arange(int(step.positions[row]) + 1)
            pages = step.page_table[owner[row]].numpy()[at // self.page_size]
            ids = self.kv[pages * self.page_size + at % self.page_size]
            sparse = owner[row] < rows and few[owner[row]]
            found.append(toy_logits(ids[-3:] if sparse else ids, self.vocab_size))
        return torch.stack(found) if found else torch.empty(0, self.vocab_size)


def said(count: int) -> list[int]:
    """Return what follows IDS: its first token from all of them, the others from three each."""
    ids = [*IDS, int(toy_logits(IDS, VOCABULARY).argmax())]
    while len(ids) < len(IDS) + count:
        ids.append(int(toy_logits(ids[-3:], VOCABULARY).argmax()))
    return ids[len(IDS) :]


def gen(engine: Engine, number: int, count: int = 4) -> Request:
    sequence = engine.create((number,))
    sequence.append(IDS)
    request = Request(sequence, "gen", Sampling(count), row=number)
    engine.submit(request)
    return request


@pytest.mark.parametrize("tokens", [16, 8, 4])
def test_a_prompt_of_which_the_last_token_alone_is_new_reads_all(tokens):
    engine = Engine(SparseExecutor(VOCABULARY, max_tokens=tokens))
    first = gen(engine, 0)
    drain(engine)
    again = gen(engine, 1)  # all but its last token are cached
    drain(engine)
    for request in (first, again):
        assert request.generated().tolist() == said(4) != [
            int(toy_logits(IDS[-3:], VOCABULARY).argmax()), *said(4)[1:]
        ]  # fmt: skip


@pytest.mark.parametrize("crowd", [False, True])
def test_one_token_that_is_scored_reads_all(crowd):
    """Whether prompts stand before it in its step, or it is all that the step has."""
    engine = Engine(SparseExecutor(VOCABULARY))
    gen(engine, 0)
    drain(engine)
    sequence = engine.create((1,))
    sequence.append(IDS)
    request = Request(sequence, "score", score_from=len(IDS) - 1, asked=[(1, 2)])
    engine.submit(request)
    if crowd:
        other = engine.create((2,))
        other.append([7, 7, 8, 9])
        engine.submit(Request(other, "gen", Sampling(1), row=2))
    drain(engine)
    wanted = torch.log_softmax(toy_logits(IDS, VOCABULARY), 0)
    assert request.scores == [{word: pytest.approx(float(wanted[word])) for word in (1, 2)}]
