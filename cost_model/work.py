"""How much an operation of the graph dialect does: FLOPs, and bytes of weights, activations, KV.

Legend as in `ir.dialects.graph`: T tokens, B sequences, H heads, K kv heads, C head width, A
experts a token. A multiply and an add are two FLOPs; a division, a square root and an exponential
one each.
Bytes are compulsory traffic: each operand read once, each result written once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ..ir.core import Operation, Value
from ..ir.types import DTYPE_BYTES, dtype_of, shape_of
from . import sparse_work
from .binding import Span, weight_bytes
from .scene import Scene, Work


def work_of(operation: Operation, scene: Scene) -> Work:
    """Return the work of one operation; nothing for declarations and views."""
    if operation.name in _FREE:
        return Work()
    rule = _RULES.get(operation.name)
    return rule(operation, scene) if rule else _moved(operation, scene)


def total(works: list[Work]) -> Work:
    """Return the sum of works."""
    result = Work()
    for work in works:
        result = result + work
    return result


def _moved(operation: Operation, scene: Scene) -> Work:
    """Every operand read and every result written once."""
    weights = [value for value in operation.operands if scene.is_weight(value)]
    return Work(
        weight_bytes=sum(scene.weight(value) for value in weights),
        activation_bytes=scene.activations(*operation.operands, *operation.results),
    )


def _elementwise(each: float) -> Callable[[Operation, Scene], Work]:
    def rule(operation: Operation, scene: Scene) -> Work:
        narrow = len(operation.results) > 1 and dtype_of(operation.results[-2].type) == "f8e4m3"
        flops = each * scene.elements(operation.results[-2 if narrow else -1])
        return replace(_moved(operation, scene), flops=flops)

    return rule


def _matmul(operation: Operation, scene: Scene) -> Work:
    """2 T N K, plus T N for a bias; the weight is read once."""
    x, w, *bias = operation.operands
    rows, (n, k) = scene.elements(x), map(scene.binding.size, shape_of(w.type))
    rows //= k
    format = operation.attribute("format")
    extra = scene.activations(*bias) + sum(scene.weight(b) for b in bias if scene.is_weight(b))
    return Work(
        flops=2.0 * rows * n * k + len(bias) * rows * n,
        weight_bytes=scene.weight(w, format) + extra,
        activation_bytes=scene.activations(x, *operation.results),
        dtype=dtype_of(x.type),
        dense=True,
    )


def _scaled_matmul(operation: Operation, scene: Scene) -> Work:
    """A matmul in 8 bits; the scales of x are read with it."""
    x, scale, *rest = operation.operands
    product = _matmul(replace(operation, operands=(x, *rest)), scene)
    more = scene.activations(scale)
    return replace(product, activation_bytes=product.activation_bytes + more)


def _fused_matmul(operation: Operation, scene: Scene) -> Work:
    """A matmul, and its parts: norm 4 T K, bias T N, silu 5 T N / 2, residual T N / 2 or T N."""
    x, w, *rest = operation.operands
    n = scene.binding.size(shape_of(w.type)[-2])  # packed or not
    rows, out = scene.rows(x), scene.elements(operation.result)
    parts = operation["parts"]
    flops = 2.0 * scene.elements(x) * n + ("norm" in parts) * 4.0 * scene.elements(x)
    flops += ("bias" in parts) * rows * n + ("residual" in parts) * out
    flops += 5.0 * out if operation.attribute("silu") else 0.0
    small = sum(scene.weight(value) for value in rest if scene.is_weight(value))
    return Work(
        flops=flops,
        weight_bytes=scene.weight(w, operation.attribute("format")) + small,
        activation_bytes=scene.activations(x, *rest, operation.result),
        dtype=dtype_of(x.type),
        dense=True,
    )


def _embedding(operation: Operation, scene: Scene) -> Work:
    """T rows of the table, not the table."""
    table, ids = operation.operands
    width = scene.binding.size(shape_of(table.type)[-1])
    format = scene.formats.weight or dtype_of(table.type)
    return Work(
        weight_bytes=weight_bytes(scene.elements(ids), width, format),
        activation_bytes=scene.activations(ids, *operation.results),
    )


def _take_rows(operation: Operation, scene: Scene) -> Work:
    """R rows read and written."""
    _, indices = operation.operands
    return Work(
        activation_bytes=2 * scene.activations(operation.result) + scene.activations(indices)
    )


def _kv_write(operation: Operation, scene: Scene) -> Work:
    """k and v of T tokens, read and written in the KV format."""
    k, v, slots = operation.operands
    elements = scene.elements(k) + scene.elements(v)
    return Work(
        activation_bytes=scene.activations(k, v, slots),
        kv_written_bytes=elements * DTYPE_BYTES[scene.formats.kv],
    )


def _qkv_rope_write(operation: Operation, scene: Scene) -> Work:
    """3 FLOPs an element rotated (4 more when normed), T 2 K C elements of KV written; a guess
    writes none."""
    heads, kv_heads, width = (operation[key] for key in ("heads", "kv_heads", "head_dim"))
    tokens = scene.rows(operation.result)
    normed = 4 if len(operation.operands) > 3 else 0
    moved, kept = _moved(operation, scene), not operation.attribute("guess")
    return replace(
        moved,
        flops=(3.0 + normed) * tokens * (heads + kv_heads) * width,
        kv_written_bytes=kept * 2.0 * tokens * kv_heads * width * DTYPE_BYTES[scene.formats.kv],
    )


def _partial(operation: Operation, scene: Scene) -> Work:
    """4 C + 5 FLOPs a head and visible pair (q k, softmax, p v); each visible key and value once.

    The state is a maximum, a sum and C accumulators a head and token, in f32; when it is finished
    at once, the output [T, H*C] is written in its place. A kvset of kind "shared" is read once for
    all sequences (cascade).
    """
    heads, kv_heads, width = (operation[key] for key in ("heads", "kv_heads", "head_dim"))
    q, starts = operation.operands[0], operation.operands[1]
    pairs, keys = _visible(operation, scene)
    fused = operation.result.name in scene.fused_states
    state = scene.activations(q) if fused else 4.0 * scene.rows(q) * heads * (width + 2)
    return Work(
        flops=(4.0 * width + 5.0) * heads * pairs,
        activation_bytes=scene.activations(q, starts) + state,
        kv_read_bytes=2.0 * keys * kv_heads * width * DTYPE_BYTES[scene.formats.kv],
        dtype=dtype_of(q.type),
        dense=True,
    )


def _visible(operation: Operation, scene: Scene) -> tuple[int, int]:
    kvset = scene.definitions.get(operation.operands[2].name)
    low, high, shared = 0, None, False
    chosen = None if kvset is None else sparse_work.chosen_keys(kvset, scene)
    if chosen is not None:
        return chosen
    if kvset is not None:
        bounds = kvset.attribute("range")
        if bounds is not None:
            low, high = (None if end is None else scene.binding.size(end) for end in bounds)
        shared = kvset.attribute("kind") == "shared"
    window = kvset.attribute("window") if kvset else None
    span = Span(window, low or 0, high, operation.attribute("causal", True))
    lengths = zip(scene.binding.query_lengths, scene.binding.kv_lengths, strict=True)
    counts = [span.visible(queries, keys) for queries, keys in lengths]
    keys = [distinct for _, distinct in counts]
    return sum(pairs for pairs, _ in counts), max(keys, default=0) if shared else sum(keys)


def _merge(operation: Operation, scene: Scene) -> Work:
    """4 FLOPs an element of each state: S states read, one written, in f32."""
    maker = scene.definitions.get(operation.operands[0].name)
    while maker is not None and maker.name == "graph.merge":
        maker = scene.definitions.get(maker.operands[0].name)
    if maker is None or maker.name != "graph.partial":
        return Work()
    elements = scene.rows(maker.operands[0]) * maker["heads"] * (maker["head_dim"] + 2)
    count = len(operation.operands)
    return Work(flops=4.0 * elements * count, activation_bytes=4.0 * elements * (count + 1))


def _finalize(operation: Operation, scene: Scene) -> Work:
    """One division an element; the f32 state is read, the output written; free right after it."""
    maker = scene.definitions.get(operation.operands[0].name)
    if operation.operands[0].name in scene.fused_states and maker and _is_partial(maker):
        return Work()
    elements = scene.elements(operation.result)
    return Work(
        flops=elements, activation_bytes=4.0 * elements + scene.activations(operation.result)
    )


def _is_partial(operation: Operation) -> bool:
    return operation.name == "graph.partial"


def _route(operation: Operation, scene: Scene) -> Work:
    """5 FLOPs a logit: softmax and the comparisons of the top A."""
    flops = 5.0 * scene.elements(operation.operands[0])
    return replace(_moved(operation, scene), flops=flops)


def touched_experts(tokens: int, top_k: float, experts: int) -> float:
    """Return how many experts T tokens touch under uniform routing: E (1 - (1 - A/E)^T)."""
    return experts * (1.0 - (1.0 - min(1.0, top_k / experts)) ** tokens)


def _expert(operation: Operation, scene: Scene) -> Work:
    """2 N K FLOPs a (token, expert) pair, whose row is read and written; the weights of the experts
    that are touched. Of a part of the experts, that part of the pairs."""
    x, w, order, _ = operation.operands
    experts, n, k = (scene.binding.size(dim) for dim in shape_of(w.type))
    tokens, top_k = _routing(order, scene)
    pairs, known = tokens * top_k, scene.binding.experts
    touched = min(experts, known) if known else touched_experts(tokens, top_k, experts)
    return Work(
        flops=2.0 * pairs * n * k,
        weight_bytes=scene.weight(w, operation.attribute("format")) * touched / experts,
        activation_bytes=pairs * (_row_bytes(x, scene) + _row_bytes(operation.result, scene)),
        dtype=dtype_of(x.type),
        dense=True,
    )


def _chosen_experts(operation: Operation, scene: Scene) -> Work:
    """2 N K FLOPs a pair whose expert is here; the weights of that, as no two pairs are taken to
    share one."""
    x, w, chosen, *rest = operation.operands
    experts, n, k = (scene.binding.size(dim) for dim in shape_of(w.type))
    pairs = scene.elements(chosen) * _share_here(chosen, scene)
    return Work(
        flops=2.0 * pairs * n * k,
        weight_bytes=scene.weight(w, operation.attribute("format")) * min(1.0, pairs / experts),
        activation_bytes=scene.activations(x, chosen, *rest, operation.result),
        dtype=dtype_of(x.type),
        dense=True,
    )


def _routing(order: Value, scene: Scene) -> tuple[int, float]:
    """Return T and A of a dispatch's pair order; of A those that are here."""
    dispatch = scene.definitions.get(order.name)
    if dispatch is not None and dispatch.name == "graph.moe_dispatch":
        tokens, top_k = map(scene.binding.size, shape_of(dispatch.operands[0].type))
        return tokens, top_k * _share_here(dispatch.operands[0], scene)
    pairs = scene.elements(order)
    return pairs, 1


