"""What launches by addresses take of their arguments: numbers, and what decides a kernel's kind."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Any

from torch import Tensor

_I32 = range(-(2**31), 2**31)


def values_of(arguments: Iterable[Any]) -> tuple[list[int | None], list[Hashable]]:
    """Return arguments' values, of tensors their addresses, and their kinds: dtype and alignment of
    a tensor, None of an i32. What is neither has no value, and a kind of its own: a launch that
    takes it is given the argument itself."""
    values: list[int | None] = []
    kinds: list[Hashable] = []
    for argument in arguments:
        if isinstance(argument, Tensor):
            address = argument.data_ptr()
            values.append(address)
            kinds.append((argument.dtype, address % 16))
        elif type(argument) is int and argument in _I32:
            values.append(argument)
            kinds.append(None)
        else:
            values.append(None)
            kinds.append(type(argument))
    return values, kinds
