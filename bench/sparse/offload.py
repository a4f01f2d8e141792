"""Sparse decode with keys in pinned host memory, beside streaming all of them: a stack of layers.

Both run the same products around attention (a layer of an 8 B shape). `streaming` copies each
layer's whole keys and values through two buffers, the next one's while a layer computes, at the
link's full speed. `offloaded` is what `--kv-host-memory` launches: scores, selection, the cache's
kernels; on a stream of their own the rows that are late, beside which the next layer's lists are
made, and the next layer's rows ahead. Queries move by the cosines below, so that the cache and
predictions hit as on the shipped models; `cold` empties caches before a step, and predicts nothing.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from weft.bench.sparse.steps import Setting, SparseStep
from weft.codegen.build_cuda import load_kernels
from weft.compiler.keys_ahead import fetches_ahead
from weft.cost_model.hardware_file import load
from weft.frontend.models.presets import preset
from weft.ir.core import Operation
from weft.options import Options
from weft.passes.tile.gpu_schedules import gpu_schedule
from weft.passes.tile.lowering.fetch import GPU_KEYS, GPU_PARTS
from weft.passes.tile.sparse import key_cache
from weft.passes.tile.sparse.held_attention import HeldParts, held_parts
from weft.passes.tile.sparse.key_cache import COUNTERS, KeyCache
from weft.runtime.attention.sparse_lists import Allocate
from weft.runtime.devices.streams import Stream
from weft.runtime.execution.key_device import CudaKeys, KeyDevice, SimulatedKeys
from weft.runtime.execution.sparse_decode import ahead_share

STEP_COSINE, GUESS_COSINE = 0.93, 0.8
"""Of a layer's query with that of the step before, and with the one predicted for it.

