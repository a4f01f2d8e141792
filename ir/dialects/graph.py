"""The graph dialect: the model as tensors, with attention as an algebra.

Shape legend, here and in tensor names: T tokens of a step, B sequences, D model width, H query
heads, K key/value heads, C head width, F feed-forward width, E experts, A experts a token, V
vocabulary, N pages, P page size, S splits, R rows of logits, W words that they are of.

Attention is `partial(q, kvset) -> state`, `merge(states)`, `finalize(state)`: splitting a kvset
and merging the states is exact, whatever the split (section 6.2 of the attention notes).
"""

from __future__ import annotations

from . import region_checks as regions
from .dialect import Dialect
from .dialect import OperationSpec as Op

DECLARATIONS = (
    Op(
        "graph.func",
        "a model's step: the region takes its inputs; config = {...} as read from the checkpoint, "
        "memory = {bytes, offsets of activations in the arena}; attention = {policy, least: the "
        "context from which selecting keys pays}; kv = where keys and values lie; policy = a "
        "policy's text, for moe-partition; apart: no keys are read for many rows at once; head = "
        "the weight whose rows the last argument holds: of the words that logits are wanted of",
        regions=1,
        required=("name",),
        optional=("config", "model", "memory", "attention", "kv", "policy", "apart", "head"),
        check=regions.returns,
    ),
    Op("graph.return", "the step's outputs", (1, None), terminator=True),
)

TENSORS = (
    Op("graph.weight", "a tensor of the checkpoint; tensors = its name there, or a list of names "
       "to be joined by rows (of `rows` rows each, if they differ), or a list of such lists to be "
       "stacked (experts); its dtype is the format it is kept in (f32, bf16, or i8 or f8e4m3 with "
       "one f32 scale a row); shard = [axis, rank, ranks] of each named tensor is kept only; "
       "slices = [axis, S]: each expert is cut into S that follow one another, of gate and up "
       "rows alike (axis 0) or of columns (axis 1); packed = P: w [N, K] lies as [K/P, N, P], for "
       "products that stream it", 0, 1,
       required=("tensors",), optional=("rows", "shard", "slices", "packed")),
    Op("graph.embedding", "rows of a table; operands: table [V, D], ids [T]", 2, 1,
       optional=("scale",)),
    Op("graph.matmul", "x [T, K] times w [N, K] transposed, plus bias [N] when given; operands: "
       "x, w[, bias]", (2, 3), 1),
    Op("graph.cut_matmul", "a matmul whose K is cut in `cuts` parts: their sums [cuts, T, N], "
       "rounded to x's format, which graph.add_rmsnorm or graph.qkv_rope_write adds; operands: "
       "x, w", 2, 1,
       required=("cuts",)),
    Op("graph.fused_matmul", "a matmul with its neighbours: x is normed first (norm), the product "
       "gets a bias and is gated (silu: w holds gate and up rows), then the residual is added; "
       "operands: x, w and what `parts` (of bias, norm, residual, in this order) name", (2, 5), 1,
       required=("parts",), optional=("silu", "eps")),
    Op("graph.scaled_matmul", "x [T, K] times w [N, K] transposed, of x in f8e4m3 with a scale a "
       "row, plus bias [N] when given; operands: x, x_scale [T], w[, bias]", (3, 4), 1),
    Op("graph.quantize_rows", "x rounded to f8e4m3, a scale a row: absmax / 448; results: x / "
       "scale, scale [T]. rmsnorm, add_rmsnorm and silu_mul may do so with their last result, and "
       "then have a result more", 1, 2),
    Op("graph.rmsnorm", "x / sqrt(mean(x^2) + eps) * w over the last axis; operands: x, w", 2,
       (1, 2), required=("eps",)),
    Op("graph.add", "elementwise sum", 2, 1),
    Op("graph.add_rmsnorm", "fused: results x + y and its rmsnorm; operands: x, y (of a cut "
       "product: the sum of its parts), w", 3,
       (2, 3), required=("eps",)),
    Op("graph.silu_mul", "silu(x[:, :F]) * x[:, F:]; operand [T, 2F]", 1, (1, 2)),
    Op("graph.concat", "operands side by side: columns joined", (2, None), 1),
    Op("graph.split", "columns of the operand, sizes = [...]", 1, (1, None), required=("sizes",)),
    Op("graph.head_norm", "rmsnorm of each head, before rope (Qwen3); operands: x [T, H*C], w [C]",
       2, 1, required=("eps", "heads")),
    Op("graph.rope", "rotary embedding of q or k [T, H*C] at positions [T]; inverse frequencies "
       "and the attention factor come from the checkpoint's rope settings", 2, 1,
       required=("heads", "head_dim", "rope")),
    Op("graph.take_rows", "rows of x at indices [R]", 2, 1),
)  # fmt: skip

