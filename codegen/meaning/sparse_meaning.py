"""The meaning of the sparse algebra, operation by operation: of a graph that passes rewrote,
where `codegen.meaning.sparse_decode_reference` is that of the graph before.

Keys and queries stay in the model's order of channels, whatever `ordered` says: no score differs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...ir.core import Operation, Term
from ...ir.sparse.calibration import AttentionCalibration
from ...ir.sparse.policy import SparsePolicy, parse_policy
from .graph_reference import GraphRun, Kvset, State, meaning_of, state_of
from .sparse_reference import (
    forced_tokens,
    head_scores,
    permuted,
    select,
    tail_base,
    tail_of,
)


@dataclass(frozen=True)
class Some:
    """Some keys of a kvset: of each sequence which [K, T, S], bool, and of a select which it reads
    with the ends [K, T, S], its label scores [H, T, S] (None where all is read), and its policy."""

    kvset: Kvset
    seen: list[Tensor]
    read: list[Tensor]
    labels: list[Tensor | None]
    policy: SparsePolicy | None = None


@dataclass(frozen=True)
class SparseMeaning:
    """Gives meanings to a GraphRun; `calibration` is the model's."""

    calibration: AttentionCalibration

    @property
    def meanings(self) -> dict[str, Callable[..., Any]]:
        """Return the meanings by operation, for `GraphRun.meanings`."""
        return {
            "graph.label_write": _nothing, "graph.value_sums": _nothing, "graph.kvset": _kvset,
            "graph.select": self._select, "graph.partial": _partial, "graph.tail": self._tail,
        }  # fmt: skip

    def _select(
        self, run: GraphRun, operation: Operation, q: Tensor, starts: Tensor, kvset: Kvset
    ) -> Some:
        policy = parse_policy(operation["policy"])
        assert policy is not None
        ends = policy.sinks, policy.recent, policy.unit
        heads, found = self.calibration.layers[kvset.layer], Some(kvset, [], [], [], policy)
        for queries, at, k, _ in _sequences(run, operation, q, starts, kvset):
            seen, forced = forced_tokens(k.shape[0], at, ends, run.page_size)
            read, labels = seen.expand(len(heads), *seen.shape), None
            if len(at) == 1:
                labels = head_scores(permuted(queries, heads), permuted(k, heads), heads, policy,
                                     operation["scale"])  # fmt: skip
                by_kv_head = labels.unflatten(0, (len(heads), -1)).amax(1)
                read = select(by_kv_head, at, policy, run.page_size)
            found.seen.append(read & ~forced)
            found.read.append(read)
            found.labels.append(labels)
        return found

    def _tail(
        self, run: GraphRun, operation: Operation, q: Tensor, starts: Tensor, kvset: Kvset,
        selected: Some,
    ) -> State:  # fmt: skip
        """What a select left out; of sequences that are read whole, nothing."""
        heads, parts, policy = self.calibration.layers[kvset.layer], [], selected.policy
        assert policy is not None
        channels = policy.label_channels(operation["head_dim"])
        for number, (queries, at, k, v) in enumerate(_sequences(run, operation, q, starts, kvset)):
            labels, read = selected.labels[number], selected.read[number]
            group = queries.shape[1] // len(heads)
            read, v = read.repeat_interleave(group, 0), v.repeat_interleave(group, 1)
            rest = torch.full((*queries.shape[1::-1], k.shape[0]), -torch.inf, dtype=q.dtype)
            value = torch.zeros_like(queries)
            if labels is not None:
                base = tail_base(permuted(queries, heads), heads, channels, operation["scale"])
                weights = labels + base[..., None]
                rest, value = tail_of(weights, read, v, at, run.page_size)
            top = rest.amax(-1)
            mass = torch.exp(rest - top.clamp_min(-1e30)[..., None]).sum(-1).T
            parts.append((top.T, mass, mass[..., None] * value))
        return State(*(torch.cat(pieces) for pieces in zip(*parts, strict=True)))


def _nothing(run: GraphRun, operation: Operation, *operands: Tensor) -> tuple[()]:
    """Labels and sums are made when they are asked for."""
    return ()


def _kvset(
    run: GraphRun, operation: Operation, table: Tensor, lengths: Tensor
) -> Kvset | tuple[Kvset, Term]:
    """A kvset as it is, with its kind where that says that only the ends count."""
    kvset, kind = (
        meaning_of("graph.kvset")(run, operation, table, lengths),
        operation.attribute("kind"),
    )
    return (kvset, kind) if isinstance(kind, Term) and kind.name == "ends" else kvset


def _partial(
    run: GraphRun, operation: Operation, q: Tensor, starts: Tensor,
    kvset: Kvset | Some | tuple[Kvset, Term],
) -> State:  # fmt: skip
    if isinstance(kvset, Kvset):
        return meaning_of("graph.partial")(run, operation, q, starts, kvset)
    of = kvset.kvset if isinstance(kvset, Some) else kvset[0]
    parts = []
    for number, (queries, at, k, v) in enumerate(_sequences(run, operation, q, starts, of)):
        if isinstance(kvset, Some):
            seen = kvset.seen[number]
        else:
            sinks, recent, unit = kvset[1].parameters
            ends = int(sinks), int(recent), unit.name  # type: ignore[arg-type, union-attr]
            seen = forced_tokens(k.shape[0], at, ends, run.page_size)[1].expand(k.shape[1], -1, -1)
        group = queries.shape[1] // k.shape[1]
        k, v, seen = (x.repeat_interleave(group, axis) for x, axis in ((k, 1), (v, 1), (seen, 0)))
        scores = torch.einsum("thc,shc->hts", queries * operation["scale"], k)
        parts.append(state_of(scores.masked_fill(~seen, -torch.inf), v))
    return State(*(torch.cat(pieces) for pieces in zip(*parts, strict=True)))


def _sequences(
    run: GraphRun, operation: Operation, q: Tensor, starts: Tensor, kvset: Kvset
) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Yield of each sequence q [T, H, C], positions [T], and k, v [S, K, C]."""
    q = q.unflatten(-1, (operation["heads"], operation["head_dim"]))
    shape = (operation["kv_heads"], operation["head_dim"])
    edges = starts.tolist()
    for number, (low, high) in enumerate(zip(edges[:-1], edges[1:], strict=True)):
        slots, length = kvset.slots[number], kvset.lengths[number]
        k, v = (cache[kvset.layer][slots].unflatten(-1, shape) for cache in (run.keys, run.values))
        yield q[low:high], torch.arange(length - (high - low), length), k, v
