"""How a kernel is scheduled on a target, apart from what it computes."""

from __future__ import annotations

from dataclasses import dataclass

SWIZZLED = 64
"""Numbers of two bytes in the widest row that a GPU's copy engine swizzles: 128 bytes."""


@dataclass(frozen=True)
class Schedule:
    """Choices that change a kernel's speed and never its result.

    CPU: `threads` (0: the pool's) over the fused grid when `parallel`, `vector` lanes of f32,
    `unroll` independent sums along the innermost reduction, `streams` rows of a product's second
    operand read at a time (0: as suits).

    GPU: `num_warps`, `num_stages`, and the `precision` of f32 products: `ieee` (without tensor
    cores), `tf32x3` (on them, within about 2^-20) or `tf32` (inputs rounded to 10 bits). Kernels
    that are `chained` are launched while the kernel before still runs, and wait for its end; one
    that is also `beside` runs while that one does, whose own wait was for all before, and needs
    nothing of it: its last program alone waits, so that whoever waits for it waits for both. One
    that `opens` lets the next one come as soon as it runs, chained or not, before it waits.
    `registers` a thread may have (0: as many as it asks for), so that more programs are resident.
    Where warps are `specialised`, on a GPU that can, four compute 64 rows of a tile, and one copies
    what they read; the number is that of registers a thread has then in place of `registers`.
    Tile extents are chosen when the kernel is built, and are named in its `blocks`.
    """

    blocks: tuple[tuple[str, int], ...] = ()
    parallel: bool = True
    vector: int = 16
    unroll: int = 4
    streams: int = 0
    num_warps: int = 4
    num_stages: int = 2
    precision: str = "tf32x3"
    chained: bool = False
    registers: int = 0
    specialised: int = 0
    beside: bool = False
    opens: bool = False
