"""Tile IR to TVMScript text: one kernel becomes one `T.prim_func`.

Values are scalars, deferred functions of indices, or local buffers (see `tile_analysis`). The
grid becomes one fused loop, parallel where the schedule says so.
"""

from __future__ import annotations

import keyword
import re
import string
from collections.abc import Callable, Sequence

from ...ir.core import Operation, Region, Symbol, Term, Value
from ...ir.diagnostics import KernelError
from ...ir.schedule import Schedule
from ...ir.types import dtype_of, shape_of
from ..tile_analysis import Analysis, store_shape, store_value_position
from . import control, dot, lanes, reductions
from .expressions import TVM_DTYPES, Typed, coerce, computed, expression_text, literal
from .loops import Writer, conjunction, elementwise
from .registers import vector_registers
from .values import Access, Held, broadcast, scalar, stored

_RESERVED = {"T", "I", "range", "min", "max", "abs", "float", "int", "bool", *keyword.kwlist}


class UnsupportedTile(KernelError):
    """A tile operation that the TVM emitter does not know."""

    template = "the TVM emitter has no rule for {operation} in kernel {kernel}"


def emit_tvm(kernel: Operation, schedule: Schedule, registers: int = 0) -> str:
    """Return the TVMScript of a kernel, as a method of an `I.ir_module` class.

    `registers` for vectors of the schedule's lanes are those of the CPU that kernels are compiled
    for, unless a number is given.
    """
    return Emitter(kernel, schedule, registers).emit()


def kernel_name(kernel: Operation) -> str:
    """Return the name that a kernel declares."""
    symbol = kernel["name"]
    return symbol.name if isinstance(symbol, Symbol) else str(symbol)


def identifier(name: str) -> str:
    """Return a value's name as a Python identifier that shadows nothing."""
    clean = re.sub(r"\W", "_", name)
    shadows = clean in _RESERVED or clean.startswith("m_") or clean[:1].isdigit()
    return f"{clean}_" if shadows and not clean[:1].isdigit() else f"v{clean}" if shadows else clean


