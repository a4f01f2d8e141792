"""The hierarchical roofline: what either processor attains, and where the choice turns."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes

from ..cost_model.hardware import Hardware
from ..cost_model.hrm.curves import Layer, curves, turning_points
from .style import INK, Picture, colour, picture


def hierarchical_roofline(
    hardware: Hardware,
    layers: Sequence[Layer],
    near: str = "gpu",
    far: str = "cpu",
    dtype: str = "bf16",
    title: str = "",
) -> Picture:
    """Return FLOP/s over FLOPs a byte of the far level, the first layer's roofs, all as points.

    Left of P1 a layer is best left where its data is; between P1 and P2 it waits for the link.
    A dot is what a layer attains moved, a ring what it attains in place.
    """
    first = layers[0]
    figure, axes = picture(7.5, 4.2)
    axes.set_xscale("log")
    axes.set_yscale("log")
    for number, curve in enumerate(curves(hardware, first, near, far, dtype)):
        dashed = curve.name != f"on {near}, moved"
        axes.plot(curve.x, curve.y, color=colour(number), linewidth=1 if dashed else 2,
                  linestyle="--" if dashed else "-", label=curve.name)  # fmt: skip
    turns = turning_points(hardware, first, near, far, dtype)
    named = (("P1", turns.stay_below), ("P2", turns.link_bound_below), ("balance", turns.balance))
    bottom = axes.get_ylim()[0]
    for number, (name, place) in enumerate(named):
        axes.axvline(place, color=INK, linewidth=0.6, linestyle=":")
        axes.annotate(f"{name} {place:.0f}", (place, bottom), xytext=(3, 4 + 10 * number),
                      textcoords="offset points", fontsize=7)  # fmt: skip
    for number, layer in enumerate(layers):
        _points(axes, hardware, layer, near, far, dtype, colour(number + 4))
    axes.set_xlabel(f"FLOP per byte of {far} memory", fontsize=8)
    axes.set_ylabel("FLOP/s", fontsize=8)
    axes.set_title(title or f"{hardware.name}: where to compute", fontsize=9, loc="left")
    axes.legend(fontsize=7, frameon=False, loc="lower right")
    return figure


def _points(
    axes: Axes, hardware: Hardware, layer: Layer, near: str, far: str, dtype: str, shade: str
) -> None:
    at = layer.far
    (place, _, _, moved) = curves(hardware, layer, near, far, dtype, low=at, high=2 * at, points=2)
    axes.plot(at, moved.y[0], "o", color=shade, label=layer.name)
    axes.plot(at, place.y[0], "o", markerfacecolor="none", markeredgecolor=shade)
