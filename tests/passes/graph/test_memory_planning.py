"""Memory planning: no two values that live together overlap, whatever the lifetimes."""

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from weft.frontend.models.registry import load_model
from weft.ir.parser import parse_module
from weft.passes.graph.memory_planning import (
    ALIGNMENT,
    Lifetime,
    PlanMemory,
    UnknownExtent,
    lifetimes,
    place,
)
from weft.passes.manager import Context, run_passes

LIVES = st.lists(
    st.tuples(st.integers(0, 500), st.integers(0, 30), st.integers(0, 12)), max_size=40
).map(lambda rows: [Lifetime(f"v{i}", s, a, a + n) for i, (s, a, n) in enumerate(rows)])


@given(LIVES)
def test_values_that_live_together_do_not_overlap(lives):
    offsets, total = place(lives)
    assert all(offset % ALIGNMENT == 0 for offset in offsets.values())
    for a, b in combinations(lives, 2):
        if a.meets(b):
            at_a, at_b = offsets[a.name], offsets[b.name]
            assert at_a + a.size <= at_b or at_b + b.size <= at_a
    assert all(offsets[life.name] + life.size <= total for life in lives)


@given(LIVES)
def test_the_arena_is_between_the_peak_and_the_sum(lives):
    _, total = place(lives)
    peak = max((sum(v.size for v in lives if v.first <= t <= v.last) for t in range(45)), default=0)
    assert peak <= total <= sum(v.size + ALIGNMENT for v in lives) + ALIGNMENT


def test_lifetimes_of_a_function():
    module = parse_module("""
    graph.func name = @step { |%x: tensor<f32, [T, 8]>|
      %w = graph.weight tensors = "w" : tensor<f32, [8, 8]>
      %a = graph.matmul %x, %w : tensor<f32, [T, 8]>
      %b = graph.add %a, %x : tensor<f32, [T, 8]>
      %c = graph.add %b, %a : tensor<f32, [T, 8]>
      graph.return %c
    }""")
    found = lifetimes(module.operations[0], {"T": 3})
    assert found == [Lifetime("a", 96, 1, 3), Lifetime("b", 96, 2, 3), Lifetime("c", 96, 3, 4)]
    planned, _ = run_passes([PlanMemory((("T", 3),))], module, Context())
    assert planned.operations[0]["memory"]["bytes"] == 384
    assert parse_module(str(planned)) == planned
    with pytest.raises(UnknownExtent, match="dimension T"):
        run_passes([PlanMemory()], module, Context())


def test_a_model_needs_few_live_activations():
    module = load_model("random:tiny-dense")[1]
    lives = lifetimes(module.operations[0], {"T": 16, "R": 16})
    _, total = place(lives)
    assert total < sum(life.size for life in lives) / 10


def test_a_sum_over_ranks_takes_its_operands_place_if_nothing_reads_that_again():
    module = parse_module("""
    graph.func name = @step { |%x: tensor<f32, [T, 8]>|
      %w = graph.weight tensors = "w" : tensor<f32, [8, 8]>
      %a = graph.matmul %x, %w : tensor<f32, [T, 8]>
      %b = graph.all_reduce %a : tensor<f32, [T, 8]>
      %c = graph.matmul %b, %w : tensor<f32, [T, 8]>
      %d = graph.all_reduce %c : tensor<f32, [T, 8]>
      %e = graph.add %d, %c : tensor<f32, [T, 8]>
      %f = graph.add %e, %b : tensor<f32, [T, 8]>
      graph.return %f
    }""")
    found = {
        life.name: (life.first, life.last) for life in lifetimes(module.operations[0], {"T": 3})
    }
    assert found == {"a": (1, 6), "c": (3, 5), "d": (4, 5), "e": (5, 6), "f": (6, 7)}
    planned, _ = run_passes([PlanMemory((("T", 3),))], module, Context())
    offsets = dict(planned.operations[0]["memory"]["offsets"].items)
    assert offsets["a"] == offsets["b"] and offsets["c"] != offsets["d"]
