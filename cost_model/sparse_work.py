"""The work of sparse attention's operations: labels written, labels scored, keys chosen."""

from __future__ import annotations

from ..ir.core import Operation, Term
from ..ir.sparse import SparsePolicy, parse_policy
from ..ir.types import DTYPE_BYTES
from .scene import Scene, Work


def label_write(operation: Operation, scene: Scene) -> Work:
    """r channels of each new key of a head read, and its label written."""
    tokens, heads = scene.rows(operation.operands[0]), operation["kv_heads"]
    channels, bits = operation["channels"], _BITS[operation["format"]]
    return Work(
        flops=3.0 * tokens * heads * channels,
        activation_bytes=float(tokens * heads * channels * DTYPE_BYTES[scene.formats.kv]),
        kv_written_bytes=tokens * heads * channels * bits / 8,
    )


def select(operation: Operation, scene: Scene) -> Work:
    """2 r FLOPs a query head and token of context; each label once; a score written, and read in
    four passes."""
    policy = _policy(operation)
    channels = policy.label_channels(operation["head_dim"])
    tokens = sum(
        keys for queries, keys in _lengths(scene) if queries == 1 and not policy.reads_whole(keys)
    )
    heads = operation["kv_heads"]
    return Work(
        flops=2.0 * channels * operation["heads"] * tokens + 4.0 * heads * tokens,
        activation_bytes=4.0 * 5 * heads * tokens,
        kv_read_bytes=float(heads * tokens * policy.label_bytes(operation["head_dim"])),
    )


def chosen_keys(kvset: Operation, scene: Scene) -> tuple[int, int] | None:
    """Return the (query, key) pairs and the keys of a selected middle, or of the ends beside it;
    None of any other kvset."""
    kind = kvset.attribute("kind")
    if kvset.name == "graph.select":
        policy = _policy(kvset)
        counts = [(queries, _middle(policy, queries, keys)) for queries, keys in _lengths(scene)]
    elif isinstance(kind, Term) and kind.name == "ends":
        sinks, recent, _ = kind.parameters
        forced = int(sinks) + int(recent)  # type: ignore[arg-type]
        counts = [(queries, min(forced, keys)) for queries, keys in _lengths(scene)]
    else:
        return None
    return sum(queries * keys for queries, keys in counts), sum(keys for _, keys in counts)


def _middle(policy: SparsePolicy, queries: int, keys: int) -> int:
    """Return how many keys between the ends are read: the policy's cap of a decoded token."""
    whole = queries != 1 or policy.reads_whole(keys)
    return max(0, (keys if whole else policy.budget(keys)) - policy.sinks - policy.recent)


def _lengths(scene: Scene) -> list[tuple[int, int]]:
    return list(zip(scene.binding.query_lengths, scene.binding.kv_lengths, strict=True))


def _policy(operation: Operation) -> SparsePolicy:
    policy = parse_policy(operation["policy"])
    assert policy is not None, "a select has a policy"
    return policy


_BITS = {"bf16": 16, "i8": 8, "i4": 4}
