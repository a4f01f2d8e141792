"""The work of sparse attention's operations: labels written, labels scored, keys chosen,
and what is left out estimated."""

from __future__ import annotations

from ..ir.core import Operation, Term
from ..ir.sparse.policy import SparsePolicy, parse_policy
from ..ir.types import DTYPE_BYTES
from .expected_reads import expected_tokens
from .scene import Scene, Work
from .sparse_bytes import PAGE, AttentionShape, Overheads, sparse_bytes, tail_bytes


def label_write(operation: Operation, scene: Scene) -> Work:
    """r channels of each new key of a head read, and its label written."""
    tokens, heads = scene.rows(operation.operands[0]), operation["kv_heads"]
    channels, bits = operation["channels"], _BITS[operation["format"]]
    return Work(
        flops=3.0 * tokens * heads * channels,
        activation_bytes=float(tokens * heads * channels * DTYPE_BYTES[scene.formats.kv]),
        kv_written_bytes=tokens * heads * channels * bits / 8,
    )


def select(operation: Operation, scene: Scene, overheads: Overheads | None = None) -> Work:
    """2 r FLOPs a query head and token of context; each label once; scores and lists as
    `sparse_bytes` counts them, with `overheads` other than those of kernels that sort by f32."""
    policy, shape = policy_of(operation), shape_of_heads(operation, scene)
    channels = policy.label_channels(operation["head_dim"])
    contexts = scored_contexts(policy, scene)
    share = operation.attribute("expected") or 0.0
    moved = [sparse_bytes(shape, policy, keys, expected_tokens(policy, keys, share), overheads)
             for keys in contexts]  # fmt: skip
    return Work(
        flops=(2.0 * channels * operation["heads"] + 4.0 * operation["kv_heads"]) * sum(contexts),
        activation_bytes=sum((each.scores + each.indices for each in moved), 0.0),
        kv_read_bytes=sum((float(each.labels) for each in moved), 0.0),
    )


def value_sums(operation: Operation, scene: Scene) -> Work:
    """Of each new token v read once more, and added; a row of sums a page."""
    tokens = sum(scene.binding.query_lengths)
    elements = tokens * operation["kv_heads"] * operation["head_dim"]
    read = float(elements * DTYPE_BYTES[scene.formats.kv])
    return Work(flops=float(elements), kv_read_bytes=read, kv_written_bytes=4.0 * elements / PAGE)


def tail(operation: Operation, scene: Scene) -> Work:
    """Of a selected row 2 FLOPs a query head and token, 6 a channel; tables, mean and masses."""
    shape = shape_of_heads(operation, scene)
    contexts = scored_contexts(policy_of(scene.definitions[operation.operands[3].name]), scene)
    rows = len(contexts)
    fixed = tail_bytes(shape) - shape.kv_heads * shape.head_dim * (shape.element + 4 / PAGE)
    return Work(flops=shape.heads * (2.0 * sum(contexts) + 6.0 * rows * shape.head_dim),
                activation_bytes=rows * fixed)  # fmt: skip


def chosen_keys(kvset: Operation, scene: Scene) -> tuple[int, int] | None:
    """Return the (query, key) pairs and the keys of a selected middle, of the ends beside it, or of
    both where they are fetched; None of any other kvset."""
    kind = kvset.attribute("kind")
    if kvset.name == "graph.fetch":  # what is fetched: the middle, and the ends
        parts = [chosen_keys(scene.definitions[value.name], scene) for value in kvset.operands]
        found = [part for part in parts if part is not None]
        return sum(pairs for pairs, _ in found), sum(keys for _, keys in found)
    if kvset.name == "graph.select":
        policy, share = policy_of(kvset), kvset.attribute("expected") or 0.0
        counts = [(queries, _middle(policy, queries, keys, share))
                  for queries, keys in _lengths(scene)]  # fmt: skip
    elif isinstance(kind, Term) and kind.name == "ends":
        sinks, recent, _ = kind.parameters
        forced = int(sinks) + int(recent)  # type: ignore[arg-type]
        counts = [(queries, min(forced, keys)) for queries, keys in _lengths(scene)]
    else:
        return None
    return sum(queries * keys for queries, keys in counts), sum(keys for _, keys in counts)


def _middle(policy: SparsePolicy, queries: int, keys: int, share: float) -> int:
    """Return how many keys between the ends are read: as expected of a decoded token."""
    read = keys if queries != 1 else round(expected_tokens(policy, keys, share))
    return max(0, read - policy.sinks - policy.recent)


def scored_contexts(policy: SparsePolicy, scene: Scene) -> list[int]:
    """Return the contexts of rows whose labels are scored."""
    return [keys for queries, keys in _lengths(scene)
            if queries == 1 and not policy.reads_whole(keys)]  # fmt: skip


def shape_of_heads(operation: Operation, scene: Scene) -> AttentionShape:
    """Return the heads of an operation of attention, and the format of its keys and values."""
    heads, kv_heads, head_dim = (operation[name] for name in ("heads", "kv_heads", "head_dim"))
    return AttentionShape(heads, kv_heads, head_dim, scene.formats.kv)


def _lengths(scene: Scene) -> list[tuple[int, int]]:
    return list(zip(scene.binding.query_lengths, scene.binding.kv_lengths, strict=True))


def policy_of(operation: Operation) -> SparsePolicy:
    """Return the policy of a select."""
    policy = parse_policy(operation["policy"])
    assert policy is not None, "a select has a policy"
    return policy


_BITS = {"bf16": 16, "i8": 8, "i4": 4}
