"""What launches by addresses take of their arguments: numbers, and what decides a kernel's kind."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from torch import Tensor

_I32 = range(-(2**31), 2**31)


def value_of(argument: Any) -> tuple[int, Hashable]:
    """Return an argument's value, of a tensor its address, and its kind: dtype and alignment of a
    tensor, None of an i32; what is neither has a kind of its own, and a launch that takes it is
    given the argument itself."""
    if isinstance(argument, Tensor):
        address = argument.data_ptr()
        return address, (argument.dtype, address % 16)
    if type(argument) is int and argument in _I32:
        return argument, None
    return 0, type(argument)
