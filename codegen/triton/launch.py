"""Launches of emitted Triton kernels without Triton's own way to them, which takes 40 us each.

The first launch of a signature (dtypes and alignment of buffers, the device) goes Triton's way,
which compiles; later ones call what it compiled. All scalars are unspecialized i32, so their
values decide nothing. Where Triton's private calls are not those that are known, all go its way.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Hashable, Sequence
from functools import cache
from typing import Any

from ..addresses import values_of

KNOWN = (
    "kernel.run(grid_0, grid_1, grid_2, stream, kernel.function, kernel.packed_metadata, "
    "launch_metadata, knobs.runtime.launch_enter_hook, knobs.runtime.launch_exit_hook, "
    "*bound_args.values())"
)
"""How Triton 3.6 and 3.9 launch what they have compiled."""

_Compiled = tuple[Any, Any, Any]
"""What runs a compiled kernel, the function, and its metadata."""


@cache
def known_triton() -> bool:
    """Whether Triton launches as is known here, and for a GPU."""
    from triton import knobs
    from triton.runtime.jit import JITFunction

    source = " ".join(inspect.getsource(JITFunction.run).split())
    return KNOWN in source and not knobs.runtime.interpret


class Launcher:
    """`launch(*arguments)` of a kernel: `first` is Triton's way and returns what it compiled.

    `driver` tells the current device, and its stream; `described` returns what the kernel takes in
    place of arguments, if that is not the same.
    """

    def __init__(
        self, first: Callable[..., Any], grid: Callable[..., tuple[int, ...]], driver: Any,
        described: Callable[..., Sequence[Any]] | None = None,
    ) -> None:  # fmt: skip
        self._first, self._grid, self._driver = first, grid, driver
        self._described = described
        self._compiled: dict[tuple[Any, ...], _Compiled] = {}
        self._named: dict[tuple[Any, ...], _Compiled] = {}

    def __call__(self, *arguments: Any) -> None:
        """Run the kernel over its grid: buffers as tensors, scalars as integers."""
        device = self._driver.get_current_device()
        found = _signature(device, arguments)
        if found is None:
            self._first(*arguments)
            return
        signature, values = found
        compiled = self._compiled.get(signature)
        if compiled is None:
            kernel = self._first(*arguments)
            if kernel is not None:
                known = kernel.run, kernel.function, kernel.packed_metadata
                self._compiled[signature] = known
            return
        self._run(compiled, device, values)

    def addressed(
        self, values: Sequence[int | None], kinds: Hashable, arguments: Callable[[], Sequence[Any]]
    ) -> None:
        """Run the kernel with buffers as their addresses, which takes a third of the time.

        Equal `kinds` say equal dtypes, alignments of 16 bytes and ranges of scalars; of kinds that
        were not seen before, `arguments` gives what a call takes.
        """
        device = self._driver.get_current_device()
        compiled = self._named.get((device, kinds))
        if compiled is None:
            given = arguments()
            self(*given)
            found = _signature(device, given)
            known = None if found is None else self._compiled.get(found[0])
            if known is not None:
                self._named[device, kinds] = known
            return
        self._run(compiled, device, values)

    def _run(self, compiled: _Compiled, device: int, values: Sequence[Any]) -> None:
        x, y, z, *_ = (*self._grid(*values), 1, 1)
        if x > 0 and y > 0 and z > 0:
            run, function, metadata = compiled
            values = values if self._described is None else self._described(*values)
            stream = self._driver.get_current_stream(device)
            run(x, y, z, stream, function, metadata, None, None, None, *values)


def _signature(
    device: int, arguments: Sequence[Any]
) -> tuple[tuple[Any, ...], Sequence[int | None]] | None:
    """Return what decides which compiled kernel takes some arguments, and their values; None where
    Triton must say."""
    values, kinds = values_of(arguments)
    return None if None in values else ((device, *kinds), values)


def launcher(module: Any) -> Callable[..., Any]:
    """Return the launch of an emitted file's module."""
    if not known_triton():
        return module.launch
    from triton.runtime import driver

    class Active:
        """The driver that is active when a launch asks: there is none without a GPU."""

        def __getattr__(self, name: str) -> Any:
            found = getattr(driver.active, name)
            setattr(self, name, found)
            return found

    return Launcher(module.launch, module.grid, Active(), getattr(module, "described", None))
