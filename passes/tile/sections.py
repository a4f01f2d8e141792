"""Lowers the sections of a partitioned step, each for its place, and gathers their kernels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from ...ir.core import Module, Operation, Value
from ...ir.model import ModelConfig
from ...ir.schedule import Schedule
from ...ir.types import dtype_of, shape_of, tensor
from ..graph.few_experts import FuseExpertSilu
from ..graph.fusion import FuseAddNorm
from ..graph.memory_planning import PlanMemory
from ..graph.moe_functions import PAGE_PARTS, Section, cut
from ..graph.moe_slices import slices_of
from ..manager import Context, PassRecord, run_passes
from .gpu_schedules import gpu_schedule
from .lowering.lower import LowerToTiles
from .regimes import GPU_ALIGNMENT, schedule_for

Scheduled = tuple[Operation, Schedule]


@dataclass(frozen=True)
class LoweredSections:
    """The sections with lowered functions, and the kernels of each place with their schedules."""

    sections: tuple[Section, ...]
    kernels: Mapping[str, list[Scheduled]]
    records: tuple[PassRecord, ...]


def lower_sections(
    function: Operation, config: ModelConfig, extents: Mapping[str, int], device: str = "cpu",
    activations: str = "bf16", kv: str = "f32",
) -> LoweredSections:  # fmt: skip
    """Lower a partitioned step; `extents` bound T, R and B, `device` is cpu where it is simulated.

    Pages of keys have 16 tokens at both places: they are the CPU's. Activations on a GPU are
    bf16 unless told otherwise; the CPU's are f32, and copies between them convert. `kv` is the
    format of keys and values, at both places.
    """
    pairs = extents["T"] * config.experts_per_token * slices_of(function)
    bounds = tuple((dict(extents) | {"M": pairs}).items())
    sections, kernels, records = [], {}, []
    for place, target in (("device", device), ("host", "cpu")):
        mine = [section for section in cut(function) if section.place == place]
        joined = (FuseExpertSilu(),) if target == "cuda" or _library_experts(mine) else ()
        passes = (
            FuseAddNorm(), *joined,
            LowerToTiles(0, config.context_length, kv=kv, target=target, decoding=True),
            PlanMemory(bounds, GPU_ALIGNMENT if target == "cuda" else 64),
        )  # fmt: skip
        functions = (section.function for section in mine)
        module = Module(
            tuple(in_format(f, activations) if target == "cuda" else f for f in functions)
        )
        module, made = run_passes(passes, module, Context(), frozenset({"fused-rope-write"}))
        records += made
        sections += [replace(s, function=module.symbol(s.name)) for s in mine]
        found = [op for op in module.operations if op.name == "tile.kernel"]
        kernels[place] = [
            (op, gpu_schedule(op, False) if target == "cuda" else schedule_for(op, 0))
            for op in found
        ]
    return LoweredSections(tuple(sections), kernels, tuple(records))


def _library_experts(sections: list[Section]) -> bool:
    """Whether a CPU's experts are the library's: pages of bf16."""
    pages = [v for s in sections for v in s.function.regions[0].arguments if v.name in PAGE_PARTS]
    return bool(pages) and all(dtype_of(value.type) == "bf16" for value in pages)


def in_format(function: Operation, format: str) -> Operation:
    """Return a section with activations in a format; what chooses experts, and logits, stay."""
    region = function.regions[0]
    kept = {v.name for op in region.operations for v in op.results if op.name == "graph.weight"}
    kept |= {"weights", "gate_up", "down"}
    for op in region.operations:
        if op.name == "graph.moe_route":
            kept |= {v.name for v in (*op.operands, *op.results)}
        if op.name == "graph.return" and function["name"].name == "head":
            kept |= {v.name for v in op.operands}

    def changed(values: tuple[Value, ...]) -> tuple[Value, ...]:
        return tuple(v if v.name in kept else _typed(v, format) for v in values)

    operations = tuple(
        replace(op, operands=changed(op.operands), results=changed(op.results))
        for op in region.operations
    )
    region = replace(region, arguments=changed(region.arguments), operations=operations)
    return replace(function, regions=(region,))


def _typed(value: Value, format: str) -> Value:
    if value.type.name != "tensor" or dtype_of(value.type) != "f32":
        return value
    return replace(value, type=tensor(format, *shape_of(value.type)))
