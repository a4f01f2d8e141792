"""From a compiled model to an executor in memory: weights, pages, kernels."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NoReturn
from weakref import WeakSet

from ..frontend.checkpoints.checkpoint import Checkpoint
from ..ir.core import Module
from ..ir.diagnostics import CapacityError
from ..ir.display.units import least_size, sizes
from ..ir.model import ModelConfig
from ..options import Launch, Options
from .attention import Attention, sparse_decode
from .attention_ways import attention_shape, attention_ways
from .formats import PAGE_SIZE, kv_dtype, page_size, weight_dtype

if TYPE_CHECKING:
    from ..passes.tile.regimes import Regime
    from ..runtime.devices.graphs import Recorder
    from ..runtime.execution.sampler import SampleKernel
    from ..runtime.execution.step import ModelExecutor, StepInput
    from ..runtime.execution.weight_files import TensorSource
    from ..runtime.execution.weights import Progress
    from ..runtime.gpu.device_executor import DeviceExecutor


_in_memory: WeakSet[Any] = WeakSet()


def loaded(load: Callable[[], ModelExecutor]) -> ModelExecutor:
    """Load a model, once the memory of those that nobody holds any more is free.

    An executor and what schedules its steps name each other, and Python looks for such circles by
    how many objects were made, not by their bytes: a notebook that compiles anew would hold two
    models, which a GPU has no room for.
    """
    if _in_memory:
        gc.collect()
    executor = load()
    _in_memory.add(executor)
    return executor


class NoPage(CapacityError):
    """A bound of keys and values below one page of them."""

    template = "a page of keys and values ({tokens} tokens) takes {page}, and {memory} are theirs"
    hint = "give kv_memory (--kv-memory) at least {least}: a program needs several pages"


def tensor_source(checkpoint: Checkpoint, options: Options, device: str = "cpu") -> TensorSource:
    """Return where the weights come from: the checkpoint's files, or a seed."""
    from ..runtime.execution.weight_files import Checkpoint as Files
    from ..runtime.execution.weights import RandomTensors

    if checkpoint.folder:
        return Files(checkpoint.folder, device)
    return RandomTensors(options.seed, device)


def page_count(
    checkpoint: Checkpoint, options: Options, attention: Attention | None = None,
    size: int = PAGE_SIZE,
) -> int:  # fmt: skip
    """Return how many pages of keys and values, `size` tokens each, the memory bound allows;
    with sparse `attention`, what it keeps beside them counts too. Raises NoPage, NoKeyRoom."""
    from ..ir.types import DTYPE_BYTES

    if attention is not None and attention.offload:
        from .key_offload import key_room

        return key_room(checkpoint, options, attention, size).pages

    config, element = rank_config(checkpoint, options), DTYPE_BYTES[kv_dtype(options)]
    page = config.layers * 2 * config.kv_heads * size * config.head_dim * element
    page += attention.page_bytes(config, size) if attention else 0
    return _pages_in(options.kv_memory, page, size)


def _pages_in(memory: int, page: int, tokens: int) -> int:
    if memory < page:
        counts = sizes(page=page, memory=memory)
        raise NoPage(**counts, tokens=tokens, least=least_size(page))
    return memory // page


def rank_config(checkpoint: Checkpoint, options: Options) -> ModelConfig:
    """Return the model's configuration, or that of the part that a rank holds."""
    from ..passes.graph.tensor_parallel import local_config

    return local_config(checkpoint.config, options.tp)


def join_ranks(options: Options, launch: Launch, ready: Callable[[], Any]) -> None:
    """Meet the other ranks of a tensor-parallel run when `ready` has done what needs none of them.

    Raises NotLaunched.
    """
    if options.tp > 1:
        from ..runtime.execution.ranks import join, require_launched, take_gpu

        require_launched(options.tp, launch.count)
        gpu = launch.local_rank if options.target == "cuda" else None
        take_gpu(gpu)
        ready()
        join(gpu)


def require_gpu() -> None:
    """Raise NoGpu where there is none: before its kernels are compiled, which may take minutes."""
    from ..runtime.devices.device import Device

    Device.find()


def serve(executor: ModelExecutor) -> NoReturn:
    """Run the steps that rank 0 announces, then end this process."""
    from ..runtime.execution.ranks import follow

    follow(executor)
    raise SystemExit(0)


