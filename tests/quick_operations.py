"""Operations of Triton's interpreter on blocks of numbers, by NumPy at once.

The interpreter asks Triton's compiler at every operation which types the operands have together,
casts and broadcasts them one by one, and only then computes; on blocks of a few hundred numbers
that takes ten times as long as the numbers do. Here it is asked once for each pair of types.
What is not as plain as numbers that NumPy has is left to the interpreter, as errors are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import triton.language as tl
from triton.runtime import interpreter

SEMANTIC = interpreter.interpreter_semantic
INTEGERS = {name: np.dtype(name) for name in (
    "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")}  # fmt: skip
FLOATS = {"fp16": np.dtype("float16"), "fp32": np.dtype("float32"), "fp64": np.dtype("float64")}
NUMBERS = INTEGERS | FLOATS
"""The types that NumPy computes with as Triton does, by Triton's names for them."""
BITS = INTEGERS | {"int1": np.dtype("bool")}


def _quotient(x: Any, y: Any) -> Any:
    """Return x / y cut off towards zero."""
    return (x - np.fmod(x, y)) // y


OPERATORS: dict[str, tuple[Any, dict[str, Any]]] = {
    "add": (np.add, NUMBERS), "sub": (np.subtract, NUMBERS), "mul": (np.multiply, NUMBERS),
    "truediv": (np.divide, FLOATS), "floordiv": (_quotient, INTEGERS), "mod": (np.fmod, NUMBERS),
    "and": (np.bitwise_and, BITS), "or": (np.bitwise_or, BITS), "xor": (np.bitwise_xor, BITS),
    "lshift": (np.left_shift, INTEGERS), "rshift": (np.right_shift, INTEGERS),
}  # fmt: skip
"""What computes an operator, and for which types of numbers."""
COMPARISONS = {"lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal,
               "eq": np.equal, "ne": np.not_equal}  # fmt: skip


def install(put: Callable[[Any, str, Any], None]) -> None:
    """Put the quick operations before those that the interpreter has patched into the language."""
    for place, names in ((tl, functions(tl)), (tl.core, functions(tl.core)),
                         (tl.tensor, methods(tl.tensor))):  # fmt: skip
        for name, operation in names.items():
            put(place, name, operation)


def methods(tensor: Any) -> dict[str, Callable[..., Any]]:
    """Return operators of tensors, in place of those that the interpreter has put there."""
    found: dict[str, Callable[..., Any]] = {}
    for name, (compute, kinds) in OPERATORS.items():
        divides = name in ("truediv", "floordiv", "mod")
        for place, swapped in ((f"__{name}__", False), (f"__r{name}__", True)):
            found[place] = binary(getattr(tensor, place), compute, kinds, divides=divides,
                                  swapped=swapped, pointers=name == "add",
                                  signs="shift" in name)  # fmt: skip
    for name, compute in COMPARISONS.items():
        place = f"__{name}__"
        found[place] = binary(getattr(tensor, place), compute, NUMBERS | BITS, compares=True)
    found["__neg__"] = unary(tensor.__neg__, np.negative, NUMBERS)
    found["__invert__"] = unary(tensor.__invert__, np.invert, BITS)
    found["to"] = cast(tensor.to)
    return found


def functions(language: Any) -> dict[str, Callable[..., Any]]:
    """Return functions of the language, in place of the interpreter's."""
    return {
        "where": where(language.where), "cast": cast(language.cast),
        "expand_dims": with_axis(language.expand_dims), "arange": once(language.arange),
        "maximum": extreme(language.maximum, np.maximum, np.fmax),
        "minimum": extreme(language.minimum, np.minimum, np.fmin),
        "load": load(language.load), "store": store(language.store),
    }  # fmt: skip


def is_block(x: Any) -> bool:
    """Return whether a tensor has axes."""
    return type(x.type) is tl.block_type


_blocks: dict[tuple[str, tuple[int, ...]], Any] = {}


def tensor_of(data: Any, scalar: Any, block: bool) -> Any:
    """Return a tensor of an array, or of a single number."""
    type = scalar
    if block:
        key = scalar.name, data.shape
        type = _blocks.get(key) or _blocks.setdefault(key, tl.block_type(scalar, [*data.shape]))
    return tl.tensor(interpreter.TensorHandle(data, scalar), type)


