"""One layer's steps of sparse decode attention over random pages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from weft.bench.gpu.attention import COLD, SETTLED, Sequences, copy_rate, graph_seconds
from weft.codegen.build_cuda import load_kernels
from weft.compiler.attention_ways import planner_shape
from weft.ir.core import Operation
from weft.ir.schedule import Schedule
from weft.ir.sparse.calibration import LEVELS
from weft.ir.sparse.policy import SparsePolicy
from weft.passes.tile.attention.parts import Parts
from weft.passes.tile.attention.ways import tuned
from weft.passes.tile.gpu_schedules import gpu_schedule
from weft.passes.tile.lowering.sparse import (
    list_joins,
    listed_keys,
    lists_slots,
    selection_on_gpu,
)
from weft.passes.tile.selection.labels import Labels
from weft.passes.tile.selection.word_labels import QUERY
from weft.passes.tile.sparse.sparse_parts import SparseParts, sparse_parts
from weft.runtime.attention.plan import Batch, Rates
from weft.runtime.attention.sparse_lists import Allocate, SparseLists, SparseRows
from weft.runtime.execution.sparse_decode import LABEL_DTYPES, SparseDecode


@dataclass(frozen=True)
class Setting:
    """One layer's shape, a policy, and a batch of sequences of one length, of which the first
    `shared` tokens are the same; `grouped`: labels of these are scored once for several; `pooled`:
    keys are read from the pools where they lie, so that lists may say where."""

    shape: Parts
    policy: SparsePolicy
    context: int
    batch: int
    device: str = "cuda"
    shared: int = 0
    grouped: bool = True
    pooled: bool = True

    @staticmethod
    def of(
        context: int,
        batch: int,
        amounts: dict[str, Any],
        tiny: bool,
        heads: tuple[int, int] = (32, 8),
    ) -> Setting:
        """Return a setting of an 8 B shape, or a tiny one for the interpreter (f32, labels i8)."""
        if tiny:
            shape = Parts(4, 2, 16, page=16, q="f32", kv="f32", few=16, many=0, keys=16)
            few = {"labels": "i8", "channels": 4, "sinks": 2, "recent": 4, "min_context": 0}
            return Setting(shape, SparsePolicy(**(amounts | few)), context, batch, "cpu")
        shape = tuned(Parts(*heads, 128, page=64), shared=False)
        return Setting(shape, SparsePolicy(**amounts), context, batch)

    @property
    def labels(self) -> Labels:
        """The shape of the layer's labels."""
        s = self.shape
        channels = self.policy.label_channels(s.head_dim)
        return Labels(s.kv_heads, s.head_dim, s.page, channels, self.policy.labels, s.kv)

    @property
    def slots(self) -> bool:
        """Whether lists say where keys lie, not which tokens they are of."""
        return self.pooled and lists_slots(self.policy, self.shape.head_dim)

    @property
    def kernels(self) -> list[tuple[Operation, Schedule]]:
        """The launches of a step, in order, with their schedules."""
        s, p, few = self.shape, self.policy, self.device == "cpu"
        slots = self.slots
        chooses, scored = selection_on_gpu(p, self.labels, s.heads, s.head_dim**-0.5, s.q,
                                           64 if few else 1024, slots)  # fmt: skip
        listed = listed_keys(scored, slots)
        gathers = SparseParts(**{**vars(s), "unit": p.unit}, tail=scored if scored.tail else None,
                              keys_listed=0 if few else listed, slots=slots)  # fmt: skip
        every = [*chooses, sparse_parts(gathers), *list_joins(s)]
        return [(kernel, gpu_schedule(kernel, True)) for kernel in every]

    @property
    def row_bytes(self) -> int:
        """Bytes of a token's key and value of one key head."""
        return 2 * self.shape.head_dim * (2 if self.shape.kv == "bf16" else 4)

    @property
    def bytes(self) -> int:
        """Bytes of all keys and values."""
        return self.batch * self.context * self.shape.kv_heads * self.row_bytes

    @property
    def bound(self) -> float:
        """How many times fewer bytes: of labels and chosen rows, against all rows."""
        label = self.policy.label_bytes(self.shape.head_dim) / self.row_bytes
        return 1 / (label + self.policy.budget(self.context) / self.context)


