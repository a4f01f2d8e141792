"""What the quick interpreter computes is what Triton's computes, for all types of numbers."""

from __future__ import annotations

import itertools
import random
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

tl = pytest.importorskip("triton.language")
from triton.runtime import interpreter  # noqa: E402
from weft.tests import quick_operations as quick  # noqa: E402

TYPES = {**quick.NUMBERS, "int1": np.dtype("bool"), "bf16": np.dtype("uint16"),
         "fp8e4nv": np.dtype("uint8")}  # fmt: skip
SHAPES = ((), (4,), (2, 4), (2, 1), (1, 4))
NUMBERS = (0, 1, 3, -1, 2.5, 0.0, -0.0, 300, 1 << 40, True)


def uses_the_language() -> Any:
    return tl


@pytest.fixture
def language() -> Iterator[None]:
    """Let the language be interpreted in this process until a test ends."""
    scope = interpreter._patch_lang(uses_the_language)
    yield
    scope.restore()


class Drawn:
    """Tensors of numbers of a type, in some shape."""

    def __init__(self, seed: int) -> None:
        self._dice, self._rng = random.Random(seed), np.random.default_rng(seed)

    def tensor(self, name: str, shape: tuple[int, ...] | None = None) -> Any:
        shape = self._dice.choice(SHAPES) if shape is None else shape
        values = self._rng.integers(-3 if name[0] in "bif" else 0, 9, shape or (1,))
        if name == "bf16":
            values = values.astype(np.float32).view(np.uint32) >> 16
        scalar = next(each for each in vars(tl).values()
                      if type(each) is tl.dtype and each.name == name)  # fmt: skip
        handle = interpreter.TensorHandle(values.astype(TYPES[name]), scalar)
        return tl.tensor(handle, tl.block_type(scalar, [*shape]) if shape else scalar)

    def number(self) -> Any:
        return self._dice.choice(NUMBERS)

    def types(self, count: int) -> list[str]:
        return self._dice.sample([*TYPES], count)


def outcome(function: Any, *arguments: Any) -> Any:
    """Return a result's type, its array's type and bytes, or the type of the error."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            found = function(*arguments)
        except Exception as error:
            return type(error)
    if found is None or found.handle is None:
        return None  # of a store
    data = np.asarray(found.handle.data)
    return str(found.type), [*found.shape], data.shape, data.dtype, data.tobytes()


def test_operators_give_what_triton_gives(language):
    drawn, methods = Drawn(1), quick.methods(tl.tensor)
    seen = 0
    for name, x in itertools.product(methods, TYPES):
        others: list[Any] = [(drawn.tensor(y),) for y in drawn.types(3)] + [(drawn.number(),)]
        if name in ("__neg__", "__invert__"):
            others = [()]
        if name == "to":
            others = [(drawn.tensor(y, ()).dtype,) for y in TYPES]
        for other in others:
            one = drawn.tensor(x)
            wanted = outcome(getattr(tl.tensor, name), one, *other)
            assert outcome(methods[name], one, *other) == wanted, (name, x, other)
            seen += isinstance(wanted, tuple)
    assert seen > 600


def test_functions_give_what_triton_gives(language):
    drawn, functions = Drawn(2), quick.functions(tl)
    for name, x in itertools.product(("maximum", "minimum", "where"), TYPES):
        one, two, number = drawn.tensor(x), drawn.tensor(*drawn.types(1)), drawn.number()
        chosen = [drawn.tensor("int1")] if name == "where" else []
        number = number if chosen else number or 0  # the larger of 0.0 and -0.0 is either
        for sides in ((one, two), (one, number), (number, two)):
            wanted = outcome(getattr(tl, name), *chosen, *sides)
            assert outcome(functions[name], *chosen, *sides) == wanted, (name, chosen, sides)
    inside = {"_semantic": quick.SEMANTIC}  # as one function of the language calls another
    found = functions["expand_dims"](functions["arange"](0, 4, **inside), 0, **inside)
    found = functions["where"](functions["cast"](found, tl.int1, **inside), found, 7, **inside)
    assert functions["maximum"](found, 3, **inside).handle.data.tolist() == [[7, 3, 3, 3]]
    for name, axis in itertools.product(TYPES, (0, 1, 2)):
        one = drawn.tensor(name)
        wanted = outcome(tl.expand_dims, one, axis)
        assert outcome(functions["expand_dims"], one, axis) == wanted, (name, axis)


def test_memory_is_read_and_written_as_triton_does(language):
    drawn, functions = Drawn(3), quick.functions(tl)
    moved = quick.methods(tl.tensor)["__add__"]
    for name, other in ((name, other) for name in TYPES for other in drawn.types(3)):
        where, mask = drawn.tensor("int32"), drawn.tensor("int1")
        scalar = drawn.tensor(name, ()).dtype
        kinds = [None, drawn.number(), drawn.tensor(other, where.handle.data.shape)]
        outcomes = []
        for load, store in ((tl.load, tl.store), (functions["load"], functions["store"])):
            memory = np.arange(16).astype(TYPES[name])
            start = tl.tensor(interpreter.TensorHandle(
                np.array([memory.ctypes.data + 4 * memory.itemsize], np.uint64),
                tl.pointer_type(scalar)), tl.pointer_type(scalar))  # fmt: skip
            place = start + where
            assert outcome(moved, start, where) == outcome(tl.tensor.__add__, start, where)
            found = [outcome(load, place), outcome(load, place, mask)]
            assert not isinstance(found[0], type), "it is read"
            found += [outcome(load, place, mask, kind) for kind in kinds]
            for kind in kinds[1:]:
                found += [outcome(store, place, kind, mask), memory.tobytes(),
                          outcome(store, place, kind), memory.tobytes()]  # fmt: skip
            outcomes.append(found)
        assert outcomes[0] == outcomes[1], (name, other, where, mask)
