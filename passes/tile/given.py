"""That what kernels read before they wait for each other was there before the step: a launch that
begins early would else read what a kernel of this step is about to write."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ...ir.core import Operation, Value
from ...ir.diagnostics import KernelError

INPUTS = frozenset(
    {"positions", "slots", "query_starts", "kv_lengths", "page_table", "logits_rows"}
)
"""Inputs that the host has written before a step's first kernel. Tokens are none: a kernel puts
those that the host does not know yet; neither is what another section of a step left."""

Place = tuple[Any, ...]
"""What an argument of a call stands for: a value's name, or a term, as of a layer's keys."""


class NotGiven(KernelError):
    """A kernel that says of a buffer that it was there before the step, where it was not."""

    template = "@{kernel} reads {buffer} before it waits for what writes it, {writer}"
    hint = "name in `given` only inputs of a step, its lists, tables and weights"


def check_given(function: Operation, kernels: Iterable[Operation]) -> None:
    """Raise NotGiven unless nothing in a lowered graph.func writes what its kernels have `given`.

    Only one queue's order is looked at: where several run side by side nothing is launched early.
    """
    known = {kernel["name"].name: kernel for kernel in kernels}
    region = function.regions[0]
    writers: dict[Place, str] = {
        (value.name,): "what runs before it" for value in region.arguments
        if value.name not in INPUTS
    }  # fmt: skip
    for operation in region.operations:
        if operation.name != "graph.weight":
            writers |= {(value.name,): operation.name for value in operation.results}
    calls = [(call, kernel) for call in region.operations for kernel in _kernels(call, known)]
    for call, kernel in calls:
        for buffer, place in _places(call, kernel):
            if buffer.name in kernel["writes"]:
                writers[place] = f"@{kernel['name'].name}"
    for call, kernel in calls:
        for buffer, place in _places(call, kernel):
            if buffer.name in (kernel.attribute("given") or ()) and place in writers:
                raise NotGiven(kernel=kernel["name"].name, buffer=buffer.name,
                               writer=writers[place], span=call.span)  # fmt: skip


def _kernels(call: Operation, known: Mapping[str, Operation]) -> Iterator[Operation]:
    ways = call.attribute("ways")
    others = [kernel for _, kernel in ways.items] if ways else []
    for name in (call.attribute("kernel"), call.attribute("few"), *others):
        if name is not None:
            yield known[name.name]


def _places(call: Operation, kernel: Operation) -> Iterator[tuple[Value, Place]]:
    """Return the arguments of a kernel, each with what a call gives it."""
    arguments = kernel.regions[0].arguments
    for argument, term in zip(arguments, call["arguments"], strict=True):
        values = call.results if term.name == "out" else call.operands
        if term.name in ("in", "out", "flat"):
            yield argument, (values[term.parameters[0]].name,)
        else:
            yield argument, (term.name, *term.parameters)
