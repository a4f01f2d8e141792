"""Roofs of a processor over any number of memories: caches, its main memory, links, disks.

Equation 7 has one near memory and one far one; data may come a longer way (a disk, host memory, a
link, GPU memory, a cache), and each part of the way is a roof: P <= min(P_peak, B_k I_k).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..hardware import Hardware, NoSuchFigure, Rate


@dataclass(frozen=True)
class Tier:
    """A memory on the way to a processor; `bandwidth` is that of its way to the next nearer one."""

    name: str
    bandwidth: Rate


@dataclass(frozen=True)
class Roof:
    """One roof: what bounds, and FLOP/s; `equation` of the paper that it is a case of."""

    name: str
    flops: float
    equation: int


@dataclass(frozen=True)
class Hierarchy:
    """A processor, and the tiers that feed it, nearest first."""

    processor: str
    compute: Rate
    tiers: tuple[Tier, ...]

    @staticmethod
    def of(hardware: Hardware, level: str | None = None, dtype: str = "f32") -> Hierarchy:
        """Return the hierarchy of a level: its memories, then what links bring, breadth first.

        A far level is represented by its main memory; its bandwidth is the link's.
        """
        place = hardware.level(level)
        tiers = [Tier(f"{place.name}.{memory.name}", memory.read) for memory in place.memories]
        seen, todo = {place.name}, [place.name]
        while todo:
            target = todo.pop(0)
            for link in hardware.links:
                if link.target == target and link.source not in seen:
                    seen.add(link.source)
                    todo.append(link.source)
                    far = hardware.level(link.source).main
                    tiers.append(Tier(f"{link.source}.{far.name}", link.bandwidth))
        return Hierarchy(place.name, place.matmul_rate(dtype), tuple(tiers))

    def tier(self, name: str) -> Tier:
        """Return the tier of that name; raises NoSuchFigure."""
        found = {tier.name: tier for tier in self.tiers}
        if name not in found:
            raise NoSuchFigure(
                hardware=self.processor, what="memory", name=name, known=", ".join(found)
            )
        return found[name]

    def roofs(self, intensity: Mapping[str, float]) -> list[Roof]:
        """Return the roofs of a computation of these FLOPs a byte from each tier that it reads.

        The compute roof is eq. 4, that of the processor's own memories eq. 5, of others eq. 6.
        """
        made = [Roof("compute", self.compute.median, 4)]
        for name, value in intensity.items():
            own = name.startswith(f"{self.processor}.")
            made.append(Roof(name, self.tier(name).bandwidth.median * value, 5 if own else 6))
        return made

    def attainable(self, intensity: Mapping[str, float]) -> Roof:
        """Return the lowest roof: FLOP/s and what bounds it (eq. 7, over any number of tiers)."""
        return min(self.roofs(intensity), key=lambda roof: roof.flops)
