"""Constraints become tables when the program is compiled: masks, forced tokens, distances.

What is regular (choices, numbers, patterns, schemas without recursion, records) is compiled for the
model's vocabulary; context-free grammars, and what would be too large, are left to a matcher that
works them out while the program runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ....ir.constraints.tables import ConstraintTables, opening_of, stop_strings
from ....ir.constraints.token_table import TokenTable
from ....ir.core import Module, Operation
from ...manager import Context, ProgramPass


@dataclass(frozen=True)
class CompileConstraints(ProgramPass):
    """Compile the constraint of each `program.gen` to a table; lowering names it in the plan.

    What a gen is bound to begin with becomes prompt when it is lowered: it is prefilled with the
    text before it, encoded together with it, and never sampled.
    """

    name: ClassVar[str] = "compile-constraints"

    def run(self, module: Module, context: Context) -> Module:
        """Return the module as it is; the tables are in the context."""
        if context.tokenizer is None or context.constraint_of is None:
            return module
        records = {op["name"].name: op for op in module.operations if op.name == "program.record"}
        for operation in module.walk():
            if operation.name == "program.gen":
                found = context.constraint_of(operation["type"], records)
                if found is not None:
                    table = tables_of(context).find(*found, stop_strings(operation))
                    self._gen(operation, table, context)
        return module

    def _gen(self, gen: Operation, found: TokenTable | str, context: Context) -> None:
        name = f"gen {gen['name']}"
        if isinstance(found, str):
            context.left(f"{name}: no table, llguidance masks it at run time: {found}", gen.span)
            return
        assert context.tokenizer is not None
        text, count = opening_of(gen, found, context.tokenizer)
        did = (
            f"{name}: an automaton of {found.states} states, {len(found.masks)} masks, "
            f"{_size(found.nbytes)}"
        )
        if count:
            did += f"; its first {count} token{'s' * (count > 1)} {text!r} are prompt"
        context.did(did, gen.span)
        least, most = int(found.distance[1]), gen["max_tokens"]
        if least > most:
            context.left(
                f"{name}: max_tokens={most} cannot hold its shortest text, of {least} tokens",
                gen.span,
            )


def tables_of(context: Context) -> ConstraintTables:
    """Return the context's tables; made when first asked for."""
    if context.tables is None:
        assert context.tokenizer is not None
        context.tables = ConstraintTables(context.tokenizer, context.store)
    return context.tables


def _size(count: int) -> str:
    return f"{count / 1024:.0f} KiB" if count < 1 << 20 else f"{count / (1 << 20):.1f} MiB"
