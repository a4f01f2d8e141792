"""An executor that knows its answers by heart: prefixes, not tokens, be they shared in a step."""

from dataclasses import replace

import pytest
import torch
from weft.bench.contest.replay import Replay, UnknownPrefix
from weft.runtime.engine import Engine
from weft.runtime.schedule.request import Request, Sampling
from weft.runtime.simulator import ToyExecutor
from weft.tests.runtime.execution.steps_by_hand import step


def run(executor, prompts=((1, 2, 3), (1, 2, 4)), new=3):
    engine, requests = Engine(executor), []
    for row, prompt in enumerate(prompts):
        sequence = engine.create((row, 0))
        sequence.append(prompt)
        requests.append(Request(sequence, f"gen {row}", Sampling(new), row=row))
        engine.submit(requests[-1])
    while engine:
        engine.step()
    return [request.generated().tolist() for request in requests]


@pytest.mark.parametrize("together", [False, True])
def test_replay_gives_the_same_answers_without_the_model(together):
    """Also where the second reads slots that the first writes in the same step."""
    model = ToyExecutor(50)
    model.copies_slots = together
    replay = Replay(model)
    said = run(replay)
    model.forward = None  # type: ignore[assignment]
    replay.frozen = True
    assert run(replay) == said
    assert run(replay, prompts=((1, 2, 4), (1, 2, 3))) == said[::-1]


def test_who_reads_what_stands_behind_it_in_a_step_is_known_by_its_whole_prefix():
    """Rows that are drawn come first, be it behind what is only filled in the same step."""
    replay, prompt = Replay(ToyExecutor(50, page_size=16)), [*range(20)]
    alone = replay.forward(step(([*prompt, 30], 0, [6, 7]))).clone()
    replay.frozen = True
    together = step(([30], 20, [1, 3]), (prompt, 0, [1, 2]), rows=[0])
    copies = torch.tensor([[32, 33, 34, 35], [48, 49, 50, 51]], dtype=torch.int32)
    assert torch.equal(replay.forward(replace(together, copies=copies)), alone)
    assert torch.equal(replay.forward(step(([30], 20, [1, 3]))), alone)  # it is kept as copied
    with pytest.raises(UnknownPrefix):
        replay.forward(step(([31], 20, [1, 3])))


def test_replay_refuses_what_no_run_has_computed():
    replay = Replay(ToyExecutor(50))
    run(replay)
    replay.frozen = True
    with pytest.raises(UnknownPrefix):
        run(replay, prompts=((4, 2),))


def test_replay_knows_prefixes_not_tokens():
    replay = Replay(ToyExecutor(50))
    run(replay, prompts=((1, 2, 3),), new=1)
    replay.frozen = True
    with pytest.raises(UnknownPrefix):
        run(replay, prompts=((2, 1, 3),), new=1)
