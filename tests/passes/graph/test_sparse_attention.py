"""Sparse attention as a rewrite of the attention algebra: text in, text out, prices, remarks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from weft.bench.sparse_speed import LABELS, POLICIES
from weft.cost_model.binding import decode, prefill
from weft.cost_model.expected_reads import expected_tokens, measured_share
from weft.cost_model.hardware_file import load
from weft.cost_model.scene import Scene
from weft.cost_model.sparse_attention import (
    dense_seconds,
    least_context,
    sparse_seconds,
)
from weft.cost_model.sparse_bytes import AttentionShape
from weft.cost_model.work import work_of
from weft.frontend.models.presets import PRESETS
from weft.frontend.models.registry import build_graph
from weft.ir.parser import parse_module
from weft.ir.sparse.policy import SparsePolicy
from weft.passes.graph.sparse_attention import OrderChannels, SparseAttention
from weft.passes.manager import Context, MissingFact, run_passes
from weft.passes.tile.regimes import Sparse, lower_for_gpu, lower_model

POLICY = "sparse(k=64, sinks=2, recent=8, labels=i8, min_context=0)"
FUSED = frozenset({"fused-rope-write"})
LAYER = """|%qkv: tensor<f32, [T, 32]>, %positions: tensor<i32, [T]>, %slots: tensor<i32, [T]>, %query_starts: tensor<i32, [B1]>, %kv_lengths: tensor<i32, [B]>, %page_table: tensor<i32, [B, MAXP]>|
%q = graph.qkv_rope_write %qkv, %positions, %slots, layer = 3, heads = 2, kv_heads = 1, head_dim = 8, rope = {kind = "default"} : tensor<f32, [T, 16]>
%kvset = graph.kvset %page_table, %kv_lengths, layer = 3@WINDOW@ : kvset
%state = graph.partial %q, %query_starts, %kvset, heads = 2, kv_heads = 1, head_dim = 8, scale = 0.5, causal = true : state
%seen = graph.finalize %state : tensor<f32, [T, 16]>
graph.return %seen
"""  # noqa: E501


def rewritten(text: str, *passes: Any, facts: frozenset[str] = FUSED) -> tuple[list[str], Context]:
    head, *body = text.replace("@WINDOW@", "").strip().splitlines()
    context = Context()
    given = parse_module("\n".join(["graph.func name = @step { " + head, *body, "}"]))
    module, _ = run_passes(passes, given, context, facts)
    assert parse_module(str(module)) == module
    return [line.strip() for line in str(module).splitlines()], context


def test_a_partial_becomes_the_selected_middle_and_the_ends() -> None:
    lines, context = rewritten(LAYER, OrderChannels(POLICY), SparseAttention(POLICY, always=True))
    assert f'attention = {{policy = "{POLICY}", least = 0}}' in lines[0]
    common = "heads = 2, kv_heads = 1, head_dim = 8"
    part = f"{common}, scale = 0.5, causal = true"
    assert lines[1:-1] == [
        f"%q = graph.qkv_rope_write %qkv, %positions, %slots, layer = 3, {common}, "
        'rope = {kind = "default"}, ordered = true : tensor<f32, [T, 16]>',
        "graph.label_write %slots, layer = 3, kv_heads = 1, head_dim = 8, channels = 1, "
        'format = "i8"',
        "%labels = graph.kvset %page_table, %kv_lengths, layer = 3, kind = labels<1, i8> : kvset",
        f'%middle = graph.select %q, %query_starts, %labels, layer = 3, policy = "{POLICY}", '
        f"{common}, scale = 0.5 : kvset<approximate>",
        f"%state_1 = graph.partial %q, %query_starts, %middle, {part} : state<approximate>",
        "%ends = graph.kvset %page_table, %kv_lengths, layer = 3, kind = ends<2, 8, token> : kvset",
        f"%state_2 = graph.partial %q, %query_starts, %ends, {part} : state",
        "%state_3 = graph.merge %state_1, %state_2 : state<approximate>",
        "%seen = graph.finalize %state_3 : tensor<f32, [T, 16]>",
        "graph.return %seen",
    ]
    assert any("layers 3 read what" in remark.message for remark in context.remarks)


def test_a_tail_is_one_more_part_and_sums_of_v_are_kept() -> None:
    policy = POLICY.replace("labels=i8", "labels=i8, tail=mean")
    lines, _ = rewritten(LAYER, OrderChannels(policy), SparseAttention(policy, always=True))
    common = "layer = 3, heads = 2, kv_heads = 1, head_dim = 8, scale = 0.5"
    assert lines[3] == (
        "graph.value_sums %query_starts, %kv_lengths, %page_table, layer = 3, kv_heads = 1, "
        "head_dim = 8"
    )
    assert lines[-5:-2] == [
        f"%tail = graph.tail %q, %query_starts, %labels, %middle, {common} : state<approximate>",
        "%state_3 = graph.merge %state_1, %state_2, %tail : state<approximate>",
        "%seen = graph.finalize %state_3 : tensor<f32, [T, 16]>",
    ]
    plain, _ = rewritten(LAYER, OrderChannels(POLICY), SparseAttention(POLICY, always=True))
    kept = [line for line in lines if "value_sums" not in line and "graph.tail" not in line]
    assert len(kept) == len(plain)


@pytest.mark.parametrize("why", ["dense by the policy", "a sliding window"])
def test_layers_that_stay_dense_say_why(why: str) -> None:
    policy = POLICY.replace("sinks", "dense=[3], sinks") if "policy" in why else POLICY
    text = LAYER if "policy" in why else LAYER.replace("@WINDOW@", ", window = 4")
    lines, context = rewritten(text, OrderChannels(policy), SparseAttention(policy, always=True))
    assert not any("select" in line or "ordered" in line for line in lines)
    assert [r.message for r in context.remarks if not r.done] == [f"layer 3: {why}"]


def test_dense_changes_nothing_and_labels_come_first() -> None:
    plain, _ = rewritten(LAYER)
    assert rewritten(LAYER, OrderChannels("dense"), SparseAttention("dense"))[0] == plain
    with pytest.raises(MissingFact, match="labels"):
        rewritten(LAYER, SparseAttention(POLICY))


def test_where_it_does_not_pay_it_says_what_it_would_cost() -> None:
    slow = SparseAttention("sparse(ratio=1, labels=i8, channels=2)", context_length=4096)
    lines, context = rewritten(LAYER, OrderChannels(slow.policy), slow)
    assert not any("select" in line for line in lines)
    (left,) = [remark.message for remark in context.remarks if not remark.done]
    assert "pays at no context up to 4096" in left and "us a layer dense" in left


def test_whether_labels_are_shared_is_said() -> None:
    """On a GPU, of labels in words: only where sparse attention is asked for always. Who rounds the
    queries that such labels are multiplied with is said there too."""
    policy = "sparse(k=64, labels=i8, channels=4)"

    def said(always: bool) -> tuple[str, str]:
        apart = SparseAttention(policy, "h200", context_length=1 << 20, batch=64, always=always)
        lines, context = rewritten(LAYER, OrderChannels(policy), apart)
        return lines[0], " ".join(remark.message for remark in context.remarks if remark.done)

    line, remarks = said(False)
    assert "shared" not in line and "row by row" in remarks
    assert "rounded to bytes by every program that scores labels of one row" in remarks
    assert "a launch has rounded" not in remarks
    line, remarks = said(True)
    assert "shared = true" in line and "scored once for up to 4 of them" in remarks
    assert "whose queries a launch has rounded" in remarks
    lines, context = rewritten(LAYER, OrderChannels(policy), SparseAttention(policy, always=True))
    assert "shared" not in lines[0]  # on a CPU labels are scored row by row
    assert not any("rounded" in remark.message for remark in context.remarks)


WORDS = SparsePolicy(k=64, labels="i8", channels=4)
LLAMA = AttentionShape(32, 8, 128, "bf16")


def test_prices_on_a_gpu_follow_the_byte_model() -> None:
    """1/16 of the tokens and labels of 1/16 of a row of k: 10.67 at most, most of it at 128 K."""
    gpu, policy = load("h200").level(), SparsePolicy(ratio=1 / 16, labels="bf16", channels=8)
    ratios = [dense_seconds(LLAMA, gpu, n, 8) / sparse_seconds(LLAMA, gpu, policy, n, 8)
              for n in (2048, 16384, 131072)]  # fmt: skip
    assert ratios == sorted(ratios) and 6 < ratios[-1] < 10.67
    fixed = SparsePolicy(k=2048, labels="bf16", channels=8)
    assert sparse_seconds(LLAMA, gpu, fixed, 131072, 8) < sparse_seconds(
        LLAMA, gpu, policy, 131072, 8
    )


def test_least_context_is_where_the_curves_cross() -> None:
    for hardware, shape in (("h200", LLAMA), ("cpu-generic", AttentionShape(32, 8, 128))):
        level, policy = load(hardware).level(), SparsePolicy(ratio=1 / 16, min_context=0)
        least = least_context(shape, level, policy, 131072)
        assert least is not None and 1 < least < 131072
        for context, pays in ((least - 1, False), (least, True), (131072, True)):
            sparse = sparse_seconds(shape, level, policy, context)
            assert (sparse < dense_seconds(shape, level, context)) == pays
    assert least_context(LLAMA, load("h200").level(), SparsePolicy(ratio=1.0), 131072) is None


MEASURED = [
    ("policy_ratio", 8, 131.5), ("policy_tail", 8, 165.7), ("policy_top_p_tail", 8, 275.6),
    ("policy_threshold", 8, 222.2), ("policy_top_p", 8, 226.2), ("ratio", 1, 31.1),
    ("ratio", 32, 455.4), ("k2048", 8, 83.7),
]  # fmt: skip
"""Policies of `bench.sparse_speed`, sequences of 128 K tokens, us on an H200 (c8a595a; tails after
lists of theirs said slots)."""


@pytest.mark.parametrize("name, batch, us", MEASURED)
def test_prices_on_a_gpu_are_what_was_measured(name: str, batch: int, us: float) -> None:
    """Within 15 %, a tail's as well; the bench prints the price beside what it measures."""
    known = POLICIES | {"k2048": {"k": 2048}}
    policy = SparsePolicy(**known[name.removeprefix("policy_")], **LABELS)
    price = sparse_seconds(LLAMA, load("h200").level(), policy, 131072, batch,
                           policy.cap * policy.adaptive)  # fmt: skip
    assert price * 1e6 == pytest.approx(us, rel=0.15)