def reference_executor(
    checkpoint: Checkpoint, graph: Module, options: Options, attention: Attention | None = None
) -> ModelExecutor:
    """Return an executor that runs the graph by its meaning: slow, and always right."""
    from ..codegen.meaning.graph_reference import GraphRun
    from ..codegen.meaning.sparse_decode_reference import DecodeAttention
    from ..runtime.execution.executor import ReferenceExecutor
    from ..runtime.execution.ranks import exchange
    from ..runtime.execution.step import whole_rows
    from ..runtime.execution.weights import load_weights

    pages = page_count(checkpoint, options, attention)
    loaded = load_weights(graph, tensor_source(checkpoint, options))
    weights = {name: weight.dense() for name, weight in loaded.items()}
    run = GraphRun(graph, weights, slots=pages * PAGE_SIZE, exchange=exchange)
    attend = None
    if attention is not None:
        run.attend = attend = DecodeAttention(attention.policy, attention.calibration)

    def before(step: StepInput) -> None:
        if attention is not None and attend is not None:
            rows = len(step.kv_lengths)
            attend.whole = whole_rows(step, rows, attention.default).tolist()

    return ReferenceExecutor(
        rank_config(checkpoint, options),
        run,
        num_pages=pages,
        max_batch=options.max_batch,
        max_tokens=options.max_tokens,
        before=before,
    )


def compiled_executor(
    checkpoint: Checkpoint,
    regimes: list[Regime],
    kernels: Mapping[str, Any],
    options: Options,
    progress: Progress | None = None,
    attention: Attention | None = None,
) -> ModelExecutor:
    """Return an executor of compiled kernels; raises ModelTooLarge."""
    from ..codegen.threads import library_yields, share_cores
    from ..passes.tile.regimes import with_narrow
    from ..runtime.devices.host_room import require_host_room
    from ..runtime.execution.compiled_executor import CompiledExecutor
    from ..runtime.execution.weights import load_weights, weight_bytes
    from .choices import host_products, short_steps

    share_cores(options.thread_count)
    every = with_narrow(regimes)
    functions = Module(tuple(regime.function for regime in every))
    size = weight_bytes(functions)
    step = max(regime.function["memory"]["bytes"] for regime in every)
    require_host_room(checkpoint.name, weight_dtype(options), size, options.kv_memory, step)
    weights = load_weights(functions, tensor_source(checkpoint, options), progress=progress)
    pages = page_count(checkpoint, options, attention if _selects(regimes) else None)
    keys = _keys(checkpoint, regimes, options, attention, pages, "cpu", options.kv_memory)
    if options.tune == "cached":
        keys["products"] = host_products(weights, options)
    executor = CompiledExecutor(
        rank_config(checkpoint, options),
        [(regime.rows, regime.function) for regime in every],
        kernels,
        weights,
        num_pages=pages,
        max_batch=options.max_batch,
        max_tokens=options.max_tokens,
        kv_format=kv_dtype(options),
        **keys,
        library_threads=0 if library_yields() else 1,
        short_rows=max(regime.most for regime in every),
    )
    # Ranks must cut a step alike, and keys across a link are brought for a step as a whole.
    if options.tune == "cached" and options.tp == 1 and executor.host is None:
        executor.short = short_steps(executor, options)
    return executor


def device_executor(
    checkpoint: Checkpoint, regimes: list[Regime], kernels: Mapping[str, Any], options: Options,
    progress: Progress | None = None, attention: Attention | None = None,
) -> ModelExecutor:  # fmt: skip
    """Return the executor of the current GPU; raises where the model does not fit it."""
    from ..runtime.devices.device import Device
    from ..runtime.devices.graphs import CudaGraphs
    from ..runtime.execution.dtypes import TORCH
    from ..runtime.execution.executor import page_bytes
    from ..runtime.execution.ranks import NCCL_BYTES, before_end, least
    from ..runtime.execution.weights import weight_bytes

    format, kv = weight_dtype(options), kv_dtype(options)
    device = Device.find()
    for name in {format, kv}:
        device.require_format(name)
    config = rank_config(checkpoint, options)
    page = page_bytes(config, TORCH[kv].itemsize, page_size(options))
    if attention:
        page += attention.page_bytes(config, page_size(options))
        page += attention.list_bytes(config, page_size(options))
    functions = Module(tuple(regime.function for regime in regimes))
    working = page + max(function["memory"]["bytes"] for function in functions.operations)
    working += NCCL_BYTES if options.tp > 1 else 0
    left = device.require_room(checkpoint.name, format, weight_bytes(functions), working)
    memory = min(options.kv_memory, left) if options.kv_memory else left
    offload = attention is not None and attention.offload  # then keys have bounds of their own
    pages = least(1 if offload else _pages_in(memory, page, page_size(options)))
    recorder = CudaGraphs()
    if options.tp > 1:
        before_end(recorder.forget)
    with device.watched(checkpoint.name):
        executor = executor_on(
            checkpoint, regimes, kernels, options, pages, device.place, recorder, progress,
            attention, memory,
        )  # fmt: skip
        executor.warm()
        executor.record_first()
        return executor


