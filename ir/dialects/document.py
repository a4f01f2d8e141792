"""Writes the dialect tables of docs/ir.md from the dialects' own specifications.

`python -m weft.ir.dialects.document docs/ir.md` brings the file up to date.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from . import graph, plan, program, tile
from .dialect import Dialect, OperationSpec

DIALECTS: tuple[Dialect, ...] = (program.DIALECT, plan.DIALECT, graph.DIALECT, tile.DIALECT)
_TABLE = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def table(dialect: Dialect) -> str:
    """Return a dialect's operations as a Markdown table."""
    head = ["| operation | operands → results | attributes | what it does |", "|---|---|---|---|"]
    return "\n".join(head + [_row(spec) for spec in dialect.operations]) + "\n"


def update(text: str) -> str:
    """Return a document with every table between its markers as the code has it."""
    tables = {dialect.name: table(dialect) for dialect in DIALECTS}
    return _TABLE.sub(lambda found: found[1] + tables[found[2]] + found[3], text)


def _row(spec: OperationSpec) -> str:
    arrow = f"{_count(spec.operands)} → {_count(spec.results)}"
    regions = f", {spec.regions} region{'s' * (spec.regions > 1)}" if spec.regions else ""
    required = [f"`{name}`" for name in spec.required]
    attributes = required + [f"[`{name}`]" for name in spec.optional]
    summary = spec.summary.replace("|", "\\|") + (" (stands last)" if spec.terminator else "")
    return f"| `{spec.name}` | {arrow}{regions} | {', '.join(attributes)} | {summary} |"


def _count(bounds: int | tuple[int, int | None]) -> str:
    if isinstance(bounds, int):
        return str(bounds)
    least, most = bounds
    return f"{least}+" if most is None else f"{least}-{most}"


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.write_text(update(path.read_text()))
