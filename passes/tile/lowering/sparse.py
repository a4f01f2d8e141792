"""Lowering of sparse attention: labels, scores, selection, and decode over the lists.

The merge of the selected middle and the forced ends is one list: the selection writes the ends'
positions among the chosen ones, so that decode reads both in one pass and no states are merged.
Its tail, where the policy has one, is joined to the state there too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from ....ir.core import Operation, Term, Value
from ....ir.sparse.policy import (
    LISTED,
    LISTED_SLOTS,
    MOST_PARTS,
    SCORE_PARTS,
    SparsePolicy,
    parse_policy,
)
from ....ir.types import dtype_of, tensor
from ..attention.join import AT_ONCE_OF_FEW, attention_merge
from ..attention.parts import FEW, SMALL, Parts, attention_parts
from ..attention.ways import tuned
from ..selection.labels import Labels, Scores, label_scores, label_write
from ..selection.selection import Selection, select_keys
from ..selection.value_sums import ValueSums, value_sums
from ..selection.word_labels import WordScores, word_write
from ..sparse.gathered import Gathered, gathered_decode
from ..sparse.sparse_parts import SparseParts, sparse_parts
from ..sparse.word_selection import word_selection
from .key_cache import fetches, forget_written

if TYPE_CHECKING:
    from .lower import _Lowering

EXTENT = "L"
"""The most tokens that a sequence has: MAXP pages."""


def lower_label_write(lowering: _Lowering, op: Operation) -> list[Operation]:
    """The labels of a step's tokens, from the keys in their pages."""
    options, layer = lowering.options, op["layer"]
    shape = Labels(op["kv_heads"], op["head_dim"], options.page_size, op["channels"], op["format"],
                   options.kv)  # fmt: skip
    arguments = f"T N in0 k{layer} mean{layer} level{layer} labels{layer}"
    write = word_write if lowering.on_gpu and op.attribute("words") else label_write
    calls = [lowering.call(op, lowering.once(write, shape), arguments)]
    if options.offload and not fetches(lowering, layer):
        calls += forget_written(lowering, op, op.operands[0])
    return calls


def lower_value_sums(lowering: _Lowering, op: Operation) -> list[Operation]:
    """The sums of v of the pages that a step fills."""
    options, gpu = lowering.options, lowering.on_gpu
    shape = ValueSums(op["kv_heads"], op["head_dim"], options.page_size, options.kv, flat=gpu)
    kernel = lowering.once(value_sums, shape)
    if not gpu:
        arguments = f"T B B1 N MAXP in0 in1 in2 v{op['layer']} value_sums{op['layer']}"
        return [lowering.call(op, kernel, arguments)]
    names = (value.name for value in kernel.regions[0].arguments)
    terms = [listed_term(name, op["layer"], FIRST) for name in names]
    return [lowering.call(op, kernel, terms, ())]


def selected_part(lowering: _Lowering, merge: Operation) -> tuple[Operation, Operation] | None:
    """Return the select and the partial over it of a merge that `SparseAttention` made."""
    for state in merge.operands:
        partial = lowering.makers[state.name]
        select = lowering.makers[partial.operands[2].name] if partial.operands else None
        if partial.name == "graph.partial" and select and select.name == "graph.select":
            return select, partial
    return None


def lower_selected(
    lowering: _Lowering, op: Operation, select: Operation, partial: Operation
) -> list[Operation]:
    """Three launches that stand for `finalize` over the merge: scores, lists, decode."""
    if lowering.on_gpu:
        return _lower_for_gpu(lowering, op, select, partial)
    policy = parse_policy(select["policy"])
    assert policy is not None
    table, lengths = lowering.makers[select.operands[2].name].operands
    layer, q = select["layer"], select.operands[0]
    calls, scored, lists = lower_select(lowering, select)
    shape = gathered_shape(lowering, select, partial["scale"])
    shape = replace(shape, unit=policy.unit, tail=scored if scored.tail else None)
    read = lowering.once(gathered_decode, shape)
    at = f"in5 in6 mean{layer} level{layer} centre{layer} spread{layer} value_sums{layer}"
    arguments = f"B N MAXP L in0 in1 in2 in3 in4 k{layer} v{layer} out0 {at if scored.tail else ''}"
    return [*calls, lowering.call(op, read, arguments, (q, table, lengths, *lists))]


def gathered_shape(lowering: _Lowering, select: Operation, scale: float) -> Gathered:
    """Return the shape of decode over the lists of a selection."""
    return Gathered(select["heads"], select["kv_heads"], select["head_dim"],
                    lowering.options.page_size, lowering.options.kv, scale)  # fmt: skip


