"""KV handles are linear: on every path each is moved or freed once, and not used after."""

from __future__ import annotations

from collections.abc import Iterator

from ...ir.core import Module, Operation, Region, Value
from ...ir.types import KV
from ..manager import Context
from ..rewrite import rewrite

_BORROWS = {"plan.fork", "plan.score"}
_EXITS = {"plan.return", "plan.leave"}


def freed_once(before: Module, after: Module, context: Context) -> Iterator[str]:
    """Yield each kv that a path leaves behind, uses when it is gone, or frees twice; and that
    anything but frees has changed."""
    if _without_frees(before) != _without_frees(after):
        yield "more than frees has changed"
    for function in after.operations:
        if function.name == "plan.func":
            path = _Paths()
            path.region(function.regions[0], set())
            yield from (f"{function['name'].name}: {problem}" for problem in path.problems)


def _without_frees(module: Module) -> Module:
    return rewrite(module, lambda operation: [] if operation.name == "plan.free" else None)


class _Paths:
    """Walks all paths through a function with the set of kvs that are held."""

    def __init__(self) -> None:
        self.problems: list[str] = []

    def region(self, region: Region, outer: set[str], kept: bool = False) -> set[str] | None:
        """Return which outer kvs are held at the end; None where the region exits.

        `kept`: its arguments are only lent to it.
        """
        own = {value.name for value in region.arguments if value.type == KV}
        held = outer | own
        for operation in region.operations:
            own |= {value.name for value in operation.results if value.type == KV}
            if operation.name in _EXITS:
                self._use(operation, held)
                return None
            after = self._operation(operation, held)
            if after is None:
                return None
            held = after
        lent = {value.name for value in region.arguments} if kept else set()
        for name in sorted((held & own) - lent):
            self.problems.append(f"%{name} is neither moved nor freed")
        return held - own

    def _operation(self, operation: Operation, held: set[str]) -> set[str] | None:
        held = self._use(operation, held)
        if operation.name == "plan.if":
            ends = [self.region(region, held) for region in operation.regions]
            going_on = [end for end in ends if end is not None]
            if not going_on:
                return None
            if len(going_on) == 2 and going_on[0] != going_on[1]:
                names = ", ".join(f"%{name}" for name in sorted(going_on[0] ^ going_on[1]))
                self.problems.append(f"only one side of an if moves or frees {names}")
            held = going_on[0]
        elif operation.name == "plan.inline":
            self.region(operation.regions[0], held)
        else:
            for at, region in enumerate(operation.regions):
                test = operation.name == "plan.while" and at == 0
                after = self.region(region, held, kept=test)
                if after is not None and after != held:
                    names = ", ".join(f"%{name}" for name in sorted(held - after))
                    self.problems.append(f"{operation.name} may move or free {names} many times")
        return held | {value.name for value in operation.results if value.type == KV}

    def _use(self, operation: Operation, held: set[str]) -> set[str]:
        """Return what is held after an operation has taken its operands."""
        held = set(held)
        for value in _handles(operation):
            if value.name not in held:
                self.problems.append(f"{operation.name} uses %{value.name}, which is gone")
            elif operation.name not in _BORROWS:
                held.discard(value.name)
        return held


def _handles(operation: Operation) -> list[Value]:
    return [value for value in operation.operands if value.type == KV]