class Pairs:
    """How two operands are computed with, by their types; None: as the interpreter does."""

    def __init__(self, kinds: dict[str, Any], divides: bool = False, compares: bool = False):
        self._kinds, self._divides, self._compares = kinds, divides, compares
        self._tensors: dict[tuple[str, str], Any] = {}
        self._numbers: dict[tuple[str, type, str], Any] = {}

    def of_tensors(self, x: Any, y: Any) -> Any:
        """Return what x and y are cast to (None: they stay), and the result's type."""
        key = (x.dtype.name, y.dtype.name)
        if key not in self._tensors:
            self._tensors[key] = self._found(x.dtype, y.dtype, False)
        return self._tensors[key]

    def of_number(self, x: Any, number: Any) -> Any:
        """Return what x is cast to, the number as an array, and the result's type."""
        key = (x.dtype.name, type(number), repr(number))
        if key not in self._numbers:
            found = self._found(x.dtype, SEMANTIC.to_tensor_type(number), True)
            if found:
                common, computed = found[3:]
                in_range = SEMANTIC._cast_to_computation_type(number, common)
                found = found[0], SEMANTIC.cast(in_range, computed).handle.data, found[2]
            self._numbers[key] = found
        return self._numbers[key]

    def _found(self, x: Any, y: Any, number: bool) -> Any:
        if not {x.name, y.name} <= NUMBERS.keys() | {"int1"}:
            return None
        common = SEMANTIC.computation_type_impl(x, False, y, number, self._divides)
        whole = self._divides and self._kinds is FLOATS and common.name in INTEGERS
        computed = tl.float32 if whole else common
        kind = self._kinds.get(computed.name)
        casts = (None if side == computed else kind for side in (x, y))
        return kind and (*casts, tl.int1 if self._compares else computed, common, computed)


def binary(
    original: Any, compute: Any, kinds: dict[str, Any], *, divides: bool = False,
    compares: bool = False, swapped: bool = False, pointers: bool = False, signs: bool = False,
) -> Callable[..., Any]:  # fmt: skip
    """Return an operator's method of tensors, or a function of two.

    `pointers`: the left side may be one; `signs`: both sides have one, or neither has.
    """
    pairs = Pairs(kinds, divides, compares)

    def run(x: Any, y: Any, **options: Any) -> Any:
        if type(y) is tl.constexpr:
            y = y.value
        if options or type(x) is not tl.tensor:
            return original(x, y, **options)
        left = x.handle.data
        if type(y) is tl.tensor:
            found, right = pairs.of_tensors(x, y), y.handle.data
            if found is None:
                offsets = pointers and x.dtype.is_ptr() and y.dtype.name in INTEGERS
                return moved(x, y) if offsets else original(x, y)
            if signs and x.dtype.is_int_signed() != y.dtype.is_int_signed():
                return original(x, y)
            if found[1] is not None:
                right = right.astype(found[1])
            block = is_block(x) or is_block(y)
        elif type(y) in (int, float, bool):
            found = pairs.of_number(x, y)
            if found is None:
                return original(x, y)
            right, block = found[1], is_block(x)
        else:
            return original(x, y)
        if found[0] is not None:
            left = left.astype(found[0])
        return tensor_of(compute(right, left) if swapped else compute(left, right), found[2], block)

    return run


