"""The executor of compiled kernels: a step is a flat list of launches over preallocated memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from ..ir.core import Operation, Table, Term, thaw
from ..ir.model import ModelConfig, Rope
from ..ir.types import dtype_of, shape_of
from .executor import PAGE_SIZE, by_name, check_step, page_bytes
from .library import ROUTINES, Call, Launch
from .step import StepInput
from .weights import Weight

TORCH = {"f32": torch.float32, "bf16": torch.bfloat16, "i32": torch.int32}
KEPT_PLANS = 512


class Launchable(Protocol):
    """A compiled kernel."""

    def launch(self, *arguments: Any) -> None:
        """Run with tensors and integers in the kernel's argument order."""
        ...


class CompiledExecutor:
    """Runs lowered functions of one model; see `step.ModelExecutor`.

    `functions` are pairs of the most rows that a decode-only step may have for it, and the
    lowered graph.func with its memory plan; the last one serves every other step. `convert` turns
    a tensor into what kernels take with the least work a launch (default: TVM's own tensors).
    """

    def __init__(
        self, config: ModelConfig, functions: Sequence[tuple[int, Operation]],
        kernels: Mapping[str, Launchable], weights: Mapping[str, Weight], *, num_pages: int,
        max_batch: int, max_tokens: int, kv_format: str = "f32",
        convert: Callable[[Tensor], Any] | None = None,
    ) -> None:  # fmt: skip
        self.config = config
        self.vocab_size, self.context_length = config.vocab_size, config.context_length
        self.page_size, self.num_pages = PAGE_SIZE, num_pages
        self.max_batch, self.max_tokens = max_batch, max_tokens
        self.page_bytes = page_bytes(config, TORCH[kv_format].itemsize)
        self._functions, self._kernels, self._weights = list(functions), kernels, weights
        pool = (config.layers, num_pages, config.kv_heads, PAGE_SIZE, config.head_dim)
        self._pools = [torch.zeros(pool, dtype=TORCH[kv_format]) for _ in "kv"]
        self.k, self.v = (list(pool.unbind()) for pool in self._pools)
        self.cos, self.sin = rope_tables(config.rope, config.head_dim, config.context_length)
        self.convert = convert or _tvm_tensor()
        kept = [w for weight in weights.values() for w in (weight.data, weight.scale)]
        kept += [*self.k, *self.v, self.cos, self.sin]
        self.converted = {id(tensor): convert(tensor) for tensor in kept if tensor is not None}
        self._arena = aligned(max(function["memory"]["bytes"] for _, function in functions))
        self._plans: dict[int, tuple[StepInput, list[Launch], Tensor]] = {}

    def forward(self, step: StepInput) -> Tensor:
        """Return logits [R, V] f32, a view that the next call overwrites."""
        known = self._plans.get(id(step))
        if known is None:
            known = self._plan(step)
        for function, arguments in known[1]:
            function(*arguments)
        return known[2]

    def copy_page(self, source: int, target: int) -> None:
        """Copy a page of keys and values in all layers."""
        for pool in self._pools:
            pool[:, target] = pool[:, source]

    def _plan(self, step: StepInput) -> tuple[StepInput, list[Launch], Tensor]:
        """Bind a step's tensors to launches; decode steps, whose views come again, are kept."""
        check_step(step, self.max_batch, self.max_tokens)
        decode = step.is_decode
        plan = (step, *_Binder(self, step).bind(self._choose(step, decode)))
        if decode:
            if len(self._plans) >= KEPT_PLANS:
                self._plans.clear()
            self._plans[id(step)] = plan  # holds the step, so that its id stays its own
        return plan

    def _choose(self, step: StepInput, decode: bool) -> Operation:
        rows = step.tokens.shape[0]
        fitting = (function for limit, function in self._functions if decode and rows <= limit)
        return next(fitting, self._functions[-1][1])


