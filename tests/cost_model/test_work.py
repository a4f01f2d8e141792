"""FLOPs and bytes: hand-counted examples, and a count of what a running model multiplies."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from weft.cost_model.binding import (
    Binding,
    Formats,
    Span,
    UnboundDimension,
    decode,
    prefill,
    weight_bytes,
)
from weft.cost_model.scene import Scene
from weft.cost_model.work import touched_experts, work_of
from weft.ir.parser import parse_module

PLAIN = Formats()
LAYER = """
graph.func name = @step {
|%x: tensor<f32, [T, 64]>, %starts: tensor<i32, [B1]>, %slots: tensor<i32, [T]>,
 %pages: tensor<i32, [B, 4]>, %lengths: tensor<i32, [B]>, %ids: tensor<i32, [T]>|
  %table = graph.weight name = "embed" : tensor<f32, [1000, 64]>
  %e = graph.embedding %table, %ids : tensor<f32, [T, 64]>
  %wq = graph.weight name = "q" : tensor<f32, [64, 64]>
  %q = graph.matmul %e, %wq : tensor<f32, [T, 64]>
  %wk = graph.weight name = "k" : tensor<bf16, [32, 64]>
  %k = graph.matmul %e, %wk : tensor<f32, [T, 32]>
  graph.kv_write %k, %k, %slots, layer = 0
  %set = graph.kvset %pages, %lengths, layer = 0 : kvset
  %state = graph.partial %q, %starts, %set,
    heads = 4, kv_heads = 2, head_dim = 16, scale = 0.25 : state
  %out = graph.finalize %state : tensor<f32, [T, 64]>
  %sum = graph.add %out, %x : tensor<f32, [T, 64]>
  graph.return %sum
}
"""


def works(binding: Binding, formats: Formats = PLAIN, text: str = LAYER) -> dict:
    module = parse_module(text)
    scene = Scene.of(module, binding, formats)
    return {
        op.results[0].name if op.results else op.name: work_of(op, scene) for op in module.walk()
    }


def sized(batch: int, context: int) -> Binding:
    return decode(batch, context)


def test_matmul_by_hand() -> None:
    q = works(sized(3, 10))["q"]
    assert q.flops == 2 * 3 * 64 * 64
    assert q.weight_bytes == 64 * 64 * 4
    assert q.activation_bytes == (3 * 64 + 3 * 64) * 4
    assert works(sized(3, 10))["k"].weight_bytes == 32 * 64 * 2


def test_embedding_reads_rows_not_the_table() -> None:
    assert works(sized(3, 10))["e"].weight_bytes == 3 * 64 * 4


def test_attention_by_hand() -> None:
    state = works(sized(3, 10), Formats(kv="bf16"))["state"]
    assert state.flops == (4 * 16 + 5) * 4 * (3 * 10)
    assert state.kv_read_bytes == 3 * 10 * 2 * 2 * 16 * 2
    assert works(sized(3, 10), Formats(kv="bf16"))["graph.kv_write"].kv_written_bytes == 3 * 64 * 2


def test_a_state_that_is_finished_at_once_is_never_written() -> None:
    priced = works(sized(3, 10))
    assert priced["out"].bytes == 0
    assert priced["state"].activation_bytes == 2 * 3 * 64 * 4 + 4 * 4
    merged = LAYER.replace(
        "%out = graph.finalize %state",
        "%all = graph.merge %state : state\n%out = graph.finalize %all",
    )
    priced = works(sized(3, 10), text=merged)
    assert priced["out"].bytes > 0 and priced["all"].bytes == 4 * 3 * 4 * 18 * 2


def test_fused_matmul_is_its_parts() -> None:
    text = """