@pytest.mark.parametrize("tail", ["none", "mean"])
def test_an_adaptive_policy_is_priced_by_what_it_is_expected_to_read(tail: str) -> None:
    """Not by its bound, the whole context: top_p=0.8 reads an eighth, so it pays on a GPU; what a
    model was measured to read goes first; and it never reads more than its budget."""
    level, policy = load("h200").level(), SparsePolicy(top_p=0.8, channels=32, tail=tail)
    least = least_context(LLAMA, level, policy, 131072, 8)
    assert least is not None and 1000 < least < 32768
    assert (
        policy.budget(131072) == 131072 and 0.12 < expected_tokens(policy, 131072) / 131072 < 0.14
    )
    shares = [0.05, 0.1, 0.5, 1.0]
    prices = [sparse_seconds(LLAMA, level, policy, 131072, 8, share) for share in shares]
    assert prices == sorted(prices) and prices[-1] > dense_seconds(LLAMA, level, 131072, 8)
    assert least_context(LLAMA, level, policy, 131072, 8, share=1.0) is None
    capped = SparsePolicy(top_p=0.99, cap=1 / 16, channels=32)
    assert expected_tokens(capped, 131072) == expected_tokens(capped, 131072, 0.5) == 131072 / 16
    assert expected_tokens(policy, 100) == 100  # read whole
    assert expected_tokens(policy, 1000, 1e-6) == 4 + 16 + 1  # what is always read, and one more
    more = [expected_tokens(SparsePolicy(top_p=p), 8192) for p in (0.5, 0.8, 0.95, 1.0)]
    fewer = [expected_tokens(SparsePolicy(threshold=t), 8192) for t in (1.0, 0.1, 0.01, 0.0001)]
    assert more == sorted(more) and fewer == sorted(fewer) and more[-1] == fewer[-1] == 8192