class SparseStep:
    """Launches of one layer's sparse decode over sets of pages in turn."""

    def __init__(self, setting: Setting, folder: Path, sets: int = 0) -> None:
        self.setting, s, device = setting, setting.shape, setting.device
        policy = setting.policy
        read = setting.bytes / setting.bound
        cold = 1 if device == "cpu" else max(1, min(16, ceil(COLD / read)))
        sets = sets or cold
        each = setting.batch * -(-setting.context // s.page)
        self._pools(sets * each + 1)
        pairs = setting.kernels
        self.kernels = [kernel for kernel, _ in pairs]
        built = load_kernels(pairs, folder, interpreted=device == "cpu")
        self.launchers = [built[kernel["name"].name].launch for kernel in self.kernels]
        lengths = np.full(setting.batch, setting.context)
        order = np.random.default_rng(0).permutation(sets * each) + 1
        tables = order.reshape(sets, setting.batch, -1).astype(np.int32)
        alike = setting.shared // s.page
        tables[:, :, :alike] = tables[:, :1, :alike]
        decode = SparseDecode(policy, 0, {"labels": [self.labels]}, setting.batch, setting.context,
                              shared=setting.grouped)  # fmt: skip
        held = SparseLists(decode, planner_shape(s), setting.batch, each * s.page,
                           torch.device(device), self._allocate())  # fmt: skip
        budgets = np.full(setting.batch, policy.budget(setting.context))
        base = np.arange(setting.batch) * -(-setting.context // s.page) * s.page
        rows = SparseRows(lengths, budgets, np.ones(setting.batch, bool), base)
        batch = Batch.decode(tables[0], lengths)
        self.work = held.plan(batch, rows, planner_shape(s), Rates())
        lists = held.arrays(rows, self.work, tables[0])
        names = [value.name for kernel in self.kernels for value in kernel.regions[0].arguments]
        planned = {n: getattr(self.work, n) for n in names if hasattr(self.work, n)}
        planned |= {name.removeprefix("plan_"): array for name, array in lists.items()}
        self.given: dict[str, Any] = {
            name: torch.from_numpy(np.ascontiguousarray(array, np.int32)).to(device)
            for name, array in planned.items()
        } | held.memory
        self.tables = [torch.from_numpy(table.ravel().copy()).to(device) for table in tables]
        self._states()

    def _allocate(self) -> Allocate | None:
        """Return what makes the memory of selections where keys lie across a link; else None."""
        return None

    def _memory(self, size: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """Return random keys or values."""
        return torch.randn(size, dtype=dtype, device=self.setting.device)

    def _pools(self, pages: int) -> None:
        """Make random pages, and labels: of any codes, as what is selected does not matter here,
        but of these keys where a tail takes off what labels of the read ones weigh."""
        s, labels, device = self.setting.shape, self.setting.labels, self.setting.device
        dtype = torch.bfloat16 if s.kv == "bf16" else torch.float32
        size = (pages, s.kv_heads, s.page, s.head_dim)
        self.k, self.v = (self._memory(size, dtype) for _ in "kv")
        tail = self.setting.policy.tail != "none"
        if tail:
            codes = self._packed(self._codes(self.k))
        else:
            codes = torch.randint(-90, 90, (pages, s.kv_heads, s.page, labels.rows), device=device)
        codes = codes.to(LABEL_DTYPES[labels.format]).contiguous()
        if self.setting.policy.in_words(s.head_dim):
            codes = codes.view(torch.int32)
        self.labels = codes.mT.contiguous()
        table, whole = (s.kv_heads, labels.channels), (s.kv_heads, s.head_dim)
        self.centre, self.spread = (torch.zeros(whole, device=device) for _ in "cs")
        self.sums = torch.zeros(pages if tail else 1, *whole, device=device)
        self.mean = torch.zeros(table, device=device)
        self.level = torch.full(table, self._level, device=device)
        width = s.heads * s.head_dim
        self.q = torch.randn(self.setting.batch, width, dtype=dtype, device=device)

    @property
    def _level(self) -> float:
        """What a code is worth: three deviations are the largest code."""
        return 3 / LEVELS.get(self.setting.labels.format, 3)

    def _codes(self, k: torch.Tensor) -> torch.Tensor:
        """Return the codes [..., r] of keys [..., C]."""
        labels = self.setting.labels
        first = k[..., : labels.channels]
        if labels.format == "bf16":
            return first.bfloat16()
        top = LEVELS[labels.format]
        return (first.float() / self._level).round().clamp(-top, top)

    def _packed(self, codes: torch.Tensor) -> torch.Tensor:
        """Return codes as they lie in rows of labels, two to a byte in i4."""
        labels = self.setting.labels
        if labels.format != "i4":
            return codes
        low, high = (codes.to(torch.int32) + 8).split(labels.rows, -1)
        return low | (high << 4)

    def _states(self) -> None:
        s, device = self.setting.shape, self.setting.device
        slots = max(self.work.slots, 1)
        self.out = torch.full_like(self.q, torch.nan)
        states = {"m": (slots, s.heads), "l": (slots, s.heads), "acc": (slots, s.heads, s.head_dim)}
        self.given |= {n: torch.full(size, torch.nan, device=device) for n, size in states.items()}
        self.given |= {"k": self.k, "v": self.v, "labels": self.labels, "mean": self.mean,
                       "level": self.level, "q": self.q, "out": self.out, "centre": self.centre,
                       "spread": self.spread, "value_sums": self.sums}  # fmt: skip
        joined = len(self.given["merge_query"])
        self.given |= {
            "T": self.setting.batch, "B": self.setting.batch, "N": len(self.k), "S": slots,
            "W": len(self.given["item_row"]), "R": len(self.given["row_query"]), "G": joined,
            "G1": joined + 1, "E": len(self.tables[0]),
        }  # fmt: skip
        if "group_rows" in self.given:
            self.given |= {"Q": len(self.given["group_pages"]), "QM": len(self.given["group_rows"])}

    def run(self, number: int = 0) -> None:
        """Launch one step over set `number`."""
        given = self.given | {"pages": self.tables[number % len(self.tables)]}
        for kernel, launch in zip(self.kernels, self.launchers, strict=True):
            launch(*(given[value.name] for value in kernel.regions[0].arguments))

    def error(self) -> float:
        """Return |out - exact| / |exact| of the first row over the tokens of its list; raises where
        a list is not of the best scores."""
        self.run()
        s, setting = self.setting.shape, self.setting
        found = self.out[0].double().view(s.kv_heads, s.group, s.head_dim)
        exact = torch.stack([self._exact(head) for head in range(s.kv_heads)])
        assert setting.policy.unit == "token" and not self.out.isnan().any()
        return float((found - exact).norm() / exact.norm())

    def _exact(self, head: int) -> torch.Tensor:
        s, n, p = self.setting.shape, self.setting.context, self.setting.policy
        count = int(self.given["counts"][0, head])
        tokens = self.given["chosen"][head, :count].long()
        if self.setting.slots:
            number = torch.empty(len(self.k), dtype=torch.int64, device=tokens.device)
            pages = self.tables[0][: -(-n // s.page)].long()
            number[pages] = torch.arange(len(pages), device=tokens.device)
            tokens = number[tokens // s.page] * s.page + tokens % s.page
        bins = self.given.get("bins")
        if bins is None:
            scores = self.given["scores"][head]
        else:
            scores = bins.view(torch.uint8)[:, head].reshape(-1)
        scores = scores[p.sinks : n - p.recent]
        inside = (tokens >= p.sinks) & (tokens < n - p.recent)
        kept = torch.zeros_like(scores, dtype=torch.bool)
        kept[tokens[inside] - p.sinks] = True
        enough = count <= p.budget(n) if p.adaptive else count == p.budget(n)
        assert enough and scores[kept].min() >= scores[~kept].max(), "not the best"
        every = torch.arange(n, device=tokens.device)
        pages = self.tables[0].long()[every // s.page]
        k, v = (pool[pages, head, every % s.page].double() for pool in (self.k, self.v))
        q = self.q[0].double().view(s.kv_heads, s.group, s.head_dim)[head] / s.head_dim**0.5
        read = torch.zeros(n, dtype=torch.bool, device=tokens.device)
        read[tokens] = True
        weights = (q @ k.T).masked_fill(~read, -torch.inf)
        if p.tail != "none":  # what is not read weighs by its label, and v has a mean of zero
            codes, r = self._codes(k).double(), self.setting.labels.channels
            asked = q[:, :r]
            if p.in_words(s.head_dim):  # what labels are multiplied with has 8 bits
                step = asked.abs().max() / QUERY
                asked = (asked / step + 0.5).floor() * step
            weights = weights.where(read, asked @ codes.T * self._level)
            v = v * read[:, None]
        return weights.softmax(-1) @ v

    def seconds(self) -> list[float]:
        """Return the seconds of a step, and of each kernel alone."""
        steps: list[Callable[[], None]] = [lambda n=n: self.run(n) for n in range(len(self.tables))]
        times = [graph_seconds(steps, settle=SETTLED)]
        for kernel, launch in zip(self.kernels, self.launchers, strict=True):
            calls = []
            for table in self.tables:
                given = self.given | {"pages": table}
                values = [given[value.name] for value in kernel.regions[0].arguments]
                calls.append(lambda launch=launch, values=values: launch(*values))
            times.append(graph_seconds(calls))
        return times


def sparse_seconds(setting: Setting, folder: Path) -> dict[str, Any]:
    """Return the error of a step, its time in us and each kernel's; on a CPU, no time."""
    step = SparseStep(setting, folder)
    found: dict[str, Any] = {"error": step.error(), "items": len(step.work.item_row), "us": None}
    if setting.device == "cuda":
        whole, *each = (1e6 * time for time in step.seconds())
        found["us"] = whole
        for kernel, time in zip(step.kernels, each, strict=True):
            name = f"{kernel['name'].name.split('_')[0]}_us"  # one of two may not be launched
            found[name] = found.get(name, 0.0) + time
    return found


@cache
def _copy() -> float:
    return copy_rate()


def dense_seconds(setting: Setting, folder: Path) -> dict[str, Any]:
    """Return the same of our best dense decode, and its rate as a part of a copy's."""
    if setting.device != "cuda":
        return {"dense_us": None}
    from weft.bench.gpu_kernels import Bench

    bench = Bench(folder, _copy(), pool_bytes=max(3 << 30, setting.bytes + (64 << 20)))
    steps = bench.steps(setting.shape, Sequences(setting.batch, 0, setting.context), False)
    time = steps.seconds(settle=SETTLED)
    bench.close()
    return {"dense_us": time * 1e6, "dense_of_copy": setting.bytes / time / _copy()}


def sdpa_seconds(setting: Setting) -> float:
    """Return the seconds of torch's fastest attention over contiguous keys of these heads."""
    from weft.bench.gpu.vendor import vendor_seconds

    return min(vendor_seconds(setting.shape, setting.batch, setting.context, SETTLED).values())
