"""The regimes that a model is compiled for: decode steps by their rows, and every other step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...ir.core import Module, Operation
from ...ir.model import ModelConfig
from ...ir.schedule import Schedule
from ...ir.types import dtype_of, shape_of
from ..graph.fusion import DropConcatOfSplit, FuseAddNorm, FuseRopeWrite, FuseSiblingMatmuls
from ..graph.matmul_parts import FuseCombineResidual, FuseMatmulParts
from ..graph.memory_planning import PlanMemory
from ..graph.weight_format import ChooseWeightFormat
from ..manager import Context, Pass, PassRecord, run_passes
from .lower import LowerToTiles
from .matmul import schedule, worth_threads

DECODE_ROWS = (1, 4, 16)
"""Row counts that decode kernels are built for; a step takes the smallest that holds it."""


@dataclass(frozen=True)
class Regime:
    """One lowered version of the model: the most rows of its decode steps, 0 for any step."""

    rows: int
    module: Module
    records: tuple[PassRecord, ...]

    @property
    def function(self) -> Operation:
        """The lowered graph.func."""
        return self.module.symbol("step")

    @property
    def kernels(self) -> list[tuple[Operation, Schedule]]:
        """The tile kernels that it calls, each with its schedule."""
        found = [op for op in self.module.operations if op.name == "tile.kernel"]
        return [(kernel, schedule_for(kernel, self.rows)) for kernel in found]


def graph_passes(weights: str = "f32") -> tuple[Pass, ...]:
    """Return the passes that every regime shares; `weights` is f32, bf16 or i8."""
    return (ChooseWeightFormat(weights), FuseSiblingMatmuls(), DropConcatOfSplit(), FuseRopeWrite())


def regime_passes(
    config: ModelConfig, rows: int, max_tokens: int, max_batch: int, kv: str = "f32"
) -> tuple[Pass, ...]:
    """Return the passes from the shared graph to one regime's kernels and memory plan."""
    few = (FuseMatmulParts(), FuseCombineResidual())
    tokens = rows or max_tokens
    extents = {"T": tokens, "R": rows or max_batch, "M": tokens * config.experts_per_token,
               "B": rows or max_batch}  # fmt: skip
    return (
        *(few if rows else (FuseAddNorm(),)),
        LowerToTiles(rows, config.context_length, kv=kv),
        PlanMemory(tuple(extents.items())),
    )


def lower_model(
    config: ModelConfig, graph: Module, *, max_tokens: int, max_batch: int, weights: str = "f32",
    kv: str = "f32", decode_rows: Sequence[int] = DECODE_ROWS,
) -> list[Regime]:  # fmt: skip
    """Return the regimes of a model's graph, decode first, the one for any step last."""
    context = Context(model_name=config.architecture)
    shared, shared_records = run_passes(graph_passes(weights), graph, context)
    facts = frozenset({"weight-formats", "joined-matmuls", "fused-rope-write"})
    regimes = []
    for rows in (*decode_rows, 0):
        passes = regime_passes(config, rows, max_tokens, max_batch, kv)
        module, records = run_passes(passes, shared, context, facts)
        regimes.append(Regime(rows, module, (*shared_records, *records)))
    return regimes


def merge_kernels(regimes: Sequence[Regime]) -> list[tuple[Operation, Schedule]]:
    """Return every kernel once; regimes may share kernels, under one name and schedule."""
    merged: dict[str, tuple[Operation, Schedule]] = {}
    for regime in regimes:
        for kernel, chosen in regime.kernels:
            known = merged.setdefault(kernel["name"].name, (kernel, chosen))
            assert known == (kernel, chosen), f"two kernels are named {kernel['name'].name}"
    return list(merged.values())


def schedule_for(kernel: Operation, rows: int) -> Schedule:
    """Return a CPU schedule: work that one core does sooner than it wakes another stays there."""
    buffers = {value.name: value.type for value in kernel.regions[0].arguments}
    of = kernel.attribute("of")
    if rows == 0 or of == "graph.partial":
        return Schedule()
    if of not in {"graph.matmul", "graph.moe_expert"}:
        return Schedule(parallel=False)
    *_, wide, depth = shape_of(buffers["w"])
    assert isinstance(wide, int) and isinstance(depth, int)
    if of == "graph.moe_expert":  # regimes share it, so rows say nothing
        return Schedule(parallel=worth_threads(wide, depth, 1, dtype_of(buffers["w"])))
    return schedule(wide, depth, rows, dtype_of(buffers["w"]))