class Emitter:
    """Writes one kernel."""

    def __init__(self, kernel: Operation, schedule: Schedule, registers: int = 0) -> None:
        self.kernel = kernel
        self.schedule = schedule
        registers = registers or vector_registers(schedule.vector)
        self.accumulators = registers - registers // 4
        """Vectors that a micro-kernel sums in: the other registers are for its operands. More of
        them would be stored and loaded at every step."""
        self.analysis = Analysis(kernel)
        self.held: dict[str, Held] = {}
        self.ahead: dict[str, Held] = {}
        self.next_program: dict[str, Held] = {}
        self.places: Sequence[str] = ()
        self.looking: dict[str, Held] | None = None
        self.targets: dict[str, str] = {}
        self.lanes: dict[str, lanes.Lanes] = {}
        self.turned: dict[tuple[str, int], str] = {}
        self.arguments = kernel.regions[0].arguments
        taken = {identifier(value.name) for value in self.arguments} | _RESERVED
        self.out = Writer(schedule.vector, schedule.unroll, taken)
        self.serial = not schedule.parallel or _has(kernel.regions[0], "tile.atomic_add")

    def emit(self) -> str:
        """Return the text of the kernel."""
        name = identifier(kernel_name(self.kernel))
        with self.out.block("@T.prim_func(s_tir=True)\ndef " + name + f"({self._parameters()}):"):
            self.out.line(f'T.func_attr({{"global_symbol": "{name}", "tirx.noalias": True}})')
            for value in self.arguments:
                if _is_buffer(value):
                    self._match(value)
                else:
                    dtype = computed(dtype_of(value.type))
                    self.held[value.name] = scalar(identifier(value.name), dtype)
            self._grid()
        return "\n".join(self.out.lines) + "\n"

    def _parameters(self) -> str:
        return ", ".join(
            f"{identifier(value.name)}_h: T.handle" if _is_buffer(value)
            else f"{identifier(value.name)}: T.{TVM_DTYPES[dtype_of(value.type)]}"
            for value in self.arguments
        )  # fmt: skip

    def _match(self, value: Value) -> None:
        """Declare a buffer; only its elements' own alignment is assumed (views may be odd)."""
        from ...ir.types import DTYPE_BYTES

        name, dtype = identifier(value.name), dtype_of(value.type)
        dims = ", ".join(_dim(extent) for extent in shape_of(value.type)) + ","
        align = DTYPE_BYTES[dtype]
        self.out.line(
            f'{name} = T.match_buffer({name}_h, ({dims}), "{TVM_DTYPES[dtype]}", '
            f"align={align}, offset_factor=1)"
        )

    def _grid(self) -> None:
        variables = {
            value.name: Typed(identifier(value.name), "i32")
            for value in self.arguments
            if not _is_buffer(value)
        }
        extents = [expression_text(extent, variables).text for extent in self.kernel["grid"]]
        extents = extents or ["1"]
        total = " * ".join(extents)
        if total == "1":
            self.out.line("# one program")
            self._programs(["0"])
            return
        kind = "serial" if self.serial else "parallel"
        program = self.out.fresh("program")
        with self.out.block(f"for {program} in T.{kind}({total}):"):
            places, rest = [], program
            for axis in range(len(extents) - 1, 0, -1):
                place, left = self.out.fresh(f"pid{axis}"), self.out.fresh("rest")
                self.out.line(f"{place}: T.int32 = {rest} % ({extents[axis]})")
                self.out.line(f"{left}: T.int32 = {rest} // ({extents[axis]})")
                places, rest = [place, *places], left
            self._programs([rest, *places])

    def _programs(self, places: Sequence[str]) -> None:
        self.places = places
        self.region(self.kernel.regions[0])

    def region(self, region: Region) -> None:
        """Write the operations of a region, but for its terminator."""
        for operation in region.operations:
            if operation.name not in ("tile.yield", "tile.return"):
                self.operation(operation)

    def operation(self, operation: Operation) -> None:
        """Write, or hold back, one operation."""
        rule = _RULES.get(operation.name)
        if rule is None:
            raise UnsupportedTile(
                operation=operation.name, kernel=kernel_name(self.kernel), span=operation.span
            )
        rule(self, operation)

    def define(self, value: Value, held: Held) -> None:
        """Bind a value."""
        self.held[value.name] = held

    def of(self, value: Value) -> Held:
        """Return how a value is held (looking ahead: as it will be in the loop's next round)."""
        if self.looking is not None and value.name in self.looking:
            return self.looking[value.name]
        return self.held[value.name]

    def looking_at(self, future: dict[str, Held], text: Callable[[], str]) -> str:
        """Return a text with some values as they will be: in the next round, or program."""
        self.looking = future
        try:
            return text()
        finally:
            self.looking = None

    def keep(self, value: Value, held: Held, into: str | None = None) -> Held:
        """Write a value into a local buffer (a scalar: into a variable); return the kept form."""
        if not held.shape and into is None:
            name = self.out.fresh(identifier(value.name))
            text = held.at([], Access(honour=True))
            self.out.line(f"{name}: T.{TVM_DTYPES[held.dtype]} = {text}")
            return scalar(name, held.dtype)
        buffer = into or self.out.allocate(identifier(value.name), held.shape, held.dtype)

        def visit(indices: Sequence[str], access: Access) -> list[str]:
            return [f"{buffer}[{', '.join(indices) or '0'}] = {held.at(indices, access)}"]

        elementwise(self.out, held.shape, visit)
        return stored(buffer, held.dtype, held.shape)

    def settle(self, operation: Operation, held: Held) -> None:
        """Bind a result: deferred if the analysis says so, else kept."""
        value = operation.result
        if held.shape and self.analysis.deferred(operation):
            self.define(value, held)
            return
        self.define(value, self.keep(value, held))
        if not held.shape and any(operand.name in self.ahead for operand in operation.operands):
            self._keep_ahead(value, held)

    def _keep_ahead(self, value: Value, held: Held) -> None:
        """Compute a scalar for the loop's next round too: what is loaded there is prefetched."""
        name = self.out.fresh(identifier(value.name) + "_ahead")
        text = self.looking_at(self.ahead, lambda: held.at([], Access(honour=True)))
        self.out.line(f"{name}: T.{TVM_DTYPES[held.dtype]} = {text}")
        self.ahead[value.name] = scalar(name, held.dtype)

    def element(self, buffer: Value, indices: Sequence[Value], at: Sequence[str], access: Access
                ) -> str:  # fmt: skip
        """Return the text of a buffer's element."""
        shape = shape_of(buffer.type)
        texts = [self.of(index).typed(at, access) for index in indices]
        parts = [coerce(text, "i64" if text.dtype == "i64" else "i32") for text in texts]
        if len(parts) > 1 and _may_be_large(shape):
            lane = access.lane and re.search(rf"\b{access.lane}\b", parts[0])
            parts[0] = parts[0] if lane else f"T.int64({parts[0]})"
        return f"{identifier(buffer.name)}[{', '.join(parts) or '0'}]"


