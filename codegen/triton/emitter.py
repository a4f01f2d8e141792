"""The Triton text of a kernel, operation by operation."""

from __future__ import annotations

import string
from collections.abc import Sequence

from ...ir.core import Operation, Value
from ...ir.diagnostics import KernelError
from ...ir.dialects.tile import extents_of
from ...ir.expression import read
from ...ir.schedule import Schedule
from ...ir.types import dtype_of, shape_of
from .barriers import BARRIER, behind_barriers
from .chain import in_order
from .expressions import TRITON, HostWriter, TritonWriter, Typed, cast
from .meeting import last_at, met_at, phase_lines
from .names import identifier
from .reductions import at_once, padding, reductions
from .shapes import padded_shapes
from .signs import natural_values
from .source import launch_options
from .text import back, bare, helper_lines, lane_inside, pipelined, stride_of
from .unpack import unpack_lines

_REAL = frozenset({"f64", "f32", "bf16", "f16", "f8e4m3"})


class CannotEmit(KernelError):
    """A kernel that has no Triton form."""

    template = "@{kernel} has no Triton form: {problem}"


class Emitter:
    """Writes one kernel; one method an operation."""

    def __init__(self, kernel: Operation, schedule: Schedule) -> None:
        self.kernel, self.schedule = kernel, schedule
        self.name = kernel["name"].name
        self.arguments = kernel.regions[0].arguments
        self.shapes, self.natural = padded_shapes(kernel), natural_values(kernel)
        self.behind = behind_barriers(kernel)
        self.lines: list[str] = []
        self.indent = "    "

    def file(self) -> str:
        """Return the whole text."""
        scalars = [identifier(v.name) for v in self.arguments if v.type.name != "buffer"]
        names = ", ".join(identifier(value.name) for value in self.arguments)
        self._block(list(in_order(self.kernel, self.schedule)))
        extents = [read(extent, HostWriter()) for extent in self.kernel["grid"]]
        grid = ", ".join(extents) + ("," if len(extents) == 1 else "")
        chosen = launch_options(self.schedule).items()
        options = ", ".join(f"{name}={value!r}" for name, value in chosen)
        head = f"@triton.jit(do_not_specialize={scalars!r})"
        apart, interpreted = phase_lines(self.name, names, head, self.lines)
        return "\n".join(
            [
                f'"""Triton form of @{self.name}, emitted by weft."""',
                "import triton",
                "import triton.language as tl",
                "",
                *helper_lines(self.lines),
                *unpack_lines(self.lines),
                "",
                head,
                f"def {self.name}({names}):",
                *self.lines,
                *apart,
                "\n",
                f"def grid({names}):\n    return ({grid})",
                "\n",
                f"def launch({names}):",
                f'    """Run @{self.name} over its grid."""',
                f"    programs = grid({names})",
                *interpreted,
                "    if min(programs) > 0:",
                f"        return {self.name}[programs]({names}, {options})",
                "",
            ]
        )

    def _block(self, operations: Sequence[Operation | str]) -> None:
        for operation, *others in reductions(operations, self.shapes, self.schedule.num_warps):
            self._begin([operation, *others])
            if isinstance(operation, str) or others:
                self._line(operation if isinstance(operation, str) else at_once(operation, others))
                continue
            method = getattr(self, "_" + operation.name.partition(".")[2], None)
            if method is None:
                raise CannotEmit(kernel=self.name, problem=f"{operation.name}", span=operation.span)
            method(operation)

    def _begin(self, operations: Sequence[Operation | str]) -> None:
        """The next lines are of these, or what a schedule asks for: `locate` maps them."""

    def _line(self, text: str) -> None:
        self.lines.append(self.indent + text)

    def _set(self, value: Value, text: str) -> None:
        self._line(f"{identifier(value.name)} = {text}")

    def _shape(self, value: Value) -> tuple[int, ...]:
        return self.shapes.get(value.name, ())

    def _at(self, value: Value, shape: Sequence[int]) -> str:
        """Return a value, with leading axes added, so that it broadcasts to a shape."""
        own = self._shape(value)
        text = identifier(value.name)
        for axis, want in enumerate(shape[len(shape) - len(own) :]):
            if own[axis] not in (1, want) and extents_of(value.type)[axis] == 1:
                text = self._first(value, text, axis)
        missing = len(shape) - len(own)
        if not missing or not own:
            return text
        places = ["None"] * missing + [":"] * len(own)
        return f"{text}[{', '.join(places)}]"

    def _first(self, value: Value, text: str, axis: int) -> str:
        """Return the first lane of an axis of extent 1 that was padded."""
        own = self._shape(value)
        kept = f"tl.where({lane_inside(axis, len(own), own[axis], 1)}, {text}, 0)"
        total = f"tl.sum({kept}, {axis}, keep_dims=True)"
        return f"({total} != 0)" if dtype_of(value.type) == "bool" else total

    def _typed(self, value: Value, shape: Sequence[int]) -> Typed:
        return Typed(self._at(value, shape), dtype_of(value.type), value.name in self.natural)

    # Values

    def _program_id(self, operation: Operation) -> None:
        self._set(operation.result, f"tl.program_id({operation['axis']})")

    def _full(self, operation: Operation) -> None:
        result = operation.result
        value, dtype = operation["value"], dtype_of(result.type)
        self._set(result, f"tl.full({tuple(self._shape(result))!r}, {value!r}, {TRITON[dtype]})")

    def _iota(self, operation: Operation) -> None:
        (extent,) = self._shape(operation.result)
        self._set(operation.result, f"tl.arange(0, {extent})")

    def _map(self, operation: Operation) -> None:
        result = operation.result
        shape = self._shape(result)
        self._check_broadcast(operation, operation.operands, shape)
        letters = zip(string.ascii_lowercase, operation.operands, strict=False)
        variables = {letter: self._typed(value, shape) for letter, value in letters}
        dtype = dtype_of(result.type)
        if operation["expr"] == "a":
            self._set(result, cast(variables["a"], dtype).text)
            return
        written = read(operation["expr"], TritonWriter(variables))
        self._set(result, bare(cast(written, dtype).text))

    def _check_broadcast(
        self, operation: Operation, values: Sequence[Value], shape: Sequence[int]
    ) -> None:  # fmt: skip
        for value in values:
            own = self._shape(value)
            for have, want, true in zip(
                reversed(own), reversed(shape), reversed(extents_of(value.type)), strict=False
            ):
                if have not in (1, want) and true != 1:
                    problem = f"%{value.name} is padded to {list(own)}, but meets {list(shape)}"
                    raise CannotEmit(kernel=self.name, problem=problem, span=operation.span)

    # Memory

    def _load(self, operation: Operation) -> None:
        result, dims = operation.result, extents_of(operation.result.type)
        source, *rest = operation.operands
        mask = rest.pop() if operation.attribute("masked") else None
        shape = self._shape(result)
        pointer = self._pointer(source, rest, shape)
        text = self._mask(mask, dims, shape)
        other = operation.attribute("other", 0)
        number = float(other) if dtype_of(source.type) in _REAL else int(other)
        extra = f", mask={text}, other={number!r}" if text else ""
        if operation.attribute("hint") == "stream":
            extra += ', eviction_policy="evict_first"'
        if id(operation) in self.behind:
            self._line(BARRIER)
        value = Typed(f"tl.load({pointer}{extra})", dtype_of(source.type))
        self._set(result, cast(value, dtype_of(result.type)).text)

    def _store(self, operation: Operation) -> None:
        self._write(operation, "tl.store")

    def _atomic_add(self, operation: Operation) -> None:
        self._write(operation, "tl.atomic_add")

    def _meet(self, operation: Operation) -> None:
        counter, *place = operation.operands
        self._line(met_at(self._pointer(counter, place, ()), operation["axis"]))

    def _last(self, operation: Operation) -> None:
        counter, *place = operation.operands
        pointer = self._pointer(counter, place, ())
        self._set(operation.result, last_at(pointer, operation["axis"]))

    def _write(self, operation: Operation, call: str) -> None:
        target, *rest = operation.operands
        mask = rest.pop() if operation.attribute("masked") else None
        value = rest.pop()
        parts = [*rest, value, *([mask] if mask else [])]
        widest = max(parts, key=lambda part: len(self._shape(part)))
        axes = range(1, len(self._shape(widest)) + 1)
        shape = [max(back(self._shape(p), axis) for p in parts) for axis in axes][::-1]
        dims = [max(back(extents_of(p.type), axis) for p in parts) for axis in axes][::-1]
        self._check_broadcast(operation, parts, shape)
        pointer, text = self._pointer(target, rest, shape), self._mask(mask, dims, shape)
        stored = cast(self._typed(value, shape), dtype_of(target.type)).text
        full = f"{call}({pointer}, {stored}" + (f", mask={text})" if text else ")")
        self._set(operation.result, full) if operation.results else self._line(full)

    def _pointer(self, buffer: Value, indices: Sequence[Value], shape: Sequence[int]) -> str:
        """Return a pointer tile: scalar terms first and in 64 bits, then the tiles'."""
        dims = shape_of(buffer.type)
        scalar, spread, found = [identifier(buffer.name)], [], [1] * len(shape)
        for axis, index in enumerate(indices):
            stride, known = stride_of(dims[axis + 1 :])
            text = self._at(index, shape)
            own = self._shape(index)
            small = isinstance(dims[axis], int) and known and dims[axis] * known < 2**31  # type: ignore[operator]
            if not (small or (own and stride == "1")):
                text = f"tl.cast({text}, tl.int64)"
            (spread if own else scalar).append(text if stride == "1" else f"{text} * {stride}")
            for place, extent in enumerate(reversed(own), 1):
                found[-place] = max(found[-place], extent)
        if shape and found != list(shape):
            spread.append(f"tl.zeros({list(shape)!r}, tl.int32)")
        return " + ".join([*scalar, *([f"({' + '.join(spread)})"] if spread else [])])

    def _mask(self, mask: Value | None, dims: Sequence[int], shape: Sequence[int]) -> str:
        """Return the text of a mask, with the lanes that padding added masked off; or nothing."""
        terms = [] if mask is None else [self._at(mask, shape)]
        if mask is not None and shape and not self._shape(mask):  # as wide as the pointers
            terms = [f"(({terms[0]} + tl.zeros({list(shape)!r}, tl.int32)) != 0)"]
        terms += [
            lane_inside(axis, len(shape), extent, int(true))
            for axis, (extent, true) in enumerate(zip(shape, dims, strict=True))
            if extent != true
        ]
        return " & ".join(terms)

    # Shapes and reductions

    def _kept(self, value: Value, axis: int, fill: str) -> str:
        """Return a value whose padded lanes along an axis are `fill`."""
        shape, true = self._shape(value), int(extents_of(value.type)[axis])
        if shape[axis] == true:
            return identifier(value.name)
        lane = lane_inside(axis, len(shape), shape[axis], true)
        return f"tl.where({lane}, {identifier(value.name)}, {fill})"

    def _reduce(self, operation: Operation) -> None:
        (operand,), op = operation.operands, operation["op"]
        fill = padding(op, dtype_of(operand.type))
        text = f"tl.{op}({self._kept(operand, operation['axis'], fill)}, {operation['axis']})"
        wide = Typed(text, "i32" if dtype_of(operand.type) in ("i8", "u8", "bool", "i16") else
                     dtype_of(operand.type))  # fmt: skip
        self._set(operation.result, cast(wide, dtype_of(operation.result.type)).text)

    def _argmax(self, operation: Operation) -> None:
        (operand,), axis = operation.operands, operation["axis"]
        fill = padding("max", dtype_of(operand.type))
        self._set(operation.result, f"tl.argmax({self._kept(operand, axis, fill)}, {axis})")

    def _scan(self, operation: Operation) -> None:
        (operand,) = operation.operands
        self._set(operation.result, f"tl.cumsum({identifier(operand.name)}, {operation['axis']})")

    def _histogram(self, operation: Operation) -> None:
        values, counts = operation.operands
        (bins,), (true,) = self._shape(counts), extents_of(counts.type)
        name, (extent,) = identifier(values.name), self._shape(values)
        inside = f"({name} >= 0) & ({name} < {true})"
        if extent != extents_of(values.type)[0]:
            inside += f" & {lane_inside(0, 1, extent, int(extents_of(values.type)[0]))}"
        text = f"{identifier(counts.name)} + tl.histogram({name}, {bins}, mask={inside})"
        self._set(operation.result, text)

    def _dot(self, operation: Operation) -> None:
        a, b, acc = operation.operands
        transposed = bool(operation.attribute("transpose_b"))
        same = dtype_of(a.type) == dtype_of(b.type)
        dtype = dtype_of(a.type) if same else "f32"
        left = cast(Typed(self._kept(a, 1, "0.0"), dtype_of(a.type)), dtype).text
        right = cast(
            Typed(self._kept(b, 1 if transposed else 0, "0.0"), dtype_of(b.type)), dtype
        ).text
        right = f"tl.trans({right})" if transposed else right
        precision = f', input_precision="{self.schedule.precision}"' if dtype == "f32" else ""
        precision = ", out_dtype=tl.int32" if dtype == "i8" else precision
        text = f"tl.dot({left}, {right}, {identifier(acc.name)}{precision})"
        self._set(operation.result, text)

    def _unpack(self, operation: Operation) -> None:
        (operand,) = operation.operands
        self._check_whole(operation, operand)
        rows, words = self._shape(operand)
        text = f"unpack{operation['bits']}({identifier(operand.name)}, {rows}, {words})"
        self._set(operation.result, text)

    def _expand(self, operation: Operation) -> None:
        (operand,) = operation.operands
        if not self._shape(operand):
            (extent,) = self._shape(operation.result)
            self._set(operation.result, f"tl.broadcast_to({identifier(operand.name)}, ({extent},))")
            return
        axis, shape = operation["axis"], self._shape(operation.result)
        text = f"tl.expand_dims({identifier(operand.name)}, {axis})"
        if shape[axis] != 1:
            text = f"tl.broadcast_to({text}, ({', '.join(map(str, shape))}))"
        self._set(operation.result, text)

    def _transpose(self, operation: Operation) -> None:
        self._set(operation.result, f"tl.trans({identifier(operation.operands[0].name)})")

    def _reshape(self, operation: Operation) -> None:
        (operand,), result = operation.operands, operation.result
        self._check_whole(operation, operand, result)
        dims = ", ".join(map(str, extents_of(result.type)))
        self._set(result, f"tl.reshape({identifier(operand.name)}, ({dims},))")

    def _check_whole(self, operation: Operation, *values: Value) -> None:
        for value in values:
            if self._shape(value) != tuple(extents_of(value.type)):
                problem = f"%{value.name} : {value.type} is padded, but reshaped"
                raise CannotEmit(kernel=self.name, problem=problem, span=operation.span)

    # Control

    def _for(self, operation: Operation) -> None:
        low, high, *carried = operation.operands
        (region,) = operation.regions
        index, *arguments = region.arguments
        for argument, value in zip(arguments, carried, strict=True):
            self._set(argument, identifier(value.name))
        step = operation.attribute("step", 1)
        stages = f", num_stages={self.schedule.num_stages}" if pipelined(region) else ""
        head = f"tl.range({identifier(low.name)}, {identifier(high.name)}, {step}{stages})"
        self._line(f"for {identifier(index.name)} in {head}:")
        self.indent += "    "
        self._block(region.operations)
        self._yielded(arguments, region.operations[-1].operands)
        self.indent = self.indent[4:]
        for result, argument in zip(operation.results, arguments, strict=True):
            self._set(result, identifier(argument.name))

    def _yielded(self, arguments: Sequence[Value], values: Sequence[Value]) -> None:
        if not arguments:
            return
        left = ", ".join(identifier(value.name) for value in arguments)
        self._line(f"{left} = {', '.join(identifier(value.name) for value in values)}")

    def _yield(self, operation: Operation) -> None:
        """Written by the loop."""

    def _return(self, operation: Operation) -> None:
        """Nothing to write: a kernel falls off its end."""