ATTENTION = (
    Op("graph.kv_write", "writes k, v [T, K*C] to the slots [T] of a layer's pages; operands: "
       "k, v, slots", 3, 0, required=("layer",)),
    Op("graph.qkv_rope_write", "fused: splits qkv [T, (H+2K)*C], norms and rotates q and k, "
       "writes k and v; operands: qkv, positions, slots[, q_norm, k_norm]; result: q. With "
       "`ordered` the channels of q and k stand in the calibrated order of their key head; a "
       "`guess` writes nothing: its q predicts a later layer's. Of a product that is cut qkv is "
       "[cuts, T, (H+2K)*C], whose sum it takes", (3, 5),
       1, required=("layer", "heads", "kv_heads", "head_dim", "rope"),
       optional=("eps", "ordered", "guess")),
    Op("graph.label_write", "writes labels of the keys at slots [T]: their first `channels` in "
       "calibrated order, as bf16, i8 or i4; `words`: a GPU may keep them as words", 1, 0,
       required=("layer", "kv_heads", "head_dim", "channels", "format"), optional=("words",)),
    Op("graph.value_sums", "of each page that a step fills writes the sum of v from the start of "
       "its sequence to its end; operands: query_starts, kv_lengths, page_table", 3, 0,
       required=("layer", "kv_heads", "head_dim")),
    Op("graph.kvset", "the keys and values that a step's sequences may see: pages of a layer, "
       "within an optional sliding window; operands: page_table, kv_lengths. kind = "
       "ends<s, r, unit>: only the first s and the last r tokens, or their whole pages; "
       "labels<channels, format>: the labels of all", 2, 1,
       required=("layer",), optional=("window", "range", "kind")),
    Op("graph.select", "the keys of the middle (between the ends) that a policy takes by their "
       "label scores (ir.sparse.policy), one choice for all query heads of a key head; all of them "
       "for sequences with several queries in the step, whose prompts are read whole; operands: q, "
       "query_starts, kvset of labels; result: kvset<approximate>, as are states made of it; "
       "`expected`: the share of tokens that is taken, where scores decide how many", 3, 1,
       required=("layer", "policy", "heads", "kv_heads", "head_dim", "scale"),
       optional=("expected",)),
    Op("graph.fetch", "the union of kvsets whose keys and values lie across a link, brought to a "
       "cache on this side: operands: what a select takes, and the ends. `ahead`: of a predicted "
       "query, to be there when it is wanted, and no result", 2, (0, 1), required=("layer",),
       optional=("ahead",)),
    Op("graph.partial", "softmax(scale q k) v over a kvset, unnormalised; operands: q [T, H*C], "
       "query_starts [B+1], kvset; result: state (max, sum, accumulator)", 3, 1,
       required=("heads", "kv_heads", "head_dim", "scale"), optional=("splits", "causal")),
    Op("graph.tail", "the state of what a select left out, by estimate (ir.sparse.policy): weights "
       "by labels, the mean of v for a value; empty for sequences that are read whole; operands: "
       "q, query_starts, kvset of labels, kvset of the select; result: state<approximate>", 4, 1,
       required=("layer", "heads", "kv_heads", "head_dim", "scale")),
    Op("graph.merge", "the state over the union of disjoint kvsets", (1, None), 1),
    Op("graph.finalize", "accumulator / sum: the attention output [T, H*C]", 1, 1),
)  # fmt: skip

