"""Prefill of all prompts in groups that share one pass over the pages: rows of seconds.

The published model leaves prefill out of its objective. Here a group of prompts goes through
every layer on the GPU, in chunks, while pages of the next layers arrive. Attention is where that of
decode steps is: on the CPU, with q, k and v on their way down and its results on their way up, or
on the GPU, whose keys and values go down. Pages that the CPU computes in decode steps are copied
up too.
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
    tokens = batch.batch * workload.prompt * shape.layers
    on_cpu = batch.attention == "cpu"
    kv = tokens * shape.kv_token_bytes * (1.0 if on_cpu else 1.0 - batch.kv_gpu)
    qkv = tokens * shape.qkv_width * shape.host_element if on_cpu else 0.0
    seen = tokens * shape.heads * shape.head_dim * shape.host_element if on_cpu else 0.0
    page = passes(workload, batch) * shape.page_bytes(batch.pages_per_expert)
    moving = {"streamed": page, "cpu": page, "disk": page}
    rows = [
        Row("link", seen / machine.up, _each(moving, 1.0 / machine.up, classes)),
        Row("link down", (qkv or kv) / machine.down),
        Row("gpu", _gpu_seconds(shape, workload, batch, machine)),
        Row("host memory", (kv + 2.0 * (qkv + seen)) / machine.dram_shared,
            _each(moving | {"disk": 2.0 * page}, 1.0 / machine.dram_shared, classes)),
    ]  # fmt: skip
    if on_cpu:
        flops = tokens * _attention_flops(shape, workload)
        moved = (kv + qkv + seen) / machine.dram
        rows.append(Row("cpu", flops / machine.cpu_vector + moved))
    if machine.disk:
        rows.append(Row("disk", 0.0, _each({"disk": page}, 1.0 / machine.disk, classes)))
    return tuple(rows)


def _each(costs: Mapping[str, float], factor: float, classes: int) -> dict[tuple[str, int], float]:
    return {(home, n): cost * factor for n in range(classes) for home, cost in costs.items()}


def _attention_flops(shape: MoeShape, workload: Workload) -> float:
    """FLOPs of a prompt's token in a layer: Q K, softmax and P V over the keys that it sees."""
    return (4.0 * shape.head_dim + 5.0) * shape.heads * workload.prompt_context


def _gpu_seconds(shape: MoeShape, workload: Workload, batch: Batch, machine: HostedGpu) -> float:
    """2 FLOPs a weight and token, causal attention where it is here, the weights once a pass."""
    tokens, times = batch.batch * workload.prompt, passes(workload, batch)
    own = shape.heads * shape.head_dim
    dense = 2.0 * shape.width * (shape.qkv_width + own + shape.experts)
    experts = 6.0 * shape.width * shape.ffn * shape.top_k
    attention = _attention_flops(shape, workload) if batch.attention == "gpu" else 0.0
    flops = tokens * shape.layers * (dense + experts + attention)
    flops += 2.0 * batch.batch * shape.width * shape.vocabulary
    read = times * shape.layers * (shape.layer_bytes + shape.attention_bytes)
    starts = times * shape.layers * LAUNCHES * machine.gpu_launch
    return max(flops / machine.gpu_flops, read / machine.gpu_bandwidth) + starts
