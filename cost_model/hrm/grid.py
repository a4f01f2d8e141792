"""The batches that a search tries: sizes, micro-batches, prefill groups, places of attention."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import ceil

from .memory import Batch
from .shape import MoeShape, Workload

MICRO_BATCHES = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
PREFILL_TOKENS = (128, 512, 1024, 4096, 8192, 16384, 32768, 65536)
MOST_PARTS = 64
"""Micro-batches that a batch of a given size is divided into at the most."""
PAGE_TARGET = float(96 << 20)
"""Bytes that a page should not exceed by much: small enough to let hidden states pass between."""


@dataclass(frozen=True)
class Grid:
    """What is tried. `most` bounds N; with `pages_per_expert` 0 whole experts are tried, and slices
    down to the size of a page that lets hidden states pass between.

    With `exact` N is that, in any number of micro-batches; `parts` is their number (0: any).
    """

    micro_batches: Sequence[int] = MICRO_BATCHES
    prefill_tokens: Sequence[int] = PREFILL_TOKENS
    attention: Sequence[str] = ("cpu", "gpu")
    kv_gpu: Sequence[float] = (0.0, 0.5, 1.0)
    cpu_experts: Sequence[bool] = (False, True)
    most: int = 16384
    pages_per_expert: int = 0
    lead: int = 2
    exact: int = 0
    parts: int = 0

    def slices(self, shape: MoeShape) -> tuple[int, ...]:
        """Return the pages of an expert that are tried, the fewest first: divisors of its width, up
        to the fewest that keep a page small enough."""
        if self.pages_per_expert:
            return (self.pages_per_expert,)
        wanted = max(1, round(shape.expert_bytes / PAGE_TARGET))
        finest = next(n for n in range(wanted, shape.ffn + 1) if shape.ffn % n == 0)
        return tuple(n for n in range(1, finest + 1) if shape.ffn % n == 0)

    def families(self, shape: MoeShape, workload: Workload, memory: float) -> Iterator[Batch]:
        """Yield batches whose keys and values fit `memory` bytes, their prefill group left open."""
        cache = shape.kv_token_bytes * shape.layers * workload.held_context
        most = max(1, int(min(self.most, memory / cache)))
        for slices in self.slices(shape):
            yield from self._divided(slices) if self.exact else self._free(slices, most)

    def _free(self, slices: int, most: int) -> Iterator[Batch]:
        """Yield batches of up to `most` sequences."""
        for micro_batch in self._sizes(most):
            for number in counts_up_to(most // micro_batch):
                base = Batch(micro_batch * number, micro_batch, "cpu", 0, slices, self.lead)
                for cpu_experts in self.cpu_experts:
                    yield from self._placed(replace(base, cpu_experts=cpu_experts))

    def _divided(self, slices: int) -> Iterator[Batch]:
        """Yield one batch in as many micro-batches as are asked for, or in one to MOST_PARTS."""
        parts = (self.parts,) if self.parts else counts_up_to(min(self.exact, MOST_PARTS))
        for size in dict.fromkeys(-(-self.exact // min(count, self.exact)) for count in parts):
            base = Batch(self.exact, size, "cpu", 0, slices, self.lead)
            for cpu_experts in self.cpu_experts:
                yield from self._placed(replace(base, cpu_experts=cpu_experts))

    def _sizes(self, most: int) -> list[int]:
        """Return the micro-batches up to `most`, and the largest batch in one to four of them."""
        parts = {-(-most // count) for count in range(1, 5)}
        usual = {size for size in self.micro_batches if size <= most}
        return sorted(usual | {part for part in parts if part <= max(self.micro_batches)})

    def _placed(self, batch: Batch) -> Iterator[Batch]:
        if "cpu" in self.attention:
            yield batch
        if "gpu" in self.attention:
            yield from (replace(batch, attention="gpu", kv_gpu=share) for share in self.kv_gpu)

    def members(self, family: Batch, workload: Workload) -> list[Batch]:
        """Return a family's batches: each prefill group up to the first that holds all prompts.

        Where prompts are read beside decode, a step has room for as many as come.
        """
        return [_member(family, workload, size) for size in self._groups(family, workload)]

    def ends(self, family: Batch, workload: Workload) -> tuple[Batch, Batch]:
        """Return the first and the last of a family's batches."""
        groups = self._groups(family, workload)
        return _member(family, workload, groups[0]), _member(family, workload, groups[-1])

    def _groups(self, family: Batch, workload: Workload) -> list[int]:
        if workload.overlap:
            return [ceil(family.batch * workload.beside)]
        sizes, prompts = sorted(self.prefill_tokens), family.batch * workload.prompt
        enough = sum(size < prompts for size in sizes)
        return sizes[: enough + 1]


def _member(family: Batch, workload: Workload, group: int) -> Batch:
    return replace(family, prefill_tokens=group, overlap=workload.overlap or family.overlap)


def counts_up_to(most: int) -> Iterator[int]:
    """Yield 1 to 16, then steps of a twelfth, and `most` itself."""
    number = 1
    while number < most:
        yield number
        number += max(1, number // 12)
    yield most