graph.func name = @step {
|%x: tensor<f32, [T, 64]>, %r: tensor<f32, [T, 48]>|
  %w = graph.weight name = "w" : tensor<i8, [96, 64]>
  %n = graph.weight name = "n" : tensor<f32, [64]>
  %y = graph.fused_matmul %x, %w, %n, %r, parts = ["norm", "residual"], silu = true, eps = 0.1
    : tensor<f32, [T, 48]>
  graph.return %y
}
"""
    y = works(sized(2, 1), text=text)["y"]
    assert y.flops == 2 * 2 * 96 * 64 + 4 * 2 * 64 + 5 * 2 * 48 + 2 * 48
    assert y.weight_bytes == 96 * 64 + 96 * 4 + 64 * 4
    assert y.activation_bytes == 4 * 2 * (64 + 48 + 48)


EACH = """
graph.func name = @step {
|%x: tensor<bf16, [T, 64]>, %f: tensor<f32, [T, 64]>, %at: tensor<i32, [T]>,
 %starts: tensor<i32, [B1]>, %qkv: tensor<bf16, [T, 96]>, %logits: tensor<f32, [T, 8]>,
 %rows: tensor<i32, [R]>, %pages: tensor<i32, [B, 4]>, %lengths: tensor<i32, [B]>|
  %g = graph.weight name = "g" : tensor<f32, [64]>
  %normed = graph.rmsnorm %x, %g, eps = 0.1 : tensor<bf16, [T, 64]>
  %small, %scale = graph.quantize_rows %x : tensor<f8e4m3, [T, 64]>, tensor<f32, [T]>
  %w = graph.weight name = "w" : tensor<f8e4m3, [32, 64]>
  %b = graph.weight name = "b" : tensor<f32, [32]>
  %scaled = graph.scaled_matmul %small, %scale, %w, %b : tensor<bf16, [T, 32]>
  %biased = graph.fused_matmul %x, %w, %b, parts = ["bias"] : tensor<bf16, [T, 32]>
  %more, %both = graph.add_rmsnorm %x, %x, %g, eps = 0.1
    : tensor<bf16, [T, 64]>, tensor<bf16, [T, 64]>
  %gated = graph.silu_mul %x : tensor<bf16, [T, 32]>
  %turned = graph.rope %x, %at, heads = 4, head_dim = 16, rope = {} : tensor<bf16, [T, 64]>
  %heads = graph.head_norm %x, %g, eps = 0.1, heads = 4 : tensor<bf16, [T, 64]>
  %taken = graph.take_rows %f, %rows : tensor<f32, [R, 64]>
  %q = graph.qkv_rope_write %qkv, %at, %at, layer = 0, heads = 4, kv_heads = 1, head_dim = 16,
    rope = {} : tensor<bf16, [T, 64]>
  %guess = graph.qkv_rope_write %qkv, %at, %at, %g, %g, layer = 0, heads = 4, kv_heads = 1,
    head_dim = 16, rope = {}, guess = true : tensor<bf16, [T, 64]>
  %set = graph.kvset %pages, %lengths, layer = 0 : kvset
  %part = graph.partial %q, %starts, %set, heads = 4, kv_heads = 1, head_dim = 16, scale = 0.25
    : state
  %one = graph.merge %part : state
  %all = graph.merge %one, %one, %one : state
  %seen = graph.finalize %all : tensor<bf16, [T, 64]>
  %weights, %chosen = graph.moe_route %logits, top_k = 2 : tensor<f32, [T, 2]>, tensor<i32, [T, 2]>
  %order, %begins = graph.moe_dispatch %chosen, experts = 8 : tensor<i32, [M]>, tensor<i32, [9]>
  %up = graph.weight name = "up" : tensor<bf16, [8, 48, 64]>
  %down = graph.weight name = "down" : tensor<bf16, [8, 64, 24]>
  %wide = graph.moe_expert %x, %up, %order, %begins, per_row = 2, silu = true
    : tensor<bf16, [M, 24]>
  %back = graph.moe_expert %wide, %down, %order, %begins, per_row = 1 : tensor<bf16, [M, 64]>
  %sum = graph.moe_combine %back, %weights, %f : tensor<f32, [T, 64]>
  %few = graph.moe_gated %x, %up, %chosen : tensor<bf16, [P, 24]>
  %mixed = graph.moe_mixed %few, %down, %chosen, %weights, %f : tensor<f32, [T, 64]>
  graph.return %sum
}
"""
ROWS = {"qkv": 2 * 3 * 96, "at": 4 * 3, "x": 2 * 3 * 64}
"""Bytes of the three rows of a step."""

COUNTED = {  # FLOPs, bytes of weights, of activations, of keys and values read and written
    "normed": (4 * 3 * 64, 4 * 64, 2 * ROWS["x"], 0, 0),
    "small": (0, 0, ROWS["x"] + 3 * 64 + 4 * 3, 0, 0),
    "scaled": (2 * 3 * 32 * 64 + 3 * 32, 32 * 64 + 4 * 32 + 4 * 32,
               3 * 64 + 4 * 3 + 2 * 3 * 32, 0, 0),
    "biased": (2 * 3 * 32 * 64 + 3 * 32, 32 * 64 + 4 * 32 + 4 * 32,
               ROWS["x"] + 2 * 3 * 32, 0, 0),
    "more": (5 * 3 * 64, 4 * 64, 4 * ROWS["x"], 0, 0),
    "gated": (5 * 3 * 32, 0, ROWS["x"] + 2 * 3 * 32, 0, 0),
    "turned": (3 * 3 * 64, 0, 2 * ROWS["x"] + ROWS["at"], 0, 0),
    "heads": (4 * 3 * 64, 4 * 64, 2 * ROWS["x"], 0, 0),
    "taken": (0, 0, 2 * 4 * 5 * 64 + 4 * 5, 0, 0),
    "q": (3 * 3 * 5 * 16, 0, ROWS["qkv"] + 2 * ROWS["at"] + ROWS["x"], 0, 2 * 3 * 16 * 2),
    "guess": (7 * 3 * 5 * 16, 2 * 4 * 64, ROWS["qkv"] + 2 * ROWS["at"] + ROWS["x"], 0, 0),
    "part": ((4 * 16 + 5) * 4 * 3 * 10, 0, ROWS["x"] + 4 * 4 + 4 * 3 * 4 * 18, 3 * 10 * 2 * 16 * 2,
             0),
    "one": (4 * 3 * 4 * 18, 0, 2 * 4 * 3 * 4 * 18, 0, 0),
    "all": (3 * 4 * 3 * 4 * 18, 0, 4 * 4 * 3 * 4 * 18, 0, 0),
    "seen": (3 * 64, 0, 4 * 3 * 64 + ROWS["x"], 0, 0),
    "weights": (5 * 3 * 8, 0, 4 * 3 * (8 + 2 + 2), 0, 0),
    "wide": (2 * 6 * 48 * 64, 2 * 4 * 48 * 64, 2 * 6 * (64 + 24), 0, 0),
    "back": (2 * 6 * 24 * 64, 2 * 4 * 24 * 64, 2 * 6 * (24 + 64), 0, 0),
    "sum": (2 * 6 * 64 + 3 * 64, 0, 2 * 6 * 64 + 4 * 3 * 2 + 2 * 4 * 3 * 64, 0, 0),
    "few": (2 * 6 * 48 * 64, 2 * 6 * 48 * 64, ROWS["x"] + 4 * 6 + 2 * 6 * 24, 0, 0),
    "mixed": (2 * 6 * 24 * 64, 2 * 6 * 24 * 64,
              2 * 6 * 24 + 4 * 6 + 4 * 6 + 2 * 4 * 3 * 64, 0, 0),
}  # fmt: skip


def test_each_operation_by_hand() -> None:
    """Three sequences of 10 keys; 5 rows taken; two of eight experts a token, four known to be
    touched."""
    binding = Binding((1, 1, 1), (10, 10, 10), rows=5, dims={"P": 6}, experts=4)
    priced = works(binding, Formats(kv="bf16"), EACH)
    found = {
        name: (one.flops, one.weight_bytes, one.activation_bytes, one.kv_read_bytes,
               one.kv_written_bytes)
        for name, one in priced.items() if name in COUNTED
    }  # fmt: skip
    assert found == COUNTED
    many = works(decode(100, 10).with_dims(P=200), Formats(kv="bf16"), EACH)
    assert many["few"].weight_bytes == 2 * 8 * 48 * 64, "no expert is read twice"
    assert priced["wide"].dtype == "bf16" and priced["wide"].dense and not priced["normed"].dense


def test_causal_prefill_counts_the_triangle() -> None:
    binding = prefill(8, prefix=2)
    state = works(binding)["state"]
    assert state.flops == (4 * 16 + 5) * 4 * sum(range(3, 11))
    assert state.kv_read_bytes == 10 * 2 * 2 * 16 * 4


def test_shared_kvset_is_read_once() -> None:
    text = LAYER.replace("%lengths, layer = 0", '%lengths, layer = 0, kind = "shared"')
    shared, own = (works(sized(16, 100), text=t)["state"] for t in (text, LAYER))
    assert own.kv_read_bytes == 16 * shared.kv_read_bytes
    assert own.flops == shared.flops


def test_weight_override_and_formats() -> None:
    assert works(sized(1, 1), Formats(weight="int8"))["q"].weight_bytes == 64 * 64 + 64 * 4
    assert weight_bytes(32, 64, "int4") == 32 * 64 * 0.5 + 32 * 2 * 2
    with pytest.raises(UnboundDimension, match="int3"):
        weight_bytes(1, 1, "int3")


def test_unbound_dimension_says_what_is_known() -> None:
    text = LAYER.replace("[B, 4]", "[B, N]").replace(
        "%ids: tensor<i32, [T]>", "%ids: tensor<i32, [Q]>"
    )
    with pytest.raises(UnboundDimension, match="'Q'.*\n.*B, B1, MAXP, R, T"):
        works(sized(1, 1), text=text)


def test_touched_experts() -> None:
    assert touched_experts(1, 2, 8) == pytest.approx(2)
    assert touched_experts(10_000, 2, 8) == pytest.approx(8)


@given(
    st.integers(1, 20), st.integers(0, 20), st.integers(0, 15), st.integers(0, 15),
    st.one_of(st.none(), st.integers(1, 12)), st.booleans(),
)  # fmt: skip
def test_visible_equals_enumeration(queries, past, low, extent, window, causal) -> None:
    span, keys = Span(window, low, low + extent, causal), past + queries
    pairs = {
        (query, key)
        for query in range(past, keys)
        for key in range(keys)
        if low <= key < low + extent
        and (key <= query if causal else True)
        and (window is None or key > query - window)
    }
    assert span.visible(queries, keys) == (len(pairs), len({key for _, key in pairs}))


@given(st.integers(1, 64), st.integers(1, 64))
def test_split_kvsets_add_up(context: int, cut: int) -> None:
    cut = min(cut, context)
    whole = Span().visible(1, context)
    parts = [Span(high=cut).visible(1, context), Span(low=cut).visible(1, context)]
    assert whole == (sum(p for p, _ in parts), sum(k for _, k in parts))


def test_flops_equal_what_a_model_multiplies() -> None:
    torch = pytest.importorskip("torch")
    from torch.utils.flop_counter import FlopCounterMode

    tokens, widths = 7, [(64, 64), (32, 64), (96, 64)]
    x = torch.randn(tokens, 64)
    with FlopCounterMode(display=False) as counter:
        for n, k in widths:
            torch.nn.functional.linear(x, torch.randn(n, k))
        q = torch.randn(1, 4, tokens, 16)
        torch.matmul(torch.matmul(q, q.transpose(-1, -2)), q)
    mine = sum(2 * tokens * n * k for n, k in widths)
    full = 4 * 16 * 4 * Span(causal=False).visible(tokens, tokens)[0]
    assert counter.get_total_flops() == mine + full
    priced = works(prefill(tokens))
    assert priced["q"].flops + priced["k"].flops == 2 * tokens * (64 + 32) * 64
