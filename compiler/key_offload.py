"""Keys and values in host memory: from two bounds of memory to what an executor is given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..frontend.checkpoints.checkpoint import Checkpoint
from ..ir.diagnostics import CapacityError
from ..ir.display.units import Size
from ..ir.offload.pipeline import LaunchedTask, Pipeline
from ..options import BadOption, Options
from .attention import Attention, sparse_decode
from .formats import kv_dtype
from .keys_ahead import link_window

if TYPE_CHECKING:
    from ..passes.tile.regimes import Regime
    from ..runtime.execution.host_keys import HostKeys, Staged
    from ..runtime.execution.key_device import KeyDevice
    from ..runtime.execution.key_room import KeyCosts, KeyRoom
    from ..runtime.execution.sparse_decode import SparseDecode


class HostKeysRefused(CapacityError):
    """Host memory that a device's kernels cannot reach."""

    template = "keys cannot be kept in {size} of host memory: {problem}"
    hint = "lower --kv-host-memory, or raise the limit of locked memory (ulimit -l)"


BOOKS = 256 * 16
"""Bytes that rounding up each of a layer's tensors may cost."""


def require_offloadable(options: Options, attention: Attention | None) -> None:
    """Raise BadOption where keys shall lie in host memory and nothing selects what is read."""
    if not options.kv_host_memory:
        return
    if attention is None:
        problem = "kv_host_memory keeps keys where only those that are selected are read"
        hint = "ask for sparse attention: --attention 'sparse(k=1024)', or with it in the program"
        raise BadOption(problem=problem, hint=hint)
    if attention.policy.unit != "token":
        problem = "with kv_host_memory rows are fetched token by token, and unit=page reads pages"
        raise BadOption(problem=problem, hint="leave out unit, or kv_host_memory")
    if attention.policy.tail != "none":
        problem = "with kv_host_memory no tail is estimated: its sums of v would cross the link"
        raise BadOption(problem=problem, hint="leave out tail, or kv_host_memory")


def key_costs(
    checkpoint: Checkpoint, options: Options, attention: Attention, page: int
) -> KeyCosts:  # fmt: skip
    """Return what pages and rows cost, in bytes of both memories."""
    from ..ir.types import DTYPE_BYTES
    from ..runtime.execution.key_room import KeyCosts

    config, element = checkpoint.config, DTYPE_BYTES[kv_dtype(options)]
    lists = attention.list_bytes(config, page) if options.target == "cuda" else 0
    return KeyCosts.of(config, attention.policy, page, element, BOOKS * config.layers, lists)


def key_room(
    checkpoint: Checkpoint, options: Options, attention: Attention, page: int, device: int = 0
) -> KeyRoom:  # fmt: skip
    """Return the pages and rows that fit the options' bounds, and `device` bytes, unless 0, instead
    of theirs; raises NoKeyRoom."""
    from ..runtime.execution.key_room import KeyRoom

    costs = key_costs(checkpoint, options, attention, page)
    return KeyRoom.within(costs, attention.policy, checkpoint.config.context_length, page,
                          device or options.kv_memory, options.kv_host_memory)  # fmt: skip


@dataclass(frozen=True)
class Offloaded:
    """What an executor of a model with keys in host memory is given."""

    host: HostKeys
    staged: list[Staged | None]
    sparse: SparseDecode | None

    @property
    def arguments(self) -> dict[str, Any]:
        """The executor's arguments."""
        return {"host": self.host, "staged": self.staged, "sparse": self.sparse}


def offloaded_keys(
    checkpoint: Checkpoint, regimes: list[Regime], options: Options, attention: Attention,
    page: int, device: KeyDevice,
) -> Offloaded:  # fmt: skip
    """Return the memory of keys in host memory, its bounds held, and the proven tasks of steps."""
    from ..passes.tile.lowering.fetch import GPU_PARTS
    from ..runtime.execution.dtypes import TORCH
    from ..runtime.execution.host_keys import HostKeys
    from ..runtime.execution.key_device import NotPinned

    room = key_room(checkpoint, options, attention, page, device.memory.cap)
    window = link_window(checkpoint.config, options, attention.hardware)
    sparse = sparse_decode(attention, regimes, checkpoint, options, room.pages, page, device.place,
                           device.memory, window)  # fmt: skip
    assert sparse is not None
    dtype = TORCH[kv_dtype(options)]
    try:
        parts = GPU_PARTS if options.target == "cuda" else 1
        host = HostKeys(checkpoint.config, sparse.layers, room, page, dtype, device, parts)
    except NotPinned as error:
        size = Size(options.kv_host_memory)
        raise HostKeysRefused(size=size, problem=str(error)) from None
    return Offloaded(host, [staged(regime, options) for regime in regimes], sparse)


def staged(regime: Regime, options: Options) -> Staged | None:
    """Return the tasks of a regime's launches on their queues, proven free of hazards; None where
    one queue has them all."""
    from ..passes.graph.hazards import prove_hazards
    from ..runtime.execution.host_keys import Staged

    if not regime.sparse:
        return None
    pipeline, tasks = launches_of(regime)
    if options.prove:
        prove_hazards(pipeline)
    return Staged(pipeline, tasks)


def launches_of(regime: Regime) -> tuple[Pipeline, tuple[LaunchedTask, ...]]:
    """Return the pipeline of a regime's launches, and which launches each task is."""
    from ..passes.graph.launch_pipeline import launch_pipeline

    kernels: dict[str, Any] = {kernel["name"].name: kernel for kernel, _ in regime.kernels}
    return launch_pipeline(regime.function, kernels, dict(regime.extents))


def explained(regimes: list[Regime], attention: Attention | None) -> list[str]:
    """Return what is proven of the launches of sparse decode steps, a line a regime; and on a GPU
    why keys are fetched ahead or not, and which steps are replayed as a graph."""
    from ..passes.graph.hazards import prove_hazards

    lines = []
    for regime in regimes:
        if not regime.sparse:
            continue
        pipeline, tasks = launches_of(regime)
        apart = sum(task.queue != tasks[0].queue for task in tasks)
        ahead = sum(op.name == "graph.call" and op["kernel"].name.startswith("keys_guess")
                    for op in regime.function.regions[0].operations)  # fmt: skip
        steps = f"decode steps of up to {regime.rows} rows" if regime.rows else "all other steps"
        lines.append(f"{steps}: {tasks[-1].end} launches are {len(tasks)} tasks, {apart} of them "
                     f"cross the link beside the others, {ahead} of these fetch ahead; "
                     f"{prove_hazards(pipeline)}")  # fmt: skip
    if attention is not None and attention.foresight is not None:
        lines.append(str(attention.foresight))
    if regimes[0].target == "cuda":
        lines += GRAPHS
    return lines


GRAPHS = (
    "decode steps are replayed as one CUDA graph over both queues: no launch waits for the host",
    "decode steps that read more rows than the cache holds run part by part, launched one by one, "
    "and draw when all parts are done",
)
