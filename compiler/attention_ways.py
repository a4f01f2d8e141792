"""What plans of attention know of a GPU's kernels: their tiles, and what was measured of each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..ir.model import ModelConfig

if TYPE_CHECKING:
    from ..passes.tile.attention.parts import Parts
    from ..passes.tile.attention.ways import Variant
    from ..runtime.attention.cost import Shape, Way


def attention_shape(config: ModelConfig, page: int, element: int) -> Shape:
    """Return what a plan of attention must know of a GPU's usual kernel; `element`: bytes of a
    number."""
    from ..passes.tile.attention.parts import Parts
    from ..passes.tile.attention.ways import tuned

    shape = Parts(config.heads, config.kv_heads, config.head_dim, page)
    return planner_shape(tuned(shape, shared=True), element)


def planner_shape(tiles: Parts, element: int = 2) -> Shape:
    """Return what a plan of attention must know of a kernel."""
    from ..runtime.attention.cost import Shape

    granule = max(tiles.page, tiles.keys, tiles.keys_many if tiles.many else 0)
    return Shape(
        tiles.heads, tiles.kv_heads, tiles.head_dim, tiles.page, tiles.rows_few, tiles.rows_many,
        granule, element,
    )  # fmt: skip


def attention_ways(shape: Parts) -> dict[Way, Variant]:
    """Return the ways that lists of a shape's keys are planned for, with what was measured of
    each, and their kernels."""
    from ..codegen.build_cuda import can_specialise
    from ..codegen.measure.gpu import has_gpu
    from ..passes.tile.attention.ways import LARGE_SPECIALISED, variants
    from ..runtime.attention.ways import measured

    able = can_specialise() or not has_gpu()  # where there is none, an H200 is meant
    found = [way for shared in (False, True) for way in variants(shape, shared)
             if able or way.name != LARGE_SPECIALISED]  # fmt: skip
    ways = measured(
        (way.name, planner_shape(way.tiles), able and way.schedule.specialised > 0) for way in found
    )
    return dict(zip(ways, found, strict=True))
