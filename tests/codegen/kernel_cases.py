"""Every family of small kernels with random arguments and what it must compute, in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from weft.passes.tile.products import moe
from weft.passes.tile.products.expert_matvec import ExpertMatvec, experts_gated, experts_mixed
from weft.passes.tile.rows import constrain, elementwise, feed, rope, sampling
from weft.tests.codegen.kernel_case import Case, bf16, from_bf16, normal, poison
from weft.tests.codegen.kernel_oracles import (
    dispatched,
    masked,
    normed,
    packed,
    rotated_and_written,
    routed,
    sampled,
    silu,
)

SIZES = {"empty": 0, "one": 1, "few": 3, "ragged": 13}


def embedding(rng: np.random.Generator, t: int, dtype: str) -> Case:
    vocab, width = 11, 96
    ids = rng.integers(0, vocab, t).astype("i4")
    arguments = [t, None, ids, poison(t, width)]
    if dtype == "i8":
        table = rng.integers(-127, 128, (vocab, width)).astype("i1")
        scale = np.abs(normal(rng, vocab))
        arguments.append(scale)
        wide = table * scale[:, None].astype("f8")
    elif dtype == "bf16":
        table = bf16(normal(rng, vocab, width))
        wide = from_bf16(table)
    else:
        table = wide = normal(rng, vocab, width)
    arguments[1] = table
    kernel = elementwise.embedding(vocab, width, dtype, factor=3.0, block=64)
    return Case(kernel, arguments, {"out": 3.0 * wide.astype("f8")[ids]})


def rmsnorm(rng: np.random.Generator, t: int) -> Case:
    x, w = normal(rng, t, 80), normal(rng, 80)
    kernel = elementwise.rmsnorm(80, 1e-5)
    return Case(kernel, [t, x, w, poison(t, 80)], {"out": normed(x, w, 1e-5)})


def add_rmsnorm(rng: np.random.Generator, t: int) -> Case:
    x, y, w = normal(rng, t, 80), normal(rng, t, 80), normal(rng, 80)
    total = x.astype("f8") + y
    arguments = [t, x, y, w, poison(t, 80), poison(t, 80)]
    expected = {"total": total, "out": normed(total, w, 1e-5)}
    return Case(elementwise.add_rmsnorm(80, 1e-5), arguments, expected)


def silu_mul(rng: np.random.Generator, t: int) -> Case:
    x = normal(rng, t, 2 * 80)
    expected = {"out": silu(x[:, :80].astype("f8")) * x[:, 80:]}
    return Case(elementwise.silu_mul(80, block=64), [t, x, poison(t, 80)], expected)


def take_rows(rng: np.random.Generator, t: int) -> Case:
    x, rows = normal(rng, 7, 40), rng.integers(0, 7, t).astype("i4")
    return Case(elementwise.take_rows(40, block=32), [7, t, x, rows, poison(t, 40)],
                {"out": x.astype("f8")[rows]})  # fmt: skip


def add(rng: np.random.Generator, t: int) -> Case:
    x, y = normal(rng, t, 40), normal(rng, t, 40)
    return Case(elementwise.add(40), [t, x, y, poison(t, 40)], {"out": x.astype("f8") + y})


def rope_write(
    rng: np.random.Generator, t: int, norms: bool, kv: str, apart: bool = False, cuts: int = 1
) -> Case:  # fmt: skip
    heads, kv_heads, width, page, pages, longest = 6, 2, 16, 4, 6, 50
    shape = rope.Heads(heads, kv_heads, width, page)
    parts = normal(rng, cuts, t, (heads + 2 * kv_heads) * width)
    qkv = parts.sum(0)
    angle = rng.uniform(0, 6, (longest, width // 2))
    cos, sin = np.cos(angle).astype("f4"), np.sin(angle).astype("f4")
    positions = rng.integers(0, longest, t).astype("i4")
    slots = rng.permutation(pages * page)[:t].astype("i4")
    slots[1:2] = -1
    pool = np.zeros((pages, kv_heads, page, width), "u2" if kv == "bf16" else "f4")
    weights = [normal(rng, width), normal(rng, width)] if norms else []
    given = parts if cuts > 1 else qkv
    arguments = [t, pages, given, cos, sin, positions, slots, poison(t, heads * width),
                 pool.copy(), pool.copy(), *weights]  # fmt: skip
    wide = qkv.astype("f8").reshape(t, heads + 2 * kv_heads, width)
    q, k_pool, v_pool = rotated_and_written(
        wide, cos[positions], sin[positions], slots,
        (heads, kv_heads, page, pages), weights,
    )  # fmt: skip
    kernel = rope.qkv_rope_write(shape, longest, kv, 1e-6 if norms else None, apart=apart,
                                 cuts=cuts)  # fmt: skip
    expected = {"q": q.reshape(t, heads * width), "k_pool": k_pool, "v_pool": v_pool}
    return Case(kernel, arguments, expected, 1e-2 if kv == "bf16" else 1e-5)


def route(
    rng: np.random.Generator, t: int, renormalize: bool, local: Any = None, slices: int = 1
) -> Case:
    logits = np.round(normal(rng, t, 12), 1)  # rounded, so that ties occur
    weights, chosen = routed(logits, 3, renormalize)
    arguments = [t, logits, poison(t, 3 * slices), poison(t, 3 * slices, dtype="i4")]
    kernel = moe.route(12, 3, renormalize, local, slices)
    if local:
        here = (chosen >= local[0]) & (chosen < local[1])
        weights, chosen = weights * here, np.where(here, chosen - local[0], local[1] - local[0])
    weights = np.repeat(weights, slices, 1)
    chosen = (chosen[:, :, None] * slices + np.arange(slices)).reshape(t, 3 * slices)
    return Case(kernel, arguments, {"weights": weights, "chosen": chosen})


def dispatch(rng: np.random.Generator, t: int, others: bool = False) -> Case:
    """With `others`, some pairs are of an expert that is not here: they stand nowhere."""
    chosen = rng.integers(0, 5 + others, 2 * t).astype("i4")
    order, starts = dispatched(chosen, 5 + others)
    order[starts[5] :], starts = -77, starts[:6]
    arguments = [2 * t, chosen, poison(2 * t, dtype="i4"), poison(6, dtype="i4")]
    return Case(moe.dispatch(5, block=16), arguments, {"order": order, "starts": starts})


def experts(
    rng: np.random.Generator, t: int, dtype: str, per_row: int, chunks: int = 1, gated: bool = False
) -> Case:  # fmt: skip
    e, n, k, m = 5, 40, 48, t * per_row
    x = normal(rng, t, k)
    chosen = rng.integers(0, e, m).astype("i4")
    order, starts = dispatched(chosen, e)
    scales = []
    if dtype == "i8":
        w = rng.integers(-127, 128, (e, n, k)).astype("i1")
        scales = [np.abs(normal(rng, e, n)) / 64]
        wide = w * scales[0][..., None].astype("f8")
    elif dtype == "bf16":
        w = bf16(normal(rng, e, n, k))
        wide = from_bf16(w)
    else:
        w = wide = normal(rng, e, n, k)
    expected = np.einsum("pk,pnk->pn", x.astype("f8")[np.arange(m) // per_row], wide[chosen])
    if gated:
        n //= 2
        expected = silu(expected[:, :n]) * expected[:, n:]
    kernel = moe.expert_matmul(e, n, k, per_row, dtype, rows=2, block_n=32, block_k=32,
                               chunks=chunks, silu=gated)  # fmt: skip
    arguments = [t, m, x, w, order, starts, poison(m, n), *scales]
    return Case(kernel, arguments, {"out": expected}, 1e-4)


def chosen_experts(
    rng: np.random.Generator, t: int, dtype: str, k: int, mixed: bool, residual: bool = False,
    partial: bool = False,
) -> Case:  # fmt: skip
    """A stream of the chosen experts' rows: gate, up and silu, or down and the weighted sum; with
    `partial` some are elsewhere, whose rows are neither written nor read."""
    e, n, top = 5, 9, 3
    rows, wide = t * top if mixed else t, n if mixed else 2 * n
    x, chosen = normal(rng, rows, k), rng.integers(0, e + 2 * partial, t * top).astype("i4")
    chosen, away = np.minimum(chosen, e), chosen >= e
    w, scales = normal(rng, e, wide, k), []
    values = w.astype("f8")
    if dtype == "i8":
        w = rng.integers(-127, 128, (e, wide, k)).astype("i1")
        scales = [np.abs(normal(rng, e, wide)) / 6400]
        values = w * scales[0][..., None].astype("f8")
    pairs = x.astype("f8")[np.arange(t * top) // (1 if mixed else top)]
    found = np.einsum("pk,pnk->pn", pairs, values[np.minimum(chosen, e - 1)])
    shape = ExpertMatvec(e, n, k, top, dtype, "f32", residual, partial=partial)
    if not mixed:
        out = poison(t * top, n)
        expected = silu(found[:, :n]) * found[:, n:]
        expected[away] = out[away]
        arguments = [t, t * top, x, w, chosen, out, *scales]
        return Case(experts_gated(shape), arguments, {"out": expected}, 1e-4)
    weights, before = normal(rng, t * top) * ~away, normal(rng, t, n)
    x[away] = np.nan
    expected = (found * weights[:, None]).reshape(t, top, n).sum(1) + (before if residual else 0)
    more = [before] if residual else []
    arguments = [t, t * top, x, w, chosen, weights, poison(t, n), *more, *scales]
    return Case(experts_mixed(shape), arguments, {"out": expected}, 1e-4)


def paged_experts(rng: np.random.Generator, t: int, dtype: str) -> Case:
    """Seven pages in any order, two of five experts not there: their rows stay as they are."""
    case = experts(rng, t, dtype, 2)
    t, m, x, w, order, starts, out, *scales = case.arguments
    e, places = len(w), np.array([4, -1, 0, 6, -1], "i4")
    pages, kept = np.full((7, *w.shape[1:]), 99, w.dtype), places >= 0
    pages[places[kept]] = w[kept]
    paged = [np.ones((7, w.shape[1]), "f4") for _ in scales]
    for page, scale in zip(paged, scales, strict=True):
        page[places[kept]] = scale[kept]
    gone = np.concatenate(
        [order[starts[i] : starts[i + 1]] for i in range(e) if not kept[i]]
    )  # fmt: skip
    case.expected["out"][gone] = out[gone]
    kernel = moe.expert_matmul(e, *w.shape[1:], 2, dtype, rows=2, block_n=32, block_k=32,
                               paged=True)  # fmt: skip
    arguments = [t, m, 7, x, pages, order, starts, places, out, *paged]
    return Case(kernel, arguments, case.expected, 1e-4)


def combine(rng: np.random.Generator, t: int, residual: bool, partial: bool = False) -> Case:
    rows, weights, before = normal(rng, 2 * t, 40), normal(rng, t, 2), normal(rng, t, 40)
    if partial:
        weights *= rng.random((t, 2)) < 0.5
    expected = np.einsum("tad,ta->td", rows.reshape(t, 2, 40).astype("f8"), weights)
    if partial:
        rows[weights.reshape(-1) == 0] = np.nan
    arguments = [t, 2 * t, rows, weights, poison(t, 40)] + ([before] if residual else [])
    expected = expected + before if residual else expected
    return Case(moe.combine(40, 2, residual, partial=partial), arguments, {"out": expected})


def _vocabulary(rng: np.random.Generator, r: int, vocab: int) -> tuple[np.ndarray, np.ndarray]:
    allowed = rng.random((r, vocab)) < 0.6
    allowed[:, 5] = True
    logits = (3 * normal(rng, r, vocab)).astype("f4")
    logits[-1:][allowed[-1:]] = -np.inf
    return logits, allowed


def _block(r: int) -> int:
    """Return the words of a block: of many rows one, as a CPU has, of few rows several."""
    return 1 if r > SIZES["few"] else 4


def argmax_masked(rng: np.random.Generator, r: int) -> Case:
    vocab = 333
    logits, allowed = _vocabulary(rng, r, vocab)
    logits = np.round(logits, 1).astype("f4")  # rounded, so that ties occur
    open_logits = np.sort(masked(logits, allowed), axis=1)
    shifted = logits.astype("f8") - np.log(np.exp(logits.astype("f8")).sum(1, keepdims=True))
    token = masked(logits, allowed).argmax(1) if r else np.zeros(0, int)
    arguments = [r, logits, packed(allowed), poison(r, dtype="i4"), poison(r), poison(r)]
    expected = {
        "token": token, "logprob": shifted[np.arange(r), token],
        "margin": open_logits[:, -1] - open_logits[:, -2],
    }  # fmt: skip
    return Case(sampling.argmax_masked(vocab, _block(r)), arguments, expected, 1e-4)


def sample(rng: np.random.Generator, r: int) -> Case:
    vocab = 333
    logits, allowed = _vocabulary(rng, r, vocab)
    settings = [
        rng.choice([0.0, 0.5, 1.0, 1.7], r).astype("f4"),
        rng.choice([0, 1, 7, 400], r).astype("i4"),
        rng.choice([1.0, 0.9, 0.3, 0.0], r).astype("f4"),
        rng.choice([0.0, 0.02, 0.3], r).astype("f4"), rng.random(r).astype("f4"),
    ]  # fmt: skip
    token = np.array(
        [sampled(logits[i], allowed[i], *(s[i] for s in settings)) for i in range(r)], "i4"
    ).reshape(r)
    shifted = logits.astype("f8") - np.log(np.exp(logits.astype("f8")).sum(1, keepdims=True))
    arguments = [r, logits, packed(allowed), *settings, poison(r, dtype="i4"), poison(r), poison(r)]
    expected = {"token": token, "logprob": shifted[np.arange(r), token]}
    return Case(sampling.sample(vocab, _block(r)), arguments, expected, 1e-4)


def token_logprobs(rng: np.random.Generator, r: int) -> Case:
    logits, target = 3 * normal(rng, r, 200), rng.integers(0, 200, r).astype("i4")
    shifted = logits.astype("f8") - np.log(np.exp(logits.astype("f8")).sum(1, keepdims=True))
    arguments = [r, logits.astype("f4"), target, poison(r)]
    expected = {"logprob": shifted[np.arange(r), target]}
    return Case(sampling.token_logprobs(200, words=2), arguments, expected, 1e-4)


def _with(build: Callable[..., Case], *options: Any) -> Callable[[np.random.Generator, int], Case]:
    return lambda rng, size: build(rng, size, *options)


def feed_tokens(rng: np.random.Generator, t: int) -> Case:
    source = rng.integers(-1, 5, t).astype("i4")
    drawn, tokens = rng.integers(0, 99, 5).astype("i4"), rng.integers(0, 99, t).astype("i4")
    expected = np.where(source >= 0, drawn[source], tokens)
    return Case(feed.feed_tokens(4), [t, 5, source, drawn, tokens], {"tokens": expected})


def carry(rng: np.random.Generator, t: int) -> Case:
    source, target = rng.integers(-(2**31), 2**31, (2, t)).astype("i4")
    return Case(feed.carry(4), [t, source, target], {"target": source.copy()})


def copy_pages(rng: np.random.Generator, copies: int) -> Case:
    layers, pages, blocks = 2, 2 * copies + 1, 3
    pool = rng.integers(-(2**31), 2**31, (layers, pages, blocks, feed.COPIED)).astype("i4")
    source, target = rng.permutation(2 * copies).astype("i4").reshape(2, copies)
    source[2:3] = -1
    expected, kept = pool.copy(), source >= 0
    expected[:, target[kept]] = pool[:, source[kept]]
    arguments = [copies, layers, pages, blocks, source, target, pool]
    return Case(feed.copy_pages(2), arguments, {"pool": expected})


def copy_slots(rng: np.random.Generator, copies: int) -> Case:
    pages, heads, rows, width = copies + 1, 3, 4, 5
    pools = [rng.integers(-(2**31), 2**31, (pages, heads, rows, width)).astype("i4") for _ in "kv"]
    slots = rng.permutation(pages * rows)[: 2 * copies].astype("i4").reshape(2, copies)
    (page, page_to), (row, row_to) = slots // rows, slots % rows
    page[2:3], row_to[3:4] = pages, -1
    kept = (page < pages) & (row_to >= 0)
    expected = [pool.copy() for pool in pools]
    for pool, after in zip(pools, expected, strict=True):
        after[page_to[kept], :, row_to[kept]] = pool[page[kept], :, row[kept]]
    arguments = [copies, pages, heads, rows, width, page, row, page_to, row_to, *pools]
    return Case(feed.copy_slots(2, 4), arguments, dict(zip("kv", expected, strict=True)))


def constrain_rows(rng: np.random.Generator, r: int) -> Case:
    vocab, width, states, drawn_rows = 70, 3, 6, 5
    sizes = rng.integers(0, 4, vocab)
    spelled = np.concatenate([[0], np.cumsum(sizes)]).astype("i4")
    letters = rng.integers(0, 256, max(1, int(spelled[-1]))).astype("i4")
    moves = rng.integers(0, states, (states, 256)).astype("i4")
    moves[0] = 0
    most = rng.integers(0, 4, states).astype("i4")
    entry = (np.cumsum(most + 1) - most - 1).astype("i4")
    masks = rng.integers(-(2**31), 2**31, (7, width)).astype("i4")
    masks_of = rng.integers(0, 7, int((most + 1).sum())).astype("i4")
    source = rng.integers(-1, drawn_rows, r).astype("i4")
    start, left = rng.integers(0, states, r).astype("i4"), rng.integers(-1, 6, r).astype("i4")
    drawn = rng.integers(0, vocab, drawn_rows).astype("i4")
    before = rng.integers(0, states, drawn_rows).astype("i4")
    found = start.copy()
    for row, place in enumerate(source):
        if place >= 0:
            found[row] = before[place]
            for letter in letters[spelled[drawn[place]] : spelled[drawn[place] + 1]]:
                found[row] = moves[found[row], letter]
    numbers = masks_of[entry[found] + np.clip(left, 0, most[found])]
    arguments = [
        r, drawn_rows, states, len(masks_of), 7, len(letters), source, start, left, drawn, before,
        spelled, letters, moves, entry, most, masks_of, masks, np.full(r, -7, "i4"),
        np.full((r, width), -7, "i4"),
    ]  # fmt: skip
    expected = {"states": found, "allowed": masks[numbers]}
    return Case(constrain.constrain_rows(vocab, 2), arguments, expected)


FAMILIES: dict[str, Callable[[np.random.Generator, int], Case]] = {
    "embedding_f32": _with(embedding, "f32"), "embedding_bf16": _with(embedding, "bf16"),
    "embedding_i8": _with(embedding, "i8"), "rmsnorm": rmsnorm, "add_rmsnorm": add_rmsnorm,
    "silu_mul": silu_mul, "take_rows": take_rows, "add": add,
    "rope": _with(rope_write, False, "f32"), "rope_norm_bf16": _with(rope_write, True, "bf16"),
    "rope_apart": _with(rope_write, True, "f32", True),
    "rope_parts": _with(rope_write, True, "f32", False, 2),
    "route": _with(route, True), "route_plain": _with(route, False), "dispatch": dispatch,
    "experts_f32": _with(experts, "f32", 2), "experts_bf16": _with(experts, "bf16", 1),
    "experts_i8": _with(experts, "i8", 2), "paged_experts": _with(paged_experts, "f32"),
    "paged_experts_i8": _with(paged_experts, "i8"), "combine": _with(combine, False),
    "experts_chunked": _with(experts, "bf16", 2, 3), "experts_one": _with(experts, "f32", 1, 2),
    "experts_gated": _with(experts, "bf16", 2, 2, True),
    "experts_gated_i8": _with(experts, "i8", 2, 1, True),
    "gated": _with(chosen_experts, "f32", 48, False),
    "gated_i8_deep": _with(chosen_experts, "i8", 2500, False),
    "mixed": _with(chosen_experts, "f32", 48, True, True),
    "mixed_i8": _with(chosen_experts, "i8", 40, True),
    "gated_partial": _with(chosen_experts, "f32", 48, False, False, True),
    "gated_partial_i8": _with(chosen_experts, "i8", 2500, False, False, True),
    "mixed_partial": _with(chosen_experts, "f32", 48, True, False, True),
    "mixed_partial_i8": _with(chosen_experts, "i8", 40, True, True, True),
    "route_slices": _with(route, True, None, 2),
    "route_local": _with(route, True, (3, 8)), "dispatch_local": _with(dispatch, True),
    "combine_partial": _with(combine, False, True),
    "combine_residual": _with(combine, True), "argmax_masked": argmax_masked, "sample": sample,
    "token_logprobs": token_logprobs, "feed_tokens": feed_tokens, "copy_pages": copy_pages,
    "copy_slots": copy_slots, "carry": carry,
    "constrain_rows": constrain_rows,
}  # fmt: skip


def make(family: str, size: str, seed: int = 0) -> Case:
    """Return a random case of a family; the same arguments give the same case."""
    return FAMILIES[family](np.random.default_rng(seed + 1), SIZES[size])


def check(case: Case, arguments: list[Any]) -> None:
    """Compare the outputs among `arguments`, after a run, with what is expected."""
    for name, expected in case.expected.items():
        found = arguments[case.position(name)]
        found = from_bf16(found) if found.dtype == np.uint16 else found
        np.testing.assert_allclose(
            found, expected, rtol=case.tolerance, atol=case.tolerance, err_msg=name
        )
