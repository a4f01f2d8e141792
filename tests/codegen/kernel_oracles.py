"""What the small kernels must compute: one plain NumPy function each, in float64."""

from __future__ import annotations

import numpy as np


def normed(x: np.ndarray, w: np.ndarray, eps: float) -> np.ndarray:
    x = x.astype("f8")
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * w


def silu(x: np.ndarray) -> np.ndarray:
    return x / (1 + np.exp(-x))


def rotated(x: np.ndarray, cos: np.ndarray, sin: np.ndarray) -> np.ndarray:
    """Rotate halves of heads [T, heads, C] by the angles [T, C / 2]."""
    first, second = np.split(x, 2, axis=-1)
    cos, sin = cos[:, None], sin[:, None]
    return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def rotated_and_written(
    qkv: np.ndarray, cos: np.ndarray, sin: np.ndarray, slots: np.ndarray,
    shape: tuple[int, int, int, int], norms: list[np.ndarray],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
    heads, kv_heads, page, pages = shape
    q, k, v = np.split(qkv, [heads, heads + kv_heads], axis=1)
    if norms:
        q, k = normed(q, norms[0], 1e-6), normed(k, norms[1], 1e-6)
    q, k = rotated(q, cos, sin), rotated(k, cos, sin)
    pools = [np.zeros((pages, kv_heads, page, qkv.shape[-1])) for _ in range(2)]
    for token, slot in enumerate(slots):
        if slot >= 0:
            pools[0][slot // page, :, slot % page] = k[token]
            pools[1][slot // page, :, slot % page] = v[token]
    return q, pools[0], pools[1]


def routed(logits: np.ndarray, top: int, renormalize: bool) -> tuple[np.ndarray, np.ndarray]:
    p = np.exp(logits.astype("f8"))
    p /= p.sum(1, keepdims=True)
    chosen = np.argsort(-logits, axis=1, kind="stable")[:, :top]
    weights = np.take_along_axis(p, chosen, 1)
    return (weights / weights.sum(1, keepdims=True) if renormalize else weights), chosen


def dispatched(chosen: np.ndarray, experts: int) -> tuple[np.ndarray, np.ndarray]:
    starts = np.concatenate([[0], np.cumsum(np.bincount(chosen, minlength=experts))])
    return np.argsort(chosen, kind="stable").astype("i4"), starts.astype("i4")


def masked(logits: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    return np.where(allowed, np.maximum(logits.astype("f8"), -5e29), -1e30)


def packed(allowed: np.ndarray) -> np.ndarray:
    """Pack booleans [R, V] into words: bit v % 32 of word v // 32."""
    rows, vocab = allowed.shape
    padded = np.zeros((rows, -(-vocab // 32) * 32), bool)
    padded[:, :vocab] = allowed
    bits = np.packbits(padded, axis=1, bitorder="little")
    return bits.view("<i4").reshape(rows, padded.shape[1] // 32)


def sampled(
    logits: np.ndarray, allowed: np.ndarray, temperature: float, top_k: int, top_p: float,
    min_p: float, u: float,
) -> int:  # fmt: skip
    """Sample one row as `passes.tile.rows.sampling.sample` is specified, by sorting."""
    x = masked(logits, allowed)
    if temperature == 0:
        return int(x.argmax())
    x = x / float(temperature)
    kept = x >= (np.sort(x)[-min(top_k, len(x))] if top_k else -np.inf)
    p = np.where(kept, np.exp(x - x.max()), 0.0)
    p /= p.sum()
    threshold = 0.0
    if top_p < 1:
        values = np.unique(p)[::-1]
        mass = np.array([p[p >= value].sum() for value in values])
        threshold = values[np.argmax(mass >= float(top_p))] if (mass >= top_p).any() else 0.0
    p = np.where((p >= threshold) & (p >= float(min_p) * p.max()), p, 0.0)
    return int(np.argmax(np.cumsum(p) > float(u) * p.sum()))
