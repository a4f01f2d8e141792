"""Prefill of all prompts in groups that share one pass over the pages: rows of seconds.

The published model leaves prefill out of its objective. Here a group of prompts goes through
every layer on the GPU, in chunks, while pages of the next layers arrive; its keys and values go
down to the host. Pages that the CPU computes in decode steps are copied up too.
"""

from __future__ import annotations

from collections.abc import Mapping

from .linear import Row
from .machine import HostedGpu
from .memory import Batch
from .shape import MoeShape, Workload

LAUNCHES = 12
"""Kernels of a layer in prefill."""


def passes(workload: Workload, batch: Batch) -> float:
    """Return how often all pages are read: once for each group of prompts."""
    tokens = batch.batch * workload.prompt
    return -(-tokens // min(batch.prefill_tokens or tokens, tokens))


def prefill_rows(
    shape: MoeShape, workload: Workload, batch: Batch, machine: HostedGpu, classes: int
) -> tuple[Row, ...]:
    """Return the seconds of each resource for all prompts that are read apart."""
    if workload.overlap:
        return (Row("gpu", 0.0),)
    kv = batch.batch * workload.prompt * shape.kv_token_bytes * shape.layers
    kv *= 1.0 if batch.attention == "cpu" else 1.0 - batch.kv_gpu
    page = passes(workload, batch) * shape.page_bytes(batch.pages_per_expert)
    moving = {"streamed": page, "cpu": page, "disk": page}
    rows = [
        Row("link", 0.0, _each(moving, 1.0 / machine.up, classes)),
        Row("link down", kv / machine.down),
        Row("gpu", _gpu_seconds(shape, workload, batch, machine)),
        Row("host memory", kv / machine.dram_shared,
            _each(moving | {"disk": 2.0 * page}, 1.0 / machine.dram_shared, classes)),
    ]  # fmt: skip
    if machine.disk:
        rows.append(Row("disk", 0.0, _each({"disk": page}, 1.0 / machine.disk, classes)))
    return tuple(rows)


def _each(costs: Mapping[str, float], factor: float, classes: int) -> dict[tuple[str, int], float]:
    return {(home, n): cost * factor for n in range(classes) for home, cost in costs.items()}


def _gpu_seconds(shape: MoeShape, workload: Workload, batch: Batch, machine: HostedGpu) -> float:
    """2 FLOPs a weight and token, causal attention, and the weights once a pass."""
    tokens, times = batch.batch * workload.prompt, passes(workload, batch)
    own = shape.heads * shape.head_dim
    dense = 2.0 * shape.width * (shape.qkv_width + own + shape.experts)
    experts = 6.0 * shape.width * shape.ffn * shape.top_k
    attention = (4.0 * shape.head_dim + 5.0) * shape.heads * workload.prompt / 2
    flops = tokens * shape.layers * (dense + experts + attention)
    flops += 2.0 * batch.batch * shape.width * shape.vocabulary
    read = times * shape.layers * (shape.layer_bytes + shape.attention_bytes)
    starts = times * shape.layers * LAUNCHES * machine.gpu_launch
    return max(flops / machine.gpu_flops, read / machine.gpu_bandwidth) + starts
