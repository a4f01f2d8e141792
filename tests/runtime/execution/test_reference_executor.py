"""The reference executor: chunks, batches and copied pages mean the same as one whole run."""

import pytest
import torch
from weft.codegen.meaning.graph_reference import GraphRun, run_graph
from weft.frontend.models.registry import build_graph
from weft.ir.model import ModelConfig, Rope
from weft.runtime.execution.executor import ReferenceExecutor, StepTooLarge
from weft.runtime.execution.weights import RandomTensors, load_weights
from weft.tests.runtime.execution.steps_by_hand import step as any_step

CONFIG = ModelConfig("MixtralForCausalLM", 61, 32, 2, 4, 2, 8, 24, 512, Rope(1e4),
                     windows=(0, 9), experts=4, experts_per_token=2)  # fmt: skip


def step(*sequences):
    """A step whose every token has logits."""
    return any_step(*sequences, rows=range(sum(len(tokens) for tokens, *_ in sequences)))


@pytest.fixture
def model():
    module = build_graph(CONFIG)
    return module, {n: w.dense() for n, w in load_weights(module, RandomTensors()).items()}


def executor(model, **limits):
    run = GraphRun(*model, slots=64 * 16)
    limits = dict(num_pages=64, max_batch=64, max_tokens=256) | limits
    return ReferenceExecutor(CONFIG, run, **limits)


def test_chunks_equal_the_whole(model):
    tokens = torch.randint(0, 61, (40,)).tolist()
    whole = run_graph(*model, tokens)
    runner = executor(model)
    pages = [5, 2, 9]
    parts = [runner.forward(step((tokens[a:b], a, pages))) for a, b in ((0, 7), (7, 33), (33, 40))]
    torch.testing.assert_close(torch.cat(parts), whole, atol=1e-5, rtol=1e-5)


def test_ragged_batch_equals_one_at_a_time(model):
    first, second = list(range(20)), list(range(30, 37))
    runner = executor(model)
    runner.forward(step((first[:19], 0, [1, 2]), (second[:6], 0, [3])))
    both = runner.forward(step((first[19:], 19, [1, 2]), (second[6:], 6, [3])))
    expected = torch.stack([run_graph(*model, first)[-1], run_graph(*model, second)[-1]])
    torch.testing.assert_close(both, expected, atol=1e-5, rtol=1e-5)


def test_copied_page_is_a_fork(model):
    tokens = list(range(10))
    runner = executor(model)
    runner.forward(step((tokens, 0, [4])))
    runner.copy_page(4, 7)
    runner.forward(step(([11], 10, [4])))
    forked = runner.forward(step(([12], 10, [7])))
    torch.testing.assert_close(forked[0], run_graph(*model, [*tokens, 12])[-1], atol=1e-5,
                               rtol=1e-5)  # fmt: skip


def test_a_step_beyond_the_limits_is_refused(model):
    with pytest.raises(StepTooLarge, match="5 tokens in 1 sequences with 5 rows of logits"):
        executor(model, max_tokens=4).forward(step((list(range(5)), 0, [1])))