class _Binder:
    """Turns the calls of a lowered function into launches for the extents of one step."""

    def __init__(self, executor: CompiledExecutor, step: StepInput) -> None:
        self.executor = executor
        self.values: dict[str, Tensor] = by_name(step)
        self.scales: dict[str, Tensor] = {}
        self._converted: dict[int, Any] = {}
        tokens = step.tokens.shape[0]
        self.extents = {
            "T": tokens, "B": step.kv_lengths.shape[0], "R": step.logits_rows.shape[0],
            "M": tokens * executor.config.experts_per_token, "N": executor.num_pages,
            "MAXP": step.page_table.shape[1], "B1": step.kv_lengths.shape[0] + 1,
        }  # fmt: skip

    def bind(self, function: Operation) -> tuple[list[Launch], Tensor]:
        """Return the launches and the tensor of logits."""
        launches: list[Launch] = []
        offsets = dict(function["memory"]["offsets"].items)
        for operation in function.regions[0].operations:
            if operation.name == "graph.return":
                return launches, self.values[operation.operands[0].name]
            if operation.name == "graph.weight":
                self._weight(operation.result.name)
                continue
            for value in operation.results:
                self.values[value.name] = self._view(value.type, offsets[value.name])
            launches.append(self._launch(operation))
        raise ValueError("the function has no graph.return")

    def _weight(self, name: str) -> None:
        weight = self.executor._weights[name]
        self.values[name] = weight.data
        if weight.scale is not None:
            self.scales[name] = weight.scale

    def _view(self, type: Term, offset: int) -> Tensor:
        shape = [self.extents[d.name] if isinstance(d, Term) else d for d in shape_of(type)]
        dtype = TORCH[dtype_of(type)]
        size = dtype.itemsize
        for extent in shape:
            size *= extent
        return self.executor._arena[offset : offset + size].view(dtype).view(shape)

    def _launch(self, operation: Operation) -> Launch:
        if operation.name == "graph.library":
            return self._library(operation)
        op, kernel = operation, self.executor._kernels[operation["kernel"].name]
        arguments = tuple(self._ready(self._argument(op, term)) for term in op["arguments"])
        return kernel.launch, arguments

    def _ready(self, argument: Tensor | int) -> Any:
        """Convert a tensor once, however many kernels take it; `values` keeps it alive."""
        if isinstance(argument, int):
            return argument
        for known in (self.executor.converted, self._converted):
            if id(argument) in known:
                return known[id(argument)]
        return self._converted.setdefault(id(argument), self.executor.convert(argument))

    def _library(self, operation: Operation) -> Launch:
        layer = operation.attribute("layer")
        call = Call(
            [self.values[value.name] for value in operation.operands],
            [self.values[value.name] for value in operation.results],
            [self.scales.get(value.name) for value in operation.operands],
            thaw(operation.attribute("settings", Table())),
            None if layer is None else self.executor.k[layer],
            None if layer is None else self.executor.v[layer],
        )
        return ROUTINES[operation["routine"]](call)

    def _argument(self, operation: Operation, term: Term) -> Tensor | int:
        if not term.parameters:
            return {"cos": self.executor.cos, "sin": self.executor.sin}.get(
                term.name, self.extents.get(term.name)
            )  # type: ignore[return-value]
        (index,) = term.parameters
        assert isinstance(index, int)
        match term.name:
            case "in":
                return self.values[operation.operands[index].name]
            case "flat":
                return self._flat(self.values[operation.operands[index].name])
            case "out":
                return self.values[operation.results[index].name]
            case "scale":
                return self.scales[operation.operands[index].name]
            case "k":
                return self.executor.k[index]
            case "v":
                return self.executor.v[index]
        raise ValueError(f"no kernel argument is called {term}")

    def _flat(self, tensor: Tensor) -> Tensor:
        """Return all elements in a row; kept, so that its identity stays its own."""
        return self.values.setdefault(f"flat {tensor.data_ptr()}", tensor.flatten())


def rope_tables(rope: Rope, head_dim: int, positions: int) -> tuple[Tensor, Tensor]:
    """Return cos and sin [positions, C / 2], f32; angles are f32 as checkpoints are trained."""
    frequencies = torch.tensor(rope.inverse_frequencies(head_dim), dtype=torch.float32)
    angles = torch.arange(positions, dtype=torch.float32)[:, None] * frequencies
    return angles.cos() * rope.attention_factor, angles.sin() * rope.attention_factor


def _tvm_tensor() -> Callable[[Tensor], Any]:
    """Return the conversion that saves half a microsecond a tensor and launch."""
    from tvm_ffi import from_dlpack

    return from_dlpack


def aligned(size: int, alignment: int = 64) -> Tensor:
    """Return a buffer of bytes that begins at a multiple of the alignment."""
    raw = torch.zeros(size + alignment, dtype=torch.uint8)
    shift = -raw.data_ptr() % alignment
    return raw[shift : shift + size]
