"""Sparse decode whose keys and values lie in host memory: the device has labels and a cache.

A simulation, in torch, of what a GPU does: rows of k and v are read through a cache with a budget
of rows a layer and key head, and only from there. Before a layer runs, what the *predicted* query
selects has been copied: that of the step before, of the same layer. What is then really selected
and not there is copied at once, so a wrong prediction costs time and changes nothing. The current
token's row never leaves the device before attention has read it, and is always read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ..ir.core import Operation
from .graph_reference import GraphRun, Kvset, state_of
from .sparse_decode_reference import DecodeAttention
from .sparse_reference import label_scores, permuted, select


class Rows(Protocol):
    """What holds rows on the device: `runtime.row_cache.RowCache` is one."""

    def fetch(self, slots: np.ndarray) -> Any:
        """Return places of rows, and which are missing."""
        ...

    def forget(self, slots: np.ndarray) -> None:
        """Drop rows."""
        ...


@dataclass
class LinkTraffic:
    """Rows (k and v of a token and key head) over the link, and those that streaming would copy."""

    prefetched: int = 0
    late: int = 0
    read: int = 0
    streamed: int = 0

    @property
    def ratio(self) -> float:
        """How many times fewer rows than by streaming everything."""
        return self.streamed / max(1, self.prefetched + self.late)


@dataclass
class _Device:
    """One key head's cache: which rows, and their keys and values [budget, C]."""

    rows: Rows
    k: Tensor
    v: Tensor


@dataclass
class OffloadedAttention(DecodeAttention):
    """Attends through caches that `make_rows(budget)` makes; give it to a GraphRun as `attend`."""

    make_rows: Callable[[int], Rows] | None = None
    budget: int = 0
    prefetch: bool = True
    traffic: LinkTraffic = field(default_factory=LinkTraffic)
    _devices: dict[tuple[int, int], _Device] = field(default_factory=dict)
    _queries: dict[tuple[int, int], Tensor] = field(default_factory=dict)

    def forget(self, slots: np.ndarray) -> None:
        """Drop the rows of slots that have been written anew, in all layers."""
        for device in self._devices.values():
            device.rows.forget(slots)

    def _sequence(
        self, run: GraphRun, operation: Operation, q: Tensor, kvset: Kvset, number: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        layer, slots = kvset.layer, kvset.slots[number]
        for (of, _), device in self._devices.items():
            if of == layer:
                device.rows.forget(slots[-q.shape[0] :].numpy())
        if q.shape[0] != 1 or (self.whole and self.whole[number]):
            return super()._sequence(run, operation, q, kvset, number)
        kv_heads, width = operation["kv_heads"], operation["head_dim"]
        at, scale, first = torch.tensor([len(slots) - 1]), operation["scale"], int(slots[0])
        host = run.keys[layer][slots].unflatten(-1, (kv_heads, width))
        self._prefetch(run, layer, host, slots, at, scale, first)
        self._queries[layer, first] = q
        read = self._selected(q, host, layer, at, scale, run.page_size)
        self._count(layer, read, at, None)
        group, parts = q.shape[1] // kv_heads, []
        for head in range(kv_heads):
            k, v = self._rows(run, layer, head, slots, read[head, 0], width)
            own = q[:, head * group : (head + 1) * group] * scale
            scores = torch.einsum("tgc,sc->gts", own, k)
            parts.append(state_of(scores, v[:, None].expand(-1, group, -1)))
        top, total, acc = (torch.cat(pieces, dim=1) for pieces in zip(*parts, strict=True))
        return top, total, acc

    def _selected(
        self, q: Tensor, host: Tensor, layer: int, at: Tensor, scale: float, page: int
    ) -> Tensor:
        """Return which tokens a query reads [K, 1, S]; of keys only labels are looked at."""
        heads = self.calibration.layers[layer]
        ordered = permuted(q, heads), permuted(host, heads)
        scores = label_scores(*ordered, heads, self.policy, scale)
        return select(scores, at, self.policy, page)

    def _prefetch(
        self, run: GraphRun, layer: int, host: Tensor, slots: Tensor, at: Tensor, scale: float,
        first: int,
    ) -> None:  # fmt: skip
        """Copy what the query of the step before selects; by then its scores are known."""
        q = self._queries.get((layer, first))
        if q is None or not self.prefetch:
            return
        read = self._selected(q, host, layer, at, scale, run.page_size)
        for head in range(read.shape[0]):
            before = self.traffic.late
            self._rows(run, layer, head, slots, read[head, 0], host.shape[-1], counted=False)
            self.traffic.prefetched += self.traffic.late - before
            self.traffic.late = before

    def _rows(
        self, run: GraphRun, layer: int, head: int, slots: Tensor, read: Tensor, width: int,
        counted: bool = True,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Return keys and values of the tokens that are read: the current one's from the device,
        all others through the cache."""
        columns = slice(head * width, (head + 1) * width)
        wanted = slots[:-1][read[:-1]]
        device = self._devices.setdefault((layer, head), self._empty(width, run.dtype))
        found = device.rows.fetch(wanted.numpy())
        places, missing = torch.from_numpy(found.places), torch.from_numpy(found.missing)
        for rows, pool in ((device.k, run.keys), (device.v, run.values)):
            rows[places[missing]] = pool[layer][wanted[missing], columns]
        self.traffic.late += int(missing.sum())
        if counted:
            self.traffic.read += len(wanted) + 1
            self.traffic.streamed += len(slots)
        own = slots[-1:]
        return tuple(
            torch.cat([rows[places], pool[layer][own, columns]])
            for rows, pool in ((device.k, run.keys), (device.v, run.values))
        )  # type: ignore[return-value]

    def _empty(self, width: int, dtype: torch.dtype) -> _Device:
        assert self.make_rows is not None
        blank = torch.full((self.budget, width), torch.nan, dtype=dtype)
        return _Device(self.make_rows(self.budget), blank, blank.clone())
