"""Program IR to plan IR: streams become kv handles, texts become tokens, gens become decodes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from ....ir.constraints.tables import opening_of, stop_strings
from ....ir.constraints.token_table import TokenTable
from ....ir.core import Module, Names, Operation, Region, Symbol, make
from ....ir.diagnostics import PassError
from ....ir.types import KV
from ...manager import Context, ProgramPass
from .constraints import tables_of
from .ends import Ends
from .forks import BlockLowering
from .segments import SegmentWriter, StreamState
from .streams import Begun

_DECLARATIONS = {"program.record", "program.tool"}


class NoVocabulary(PassError):
    """Lowering to a plan without the model's tokenizer."""

    template = "a plan holds token ids, so it needs a model's tokenizer and chat format"
    hint = "name a model, for example --model tiny-dense"


@dataclass(frozen=True)
class LowerToPlan(ProgramPass):
    """Lower every `program.func` to a `plan.func`.

    Runs of text known now are encoded now; a run that holds a value is encoded when the value is
    known, together with the texts that touch it. A fork first makes its kv resident, so that all
    branches share it. The space before a gen is healed: the generation begins with it.
    """

    name: ClassVar[str] = "lower-to-plan"
    writes: ClassVar[tuple[str, ...]] = ("plan",)
    requires: ClassVar[tuple[str, ...]] = ("canonical",)
    ensures: ClassVar[tuple[str, ...]] = ("planned",)

    def run(self, module: Module, context: Context) -> Module:
        """Return the plan module; declarations stay, constraints are added before functions."""
        if context.tokenizer is None or context.chat is None:
            raise NoVocabulary()
        lowering = Lowering(module, context)
        functions = [
            operation if operation.name in _DECLARATIONS else lowering.function(operation)
            for operation in module.operations
        ]
        lowering.ends.tell()
        declared = [op for op in functions if op.name in _DECLARATIONS]
        planned = [op for op in functions if op.name not in _DECLARATIONS]
        return Module((*declared, *lowering.constraints.values(), *planned))


class Lowering:
    """State of one module's lowering."""

    def __init__(self, module: Module, context: Context) -> None:
        assert context.tokenizer is not None and context.chat is not None
        self.context = context
        self.constants = {
            op.result.name: op["value"] for op in module.walk() if op.name == "program.constant"
        }
        self.tokenizer = context.tokenizer
        self.chat = context.chat
        self.names = Names.of(module)
        self.writer = SegmentWriter(context.tokenizer, self.names)
        self.records = {
            op["name"].name: op for op in module.operations if op.name == "program.record"
        }
        self.constraints: dict[tuple[str, str, tuple[str, ...]], Operation] = {}
        self.left: list[StreamState] = []
        """What the stream is where the program that is inlined just now leaves it."""
        self.begun: list[Begun] = []
        self.ends = Ends(context)

    def function(self, operation: Operation) -> Operation:
        """Return the `plan.func` of a `program.func`."""
        region = operation.regions[0]
        stream, *parameters = region.arguments
        kv = self.names.value("kv", KV)
        root = StreamState(kv).plus(*self.chat.start())
        body = BlockLowering(self, {stream.name: root}).lower(region.operations)
        attributes = {
            key: operation.attribute(key) for key in ("name", "parameters", "returns", "doc")
        }
        return make(
            "plan.func", span=operation.span, regions=(Region((kv, *parameters), body),),
            model=self.context.model_name or None, **attributes,
        )  # fmt: skip

    def constraint(self, operation: Operation) -> tuple[Symbol | None, TokenTable | None, str, int]:
        """Return the constraint of a gen's type, declared once, its table, and what begins all its
        texts.

        That is a text that the prompt takes over, and how many tokens it has.
        """
        if self.context.constraint_of is None:
            return None, None, "", 0
        found = self.context.constraint_of(operation["type"], self.records)
        if found is None:
            return None, None, "", 0
        stops = stop_strings(operation)
        table = tables_of(self.context).find(*found, stops)
        which = (*found, stops if isinstance(table, TokenTable) else ())
        if which not in self.constraints:
            name = Symbol(f"constraint_{len(self.constraints)}")
            self.constraints[which] = _declared(name, which, table, operation, self.context)
        name = self.constraints[which]["name"]
        if not isinstance(table, TokenTable):
            return name, None, "", 0
        return name, table, *opening_of(operation, table, self.tokenizer)


def _declared(
    name: Symbol,
    which: tuple[str, str, tuple[str, ...]],
    table: TokenTable | str,
    gen: Operation,
    context: Context,
) -> Operation:
    """Return the `plan.constraint` of (kind, source, stop strings)."""
    known: dict[str, Any] = {}
    if isinstance(table, TokenTable):
        key = tables_of(context).key(*which)
        known = {
            "table": key, "states": table.states, "bytes": table.nbytes, "longest": table.longest,
        }  # fmt: skip
    kind, source, stops = which
    if stops:
        known["stop"] = stops
    return make("plan.constraint", span=gen.span, name=name, kind=kind, source=source, **known)
