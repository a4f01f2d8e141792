"""What lies where, in bytes: GPU memory, host memory and disk, line by line."""

from __future__ import annotations

from dataclasses import dataclass

from ...ir.offload.page_formats import WIDE
from .shape import MoeShape, Workload

GIB = float(1 << 30)

HOST_PROCESS = 1.0 * GIB
"""What the process itself takes of host memory."""

GPU_MARGIN, HOST_MARGIN = 0.04, 0.04
"""Shares of the memories left free: fragments, library workspaces, whoever else runs there.

A cap of GPU memory is what is allocated there; a driver's context, about half a GiB, is beside it.
"""

STATES = 2048
"""States that the parts of a micro-batch's attention may leave on the GPU."""

CONVERSION = float(16 << 20)
"""Bytes of the GPU that each direction's copies are converted in, at the most."""

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
    """Return what GPU memory holds beside pages of experts, by name: what the executor allocates,
    for the widest of its passes."""
    step = _Pass.of(workload, batch)
    lines = {
        "projections, routers, embedding, head": shape.dense_bytes,
        "hidden states": _hidden_bytes(shape, batch, step),
        "activations": _activation_bytes(shape, batch, step),
        "logits": 4.0 * batch.batch * shape.vocabulary,
    }
    if shape.page_format in WIDE:
        lines["a packed page"] = shape.page_bytes(batch.pages_per_expert)
    if batch.attention == "gpu":
        kv = kv_bytes(shape, workload, batch)
        buffers = 2.0 * kv / shape.layers * (1.0 - batch.kv_gpu)  # two layers' in turn
        lines["keys and values"] = kv * batch.kv_gpu + buffers
        lines["states of attention"] = 4.0 * STATES * shape.heads * (shape.head_dim + 2)
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


@dataclass(frozen=True)
class _Pass:
    """The widest pass: rows of one micro-batch, how many there are, and have buffers of their own
    between two queues."""

    rows: float
    parts: int
    buffers: int

    @staticmethod
    def of(workload: Workload, batch: Batch) -> _Pass:
        """Sequences are cut between micro-batches, unless the GPU computes attention."""
        prompts = batch.prefill_tokens or batch.batch * workload.prompt
        rows = max(batch.batch, prompts)
        if workload.overlap:
            rows = batch.batch * (1.0 + workload.beside)
        parts = batch.micro_batches
        each = rows if batch.attention == "gpu" else rows / parts
        return _Pass(each, parts, min(parts, batch.lead + 2))


def _hidden_bytes(shape: MoeShape, batch: Batch, step: _Pass) -> float:
    """The residual stream before and after attention; q k v, attention's results, normed rows and
    those of the experts' pairs, of the micro-batches that are under way; rooms for conversions."""
    own, pairs = shape.heads * shape.head_dim, shape.top_k * batch.pages_per_expert
    stream = 2.0 * step.parts * shape.width
    row = shape.qkv_width + own + shape.width * (1.0 + pairs)
    if batch.attention == "gpu":
        row += own
    elif batch.cpu_experts:
        row += shape.width * pairs
    rows = step.rows * shape.element * (stream + step.buffers * row)
    rows += 8.0 * step.rows * pairs * step.buffers  # weights and order
    if batch.attention == "cpu" and shape.element != shape.host_element:
        rows += sum(
            min(step.rows * width * shape.host_element, CONVERSION)
            for width in (shape.qkv_width, own)
        )
    return rows


def _activation_bytes(shape: MoeShape, batch: Batch, step: _Pass) -> float:
    """The experts' rows of one micro-batch, or the head's, and what the router widens."""
    pairs = step.rows * shape.top_k * batch.pages_per_expert
    experts = pairs * (shape.ffn / batch.pages_per_expert + shape.width) * shape.element
    head = batch.batch * (4.0 * shape.vocabulary + shape.element * shape.width)
    widened = 4.0 * step.rows * shape.width if shape.element < 4 else 0.0
    return max(experts, head) + widened