def executor_on(
    checkpoint: Checkpoint, regimes: list[Regime], kernels: Mapping[str, Any], options: Options,
    pages: int, device: str, recorder: Recorder | None = None, progress: Progress | None = None,
    attention: Attention | None = None, memory: int = 0,
) -> DeviceExecutor:  # fmt: skip
    """Return an executor of a GPU's kernels on a device; on the CPU they are interpreted. Where
    keys lie in host memory, `memory` bytes of the device are for what it has of them."""
    from ..codegen.build_cuda import can_specialise
    from ..passes.tile.attention.parts import Parts
    from ..runtime.execution.dtypes import TORCH
    from ..runtime.execution.weights import load_weights
    from ..runtime.gpu.device_executor import DeviceExecutor

    config, kv = rank_config(checkpoint, options), kv_dtype(options)
    source = tensor_source(checkpoint, options, device)
    functions = Module(tuple(regime.function for regime in regimes))
    weights = load_weights(functions, source, device, progress)
    page = page_size(options)
    shape = attention_shape(config, page, TORCH[kv].itemsize)
    keys = _keys(checkpoint, regimes, options, attention, pages, device, memory)
    if "host" in keys:
        pages = keys["host"].room.pages
    return DeviceExecutor(
        config, [(regime.rows, regime.function) for regime in regimes], kernels, weights, shape,
        num_pages=pages, max_batch=options.max_batch,
        max_tokens=options.max_tokens, kv_format=kv, device=device, recorder=recorder,
        ways=[*attention_ways(Parts(config.heads, config.kv_heads, config.head_dim, page, kv=kv))],
        max_logits=dict(regimes[-1].extents)["R"], long=can_specialise(),
        **keys,
    )  # fmt: skip


def _keys(
    checkpoint: Checkpoint, regimes: list[Regime], options: Options, attention: Attention | None,
    pages: int, device: str, memory: int,
) -> dict[str, Any]:  # fmt: skip
    """Return an executor's arguments for sparse attention; where keys lie in host memory, `memory`
    bytes of the device are for what it has of them."""
    page = page_size(options)
    if attention is None or not attention.offload or not _selects(regimes):
        sparse = sparse_decode(attention, regimes, checkpoint, options, pages, page, device)
        return {"sparse": sparse}
    from ..runtime.execution.key_device import CudaKeys, SimulatedKeys
    from .key_offload import offloaded_keys

    place = SimulatedKeys(memory) if device == "cpu" else CudaKeys(memory, device)
    return offloaded_keys(checkpoint, regimes, options, attention, page, place).arguments


def _selects(regimes: list[Regime]) -> bool:
    """Return whether sparse attention pays in any kind of step."""
    return any(regime.sparse for regime in regimes)


def device_sampler(executor: ModelExecutor, kernels: Mapping[str, Any]) -> SampleKernel:
    """Return the sampler of a GPU's executor."""
    from ..runtime.gpu.device_executor import DeviceExecutor
    from ..runtime.gpu.device_sampler import DeviceSampler

    assert isinstance(executor, DeviceExecutor)
    return DeviceSampler(executor, kernels)


def compiled_sampler(executor: ModelExecutor, kernels: Mapping[str, Any]) -> SampleKernel:
    """Return the sampler that draws with compiled kernels."""
    from ..ir.constraints.token_masks import few_words
    from ..runtime.execution.compiled_sampler import CompiledSampler

    size = executor.vocab_size
    wide, few = (
        (kernels.get(f"argmax_masked_{width}"), kernels.get(f"sample_{width}"), width)
        for width in (size, few_words(size))
    )
    return CompiledSampler(*wide, executor.max_batch, few if few[0] else None)  # type: ignore[arg-type]
