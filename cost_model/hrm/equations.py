"""Equations 4 to 11 of the Hierarchical Roofline Model (MoE-Lightning, ASPLOS 2025, section 3).

Level i is near (the GPU), level j far (the host). I_x^i is the FLOPs of a computation x over the
bytes of it that are read from level i (definition 3.1); a layer whose weights come once over the
link and are read from GPU memory by each micro-batch has a high I^j and a low I^i.
All rates are medians in FLOP/s and bytes/s; intensities are FLOP a byte.
"""

from __future__ import annotations

from ..hardware import Level, Rate


def compute_roof(level: Level, dtype: str = "f32") -> float:
    """Return P_peak of a level in FLOP/s (eq. 4)."""
    return level.matmul_rate(dtype).median


def memory_roof(intensity: float, level: Level) -> float:
    """Return B_peak I in FLOP/s: what the level's main memory can feed (eq. 5)."""
    return level.main.read.median * intensity


def cross_roof(far_intensity: float, link: Rate) -> float:
    """Return B_peak^{j,i} I^j in FLOP/s: what a link from a farther level can feed (eq. 6)."""
    return link.median * far_intensity


def attainable(flops_per_byte: float, level: Level, dtype: str = "f32") -> float:
    """Return FLOP/s of data beside its processor: min(P, B I) (eq. 8)."""
    return min(compute_roof(level, dtype), memory_roof(flops_per_byte, level))


def attainable_across(
    near_intensity: float, far_intensity: float, near: Level, link: Rate, dtype: str = "f32"
) -> float:
    """Return FLOP/s of data that crosses a link first: min(P, B I, B_link I_far) (eq. 7)."""
    return min(attainable(near_intensity, near, dtype), cross_roof(far_intensity, link))


def stay_below(intensity: float, far: Level, link: Rate, dtype: str = "f32") -> float:
    """Return the intensity P1 (FLOP a byte moved) below which data is best left where it is (9)."""
    return attainable(intensity, far, dtype) / link.median


def link_bound_below(intensity: float, near: Level, link: Rate, dtype: str = "f32") -> float:
    """Return the intensity P2 below which moved data is bound by the link (eq. 10)."""
    return attainable(intensity, near, dtype) / link.median


def balance_ratio(near: Level, link: Rate) -> float:
    """Return I^j / I^i at the balance point, where memory and link feed alike (eq. 11)."""
    return near.main.read.median / link.median


def balance_batch(micro_batch: int, near: Level, link: Rate) -> float:
    """Return the batch N at which a micro-batch's feed-forward layer is balanced (eq. 11).

    There I^j = k N / E and I^i = k micro_batch / E, so N = micro_batch B_i / B_ji: a smaller batch
    waits for the link, a larger one for GPU memory.
    """
    return micro_batch * balance_ratio(near, link)


def ffn_intensity(tokens: float, top_k: int, experts: int, element: float = 2.0) -> float:
    """Return FLOPs a weight byte of a layer of experts, all of them used: 2 k T / (E element)."""
    return 2.0 * top_k * tokens / (experts * element)


def attention_intensity(heads: int, kv_heads: int, element: float = 2.0) -> float:
    """Return FLOPs a KV byte of decode attention: 2 H / (K element), whatever the batch.

    Q K and P V are 2 C FLOPs a query head and key each, over 2 C elements a kv head and key; the
    published code counts the first product only.
    """
    return 2.0 * heads / (kv_heads * element)
