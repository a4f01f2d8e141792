"""Sampling: counter-based uniforms, and the plain meaning of one draw from a row of logits.

A draw depends on (seed, instance, gen, position) and the logits only, so batching, the order of
forks and scheduling never change a sample.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from ...ir.constraints.token_masks import FORBIDDEN, LEAST_ALLOWED

SampleKernel = Callable[
    [Tensor, Tensor | None, Tensor, Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]
]
"""sample(logits [S, V], bitmask [S, W] int32 or None, temperature [S], top_k [S] int32, top_p [S],
min_p [S], u [S]) -> token [S] int32, logprob [S], margin [S], on the CPU."""


COLDEST = 1e-30
"""The temperature that a lower one, but 0, counts as, as in the kernels: logits over less have no
end."""


def site_key(seed: int, instance: tuple[object, ...], gen: str, occurrence: int) -> int:
    """Return the 64-bit key of one gen of one program instance.

    `instance` is the row number, then the way through forks: (name, occurrence, index) each.
    """
    text = repr((int(seed), instance, gen, occurrence)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


def uniforms(keys: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Return one float32 in [0, 1) for each (key, position): SplitMix64 of their mix."""
    with np.errstate(over="ignore"):
        z = keys + (positions.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    return ((z >> np.uint64(40)).astype(np.float64) / (1 << 24)).astype(np.float32)


def sample_rows(
    logits: Tensor,
    bitmask: Tensor | None,
    temperature: Tensor,
    top_k: Tensor,
    top_p: Tensor,
    min_p: Tensor,
    u: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw one token a row: the plain implementation of a SampleKernel.

    Returns tokens, their log-probability in the unmasked softmax at temperature 1, and the
    margin by which the largest allowed logit leads.
    """
    masked = logits.clamp(min=LEAST_ALLOWED)
    if bitmask is not None:
        masked = masked.masked_fill(~allowed(bitmask, logits), FORBIDDEN)
    best = torch.topk(masked, min(2, masked.shape[1]), dim=1).values
    margin = best[:, 0] - best[:, -1]
    tokens = masked.argmax(1)
    for row in torch.nonzero(temperature > 0).flatten().tolist():
        tokens[row] = _draw(
            masked[row] / temperature[row].clamp(min=COLDEST), int(top_k[row]), float(top_p[row]),
            float(min_p[row]), float(u[row]),
        )  # fmt: skip
    picked = logits.gather(1, tokens[:, None])[:, 0]
    logprob = picked - torch.logsumexp(logits, 1)
    return tokens.to(torch.int32).cpu(), logprob.cpu(), margin.cpu()


def allowed(bitmask: Tensor, logits: Tensor) -> Tensor:
    """Unpack a bitmask [S, W] (bit i of word w: token 32 w + i) to booleans [S, V]."""
    words = bitmask.to(logits.device)
    bits = torch.arange(32, dtype=torch.int32, device=words.device)
    unpacked = ((words[:, :, None] >> bits) & 1).reshape(words.shape[0], -1)
    return unpacked[:, : logits.shape[1]].bool()


def _draw(scaled: Tensor, top_k: int, top_p: float, min_p: float, u: float) -> int:
    if 0 < top_k < len(scaled):
        threshold = torch.topk(scaled, top_k).values[-1]
        scaled = torch.where(scaled >= threshold, scaled, float("-inf"))
    p = torch.softmax(scaled, 0)
    if min_p > 0:
        p = torch.where(p >= min_p * p.max(), p, 0.0)
    if top_p < 1:
        p = torch.where(p >= _nucleus(p, top_p), p, 0.0)
    mass = p.double().cumsum(0)
    index = int(torch.searchsorted(mass, u * float(mass[-1]), right=True))
    return min(index, int(torch.nonzero(p).max()))


def _nucleus(p: Tensor, top_p: float) -> Tensor:
    """Return the largest probability t such that the tokens with p >= t have mass top_p."""
    descending = p.sort(descending=True).values
    reached = descending.double().cumsum(0) >= top_p
    index = int(reached.to(torch.uint8).argmax()) if bool(reached.any()) else len(p) - 1
    return descending[index]