MOE = (
    Op("graph.moe_route", "softmax of router logits [T, E], the top A of each row, their weights "
       "(renormalised when asked); results: weights [T, A], experts [T, A]. Pair t * A + a is "
       "the a-th expert of token t. local = [low, high): these experts are numbered from 0, "
       "and the others have the number high - low and the weight 0. slices = S: each expert is S, "
       "numbered e * S to e * S + S - 1, which all have its weight; results [T, A*S]", 1, 2,
       required=("top_k",), optional=("renormalize", "local", "slices")),
    Op("graph.moe_dispatch", "orders pairs by expert, stably; results: order [T*A], expert "
       "starts [E+1]; pairs of an expert that is not here (its number is E) stand nowhere", 1, 2,
       required=("experts",)),
    Op("graph.moe_expert", "of each pair p, row p // per_row of x times its expert's weight "
       "[E, N, K] transposed; operands: x, w, order, starts; result [T*A, N], by pair. With "
       "`experts`, only of their pairs: the other rows are undefined. With a fifth operand "
       "`places` [E], w [S, N, K] holds pages in any order: expert e is page places[e], and -1 "
       "is as an expert not listed. silu: w [E, 2N, K] holds gate and up rows, and the result is "
       "silu(gate) * up", (4, 5), 1, required=("per_row",), optional=("experts", "silu")),
    Op("graph.moe_gated", "of each pair p, silu(gate) * up of row p // A of x through the gate and "
       "up rows of its expert; partial: pairs of expert E are elsewhere, and their rows undefined; "
       "operands: x [T, K], w [E, 2F, K], chosen [T, A]; result [T*A, F]", 3, 1,
       optional=("partial",)),
    Op("graph.moe_mixed", "sum over a token's pairs of weight times row p times its expert's "
       "weight [E, N, K] transposed, plus residual [T, N] when given; partial: pairs of expert E "
       "are left out; operands: rows [T*A, K], w, chosen [T, A], weights [T, A][, residual]",
       (4, 5), 1, optional=("partial",)),
    Op("graph.moe_join", "rows [T*A, D] by pair: those of the listed experts' pairs from the "
       "second operand, the others from the first; operands: rows, rows, order, starts", 4, 1,
       required=("experts",)),
    Op("graph.moe_combine", "sum over a token's pairs of weight times row, plus residual [T, D] "
       "when given; partial: rows of weight 0 are not read; operands: rows [T*A, D], weights "
       "[T, A][, residual]", (2, 3), 1, optional=("partial",)),
)  # fmt: skip

RANKS = (
    Op("graph.all_reduce", "the sum of x over the ranks of a tensor-parallel run", 1, 1),
    Op("graph.all_gather", "the columns [T, N] of every rank side by side: [T, ranks * N]", 1, 1),
)

LOWERED = (
    Op("graph.call", "launches a kernel; operands are its inputs, results its outputs. arguments "
       "= what it takes, in order: in<i> and out<i> (operand and result i), flat<i> (operand i in "
       "one row), scale<i> (the row scales of operand i), k<l> and v<l> (a layer's pages), "
       "labels<l> (its labels), order<l>, mean<l>, level<l>, centre<l> and spread<l> (its "
       "calibration), value_sums<l> (sums of v by page), held_k<l>, held_v<l> and others of "
       "key_cache (its cache of keys across a link), cos and sin "
       "(rotary tables), T, B, B1, R, M, N, MAXP (extents: tokens, sequences, B + 1, rows of "
       "logits, pairs, pages, columns of the page table), L (the most tokens of a sequence, MAXP "
       "pages); plan_<name> is the argument <name> of an "
       "attention kernel over a work list, plan_<name><w> that of the list for a window of w, "
       "plan_<name><whole> that of layers that read everything where others select. "
       "queue = where it is launched, if not where the others are; few = another kernel of the "
       "same arguments, for steps of up to `up_to` tokens; ways = others yet, by the way that an "
       "attention list was planned for; only = the ways (\"\": the usual one) in which it is "
       "launched",
       (0, None), (0, None), required=("kernel", "arguments"),
       optional=("of", "queue", "few", "up_to", "ways", "only")),
    Op("graph.library", "calls a library routine where ours is not the choice; why = reason",
       (0, None), (0, None), required=("routine",), optional=("why", "of")),
)  # fmt: skip

PLACEMENT = (
    Op("graph.section", "operations that run as one, at one place: device (GPU) or host (CPU); "
       "kind = what it is of its layer. resident, streamed, disk, host = the experts whose pages "
       "lie there, are copied for each step, come from disk, or are computed by the CPU",
       0, (1, None), 1, required=("kind", "place"),
       optional=("layer", "resident", "streamed", "disk", "host"), check=regions.same_scope),
    Op("graph.yield", "a section's results", (1, None), terminator=True),
    Op("graph.transfer", "the operand at another place: device or host", 1, 1, required=("to",)),
)  # fmt: skip

PIPELINE = (
    Op("graph.pipeline", "the tasks of one step over queues, in launch order: see "
       "ir/offload/pipeline.py; holds = what slots hold before the first task", regions=1,
       required=("name", "layers", "micro_batches"), optional=("holds",)),
    Op("graph.task", "a task of a pipeline: kind, queue, what it reads and writes (slot=holds), "
       "and the tasks whose events it waits for; event_queue = where its own event is recorded, if "
       "not on its queue", required=("name", "kind", "queue", "layer"),
       optional=("micro_batch", "event_queue", "pages", "reads", "writes", "waits")),
)  # fmt: skip

DIALECT = Dialect(
    "graph",
    "the model as tensors: matmul, norm, rope, the attention algebra, mixture of experts, ranks",
    DECLARATIONS + TENSORS + ATTENTION + MOE + PLACEMENT + RANKS + LOWERED + PIPELINE,
)
