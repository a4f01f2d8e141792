"""Budgets: what each program holds in KV memory at most, written as an attribute of its plan."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, ClassVar

from ....ir.budget import UNBOUNDED, Expr, largest, plus, times, value_of
from ....ir.core import Module, Operation, Region, Value, freeze, walk
from ....ir.dialects.program import VALUE_NAMES
from ....ir.source import Span
from ....ir.types import KV
from ....ir.vocabulary import Tokenizer
from ...manager import Context, PlanPass
from .parts import behind, repeated, stretches
from .sizes import (
    ANYTHING,
    NUMBER,
    Size,
    listed,
    size_of_generated,
    size_of_parameter,
    size_of_returned,
    size_of_value,
    sizes_given,
)

_UNQUOTED = {"record", "list", "int", "float", "bool"}
"""Types of elements that a list's text holds as they are, without quotation marks."""

NONE = 4
"""Bytes of `none`."""

MOST_COUNTED = 4
"""Segments of a program whose tokens a row counts; of the others it counts its values."""


@dataclass(frozen=True)
class PlanBudgets(PlanPass):
    """Annotate each `plan.func` with `budget`: the tokens of its stream, and its parts.

    A part has sequences of its own while it runs: a fork (`width`, `body`), a call (`program`),
    scored options. `times` says how often it may run; sizes that rows bring are symbols. See
    `ir.budget`.
    """

    name: ClassVar[str] = "plan-budgets"
    requires: ClassVar[tuple[str, ...]] = ("planned",)
    ensures: ClassVar[tuple[str, ...]] = ("budgets",)

    def run(self, module: Module, context: Context) -> Module:
        """Return the module with budgets; says where nothing bounds a width or a stream."""
        named = {op["name"].name: op for op in module.operations if op.attribute("name")}
        widest = widest_token(context.tokenizer) if context.tokenizer else 1
        programs = _Programs(named, widest, context)
        budgeted = [
            programs.of(operation["name"].name)[0] if operation.name == "plan.func" else operation
            for operation in module.operations
        ]
        return Module(tuple(budgeted))


def widest_token(tokenizer: Tokenizer) -> int:
    """Return the bytes of the longest token."""
    return max((len(tokenizer.token_bytes(id)) for id in range(tokenizer.size)), default=1)


@dataclass
class _Programs:
    """The programs of a module, each with its budget and the size of what it returns."""

    named: dict[str, Operation]
    widest: int
    context: Context
    _known: dict[str, tuple[Operation, Size]] = field(default_factory=dict)

    def of(self, name: str) -> tuple[Operation, Size]:
        """Return a program; what it calls comes before it."""
        if name not in self._known:
            self._known[name] = self.named[name], ANYTHING  # of one that would call itself
            budget = _Budget(self)
            self._known[name] = budget.function(self.named[name]), budget.returned or ANYTHING
        return self._known[name]


@dataclass
class _Block:
    """What one frame's operations add up to."""

    tokens: Expr = 0
    parts: list[dict[str, Any]] = field(default_factory=list)

    def table(self) -> dict[str, Any]:
        return {"tokens": self.tokens, "parts": self.parts}


