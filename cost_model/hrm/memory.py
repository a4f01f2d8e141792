"""What lies where, in bytes: GPU memory, host memory and disk, line by line."""

from __future__ import annotations

from dataclasses import dataclass

from .shape import MoeShape, Workload

GIB = float(1 << 30)

HOST_PROCESS = 1.0 * GIB
"""What the process itself takes of host memory."""

GPU_MARGIN, HOST_MARGIN = 0.04, 0.04
"""Shares of the memories left free: fragments, library workspaces, whoever else runs there.

A cap of GPU memory is what is allocated there; a driver's context, about half a GiB, is beside it.
"""

EXPERT_CHUNK = 2048
"""Tokens whose routed rows are on the GPU at one time during prefill."""

KV_PAGE = 16
"""Tokens of a page of keys and values: half a page of each sequence is empty on the mean."""


@dataclass(frozen=True)
class Batch:
    """What is fixed before pages are placed."""

    batch: int
    micro_batch: int
    attention: str
    prefill_tokens: int
    pages_per_expert: int
    lead: int = 2
    kv_gpu: float = 0.0
    cpu_experts: bool = True
    """Whether pages may be computed by the CPU, and rows are sent there and back."""
    overlap: bool = False
    """Whether prompts are read beside decode: then `prefill_tokens` are those of a step."""

    @property
    def micro_batches(self) -> int:
        """n_ub."""
        return -(-self.batch // self.micro_batch)

    @property
    def side_by_side(self) -> bool:
        """Whether attention and the CPU's experts run beside each other, on cores of their own."""
        return self.cpu_experts and self.attention == "cpu" and self.micro_batches > 1

    @property
    def sizes(self) -> dict[int, int]:
        """Sizes of micro-batches, and how many have them."""
        full, rest = divmod(self.batch, self.micro_batch)
        return {
            size: count for size, count in ((self.micro_batch, full), (rest, 1)) if size and count
        }  # noqa: E501


def kv_bytes(shape: MoeShape, workload: Workload, batch: Batch) -> float:
    """Return the bytes of all keys and values at the end of the run, pages not full included; or at
    any time where sequences come and go."""
    tokens = batch.batch * (workload.held_context + KV_PAGE / 2)
    tokens += batch.batch * workload.beside  # prompts that are being read
    return tokens * shape.kv_token_bytes * shape.layers


def gpu_lines(shape: MoeShape, workload: Workload, batch: Batch) -> dict[str, float]:
    """Return what GPU memory holds beside pages of experts, by name."""
    kv = kv_bytes(shape, workload, batch)
    lines = {
        "projections, routers, embedding, head": shape.dense_bytes,
        "decode activations": _decode_bytes(shape, batch, 1.0 + workload.beside),
        "prefill activations": _prefill_bytes(shape, workload, batch),
    }
    if batch.attention == "gpu":
        buffers = 2.0 * kv / shape.layers * (1.0 - batch.kv_gpu)  # two layers' in turn
        lines["keys and values"] = kv * batch.kv_gpu + buffers
    smaller = min(("decode activations", "prefill activations"), key=lambda name: lines[name])
    lines[smaller] = 0.0  # they are never there at the same time
    return lines


def host_lines(shape: MoeShape, workload: Workload, batch: Batch) -> dict[str, float]:
    """Return what host memory holds beside pages of experts, by name."""
    kv = kv_bytes(shape, workload, batch)
    rows = batch.micro_batch * (1.0 + workload.beside)
    hidden = 4.0 * rows * (shape.qkv_width + 2 * shape.width) * shape.host_element
    share = 1.0 if batch.attention == "cpu" else 1.0 - batch.kv_gpu
    return {
        "the process": HOST_PROCESS,
        "keys and values": kv * share,
        "buffers of hidden states": hidden,
    }


def _decode_bytes(shape: MoeShape, batch: Batch, rows: float) -> float:
    """The residual stream of the batch, buffers of lead + 2 micro-batches, one's rows, logits; with
    so many rows for each sequence."""
    stream = 4.0 * batch.batch * rows * shape.width
    row = shape.qkv_width + 3.0 * shape.width
    buffers = batch.micro_batch * rows * row * shape.element * (batch.lead + 2)
    logits = 4.0 * batch.micro_batch * shape.vocabulary
    return stream + buffers + _routed_bytes(shape, batch.micro_batch * rows) + logits


def _prefill_bytes(shape: MoeShape, workload: Workload, batch: Batch) -> float:
    """Residual stream and q k v of a group, two layers' keys and values, a chunk's rows, logits."""
    if workload.overlap:
        return 0.0
    tokens = min(batch.prefill_tokens or 1 << 30, batch.batch * workload.prompt)
    stream = tokens * (4.0 * shape.width + shape.element * (shape.qkv_width + shape.width))
    kv = 2.0 * tokens * shape.kv_token_bytes
    sequences = tokens / workload.prompt
    logits = 4.0 * min(sequences, float(EXPERT_CHUNK)) * shape.vocabulary
    return stream + kv + _routed_bytes(shape, min(tokens, float(EXPERT_CHUNK))) + logits


def _routed_bytes(shape: MoeShape, tokens: float) -> float:
    """Rows of the pairs of so many tokens: x, gate and up, hidden, out."""
    return tokens * shape.top_k * (2.0 * shape.width + 3.0 * shape.ffn) * shape.element