def _share_here(chosen: Value, scene: Scene) -> float:
    """Return the share of pairs whose expert a rank has, under uniform routing."""
    route = scene.definitions.get(chosen.name)
    local = route.attribute("local") if route is not None else None
    if route is None or local is None:
        return 1.0
    low, high = local
    return (high - low) / scene.binding.size(shape_of(route.operands[0].type)[-1])


def _row_bytes(value: Value, scene: Scene) -> float:
    """Return the bytes of one row of a value."""
    width = scene.binding.size(shape_of(value.type)[-1])
    return float(width * DTYPE_BYTES[dtype_of(value.type)])


def _combine(operation: Operation, scene: Scene) -> Work:
    """2 A FLOPs an output element, 1 for a residual; T A rows read, T written."""
    rows, weights, *residual = operation.operands
    width = scene.binding.size(shape_of(operation.result.type)[-1])
    pairs = scene.elements(weights)
    moved = pairs * _row_bytes(rows, scene)
    moved += scene.activations(weights, *residual, operation.result)
    flops = 2.0 * pairs * width + sum(map(scene.elements, residual))
    return Work(flops=flops, activation_bytes=moved)


_FREE = frozenset(
    "graph." + name for name in ("func", "return", "weight", "split", "kvset", "moe_dispatch")
)