def _load(emitter: Emitter, operation: Operation) -> None:
    buffer, *rest = operation.operands
    masked = bool(operation.attribute("masked"))
    mask = rest.pop() if masked else None
    dtype = dtype_of(buffer.type)
    result = dtype_of(operation.result.type)
    other = literal(operation.attribute("other", 0), computed(result))

    def at(indices: Sequence[str], access: Access) -> str:
        text = emitter.element(buffer, rest, indices, access)
        value = coerce(Typed(text, dtype), computed(dtype)) if computed(dtype) != dtype else text
        value = coerce(Typed(value, computed(dtype)), result)
        if mask is None:
            return value
        condition = mask_text(emitter, mask, indices, access)
        return f"T.if_then_else({condition}, {value}, {other})" if access.honour else value

    shape = shape_of(operation.result.type)
    emitter.settle(operation, Held(computed(result), shape, at))  # type: ignore[arg-type]


def mask_text(emitter: Emitter, mask: Value, indices: Sequence[str], access: Access) -> str:
    """Return a mask's condition at some indices, and note it in the access."""
    condition = coerce(emitter.of(mask).typed(indices, access), "bool")
    access.masks.append(condition)
    access.opaque |= not emitter.analysis.boxed(mask)
    return condition


def _store(emitter: Emitter, operation: Operation) -> None:
    buffer, *rest = operation.operands
    mask = rest.pop() if operation.attribute("masked") else None
    position = store_value_position(operation)
    value, indices = operation.operands[position], operation.operands[1:position]
    dtype = dtype_of(buffer.type)

    def visit(at: Sequence[str], access: Access) -> list[str]:
        target = emitter.element(buffer, indices, at, access)
        typed = emitter.of(value).typed(at, access)
        text = coerce(typed, dtype)
        if computed(dtype) != dtype and dtype != "index":
            text = f'T.Cast("{TVM_DTYPES[dtype]}", {text})'
        lines = [f"{target} = {text}"]
        if mask is not None:
            condition = mask_text(emitter, mask, at, access)
            if access.honour:
                lines = [f"if {condition}:", *("    " + line for line in lines)]
        return lines

    elementwise(emitter.out, store_shape(operation), visit)


def _atomic_add(emitter: Emitter, operation: Operation) -> None:
    """Add element by element; a kernel with atomics runs its programs in order."""
    buffer, *rest = operation.operands
    mask = rest.pop() if operation.attribute("masked") else None
    position = store_value_position(operation)
    value, indices = operation.operands[position], operation.operands[1:position]
    shape, dtype = store_shape(operation), dtype_of(buffer.type)
    old = None
    if operation.results:
        old = emitter.out.allocate(operation.result.name, shape, computed(dtype))
        emitter.define(operation.result, stored(old, computed(dtype), shape))
    with emitter.out.loops(shape) as at:
        access = Access(honour=True)
        target = emitter.element(buffer, indices, at, access)
        lines = [f"{old}[{', '.join(at) or '0'}] = {target}"] if old else []
        added = coerce(emitter.of(value).typed(at, access), dtype)
        lines.append(f"{target} = {target} + {added}")
        if mask is not None:
            lines = [f"if {mask_text(emitter, mask, at, access)}:", *("    " + x for x in lines)]
        for line in lines:
            emitter.out.line(line)


