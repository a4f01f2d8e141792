"""Log-probabilities of asked words: by position, in chunks, and again after a restart."""

import torch
from weft.runtime.batch import Chunk
from weft.runtime.engine import Engine
from weft.runtime.request import Request
from weft.runtime.scoring import give_scores
from weft.runtime.simulator import ToyExecutor, toy_logits

IDS = [3, 1, 4, 1, 5, 9]
ASKED = [(1,), (), (5, 2, 7), (9,)]


def request_of(engine, start=2):
    sequence = engine.create((0,))
    sequence.append(IDS)
    return Request(sequence, "score", score_from=start, asked=ASKED)


def expected(start=2):
    return [
        {word: float(torch.log_softmax(toy_logits(IDS[: at + 1], 50), 0)[word]) for word in words}
        for at, words in zip(range(start, len(IDS)), ASKED, strict=True)
    ]


def test_an_engine_gives_each_position_the_words_that_it_was_asked_for():
    for tokens in (64, 3):  # in one step, and in chunks
        engine = Engine(ToyExecutor(50, max_tokens=tokens))
        request = request_of(engine)
        engine.submit(request)
        while engine:
            engine.step()
        assert request.scores == expected()


def test_what_is_computed_again_takes_the_place_of_what_was():
    request = request_of(Engine(ToyExecutor(50)))
    logits = torch.stack([toy_logits(IDS[: at + 1], 50) for at in range(2, len(IDS))])
    give_scores(torch.zeros(3, 50), [Chunk(request, 0, 5)])
    for start, count, rows in ((0, 4, logits[:2]), (4, 2, logits[2:])):
        give_scores(rows, [Chunk(request, start, count)])
    assert request.scores == expected()


def test_positions_without_words_are_no_error():
    request = request_of(Engine(ToyExecutor(50)))
    request.asked = ()
    give_scores(torch.zeros(4, 50), [Chunk(request, 0, 6)])
    assert request.scores == [{}, {}, {}, {}]