On tiny-dense, 64 tokens behind 2.4 K of zoo/heldout.txt at a ratio of 1/16, with a cache of 2.5
selections, found 70 % of the rows in the cache, 15 % came ahead (half of those were read at once)
and 15 % late. These cosines are to give no more hits: the shares that are reached are printed.
"""
WIDTH, FFN = 4096, 14336
"""The products around attention of an 8 B shape."""
ROOM = 2
"""Rows of the cache, in selections of one step."""
PARTS = 16
"""How often a part of a layer is launched to be timed."""


class OffloadedStep(SparseStep):
    """A stack of layers, whose keys in host memory are the sets of pages of a `SparseStep`; lists
    name tokens, as the cache's books do, so that `setting` loses `pooled`."""

    def __init__(self, setting: Setting, layers: int, folder: Path) -> None:
        setting = replace(setting, pooled=False)
        self.device: KeyDevice = (
            CudaKeys(1 << 40) if setting.device == "cuda" else SimulatedKeys(1 << 40)
        )
        self.layers = layers
        super().__init__(setting, folder, layers)
        s, p = setting.shape, setting.policy
        tiny = setting.device == "cpu"
        cache = KeyCache(s.kv_heads, s.head_dim, s.page, s.kv, True, 64 if tiny else GPU_KEYS,
                         2 if tiny else GPU_PARTS)  # fmt: skip
        copy, rows = key_cache.fetch(cache, cache.parts), key_cache.rows(cache)
        late, ahead = ([key_cache.look(cache, guess), key_cache.free(cache, guess),
                        key_cache.place(cache, guess)] for guess in (False, True))  # fmt: skip
        ahead.append(copy)
        gathers = held_parts(HeldParts(**{**vars(s), "unit": p.unit},
                                       keys_listed=0 if tiny else 128))  # fmt: skip
        *self.choose, _, few, many = self.kernels
        self.late, self.ahead, self.attend = late, ahead, [gathers, few, many]
        self.copy, self.rows = [copy], [rows]
        every = {kernel["name"].name: kernel
                 for kernel in (*self.choose, *late, *ahead, rows, *self.attend)}  # fmt: skip
        schedules = [(kernel, replace(gpu_schedule(kernel, True), chained=False))
                     for kernel in every.values()]  # fmt: skip
        built = load_kernels(schedules, folder, interpreted=tiny)
        self.launch = {name: kernel.launch for name, kernel in built.items()}
        self._caches()

    def _allocate(self) -> Allocate:
        """Selections lie on the device: what chooses keys across a link does not attend to them."""
        return lambda what, size, dtype: torch.zeros(size, dtype=dtype, device=self.setting.device)

    def _memory(self, size: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """Keys and values lie in host memory, reached from the device."""
        bytes_ = torch.Size(size).numel() * dtype.itemsize
        pool = self.device.reached(bytes_).view(dtype).view(size)
        for part in pool.split(1024):
            part.copy_(torch.randn(part.shape, device=self.setting.device))
        return pool

    @property
    def hosted(self) -> list[torch.Tensor]:
        """Keys and values as pinned tensors of the host, which copy engines read."""
        assert isinstance(self.device, CudaKeys)
        pairs = zip(self.device.pinned, (self.k, self.v), strict=True)
        return [buffer.view(pool.dtype)[: pool.numel()].view(pool.shape) for buffer, pool in pairs]

    def _caches(self) -> None:
        s, place = self.setting.shape, self.setting.device
        selection = self.setting.batch * self.setting.policy.budget(self.setting.context)
        rows = -(-ROOM * selection // s.page) * s.page
        k, pages = s.kv_heads, len(self.k)

        def ints(*size: int, value: int = 0) -> torch.Tensor:
            return torch.full(size, value, dtype=torch.int32, device=place)

        self.extents = {"S": pages * s.page, "H": rows, "HP": rows // s.page}
        names = ("victims", "fresh_slot", "fresh_row")
        parts = 2 if place == "cpu" else GPU_PARTS
        scratch = [{n: ints(k, rows) for n in names} | {"fresh": ints(k)}
                   | {n: ints(k, parts) for n in ("spare", "asked")} for _ in "ab"]  # fmt: skip
        self.scratch, self.guess_scratch = scratch
        self.given["rows"] = torch.zeros_like(self.given["chosen"])
        self.guess = {name: torch.zeros_like(self.given[name]) for name in ("chosen", "counts")}
        self.guess["budgets"] = (self.given["budgets"] * share_ahead(self.setting)).ceil().int()
        self.books = []
        for _ in range(self.layers):
            held = (rows // s.page, k, s.page, s.head_dim)
            pools = {n: torch.full(held, torch.nan, dtype=self.k.dtype, device=place)
                     for n in ("held_k", "held_v")}  # fmt: skip
            self.books.append(pools | {
                "row_of": ints(k, pages * s.page, value=-1), "slot_of": ints(k, rows, value=-1),
                "marks": ints(k, rows), "hand": ints(k), "counters": ints(len(COUNTERS)),
            })  # fmt: skip
        shape = (self.layers, *self.q.shape)
        self.queries = torch.zeros(shape, dtype=self.q.dtype, device=place)
        self.guesses = torch.zeros_like(self.queries)

    def empty(self) -> None:
        """Forget what caches hold."""
        for books in self.books:
            books["row_of"].fill_(-1)
            books["slot_of"].fill_(-1)

    def ask(self) -> None:
        """Move the queries on by a step, and predict them."""
        for target, cosine in ((self.queries, STEP_COSINE), (self.guesses, GUESS_COSINE)):
            noise = torch.randn_like(target)
            target.copy_(self.queries * cosine + noise * (1 - cosine**2) ** 0.5)

    def _run(self, kernels: list[Operation], layer: int, **more: Any) -> None:
        given = self.given | self.books[layer] | {"pages": self.tables[layer]} | more
        for kernel in kernels:
            fetches = kernel.attribute("of") == "graph.fetch"  # S is the cache's there
            of = given | (self.extents if fetches else {})
            of["HP"] = self.extents["HP"]
            if kernel is self.attend[0]:
                of["chosen"] = self.given["rows"]
            self.launch[kernel["name"].name](
                *(of[value.name] for value in kernel.regions[0].arguments)
            )

    def decode(self, rest: Callable[[], None], predict: bool = True) -> None:
        """Launch a step of all layers; `rest` stands for what is computed beside attention."""
        up, arrived = self.device.stream("up"), None
        for layer in range(self.layers):
            main = self.device.stream("gpu")
            self._run(self.choose, layer, q=self.queries[layer])
            self._wait(main, arrived)
            self._run(self.late, layer, **self.scratch)
            self._wait(up, main.record())
            with up():
                self._run(self.copy, layer, **self.scratch)
            late, arrived = up.record(), None
            self._run(self.rows, layer)
            if predict and layer + 1 < self.layers:
                self._run(self.choose, layer + 1, q=self.guesses[layer + 1], **self.guess)
                self._wait(up, main.record())
                with up():
                    self._run(self.ahead, layer + 1, **self.guess_scratch, **self.guess)
                arrived = up.record()
            self._wait(main, late)
            self._run(self.attend, layer, q=self.queries[layer])
            rest()

    @staticmethod
    def _wait(stream: Stream, event: Any) -> None:
        if event is not None:
            stream.wait(event)

    def parts(self, rest: Callable[[], None]) -> dict[str, float]:
        """Return the us of what a layer launches beside copies, each alone: the choice of keys, the
        cache's books where all is held, attention, and what is computed beside it."""
        first = {
            "choose": lambda: self._run(self.choose, 0, q=self.queries[0]),
            "books": lambda: self._run([*self.late, *self.copy, *self.rows], 0, **self.scratch),
            "attend": lambda: self._run(self.attend, 0, q=self.queries[0]), "rest": rest,
        }  # fmt: skip
        found = {}
        for name, run in first.items():
            run()

            def many(run: Callable[[], None] = run) -> None:
                for _ in range(PARTS):
                    run()

            found[f"{name}_us"] = 1e6 * timed(recorded(many), lambda: None, 6) / PARTS
        return found

    def wrong(self) -> float:
        """Return |out - exact| / |exact| of the last layer's first row over its list."""
        s, layer = self.setting.shape, self.layers - 1
        found = self.out[0].double().view(s.kv_heads, s.group, s.head_dim)
        first, self.q, self.tables[0] = self.tables[0], self.queries[layer], self.tables[layer]
        exact = torch.stack([self._exact(head) for head in range(s.kv_heads)])
        self.tables[0] = first
        return float((found - exact).norm() / exact.norm())

    def sources(self) -> list[list[torch.Tensor]]:
        """Return as much of host memory as each layer's keys and values take, in order."""
        pages = self.setting.batch * -(-self.setting.context // self.setting.shape.page)
        return [[pool[layer * pages : (layer + 1) * pages] for pool in self.hosted]
                for layer in range(self.layers)]  # fmt: skip

    def link(self) -> float:
        """Return bytes a second of a large copy to the device."""
        pool = self.hosted[0]
        target = torch.empty_like(pool, device=self.setting.device)

        def run() -> None:
            target.copy_(pool, non_blocking=True)

        run()
        return pool.nbytes / timed(run, lambda: None, 6)

    def counted(self) -> dict[str, int]:
        """Return what kernels have counted since the last time."""
        total = torch.stack([books["counters"] for books in self.books]).sum(0).tolist()
        for books in self.books:
            books["counters"].zero_()
        return dict(zip(COUNTERS, total, strict=True))


class Streaming:
    """A stack with all keys and values copied through two buffers, layer by layer: `sources` has
    k and v of each in host memory."""

    def __init__(self, setting: Setting, sources: list[list[torch.Tensor]]) -> None:
        s, dtype = setting.shape, sources[0][0].dtype
        self.sources = sources
        one = (setting.batch, s.kv_heads, setting.context, s.head_dim)
        self.buffers = [[torch.empty(one, dtype=dtype, device=setting.device)
                         for _ in "kv"] for _ in "ab"]  # fmt: skip
        self.q = torch.randn(setting.batch, s.heads, 1, s.head_dim, dtype=dtype,
                             device=setting.device)  # fmt: skip
        self.up = torch.cuda.Stream()
        self.bytes = len(sources) * setting.bytes

    def decode(self, rest: Callable[[], None]) -> None:
        """Launch a step; the keys of layer l + 1 arrive while layer l computes."""
        main = torch.cuda.current_stream()
        self.up.wait_stream(main)
        free: list[Any] = [None, None]
        for layer, source in enumerate(self.sources):
            place = layer % 2
            with torch.cuda.stream(self.up):
                if free[place] is not None:
                    self.up.wait_event(free[place])
                for target, pool in zip(self.buffers[place], source, strict=True):
                    target.view(-1).copy_(pool.view(-1), non_blocking=True)
                arrived = self.up.record_event()
            main.wait_event(arrived)
            k, v = self.buffers[place]
            torch.nn.functional.scaled_dot_product_attention(self.q, k, v, enable_gqa=True)
            rest()
            free[place] = main.record_event()


def products(device: str) -> Callable[[], None]:
    """Return a layer's matrix products for one token, in bf16."""
    if device != "cuda":
        return lambda: None
    sizes = ((WIDTH, WIDTH + 2048), (WIDTH, WIDTH), (WIDTH, 2 * FFN), (FFN, WIDTH))
    weights = [torch.randn(size, dtype=torch.bfloat16, device=device) / 64 for size in sizes]
    inputs = [torch.randn(1, size[0], dtype=torch.bfloat16, device=device) for size in sizes]

    def rest() -> None:
        for x, w in zip(inputs, weights, strict=True):
            torch.mm(x, w)

    return rest


def share_ahead(setting: Setting) -> float:
    """Return the share of what is predicted that is fetched ahead while a layer's weights are read,
    at the rates of `cost_model/hardware/h200.json`."""
    machine, s = load("h200"), setting.shape
    weights = 2 * WIDTH * (2 * WIDTH + 2048 + 3 * FFN)
    link = machine.link("cpu", "gpu").bandwidth.median
    window = weights / machine.level().main.read.median * link / (s.kv_heads * setting.row_bytes)
    selected = setting.batch * setting.policy.budget(setting.context)
    return 1.0 if setting.device == "cpu" else ahead_share(window, selected)


def timed(run: Callable[[], None], before: Callable[[], None], steps: int) -> float:
    """Return the median seconds of a step on the GPU, `before` not counted."""
    times = []
    for _ in range(steps):
        before()
        first, end = (torch.cuda.Event(enable_timing=True) for _ in "fe")
        torch.cuda.synchronize()
        first.record()
        run()
        end.record()
        torch.cuda.synchronize()
        times.append(first.elapsed_time(end) / 1e3)
    return statistics.median(times[1:])


def recorded(run: Callable[[], None]) -> Callable[[], None]:
    """Return the replay of a CUDA graph of a step that has run before."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay


def offload(folder: Path, tiny: bool, layers: int = 4, steps: int = 12) -> dict[str, Any]:
    """A step of some layers over one sequence of 256 K; and the batch that fits."""
    amounts = {"k": 16} if tiny else {"ratio": 1 / 16, "labels": "i4", "channels": 32}
    setting = Setting.of(64 if tiny else 1 << 18, 1, amounts, tiny)
    step = OffloadedStep(setting, 2 if tiny else layers, folder)
    rest = products(setting.device)
    found: dict[str, Any] = {}
    for _ in range(2):
        step.ask()
        step.decode(rest)
    found["error"] = step.wrong()
    assert found["error"] < 2e-2, "attention over the cache is not that over host memory"
    step.counted()
    if tiny:
        for _ in range(2):
            step.ask()
            step.decode(rest)
        return {"offload_tiny": found | {"traffic": step.counted()}}
    link = step.link()
    torch.cuda.synchronize()
    run = recorded(lambda: step.decode(rest))
    found["us"] = 1e6 * timed(run, step.ask, steps)
    counts = step.counted()
    found["held"] = counts["held"] / counts["wanted"]
    found["predicted"] = counts["predicted"] / counts["wanted"]
    found["brought"] = counts["brought"] / counts["wanted"]
    moved = (counts["wanted"] - counts["held"] + counts["brought"]) * setting.row_bytes / steps
    found |= {"moved_mb": moved / 1e6, "moved_of_link": moved / (found["us"] / 1e6) / link}
    unpredicted = recorded(lambda: step.decode(rest, predict=False))
    found["unpredicted_us"] = 1e6 * timed(unpredicted, step.ask, steps)

    def emptied() -> None:
        step.empty()
        step.ask()

    found["cold_us"] = 1e6 * timed(unpredicted, emptied, steps)
    found |= step.parts(rest)
    stream = Streaming(setting, step.sources())
    stream.decode(rest)
    found["streaming_us"] = 1e6 * timed(lambda: stream.decode(rest), lambda: None, 6)
    found |= {"link_gbs": link / 1e9,
              "streaming_of_link": stream.bytes / (found["streaming_us"] / 1e6) / link}  # fmt: skip
    found["cold_speedup"] = found["streaming_us"] / found["cold_us"]
    found["fetched_ahead"] = fetched_ahead(setting)
    step_us = found["us"] if found["fetched_ahead"] else found["unpredicted_us"]
    return {"offload_256k": found, "offload_256k_speedup": found["streaming_us"] / step_us} | fits()


def fetched_ahead(setting: Setting) -> bool:
    """Return whether an executor of the 8 B shape would fetch keys ahead here, unasked: what it
    would do is what is compared with streaming."""
    config = replace(preset("llama-8b"), context_length=setting.context)
    options = Options.from_env().changed(target="cuda", weights="bf16", kv_host_memory=1 << 40)
    price = fetches_ahead(config, options, setting.policy, "h200")
    return price is None or price.pays


def fits(memory: int = 0, host: int = 0) -> dict[str, Any]:
    """Return how many sequences of 256 K of an 8 B model fit, by bytes: read whole, sparse, and
    with keys in host memory, of which there may be too little here."""
    import os

    from weft.frontend.models.presets import preset
    from weft.ir.sparse.policy import SparsePolicy
    from weft.runtime.execution.key_room import KeyCosts

    config, policy = preset("llama-8b"), SparsePolicy(ratio=1 / 16, channels=32)
    memory = memory or torch.cuda.get_device_properties(0).total_memory
    host = host or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    free = memory - (18 << 30)  # weights of bf16, activations, libraries
    costs, pages = KeyCosts.of(config, policy, 64, 2), (1 << 18) // 64
    keys = pages * costs.host_page
    labels = (1 << 18) * policy.label_bytes(config.head_dim) * config.kv_heads * config.layers
    each = pages * costs.device_page + ROOM * policy.budget(1 << 18) * costs.row
    found = {"whole": free // keys, "sparse": free // (keys + labels), "offloaded": free // each}
    found["host_memory_here"] = host * 9 // 10 // keys
    return {"offload_256k_batch": found}
