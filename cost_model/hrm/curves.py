"""The hierarchical roofline as data to draw: roofs over intensity, and where choices turn."""

from __future__ import annotations

from dataclasses import dataclass

from ..hardware import Hardware
from .equations import attainable, balance_ratio, cross_roof, link_bound_below, stay_below
from .shape import MoeShape


@dataclass(frozen=True)
class Curve:
    """A roof: FLOP/s (`y`) over FLOPs a byte of the far level (`x`), rising to the right."""

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]


@dataclass(frozen=True)
class TurningPoints:
    """Intensities on the far level, in FLOP a byte: P1 (eq. 9), P2 (eq. 10), balance (eq. 11)."""

    stay_below: float
    link_bound_below: float
    balance: float


@dataclass(frozen=True)
class Layer:
    """A computation: its FLOPs a byte of the near level's memory, and of the far level's."""

    name: str
    near: float
    far: float


def feed_forward(shape: MoeShape, batch: int, micro_batch: int) -> Layer:
    """Return a layer of experts: weights come once a batch, in the format of pages, and are read by
    each micro-batch, as they were widened where they arrived."""
    flops = 6.0 * shape.width * shape.ffn * shape.top_k / shape.experts
    near, far = micro_batch * flops / shape.gpu_page_bytes(1), batch * flops / shape.page_bytes(1)
    return Layer(f"experts, N = {batch}", near, far)


def decode_attention(shape: MoeShape) -> Layer:
    """Return decode attention: each key and value once, from wherever it lies."""
    intensity = 4.0 * shape.heads * shape.head_dim / shape.kv_token_bytes
    return Layer("attention", intensity, intensity)


def turning_points(
    hardware: Hardware, layer: Layer, near: str = "gpu", far: str = "cpu", dtype: str = "bf16"
) -> TurningPoints:
    """Return where a layer of this near intensity turns from one choice to the other."""
    link = hardware.link(far, near).bandwidth
    level = hardware.level(near)
    return TurningPoints(
        stay_below(layer.far, hardware.level(far), link, dtype),
        link_bound_below(layer.near, level, link, dtype),
        layer.near * balance_ratio(level, link),
    )


def curves(
    hardware: Hardware,
    layer: Layer,
    near: str = "gpu",
    far: str = "cpu",
    dtype: str = "bf16",
    low: float = 0.1,
    high: float = 1e5,
    points: int = 97,
) -> list[Curve]:
    """Return the roofs over far intensities from `low` to `high`, evenly spaced in logarithm.

    What the far processor attains where the data is (eq. 8), what the link feeds (eq. 6), what
    the near processor attains from its own memory (eq. 8, flat: it does not depend on the far
    intensity), and the least of the last two (eq. 7).
    """
    x = tuple(low * (high / low) ** (n / (points - 1)) for n in range(points))
    link = hardware.link(far, near).bandwidth
    here, there = hardware.level(near), hardware.level(far)
    own = attainable(layer.near, here, dtype)
    return [
        Curve(f"on {far}, in place", x, tuple(attainable(each, there, dtype) for each in x)),
        Curve(f"link {far} to {near}", x, tuple(cross_roof(link=link, far_intensity=v) for v in x)),
        Curve(f"{near} memory", x, (own,) * len(x)),
        Curve(f"on {near}, moved", x, tuple(min(own, cross_roof(v, link)) for v in x)),
    ]