def moved(pointer: Any, offset: Any) -> Any:
    """Return a pointer, or a block of them, some elements on."""
    width = max(1, pointer.dtype.element_ty.primitive_bitwidth // 8)
    data = pointer.handle.data + width * offset.handle.data.astype(np.uint64)
    return tensor_of(data, pointer.dtype, is_block(pointer) or is_block(offset))


def unary(original: Any, compute: Any, kinds: dict[str, Any]) -> Callable[..., Any]:
    """Return a sign's method of tensors."""

    def run(x: Any, **options: Any) -> Any:
        if x.dtype.name not in kinds or options:
            return original(x, **options)
        return tensor_of(compute(x.handle.data), x.dtype, is_block(x))

    return run


def extreme(original: Any, of_integers: Any, of_floats: Any) -> Callable[..., Any]:
    """Return what takes the larger or the smaller of two, and a number before NaN."""
    integers = binary(original, of_integers, INTEGERS)
    floats = binary(original, of_floats, FLOATS)

    def run(x: Any, y: Any, **options: Any) -> Any:
        whole = type(x) is tl.tensor and x.dtype.name in INTEGERS
        if type(y) is tl.tensor:
            whole = whole and y.dtype.name in INTEGERS
        return (integers if whole else floats)(x, y, **options)

    return run


def where(original: Any) -> Callable[..., Any]:
    """Return what chooses between two tensors, or between a tensor and a number."""
    pairs = Pairs(BITS | NUMBERS)

    def run(condition: Any, x: Any, y: Any, **options: Any) -> Any:
        x, y = (side.value if type(side) is tl.constexpr else side for side in (x, y))
        if options or type(condition) is not tl.tensor or condition.dtype is not tl.int1:
            return original(condition, x, y, **options)
        if type(x) is tl.tensor and type(y) is tl.tensor:
            found = pairs.of_tensors(x, y)
            sides, block = [x.handle.data, y.handle.data], is_block(x) or is_block(y)
            if found and found[1] is not None:
                sides[1] = sides[1].astype(found[1])
        elif (type(x) is tl.tensor) != (type(y) is tl.tensor):
            tensor, number = (x, y) if type(x) is tl.tensor else (y, x)
            found = pairs.of_number(tensor, number) if type(number) in (int, float) else None
            sides, block = [tensor.handle.data, found and found[1]], is_block(tensor)
        else:
            return original(condition, x, y)
        if found is None:
            return original(condition, x, y)
        if found[0] is not None:
            sides[0] = sides[0].astype(found[0])
        if type(x) is not tl.tensor:
            sides.reverse()
        data = np.where(condition.handle.data, *sides)
        return tensor_of(data, found[2], block or is_block(condition))

    return run


def cast(original: Any) -> Callable[..., Any]:
    """Return what casts a tensor of numbers to another type of numbers."""

    def run(x: Any, dtype: Any, *rest: Any, **options: Any) -> Any:
        if type(x) is not tl.tensor or rest or options or type(dtype) is not tl.dtype:
            return original(x, dtype, *rest, **options)
        target, source = NUMBERS.get(dtype.name), x.dtype.name
        if source == dtype.name:
            return x
        data = x.handle.data
        if (source, dtype.name) == ("bf16", "fp32"):
            data = (data.astype(np.uint32) << 16).view(np.float32)
        elif target is None or source not in BITS and source not in ("fp32", "fp64"):
            return original(x, dtype)
        return tensor_of(data.astype(target), dtype, is_block(x))

    return run


def with_axis(original: Any) -> Callable[..., Any]:
    """Return what gives a block one axis more."""

    def run(x: Any, axis: Any, **options: Any) -> Any:
        if options or type(x) is not tl.tensor or not is_block(x):
            return original(x, axis, **options)
        if axis not in range(len(x.shape) + 1):
            return original(x, axis)
        return tensor_of(np.expand_dims(x.handle.data, axis), x.dtype, True)

    return run


def once(original: Any) -> Callable[..., Any]:
    """Return what makes a range of numbers the first time that it is asked for."""
    known: dict[tuple[Any, ...], Any] = {}

    def run(*ends: Any, **options: Any) -> Any:
        if options:
            return original(*ends, **options)
        key = tuple(end.value if type(end) is tl.constexpr else end for end in ends)
        if key not in known:
            known[key] = original(*ends)
        return known[key]

    return run


class Elements:
    """Numbers as arrays of a pointer's elements."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, type, str], Any] = {}

    def of(self, x: Any, element: Any) -> Any:
        """Return the array of a tensor or a number, cast to the type of an element."""
        if type(x) is tl.tensor:
            return SEMANTIC.cast(x, element).handle.data
        key = element.name, type(x), repr(x)
        if key not in self._known:
            self._known[key] = SEMANTIC.cast(SEMANTIC.to_tensor(x), element).handle.data
        return self._known[key]


def _one_by_one(pointer: Any, mask: Any, other: Any) -> bool:
    """Return whether an access is not a plain one, and left to the interpreter."""
    if type(pointer) is not tl.tensor or not pointer.dtype.is_ptr():
        return True
    if pointer.dtype.is_const() or pointer.dtype.element_ty.name == "int1":
        return True
    if mask is not None and (type(mask) is not tl.tensor or mask.dtype is not tl.int1):
        return True
    if not is_block(pointer) and any(type(x) is tl.tensor and is_block(x) for x in (mask, other)):
        return True
    return other is not None and type(other) not in (tl.tensor, int, float, bool)


def load(original: Any) -> Callable[..., Any]:
    """Return what loads a block through its pointers."""
    elements = Elements()

    def run(pointer: Any, mask: Any = None, other: Any = None, **options: Any) -> Any:
        if _one_by_one(pointer, mask, other) or mask is None and other is not None:
            return original(pointer, mask, other, **options)
        element, places = pointer.dtype.element_ty, pointer.handle.data
        kept = np.ones_like(places, bool) if mask is None else mask.handle.data
        kind = interpreter._get_np_dtype(element)
        missing = np.zeros_like(places, kind) if other is None else elements.of(other, element)
        if not places.shape == kept.shape == missing.shape:
            places, kept, missing = np.broadcast_arrays(places, kept, missing)
        data = interpreter._interpreter.load(places, kept, missing, kind)
        return tensor_of(data, element, is_block(pointer))

    return run


def store(original: Any) -> Callable[..., Any]:
    """Return what stores a block through its pointers."""
    elements = Elements()

    def run(pointer: Any, value: Any, mask: Any = None, **options: Any) -> Any:
        if value is None or _one_by_one(pointer, mask, value):
            return original(pointer, value, mask, **options)
        places, values = pointer.handle.data, elements.of(value, pointer.dtype.element_ty)
        kept = np.ones_like(places, bool) if mask is None else mask.handle.data
        if not places.shape == kept.shape == values.shape:
            if np.broadcast_shapes(places.shape, kept.shape, values.shape) != places.shape:
                return original(pointer, value, mask, **options)
            places, kept, values = np.broadcast_arrays(places, kept, values)
        return interpreter._interpreter.store(places, values, kept)

    return run
