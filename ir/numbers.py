"""What counts as a number of a program: True and False, which Python takes for 1 and 0, do not."""

from __future__ import annotations

import math
from typing import Any, TypeGuard


def is_int(value: Any) -> TypeGuard[int]:
    """Whether a value is a whole number."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: Any) -> TypeGuard[int | float]:
    """Whether a value is a number, whole or real, be it finite or not."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_finite(value: Any) -> TypeGuard[int | float]:
    """Whether a value is a number that a float can be near to."""
    try:
        return is_number(value) and math.isfinite(value)
    except OverflowError:  # an int beyond any float: as an option or a bound a mistake
        return False