def _full(emitter: Emitter, operation: Operation) -> None:
    dtype = computed(dtype_of(operation.result.type))
    text = literal(operation["value"], dtype)
    shape = shape_of(operation.result.type)
    emitter.define(operation.result, Held(dtype, shape, lambda at, access: text))  # type: ignore[arg-type]


def _iota(emitter: Emitter, operation: Operation) -> None:
    shape = shape_of(operation.result.type)
    emitter.define(operation.result, Held("i32", shape, lambda at, access: f"({at[0]})"))  # type: ignore[arg-type]


def _map(emitter: Emitter, operation: Operation) -> None:
    dtype = dtype_of(operation.result.type)

    def at(indices: Sequence[str], access: Access) -> str:
        typed = [emitter.of(value).typed(indices, access) for value in operation.operands]
        variables = dict(zip(string.ascii_lowercase, typed, strict=False))
        text = coerce(expression_text(operation["expr"], variables), dtype)
        return f"m_bf16({text})" if dtype == "bf16" else text

    shape = shape_of(operation.result.type)
    emitter.settle(operation, Held(computed(dtype), shape, at))  # type: ignore[arg-type]


def _view(emitter: Emitter, operation: Operation) -> None:
    first = emitter.of(operation.operands[0])
    shape: tuple[int, ...] = shape_of(operation.result.type)  # type: ignore[assignment]

    def at(indices: Sequence[str], access: Access) -> str:
        source = emitter.of(operation.operands[0])
        match operation.name:
            case "tile.expand":
                axis = operation["axis"]
                inner = [index for place, index in enumerate(indices) if place != axis]
            case "tile.transpose":
                inner = list(reversed(indices))
            case _:
                access.opaque = True
                inner = _reshaped(indices, shape, source.shape)
        return source.at(broadcast(inner, source.shape), access)

    emitter.define(operation.result, Held(first.dtype, shape, at))


def _reshaped(indices: Sequence[str], shape: tuple[int, ...], inner: tuple[int, ...]) -> list[str]:
    """Return the indices into shape `inner` of the element at `indices` of `shape`."""
    flat = "0"
    for index, extent in zip(indices, shape, strict=True):
        flat = index if flat == "0" else f"(({flat}) * {extent} + ({index}))"
    parts: list[str] = []
    for extent in reversed(inner):
        parts.append(f"(({flat}) % {extent})" if extent != 1 else "0")
        flat = f"(({flat}) // {extent})" if extent != 1 else flat
    return parts[::-1]


def _program_id(emitter: Emitter, operation: Operation) -> None:
    place = emitter.places[int(operation["axis"])]
    emitter.define(operation.result, scalar(place, "i32"))
    if operation["axis"] == 0:
        emitter.next_program[operation.result.name] = scalar(f"({place} + 1)", "i32")


def _is_buffer(value: Value) -> bool:
    return value.type.name == "buffer"


def _dim(extent: int | Term) -> str:
    return str(extent) if isinstance(extent, int) else identifier(extent.name)


def _may_be_large(shape: Sequence[int | Term]) -> bool:
    """Tell whether a buffer could hold 2^31 elements or more."""
    total = 1
    for extent in shape:
        if not isinstance(extent, int):
            return True
        total *= extent
    return total >= 2**31


def _has(region: Region, name: str) -> bool:
    return any(
        operation.name == name or any(_has(inner, name) for inner in operation.regions)
        for operation in region.operations
    )


_RULES = {
    "tile.program_id": _program_id, "tile.full": _full, "tile.iota": _iota, "tile.map": _map,
    "tile.load": _load, "tile.store": _store, "tile.expand": _view, "tile.transpose": _view,
    "tile.reshape": _view, "tile.atomic_add": _atomic_add,
    "tile.reduce": reductions.emit_reduce, "tile.argmax": reductions.emit_argmax,
    "tile.scan": reductions.emit_scan, "tile.dot": dot.emit_dot,
    "tile.histogram": reductions.emit_histogram, "tile.for": control.emit_for,
}  # fmt: skip

__all__ = ["Emitter", "conjunction", "emit_tvm", "identifier", "kernel_name"]