def lower_select(
    lowering: _Lowering, select: Operation, budget: str = "plan_budget"
) -> tuple[list[Operation], Scores, tuple[Value, ...]]:
    """Return the launches of scores and lists on a CPU, how is scored, and the values of lists and
    counts, and what a tail weighs. `budget` names how much each row may take."""
    policy = parse_policy(select["policy"])
    assert policy is not None
    views, q, layer = lowering.makers[select.operands[2].name], select.operands[0], select["layer"]
    table, lengths = views.operands
    page, kv_heads = lowering.options.page_size, select["kv_heads"]
    channels, form = views["kind"].parameters
    labels = Labels(kv_heads, select["head_dim"], page, channels, form.name, lowering.options.kv)
    forced = {"sinks": policy.sinks, "recent": policy.recent, "unit": policy.unit}

    def made(hint: str, dtype: str, *shape: int | str) -> Value:
        return lowering.names.value(hint, tensor(dtype, *shape))

    mass = [made(hint, "f32", "B", select["heads"], 1) for hint in ("tail_max", "tail_sum")]
    mass = mass if policy.tail != "none" else []
    scores = made("scores", "f32", "B", kv_heads, EXTENT)
    chosen = made("chosen", "i32", "B", kv_heads, EXTENT)
    counts = made("counts", "i32", "B", kv_heads)
    scored = Scores(
        labels, select["heads"], select["scale"], q=dtype_of(q.type), tail=bool(mass), **forced
    )
    take = lowering.once(select_keys, _selection(policy, kv_heads, page))
    at, found = f"mean{layer} level{layer}", "out0 out1 out2" if mass else "out0"
    call: Callable[..., Operation] = lowering.call
    calls = [
        call(select, lowering.once(label_scores, scored),
             f"B N MAXP L in0 in1 in2 {budget} labels{layer} {at} {found}",
             (q, table, lengths), (scores, *mass)),
        call(select, take, f"B L in0 in1 {budget} out0 out1", (scores, lengths),
             (chosen, counts)),
    ]  # fmt: skip
    return calls, scored, (chosen, counts, *mass)


def _lower_for_gpu(
    lowering: _Lowering, op: Operation, select: Operation, partial: Operation
) -> list[Operation]:
    """Launches over the step's work list: scores and lists of its sparse rows, then all items,
    dense and sparse, in one, and the join of what they left in slots."""
    layer, q = select["layer"], select.operands[0]
    selects, shape = listed_shapes(lowering, select, partial["scale"], dtype_of(op.result.type),
                                   slots=True)  # fmt: skip
    calls = []
    for kernel, operands, results in reading(
        (*selects, *listed_launches(lowering, shape, lowering.once(sparse_parts, shape))), q, op
    ):
        of = select if kernel.attribute("of") == "graph.select" else op
        out = Term("out", (0,)) if results else Term("in", (max(len(operands) - 1, 0),))
        terms = [listed_term(value.name, layer, out) for value in kernel.regions[0].arguments]
        calls.append(lowering.call(of, kernel, terms, operands, results))
    return calls


def list_joins(shape: Parts) -> tuple[Operation, Operation]:
    """Return the joins of few rows, whose lists are cut into many parts, and of more."""
    few = attention_merge(shape.heads, shape.head_dim, shape.q, AT_ONCE_OF_FEW, rows="few")
    return few, attention_merge(shape.heads, shape.head_dim, shape.q, rows="many")


def listed_launches(
    lowering: _Lowering, shape: SparseParts, listed: Operation
) -> tuple[Operation, ...]:
    """Return the kernels over a work list whose sparse items `listed` reads: of items of many rows
    first, where there may be some, and the joins last."""
    many = (lowering.once(attention_parts, shape.of_many),) if shape.items == FEW else ()
    return (*many, listed, *lowering.once(list_joins, shape))


def reading(
    kernels: tuple[Operation, ...], q: Value, op: Operation
) -> Iterator[tuple[Operation, tuple[Value, ...], tuple[Value, ...]]]:
    """Yield kernels of attention with what they read of queries and of the results of `op`, last,
    and what they are the first to write of these."""
    written: tuple[Value, ...] = ()
    for kernel in kernels:
        asked = (q,) if reads(kernel, "q") else ()
        results = op.results if reads(kernel, "out") else ()
        yield kernel, (*asked, *(results and written)), results if not written else ()
        written = written or results