def test_shares_of_bytes_that_were_measured_are_shares_of_tokens() -> None:
    """As `weft evaluate` counts bytes of bf16: an eighth of a row of k is a label, two layers of
    eight read everything."""
    policy = SparsePolicy(top_p=0.8, channels=32)
    assert measured_share(policy, 0.1 + 1 / 16, 64, 8) == pytest.approx(0.1 + 1 / 16 - 16 / 256)
    mixed = (6 * (0.1 + 16 / 256) + 2) / 8
    assert measured_share(policy, mixed, 64, 8, dense=2) == pytest.approx(0.1)
    assert 0 < measured_share(policy, 0.0, 64, 8) < 1e-5  # known: nothing; 0 says unknown
    assert measured_share(policy, 1.0, 64, 2, 2) == 1


def test_it_says_what_it_expects_and_of_whom() -> None:
    policy = "sparse(top_p=0.8, labels=i8, channels=4)"
    for share, text in ((0.0, "13.1% of the tokens, as measured of the shipped"),
                        (0.2, "20.0% of the tokens, as measured of this model")):  # fmt: skip
        priced = SparseAttention(policy, "h200", context_length=1 << 20, batch=64, share=share)
        lines, context = rewritten(LAYER, OrderChannels(policy), priced)
        said = " ".join(remark.message for remark in context.remarks)
        assert f"expected to read {text}" in said and "for a batch of 64" in said
        assert any(f"expected = {share or 0.1309}" in line for line in lines), lines
    fixed, _ = rewritten(LAYER, OrderChannels(POLICY), SparseAttention(POLICY, always=True))
    assert not any("expected" in line for line in fixed)