class _Budget:
    """Walks one program; knows the sizes of its values."""

    def __init__(self, programs: _Programs) -> None:
        self._programs = programs
        self._named = programs.named
        self._widest = programs.widest
        self._context = programs.context
        self.returned: Size | None = None
        """Of what the program returns."""
        self._left: Size | None = None
        """The same of the program that is inlined just now."""
        self._unbounded: tuple[str, Span | None] | None = None
        """The first value in a prompt that nothing bounds, and its text's place."""
        self._sizes: dict[str, Size] = {}
        self._exact: set[str] = set()
        self._parameters: dict[str, str] = {}
        self._elements: set[str] = set()
        """Values that are each element of a parameter in turn."""
        self._constants: dict[str, Any] = {}
        self._joined: dict[str, Expr] = {}

    def function(self, operation: Operation) -> Operation:
        region = operation.regions[0]
        self._exact = set(islice(_closed_segments(operation), MOST_COUNTED))
        parameters = [entry["name"] for entry in operation["parameters"]]
        for name, value in zip(parameters, region.arguments[1:], strict=True):
            self._sizes[value.name] = size_of_parameter(name, value.type)
            self._parameters[value.name] = name
        block = self._region(region)
        self._remark(operation, block)
        return operation.with_attributes(budget=freeze(block.table()))

    def _remark(self, operation: Operation, block: _Block) -> None:
        name = operation["name"].name
        if value_of(block.tokens, lambda symbol: 1) >= UNBOUNDED:
            what, span = self._unbounded or ("", operation.span)
            why = f": nothing says how long {{{what}}} gets" if what else ""
            self._context.left(
                f"@{name}: nothing but the model's context bounds its stream{why}", span
            )
        else:
            count = len(block.parts)
            self._context.did(
                f"@{name}: a stream of at most {shown(block.tokens)} tokens, {count} parts besides",
                operation.span,
            )

    def _region(self, region: Region) -> _Block:
        block = _Block()
        for operation in region.operations:
            if operation.name in VALUE_NAMES:
                self._value(operation, block)
            else:
                method = getattr(self, "_" + operation.name.partition(".")[2], None)
                if method is not None:
                    method(operation, block)
        return block

    def _size(self, value: Value) -> Size:
        return self._sizes.get(value.name, ANYTHING)

    def _value(self, operation: Operation, block: _Block) -> None:
        sizes = [self._size(value) for value in operation.operands]
        if operation.name == "program.constant":
            self._constants[operation.result.name] = operation["value"]
        if operation.name == "program.call":
            callee = self._named[operation["name"].name]
            types = {entry["name"]: entry["type"] for entry in callee["parameters"]}
            block.parts.append(
                {"what": f"call {operation['name'].name}", "program": operation["name"],
                 "times": 1, "given": (given := sizes_given(types, sizes))}
            )  # fmt: skip
            self._sizes[operation.result.name] = size_of_returned(
                operation.result.type, self._programs.of(operation["name"].name)[1], given
            )
        elif operation.result.type.name in {"int", "float", "bool"} or (
            operation.name != "program.call_tool"
        ):
            self._sizes[operation.result.name] = size_of_value(operation, sizes)

    # Text.

    def _tokens(self, operation: Operation, block: _Block) -> None:
        block.tokens = plus(block.tokens, len(operation["ids"]))

    def _tokenize(self, operation: Operation, block: _Block) -> None:
        parts = [
            1 if isinstance(part, int)
            else len(part.encode()) if isinstance(part, str)
            else self._in_prompt(operation.operands[part["value"]], operation.span)
            for part in operation["parts"]
        ]  # fmt: skip
        names = [value.name for value in operation.operands]
        own = all(name in self._parameters or name in self._elements for name in names)
        alone = sum(name in self._elements for name in names) <= 1
        if own and alone and names and operation.result.name in self._exact:
            # A called program's caller cannot know the tokens, only the bytes.
            exact = f"tokens {operation.result.name}"
            block.tokens = plus(block.tokens, ("min", exact, plus(1, *parts)))
        else:
            block.tokens = plus(block.tokens, 1, *parts)

    def _in_prompt(self, value: Value, span: Span | None) -> Expr:
        """Return the tokens of a value in a prompt; of a parameter, the row may count them."""
        size = self._size(value).bytes
        if self._unbounded is None and value_of(size, lambda symbol: 1) >= UNBOUNDED:
            self._unbounded = value.name, span
        name = self._parameters.get(value.name)
        return size if name is None or not isinstance(size, str) else ("min", f"text {name}", size)

    # The model.

    def _decode(self, operation: Operation, block: _Block) -> None:
        tokens = operation["max_tokens"]
        cut = self._widest if operation.attribute("stop") is not None else 0
        block.tokens = plus(block.tokens, tokens, cut)
        value = operation.results[1]
        self._sizes[value.name] = self._generated(operation)

    def _generated(self, operation: Operation) -> Size:
        """Return the size of a gen's value; its constraint may bound it closer than its tokens."""
        forced = len(str(operation.attribute("forced") or "").encode())
        text, fractions = operation["max_tokens"] * self._widest + forced, True
        name = operation.attribute("constraint")
        if name is not None:
            constraint = self._named[name.name]
            longest = constraint.attribute("longest")
            text = text if longest is None else min(text, longest)
            is_schema = operation["type"].name == "schema"
            fractions = is_schema or '"number"' in str(constraint["source"])
        return size_of_generated(operation["type"], text, fractions)

    def _select(self, operation: Operation, block: _Block) -> None:
        options = self._size(operation.operands[1])
        known = operation.attribute("tokens")
        again = 2 if operation.attribute("by") == "unconditional" else 1
        part: dict[str, Any] = {"what": f"select {operation['name']}", "times": 1}
        if known is not None:
            longest: Expr = max(map(len, known), default=0)
            part["stretches"] = stretches(known) + [1] * (again - 1)
        else:
            longest = plus(1, options.each)
            # A trie of n options has at most 2 n stretches: one into each node that parts ways,
            # and one before each end.
            part |= {"width": times(2, options.count), "stretch": longest}
        block.parts.append(part)
        block.tokens = plus(block.tokens, longest)
        self._sizes[operation.results[1].name] = Size(options.each)

    def _score(self, operation: Operation, block: _Block) -> None:
        text = self._size(operation.operands[1])
        block.tokens = plus(block.tokens, 1)
        stretch = plus(1, text.bytes)
        block.parts.append({"what": "score", "times": 1, "width": 1, "stretch": stretch})
        self._sizes[operation.result.name] = Size(NUMBER)

    def _fork(self, operation: Operation, block: _Block) -> None:
        over = operation.operands[1]
        region = operation.regions[0]
        self._takes_elements(region.arguments[1], over)
        self._sizes[region.arguments[1].name] = Size(self._size(over).each)
        width: Expr = self._size(over).count
        if over.type.name == "int":
            self._sizes[region.arguments[1].name] = Size(NUMBER)
            width = self._constant(over)
        body = self._region(region)
        if value_of(width, lambda symbol: 1) >= UNBOUNDED:
            self._context.left(
                f"fork {operation['name']}: nothing bounds how many branches it has, so rows are "
                "admitted by what they hold, not by a proof",
                operation.span,
            )
        part = {
            "what": f"fork {operation['name']}", "width": width, "times": 1,
            "shared": bool(operation.attribute("shared")), "body": body.table(),
        }  # fmt: skip
        if not (part["shared"] and isinstance(width, int) and width > 1):
            part["above"] = block.tokens
        if len(operation.results) == 2:
            part["kept"] = True
            self._joined[operation.results[1].name] = body.tokens
        block.parts.append(part)
        last = region.operations[-1]
        yielded = self._size(last.operands[0]) if last.operands else Size(NONE)
        quoted = not last.operands or last.operands[0].type.name not in _UNQUOTED
        self._sizes[operation.results[0].name] = listed(width, yielded.bytes, quoted)

    def _constant(self, value: Value) -> Expr:
        if value.name in self._parameters:
            return f"value {self._parameters[value.name]}"
        known = self._constants.get(value.name)
        return known if isinstance(known, int) else UNBOUNDED

    def _join(self, operation: Operation, block: _Block) -> None:
        tokens = self._joined.get(operation.operands[0].name, UNBOUNDED)
        block.tokens = plus(block.tokens, tokens)
        self._sizes[operation.results[1].name] = Size(NUMBER)

    # Control flow.

    def _inline(self, operation: Operation, block: _Block) -> None:
        outer, self._left = self._left, None
        self._add(block, self._region(operation.regions[0]), 1)
        self._sizes[operation.results[1].name] = self._left or ANYTHING
        self._left = outer

    def _leave(self, operation: Operation, block: _Block) -> None:
        found = self._size(operation.operands[1])
        self._left = self._left.either(found) if self._left else found

    def _return(self, operation: Operation, block: _Block) -> None:
        found = self._size(operation.operands[0]) if operation.operands else Size(NONE)
        self.returned = self.returned.either(found) if self.returned else found

    def _if(self, operation: Operation, block: _Block) -> None:
        sides = [self._region(region) for region in operation.regions]
        found = [behind(block.tokens, side.parts) for side in sides if side.parts]
        block.tokens = plus(block.tokens, largest(*(side.tokens for side in sides)))
        if len(found) == 1:
            block.parts += found[0]
        elif found:
            block.parts.append({"either": found})
        self._yielded(operation)

    def _for(self, operation: Operation, block: _Block) -> None:
        items, region = operation.operands[0], operation.regions[0]
        self._takes_elements(region.arguments[0], items)
        size = self._size(items)
        self._sizes[region.arguments[0].name] = Size(size.each)
        self._add(block, self._region(region), size.count)

    def _takes_elements(self, element: Value, of: Value) -> None:
        if of.name in self._parameters and of.type.name == "list":
            self._elements.add(element.name)

    def _while(self, operation: Operation, block: _Block) -> None:
        for region in operation.regions:
            self._add(block, self._region(region), operation["limit"] + 1)

    def _add(self, block: _Block, inner: _Block, often: Expr) -> None:
        before, block.tokens = block.tokens, plus(block.tokens, times(often, inner.tokens))
        if often == 1:
            block.parts += behind(before, inner.parts)
        else:
            block.parts += behind(block.tokens, repeated(inner.parts, often))

    def _yielded(self, operation: Operation) -> None:
        """Bound an if's results by what its regions yield."""
        lasts = [region.operations[-1] for region in operation.regions if region.operations]
        if not all(last.name == "plan.yield" for last in lasts) or len(lasts) < 2:
            return
        for position, value in enumerate(operation.results):
            if value.type != KV:
                left, right = (self._size(last.operands[position]) for last in lasts)
                self._sizes[value.name] = left.either(right)


def shown(expression: Expr) -> str:
    """Return an expression as a reader would write it."""
    if isinstance(expression, int):
        return "unbounded" if expression >= UNBOUNDED else str(expression)
    if isinstance(expression, str):
        return expression.replace(" ", "(") + ")"
    op, *terms = expression
    inner = [shown(term) for term in terms]
    if op == "max":
        return f"max({', '.join(inner)})"
    if op == "min":
        return inner[0]  # what rows count; the other is for where they cannot
    return f" {op} ".join(
        f"({text})" if isinstance(term, tuple) and term[0] in "+*" else text
        for term, text in zip(terms, inner, strict=True)
    )


def _closed_segments(function: Operation) -> Iterator[str]:
    """Yield the open segments that stand between known tokens: no other text joins theirs."""
    known = {op.result.name for op in walk((function,)) if op.name == "plan.tokens"}
    for operation in walk((function,)):
        if operation.name == "plan.extend":
            names = [value.name for value in operation.operands]
            for before, name, after in zip(names, names[1:], names[2:], strict=False):
                if before in known and after in known and name not in known:
                    yield name
