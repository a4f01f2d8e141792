"""Attention of prompts on a GPU: tiles of their own, beside the parts that they were before and
the vendor's kernels over contiguous keys, in the same run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch.nn.attention import sdpa_kernel
from weft.bench.gpu.attention import LISTS, Pools, graph_seconds
from weft.bench.gpu.compile_ahead import compile_ahead
from weft.bench.gpu.vendor import BACKENDS
from weft.codegen.triton.emit import emit
from weft.codegen.triton.load import load_launcher
from weft.compiler.attention_ways import planner_shape
from weft.ir.core import Operation
from weft.ir.schedule import Schedule
from weft.passes.tile.attention import prompts as tiled
from weft.passes.tile.attention.parts import MANY, Parts
from weft.passes.tile.attention.ways import WAVES, launches, long_prompts, prompts, tuned
from weft.passes.tile.gpu_schedules import gpu_schedule
from weft.runtime.attention.plan import Batch, plan
from weft.runtime.attention.prompt_tiles import long_tiles, prompt_tiles
from weft.runtime.attention.ways import RATES

CASES = {"16x512": (0, [512] * 16), "32x511+1": (1, [511] * 32), "8x1024": (0, [1024] * 8),
         "1x8192": (0, [8192]), "128x32+1024": (1024, [32] * 128),
         "ragged": (1, [37, 511, 1200, 64, 800, 20, 17, 300] * 4)}  # fmt: skip
"""Keys that are cached for all, and new tokens of each."""


@dataclass
class Prompts:
    """A step of prompts over pages in any order; the first pages are shared."""

    shape: Parts
    prefix: int
    counts: list[int]

    def __post_init__(self) -> None:
        s, lengths = self.shape, np.array(self.counts) + self.prefix
        pages, shared = -(-lengths // s.page), self.prefix // s.page
        own = int((pages - shared).sum())
        order = np.random.default_rng(0).permutation(shared + own).astype(np.int32)
        table = np.zeros((len(lengths), int(pages.max())), np.int32)
        table[:, :shared] = order[:shared]
        inside = np.arange(table.shape[1]) >= shared
        table[inside & (np.arange(table.shape[1]) < pages[:, None])] = order[shared:]
        starts = np.concatenate([[0], np.cumsum(self.counts)])
        self.batch = Batch(table, lengths, starts)
        self.pools = Pools.random(shared + own, s)
        self.pages = _moved(table.ravel())
        width = s.heads * s.head_dim
        self.q = torch.randn(int(starts[-1]), width, dtype=torch.bfloat16, device="cuda")
        self.out = torch.full_like(self.q, torch.nan)

    @property
    def flops(self) -> float:
        """Operations of both products over the keys that rows see."""
        seen = sum(n * (self.prefix + (n + 1) / 2) for n in self.counts)
        return 4.0 * self.shape.heads * self.shape.head_dim * seen

    @property
    def long(self) -> bool:
        """Whether the engine reads them by the tiles of long prompts."""
        tiles = long_tiles(self.batch, planner_shape(self.shape))
        return tiles is not None and long_prompts(self.shape) is not None

    def tiles(self, launch: Callable[..., Any]) -> Callable[[], Any]:
        """Return the launch over tiles of prompts, long ones if they are `long`."""
        usual = planner_shape(self.shape)
        found = long_tiles(self.batch, usual) if self.long else prompt_tiles(self.batch, usual)
        assert found is not None and found.taken.all()
        lists = [_moved(getattr(found, name)) for name in tiled.LISTS]
        extents = (len(self.q), len(self.pools.k), len(lists[0]), len(self.pages))
        given = (self.q, *lists, self.pages, self.pools.k, self.pools.v, self.out)
        return lambda: launch(*extents, *given)

    def parts(self, launch: Callable[..., Any]) -> Callable[[], Any]:
        """Return the launch over a list of parts, each sequence by itself."""
        whole = int(self.batch.lengths.max()) + self.shape.page
        shape = planner_shape(self.shape)
        work = plan(self.batch, shape, RATES["large"], cascade=False, chunk=whole)
        lists = [_moved(getattr(work, name)) for name in LISTS]
        heads = self.shape.heads
        states = [torch.zeros(1, heads, *rest, device="cuda") for rest in ((), (), (128,))]
        extents = (len(self.q), len(self.pools.k), len(lists[0]), len(lists[5]), len(self.pages), 1,
                   len(lists[0]))  # fmt: skip
        given = (self.q, *lists, self.pages, self.pools.k, self.pools.v, self.out, *states)
        return lambda: launch(*extents, *given)

    def vendors(self) -> dict[str, float]:
        """Return seconds of torch over contiguous keys, by peer: of prompts of one length only, and
        without a prefix, which no mask of theirs aligns."""
        if self.prefix > 1 or len(set(self.counts)) > 1:
            return {}
        s, count, times = self.shape, self.counts[0] + self.prefix, {}
        q, k, v = (torch.randn(len(self.counts), count, heads, s.head_dim, dtype=torch.bfloat16,
                               device="cuda").transpose(1, 2)
                   for heads in (s.heads, s.kv_heads, s.kv_heads))  # fmt: skip

        def run() -> Any:
            return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)

        for name, backend in BACKENDS.items():
            with sdpa_kernel(backend):
                run()
                times[name] = graph_seconds([run], 4, 6)
        return times


def prompts_figures(shape: Parts, folder: Path) -> dict[str, Any]:
    """Return, by case, microseconds of ours (tiles, and parts as before) and of the vendors'."""
    shape = tuned(shape, shared=True)
    usual, long = prompts(shape), long_prompts(shape)
    parts_of_many = next(k for k in launches(shape, WAVES + 1) if k["items"] == MANY)
    kernels = [usual, parts_of_many, usual if long is None else long]
    pairs: list[tuple[Operation, Schedule]] = [(kernel, gpu_schedule(kernel)) for kernel in kernels]
    compile_ahead(pairs, folder)
    tiles, parts, long_tiles = (load_launcher(emit(*pair), folder) for pair in pairs)
    figures: dict[str, Any] = {}
    for name, (prefix, counts) in CASES.items():
        step = Prompts(shape, prefix, counts)
        times = {"tiles": graph_seconds([step.tiles(long_tiles if step.long else tiles)], 4, 6)}
        assert not step.out.isnan().any()
        times["parts"] = graph_seconds([step.parts(parts)], 4, 6)
        times |= step.vendors()
        rate = step.flops / times["tiles"] / 1e12
        told = ", ".join(f"{peer} {1e6 * each:.1f} us" for peer, each in times.items())
        print(f"  {name}: {told}; tiles {rate:.0f} TFLOP/s", flush=True)
        figures[f"prompts_{name}"] = {peer: 1e6 * each for peer, each in times.items()}
        figures[f"prompts_{name}"]["tflops"] = rate
    return figures


def _moved(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, np.int32)).cuda()