def two_shapes() -> str:
    """Return a step of layer 3 with two heads that share a key head, and layer 4 with eight."""
    head, qkv, kvset, partial, finalize, _ = LAYER.replace("@WINDOW@", "").strip().splitlines()
    large = [line.replace("heads = 2, kv_heads = 1", "heads = 8, kv_heads = 8")
             .replace("32]", "192]").replace("16]", "64]").replace("layer = 3", "layer = 4")
             for line in (head, qkv, kvset, partial, finalize)]  # fmt: skip
    names = {"%qkv": "%wide", "%q ": "%p ", "%q,": "%p,", "%kvset": "%others", "%state": "%more",
             "%seen": "%far"}  # fmt: skip
    for old, new in names.items():
        large = [line.replace(old, new) for line in large]
    both = head[:-1] + ", %wide: tensor<f32, [T, 192]>|"
    return "\n".join([both, qkv, kvset, partial, finalize, *large[1:], "graph.return %seen, %far"])


def test_each_layer_is_priced_by_its_shape() -> None:
    """One whose keys are too few to pay stays dense beside one where it pays."""
    policy, text = "sparse(k=64, labels=i8, channels=4, min_context=0)", two_shapes()
    costs = {kv: least_context(AttentionShape(heads, kv, 8, "f32"), load("h200").level(), WORDS,
                               65536, 4) for heads, kv in ((2, 1), (8, 8))}  # fmt: skip
    assert costs[1] is None and costs[8] is not None  # or this test shows nothing
    price = SparseAttention(policy, "h200", context_length=65536, batch=4)
    lines, context = rewritten(text, OrderChannels(policy), price)
    assert [line.split("layer = ")[1][0] for line in lines if "graph.select" in line] == ["4"]
    assert f"least = {costs[8]}" in lines[0]
    assert any("at no context" in r.message for r in context.remarks if not r.done)


def test_a_step_is_sparse_where_it_pays_in_all_layers_that_it_is_taken_in() -> None:
    policy, text = "sparse(k=64, labels=i8, channels=4)", two_shapes()
    leasts = [least_context(AttentionShape(heads, kv, 8, "f32"), load("h200").level(),
                            SparsePolicy(k=64, labels="i8", channels=4), 1 << 20, 64)
              for heads, kv in ((2, 1), (8, 8))]  # fmt: skip
    few, many = leasts
    assert few is not None and many is not None and few > many  # or this test shows nothing
    price = SparseAttention(policy, "h200", context_length=1 << 20, batch=64)
    lines, _ = rewritten(text, OrderChannels(policy), price)
    assert sum("graph.select" in line for line in lines) == 2 and f"least = {few}" in lines[0]


