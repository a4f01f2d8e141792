"""How many sequences of a model decode within a bound of GPU memory: keys there, or in the host's.

Some layers of the 8 B shape, and a bound on what the GPU has for keys, labels and cache. With all
keys on it the bound holds WHOLE sequences, as `weft run` counts them; with keys in host memory and
the same bound, which holds (`runtime.devices.memory`), BATCH of them run. Both by the executor that
`weft run` takes, sparse alike; the first of the many must give the logits that they give where all
keys are on the GPU.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from weft.bench.sparse.host_model import Placed, compared, model, run
from weft.bench.sparse.model_steps import TINY
from weft.frontend.models.presets import preset
from weft.ir.sparse.policy import SparsePolicy

LAYERS, CONTEXT, STEPS = 4, 1 << 16, 16
WHOLE, BATCH = 2, 8
"""Sequences that the bound holds with their keys, and how many run with keys in host memory."""


def host_batch(folder: Path, tiny: bool) -> dict[str, Any]:
    """Return the us of a step and tokens a second of both, and their largest difference."""
    if tiny:
        policy = SparsePolicy(k=16, labels="i8", channels=4, sinks=2, recent=4, min_context=0)
        config, context, whole, batch = replace(TINY, context_length=192), 64, 1, 3
    else:
        policy = SparsePolicy(ratio=1 / 16, channels=32, min_context=0)
        config, context = preset("llama-8b"), CONTEXT
        config = replace(config, layers=LAYERS, windows=(0,) * LAYERS,
                         context_length=context + 256)  # fmt: skip
        whole, batch = WHOLE, BATCH
    element = 4 if tiny else 2
    each = -(-config.context_length // 64) * 64 * policy_bytes(config, policy, element)
    memory = (whole + 1) * each - 1  # room for labels and books, and not for one more
    found: dict[str, Any] = {"layers": config.layers, "context": context, "memory": memory}
    with model(config, policy, context, folder, Placed(False, batch=whole)) as near:
        near.fill()
        assert near.fits(memory) == whole, "the bound holds another number of sequences"
        found |= {"batch_whole": whole, **timed_steps(near, whole, "whole_")}
    many = Placed(batch=batch, ahead=False, memory=memory)
    with model(config, policy, context, folder, many) as across:
        across.fill()
        held = across.executor.host.device.memory
        found |= {"batch": batch, **run(across, lambda _: 7, 2 if tiny else STEPS, "")}
        found |= {"memory_used": held.used}
        if not tiny:
            found["tokens_per_s"] = batch / found["us"] * 1e6
    found |= compared(config, policy, context, folder, replace(many, memory=0),
                      Placed(False, batch=whole))  # fmt: skip
    key = "host_batch_tiny" if tiny else "host_batch"
    return {key: found, **({} if tiny else {"host_batch_ratio": batch / whole})}


def policy_bytes(config: Any, policy: SparsePolicy, element: int) -> int:
    """Return the bytes of a token's keys, values and labels in all layers."""
    head = 2 * config.head_dim * element + policy.label_bytes(config.head_dim)
    return config.layers * config.kv_heads * head


def timed_steps(near: Any, batch: int, name: str) -> dict[str, Any]:
    """Return the us of a step with keys on the device, and its tokens a second."""
    seconds = near.seconds(lambda _: 7, 2 if near.tiny else STEPS)
    if near.tiny:
        return {f"{name}us": None}
    return {f"{name}us": 1e6 * seconds, f"{name}tokens_per_s": batch / seconds}
