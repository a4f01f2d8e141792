"""Tells a user of what a program asks for and its model, here or at an endpoint, cannot do."""

from __future__ import annotations

import warnings
from collections.abc import Iterable

from ..ir.core import Module, Operation
from ..ir.diagnostics import Warning

LACKS = {
    "adapter": ("has no adapters", "a remote model takes an adapter as a model's name"),
    "client": ("asks no endpoint", "--model openai:URL#NAME runs the program on endpoints"),
}


def ignored(module: Module) -> list[Warning]:
    """Return a warning for each adapter and client that a model in this process stands in for."""
    found: dict[tuple[str, str], Operation] = {}
    for operation in module.walk():
        for kind in LACKS:
            name = operation.attribute(kind)
            if name:
                found.setdefault((kind, name), operation)
    return [
        Warning(
            f'with {kind} "{name}": a model in this process {LACKS[kind][0]}, '
            "so it computes the block itself",
            operation.span,
            LACKS[kind][1],
        )
        for (kind, name), operation in found.items()
    ]


def ignored_remotely(module: Module) -> list[Warning]:
    """Return a warning for each attention policy, which an endpoint is not told of."""
    found: dict[str, Operation] = {}
    for operation in module.walk():
        policy = operation.attribute("attention")
        if policy and policy != "dense":
            found.setdefault(policy, operation)
    return [
        Warning(
            f"with attention {policy}: an endpoint reads keys as it does, and is not told",
            operation.span,
            "--model FOLDER runs the program here",
        )
        for policy, operation in found.items()
    ]


def tell(found: Iterable[Warning], above: int = 3) -> None:
    """Warn of each in Python's way, at the line that called `compile`: so many calls above."""
    for warning in found:
        warnings.warn(str(warning), stacklevel=1 + above)