def listed_shapes(
    lowering: _Lowering, select: Operation, scale: float, format: str, slots: bool = False
) -> tuple[tuple[Operation, ...], SparseParts]:
    """Return the kernels that choose a step's keys on a GPU, and the shape of the work list's
    kernel that reads them; by `slots` of the pools where that can be."""
    policy, options = parse_policy(select["policy"]), lowering.options
    assert policy is not None
    heads, kv_heads, width, page = (
        select["heads"], select["kv_heads"], select["head_dim"], options.page_size,
    )  # fmt: skip
    channels, form = lowering.makers[select.operands[2].name]["kind"].parameters
    labels = Labels(kv_heads, width, page, channels, form.name, options.kv)
    slots = slots and lists_slots(policy, width)
    selects, score = lowering.once(selection_on_gpu, policy, labels, heads, select["scale"], format,
                                   slots=slots)  # fmt: skip
    tiles = tuned(Parts(heads, kv_heads, width, page, format, options.kv), not options.apart)
    items = FEW if tiles.many else ""
    return selects, SparseParts(
        heads, kv_heads, width, page, format, options.kv, scale, 0, tiles.few,
        tiles.many, tiles.keys, tiles.keys_many, policy.unit, score if score.tail else None,
        listed_keys(score, slots), slots, items=items,
    )  # fmt: skip


def lists_slots(policy: SparsePolicy, head_dim: int) -> bool:
    """Return whether lists may say where tokens lie, so that who reads them looks up no page: where
    words of labels are selected by."""
    return policy.in_words(head_dim)


def selection_on_gpu(
    policy: SparsePolicy,
    labels: Labels,
    heads: int,
    scale: float,
    format: str,
    keys: int = 1024,
    slots: bool = False,
) -> tuple[tuple[Operation, ...], Scores]:
    """Return the kernels that choose a layer's keys by a policy, for queries of a format, and how
    is scored; scores that are numbers are looked at `keys` at a time. Those that list `slots` of
    the pools attend to what they chose, too, where that can be."""
    forced = {"sinks": policy.sinks, "recent": policy.recent, "unit": policy.unit, "flat": True}
    tail = policy.tail != "none"
    score = Scores(labels, heads, scale, q=format, parts=SCORE_PARTS, tail=tail, **forced)
    if policy.in_words(labels.head_dim):
        weighed = scale if policy.adaptive or tail else 0.0
        shape = WordScores(labels, heads, policy.sinks, policy.recent, format, scale=weighed,
                           tail=tail)  # fmt: skip
        kernels = word_selection(shape, policy, slots, _read_at_once(shape, policy, scale, slots))
        return kernels, replace(score, parts=MOST_PARTS, words=True)
    take = Selection(labels.kv_heads, labels.page, threshold=policy.threshold, top_p=policy.top_p,
                     keys=keys, digits=(11, 11, 10), **forced)  # fmt: skip
    return (label_scores(score), select_keys(take)), score


def _read_at_once(
    shape: WordScores, policy: SparsePolicy, scale: float, slots: bool
) -> SparseParts | None:
    """Return how the launch that chooses the keys of few rows attends to them, if it does."""
    labels = shape.labels
    if not slots or not policy.attends_at_once(labels.head_dim, shape.group):
        return None
    return SparseParts(
        shape.heads, labels.kv_heads, labels.head_dim, labels.page, shape.q, labels.kv, scale,
        few=max(SMALL, shape.group), many=0, keys_listed=LISTED_SLOTS, slots=True,
    )  # fmt: skip


LISTED_WITH_TAIL = 64
"""Keys of a list that are read at a time where a tail is estimated: more would not fit the
registers."""


def listed_keys(score: Scores, slots: bool) -> int:
    """Return how many keys of a list are read at a time."""
    return LISTED_WITH_TAIL if score.tail else LISTED_SLOTS if slots else LISTED


def reads(kernel: Operation, name: str) -> bool:
    """Whether a kernel has an argument of a name."""
    return any(value.name == name for value in kernel.regions[0].arguments)


FIRST = Term("in", (0,))
"""A call's first operand."""


def listed_term(name: str, layer: int, out: Term) -> Term:
    """Return where an argument of a work list's kernel comes from; results are at `out`."""
    fixed = {"T": Term("T"), "N": Term("N"), "q": Term("in", (0,)), "out": out}
    if name in {"k", "v", "labels", "mean", "level", "centre", "spread", "value_sums"}:
        return Term(name, (layer,))
    return fixed.get(name) or Term(f"plan_{name}")


def _selection(policy: SparsePolicy, kv_heads: int, page: int) -> Selection:
    return Selection(kv_heads, page, policy.sinks, policy.recent, policy.unit, policy.threshold,
                     policy.top_p)  # fmt: skip
