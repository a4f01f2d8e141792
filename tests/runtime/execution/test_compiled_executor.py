"""The compiled executor equals the graph's meaning: architectures, chunks, batches, formats.

Narrow weights are compared over the very numbers that their format holds.
"""

from dataclasses import replace
from functools import partial

import pytest
import torch
from weft.codegen.build import compile_kernels
from weft.codegen.meaning.graph_reference import GraphRun
from weft.frontend.models.registry import build_graph
from weft.ir.model import ModelConfig, Rope
from weft.options import Options
from weft.passes.graph.weight_format import ChooseWeightFormat
from weft.passes.manager import Context
from weft.passes.tile.regimes import lower_model, merge_kernels, with_narrow
from weft.runtime.engine import Engine
from weft.runtime.execution import narrow_steps
from weft.runtime.execution.compiled_executor import CompiledExecutor
from weft.runtime.execution.executor import ReferenceExecutor, StepTooLarge
from weft.runtime.execution.short_steps import ShortSteps, measured
from weft.runtime.execution.weights import RandomTensors, load_weights
from weft.runtime.schedule.request import Request, Sampling
from weft.tests.runtime.execution.steps_by_hand import step as any_step

LIMITS = dict(max_batch=8, max_tokens=96)
LLAMA3 = Rope(500.0, "llama3", 8.0, 1.0, 4.0, 16)
YARN = Rope(1e3, "yarn", 4.0, original_context=32, attention_factor=1.1386)
SHAPES = {
    "llama": dict(architecture="LlamaForCausalLM", rope=LLAMA3, tied=True),
    "qwen": dict(architecture="Qwen3ForCausalLM", rope=YARN, qkv_bias=True, head_norms=True,
                 windows=(0, 24)),
    "mixtral": dict(architecture="MixtralForCausalLM", experts=4, experts_per_token=2),
}  # fmt: skip
step = partial(any_step, width=16)
FORMATS = {"llama": "f32", "qwen": "f32", "mixtral": "i8"}


def config(**changes):
    shape = dict(vocab_size=96, width=64, layers=2, heads=4, kv_heads=2, head_dim=32, ffn=80,
                 context_length=256, rope=Rope(1e4), windows=(0, 0))  # fmt: skip
    return ModelConfig(**(shape | changes))


@pytest.fixture(scope="module")
def build():
    """Make pairs of executors, compiled and reference."""
    cache, made = Options.from_env().cache, {}

    def lowered(name, weights, kv):
        shape = config(**SHAPES[name])
        graph = build_graph(shape)
        rows = (2, 8) if name == "llama" and weights == "f32" else (4,)
        narrow = weights == FORMATS[name] and name != "qwen"  # where some words are asked for
        regimes = lower_model(shape, graph, weights=weights, kv=kv, decode_rows=rows, narrow=narrow,
                              **LIMITS)  # fmt: skip
        regimes = with_narrow(regimes) if narrow else regimes
        kernels = compile_kernels(merge_kernels(regimes), cache=cache)
        kept = load_weights(regimes[0].module, RandomTensors())
        formats = ChooseWeightFormat(weights).run(graph, Context())
        dense = {n: w.dense() for n, w in load_weights(formats, RandomTensors()).items()}
        return shape, regimes, kernels, kept, GraphRun(formats, dense, slots=64 * 16)

    def pair(name, weights=None, kv="f32"):
        weights = weights or FORMATS[name]
        if (name, weights, kv) not in made:
            made[name, weights, kv] = lowered(name, weights, kv)
        shape, regimes, kernels, kept, run = made[name, weights, kv]
        functions = [(regime.rows, regime.function) for regime in regimes]
        short_rows = max(regime.most for regime in regimes)
        compiled = CompiledExecutor(shape, functions, kernels, kept, num_pages=64, kv_format=kv,
                                    short_rows=short_rows, **LIMITS)  # fmt: skip
        return compiled, ReferenceExecutor(shape, run, num_pages=64, **LIMITS)

    return pair