def test_regimes_have_sparse_decode_beside_dense() -> None:
    config = PRESETS["tiny-dense"] if "tiny-dense" in PRESETS else next(iter(PRESETS.values()))
    graph = build_graph(config)
    regimes = lower_model(config, graph, max_tokens=64, max_batch=4, decode_rows=(1, 4),
                          attention=Sparse(POLICY, always=True))  # fmt: skip
    assert [(regime.rows, regime.sparse) for regime in regimes] == [
        (1, True), (4, True), (1, False), (4, False), (0, False),
    ]  # fmt: skip
    for regime in regimes:  # all write labels, so that any step may follow any other
        names = [
            op["kernel"].name
            for op in regime.function.regions[0].operations
            if op.name == "graph.call"
        ]
        assert any(name.startswith("label_write") for name in names)
        assert any(name.startswith("gathered") for name in names) == regime.sparse


def test_on_a_gpu_layers_that_select_nothing_have_lists_of_their_own() -> None:
    """Those that read everything, and those of a window, where others select; else usual ones."""
    config = replace(PRESETS["tiny-dense"], layers=3, windows=(0, 32, 0))
    policy = POLICY.replace("k=64", "k=64, dense=[2]")
    regimes = lower_for_gpu(config, build_graph(config), max_tokens=64, max_batch=1,
                            attention=Sparse(policy, "h200", always=True))  # fmt: skip
    for regime in regimes:
        read: dict[int, set[str]] = {}
        for call in (op for op in regime.function.regions[0].operations if op.name == "graph.call"):
            terms = call["arguments"]
            for term in terms if call.attribute("of") == "graph.finalize" else ():
                layer = next((t.parameters[0] for t in terms if t.name == "k"), None)
                if layer is not None and term.name == "plan_item_row":
                    read.setdefault(layer, set()).add("".join(map(str, term.parameters)))
        whole = "whole" if regime.sparse else ""
        assert [read[layer] for layer in range(3)] == [{""}, {"32"}, {whole}]


def test_work_of_a_selected_layer() -> None:
    """A decoded token of 1000: all labels, 64 rows; a prompt reads everything, and scores none."""
    head, *body = LAYER.replace("@WINDOW@", "").strip().splitlines()
    given = parse_module("\n".join(["graph.func name = @step { " + head, *body, "}"]))
    passes = (OrderChannels(POLICY), SparseAttention(POLICY, always=True))
    module, _ = run_passes(passes, given, Context(), FUSED)
    for binding, read, labels in ((decode(1, 1000), 64, 1000), (prefill(100), 100, 0)):
        scene = Scene.of(module, binding)
        works = [(op.name, work_of(op, scene)) for op in module.walk()]
        keys = sum(work.kv_read_bytes for name, work in works if name == "graph.partial")
        assert keys == read * 2 * 8 * 4
        (score,) = [work for name, work in works if name == "graph.select"]
        assert score.kv_read_bytes == labels * 1


def test_work_of_a_tail() -> None:
    """A decoded token: tables, the mean of v and masses, and v of the new token once more."""
    policy = POLICY.replace("labels=i8", "labels=i8, tail=mean")
    head, *body = LAYER.replace("@WINDOW@", "").strip().splitlines()
    given = parse_module("\n".join(["graph.func name = @step { " + head, *body, "}"]))
    passes = (OrderChannels(policy), SparseAttention(policy, always=True))
    module, _ = run_passes(passes, given, Context(), FUSED)
    scene = Scene.of(module, decode(1, 1000))
    works = {op.name: work_of(op, scene) for op in module.walk()}
    assert works["graph.tail"].activation_bytes == 12 * 8 + 16 * 2
    assert works["graph.value_sums"].kv_read_bytes == 8 * 4


def test_golden(golden: Any) -> None:
    lines, _ = rewritten(LAYER, OrderChannels(POLICY), SparseAttention(POLICY, always=True))
    golden("graph/sparse_attention.txt", "\n".join(lines) + "\n")