_RULES: dict[str, Callable[[Operation, Scene], Work]] = {
    "graph.embedding": _embedding,
    "graph.matmul": _matmul,
    "graph.cut_matmul": _matmul,
    "graph.fused_matmul": _fused_matmul,
    "graph.scaled_matmul": _scaled_matmul,
    "graph.quantize_rows": _moved,
    "graph.rmsnorm": _elementwise(4),
    "graph.add": _elementwise(1),
    "graph.add_rmsnorm": _elementwise(5),
    "graph.silu_mul": _elementwise(5),
    "graph.head_norm": _elementwise(4),
    "graph.rope": _elementwise(3),
    "graph.take_rows": _take_rows,
    "graph.kv_write": _kv_write,
    "graph.qkv_rope_write": _qkv_rope_write,
    "graph.label_write": sparse_work.label_write,
    "graph.select": sparse_work.select,
    "graph.value_sums": sparse_work.value_sums,
    "graph.tail": sparse_work.tail,
    "graph.partial": _partial,
    "graph.merge": _merge,
    "graph.finalize": _finalize,
    "graph.moe_route": _route,
    "graph.moe_expert": _expert,
    "graph.moe_combine": _combine,
    "graph.moe_gated": _chosen_experts,
    "graph.moe_mixed": _chosen_experts,
}
