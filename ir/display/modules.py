"""What there is to see of a module, by its dialect, and of how a pass changed one."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from .units import counted
from .view import Facts, Listing, View

if TYPE_CHECKING:
    from ..core import Module

TITLES = {"program": "program IR", "plan": "plan IR", "graph": "graph IR", "tile": "tile IR"}


def dialect_of(module: Module) -> str:
    """Return the dialect that a module is read as: that of its function or kernels."""
    for operation in module.operations:
        if operation.name in {"program.func", "plan.func", "graph.func", "tile.kernel"}:
            return operation.dialect
    return next((operation.dialect for operation in module.operations), "program")


def module_view(module: Module) -> View:
    """Return a module's functions, its operations by number, and its text."""
    names = [op["name"].name for op in module.operations if op.name.endswith((".func", ".kernel"))]
    counts = Counter(operation.name.partition(".")[2] for operation in module.walk())
    often = ", ".join(f"{name} {count}" for name, count in counts.most_common(6))
    title = ", ".join(f"@{name}" for name in names[:4])
    if len(names) > 4:
        title += f" and {len(names) - 4} more"
    facts = (("operations", f"{sum(counts.values()):,}"), ("most of all", often))
    kind = TITLES.get(dialect_of(module), "IR")
    return View(kind, title or "no function", (Facts(facts), Listing(str(module))))


def diff_view(
    name: str, diff: str, counts: dict[str, int], remarks: list[str], seconds: float
) -> View:
    """Return what a pass did: its remarks, operations that came and went, the changed lines."""
    changed = ", ".join(f"{op} {change:+}" for op, change in counts.items())
    facts = [("took", f"{1000 * seconds:.1f} ms")]
    facts.append(("operations", changed or ("rewritten in place" if diff else "unchanged")))
    facts += [("", remark) for remark in remarks]
    lines = sum(line[:1] in "+-" for line in diff.splitlines()) - 2 * bool(diff)
    body = (Listing(diff, "diff", counted(lines, "changed line")),) if diff else ()
    return View("pass", name, (Facts(tuple(facts)), *body))