def tokens(count, seed=0):
    return torch.randint(0, 96, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


def same(executors, made, tolerance=1e-4):
    compiled, reference = (executor.forward(made).clone() for executor in executors)
    torch.testing.assert_close(compiled, reference, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("name", SHAPES)
def test_logits_equal_the_reference(name, build):
    pair = build(name)
    same(pair, step((tokens(40), 0, [3, 9, 4]), rows=[0, 15, 16, 39]))
    for count in (1, 2, 5, 8):  # prefill of ragged sequences, then three steps of decode
        pages = [[10 + 3 * i, 11 + 3 * i, 12 + 3 * i] for i in range(count)]
        lengths = [5 + 4 * i for i in range(count)]
        same(pair, step(*((tokens(n, i), 0, pages[i]) for i, n in enumerate(lengths[:6]))))
        for i in range(6, count):
            same(pair, step((tokens(lengths[i], i), 0, pages[i])))
        for more in range(3):
            same(pair, step(*(([7 + i], n + more, pages[i]) for i, n in enumerate(lengths))))


@pytest.mark.parametrize("name", ["llama", "mixtral"])
def test_a_mixed_step_of_decode_and_chunks(name, build):
    pair = build(name)
    prompt = tokens(50, 3)
    same(pair, step((prompt[:20], 0, [1, 2, 3, 4])))
    same(pair, step((tokens(9), 0, [5])))
    same(pair, step(([4], 9, [5]), (prompt[20:45], 20, [1, 2, 3, 4])))
    same(pair, step(([5], 10, [5]), (prompt[45:], 45, [1, 2, 3, 4])))


def test_the_choice_of_short_steps_is_timed_on_this_machine(build):
    compiled, _ = build("llama")
    found = measured(compiled)
    assert found.parts == 1 or found.library_seconds > found.rows_seconds > 0


@pytest.mark.parametrize("parts", [1, 4, 8])
def test_short_steps_give_logits_in_the_order_asked_for(build, parts):
    pair = build("llama")
    pair[0].short = ShortSteps(parts)
    same(pair, step((tokens(12), 0, [1]), (tokens(15, 1), 0, [2]), rows=[26, 3, 11, 0]))
    same(pair, step((tokens(3), 12, [1]), (tokens(1, 1), 15, [2]), rows=[]))
    same(pair, step((tokens(1), 15, [1]), (tokens(9, 1), 16, [2, 3]), rows=[9]))
    same(pair, step((tokens(36), 0, [4, 5, 6]), (tokens(34, 1), 0, [7, 8, 9]), rows=[69, 2, 64]))


@pytest.mark.parametrize("parts", [1, 8])
def test_a_sequence_reads_what_another_computes_in_the_same_step(build, parts):
    """A whole page, and slots that are copied; packed behind it, as what is only filled is."""
    compiled, reference = build("llama")
    compiled.short = ShortSteps(parts)
    prompt, own, words = tokens(40), tokens(9, 1), torch.arange(0, 96, 5, dtype=torch.int32)
    expected = reference.forward(step(([*prompt[:20], *own], 0, [10, 11]))).clone()
    made = step((own, 20, [1, 5]), (prompt, 0, [1, 2, 3]), rows=[8])
    copies = torch.tensor([[32, 33, 34, 35], [80, 81, 82, 83]], dtype=torch.int32)
    found = compiled.forward(replace(made, copies=copies)).clone()
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    for pool in compiled._pools:
        pool.zero_()
    few = compiled.forward_narrow(replace(made, copies=copies), words)[:, : len(words)]
    torch.testing.assert_close(few, expected[:, words.long()], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name, kv", [("llama", "f32"), ("llama", "bf16"), ("mixtral", "f32")])
def test_prompts_of_one_step_share_what_they_begin_with(build, name, kv):
    compiled, reference = build(name, kv=kv)
    start = tokens(21)
    prompts = [[*start, 7, 8], [*start, 9], start, [*start[:5], 3, 4]]

    def drawn(executor, some):
        engine, requests = Engine(executor), []
        for row, prompt in enumerate(some):
            sequence = engine.create((row, 0))
            sequence.append(prompt)
            requests.append(Request(sequence, "gen", Sampling(4), row=row))
            engine.submit(requests[-1])
        while engine:
            engine.step()
        return [request.generated().tolist() for request in requests], engine

    said, engine = drawn(compiled, prompts)
    alone = [drawn(reference if kv == "f32" else compiled, [prompt]) for prompt in prompts]
    assert said == [found for ((found,), _) in alone]
    assert engine.computed_tokens == 21 + 2 + 1 + 2 + 1 + 4 * 3  # one reads its last token again


def test_a_library_that_would_spin_gets_its_threads_in_long_steps_only(build):
    compiled, seen = build("llama")[0], []
    compiled._library_threads = 3
    compiled.watcher = lambda kernels, launches: seen.append(torch.get_num_threads())
    before = torch.get_num_threads()
    compiled.forward(step((tokens(48), 0, [1, 2, 3])))
    compiled.forward(step((tokens(1), 48, [1, 2, 3, 4])))
    assert seen == [3, before] and torch.get_num_threads() == before

    def fails(kernels, launches):
        raise RuntimeError("a kernel failed")

    compiled.watcher = fails
    with pytest.raises(RuntimeError):
        compiled.forward(step((tokens(48), 0, [1, 2, 3])))
    assert torch.get_num_threads() == before


def test_chunks_equal_the_whole(build):
    prompt = tokens(48, 1)
    whole = build("qwen")[0].forward(step((prompt, 0, [2, 7, 3]))).clone()
    chunked = build("qwen")[0]
    for low, high in ((0, 1), (1, 2), (2, 31), (31, 47)):
        chunked.forward(step((prompt[low:high], low, [2, 7, 3])))
    last = chunked.forward(step((prompt[47:], 47, [2, 7, 3])))
    torch.testing.assert_close(last, whole, atol=1e-5, rtol=1e-5)


def test_a_batch_equals_one_at_a_time(build):
    together, alone = build("llama")[0], build("llama")[0]
    prompts = [tokens(n, n) for n in (3, 17, 20)]
    pages = [[1], [2, 3], [4, 5]]
    for executor in (together, alone):
        executor.forward(step(*((p, 0, pages[i]) for i, p in enumerate(prompts))))
    both = together.forward(step(*(([9], len(p), pages[i]) for i, p in enumerate(prompts)))).clone()
    for i, prompt in enumerate(prompts):
        one = alone.forward(step(([9], len(prompt), pages[i])))
        torch.testing.assert_close(one[0], both[i], atol=1e-5, rtol=1e-5)


def test_a_step_whose_tensors_change_in_place(build):
    pair = build("llama")
    same(pair, step((tokens(12), 0, [1])))
    again = step(([3], 12, [1]))
    same(pair, again)
    for tensor, value in ((again.tokens, 8), (again.positions, 13), (again.slots, 16 + 13),
                          (again.kv_lengths, 14)):  # fmt: skip
        tensor[0] = value
    same(pair, again)


def test_a_copied_page_is_a_fork(build):
    pair = build("llama")
    same(pair, step((tokens(10), 0, [4])))
    for executor in pair:
        executor.copy_page(4, 6)
    same(pair, step(([1], 10, [4])))
    same(pair, step(([2], 10, [6])))


def test_bf16_weights_and_pages_stay_near_f32(build):
    """bf16 keeps 8 bits: 2^-9 relative a number; 64 to 80 summands and two layers add up."""
    narrow, exact = build("llama", "bf16", "bf16")[0], build("llama")[1]
    for made in (step((tokens(40), 0, [3, 9, 4])), step(([5], 40, [3, 9, 4]))):
        same((narrow, exact), made, 0.08)


def test_a_step_beyond_the_limits_is_refused(build):
    with pytest.raises(StepTooLarge):
        build("llama")[0].forward(step((tokens(97), 0, list(range(7)))))


@pytest.mark.parametrize("name", ["llama", "mixtral"])
@pytest.mark.parametrize("count", [7, 70])
def test_logits_of_some_words_are_those_of_all(name, count, build):
    """Few words and many; decode steps, chunks, both together; f32 weights and int8 with scales."""
    compiled, reference = build(name)
    words = torch.randperm(96, generator=torch.Generator().manual_seed(count))[:count].sort().values
    ids, others = words.int(), (words.int() - 1) % 96
    for made in (step((tokens(40), 0, [3, 9, 4]), rows=[0, 39]), step((tokens(5, 1), 0, [2])),
                 step(([5], 40, [3, 9, 4]), ([6], 5, [2])), step(([5], 41, [3, 9, 4])),
                 step(([5], 42, [3, 9, 4]), (tokens(13), 6, [2, 7]), rows=[0, 13])):  # fmt: skip
        every = reference.forward(made).clone()
        expected = every[:, words]
        found = compiled.forward_narrow(made, ids)[:, :count].clone()
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
        wrong = compiled.forward_narrow(made, others)[:, :count].clone()
        torch.testing.assert_close(wrong, every[:, words - 1], atol=1e-4, rtol=1e-4)
        assert not torch.allclose(wrong, expected, atol=1e-3), "other words have other logits"


def test_launches_of_some_words_are_not_kept_without_bound(build, monkeypatch):
    compiled, _ = build("llama")
    monkeypatch.setattr(narrow_steps, "KEPT_PLANS", 2)
    made = step(([5], 40, [3, 9, 4]))
    for words in [torch.arange(at, at + 8, dtype=torch.int32) for at in range(6)]:
        compiled.forward_narrow(made, words)
        assert 1 <= len(compiled._narrow._plans) <= 2
