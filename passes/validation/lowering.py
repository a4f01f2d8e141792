"""Lowering keeps the text: what stands between model calls reads the same in the plan."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ...ir.core import Module, Operation, Value, walk
from ...ir.dialects.program import SAMPLING, VALUE_NAMES, WHO
from ...ir.types import KV, STREAM, list_of
from ...ir.values import records_of
from ...ir.vocabulary import ChatFormat, Part, Tokenizer
from ..manager import Context
from ..program.roles import Roles

_CALLS = {"gen", "decode", "select", "score", "fork", "join", "inline"}
_ALIKE = {"gen": "decode"}
_TEXT = {"literal", "append", "begin", "end", "tokens", "tokenize", "extend"}
"""Operations that say what text there is, and nothing else."""
_ASKED = ("name", "type", "stop", "logprobs", "by", "how", "limit", "prefix", *SAMPLING, *WHO)
"""Attributes that a plan takes over as they are."""
_HEAD = ("parameters", "returns", "doc")
_HANDLES = (STREAM, KV, list_of(STREAM), list_of(KV))

Item = tuple[str, str]
"""A text, a value's name in braces, or an operation: its kind and name."""


def same_text(before: Module, after: Module, context: Context) -> Iterator[str]:
    """Yield where a program's text, in its order, differs from that of its plan.

    Text that no call reads may be missing. What is known must be encoded whole. All else that an
    operation says must be there: what is asked of the model, over which values, on which way.
    """
    if context.tokenizer is None or context.chat is None:
        return
    yield from _declared(before, after)
    plans = {op["name"]: op for op in after.operations if op.name == "plan.func"}
    for function in before.operations:
        if function.name != "program.func":
            continue
        if function["name"] not in plans:
            yield f"{function['name'].name} has no plan"
            continue
        if _host(function) != _host(plans[function["name"]]):
            yield f"{function['name'].name}: host operations have changed"
        yield from _asked_alike(before, function, plans[function["name"]], context)
        old = list(_Program(context.chat, Roles.of(function)).items(function))
        written = _Plan(context.tokenizer)
        new = list(written.items(plans[function["name"]]))
        yield from written.problems
        problem = _difference(_merged(old), _merged(new))
        if problem:
            yield f"{function['name'].name}: {problem}"


def _declared(before: Module, after: Module) -> Iterator[str]:
    """Yield which records, tools and heads of programs are declared otherwise in the plan."""
    kept = {(op.kind, op["name"]): op for op in after.operations if op.attribute("name")}
    for old in before.operations:
        new = kept.get((old.kind, old["name"]), old)
        heads = [[op.attribute(key) for key in _HEAD] for op in (old, new)]
        if heads[0] != heads[1] or (old not in after.operations and old.kind != "func"):
            yield f"{old.kind} {old['name'].name} is declared otherwise"


def _host(function: Operation) -> list[Operation]:
    return [each for each in walk((function,)) if each.name in VALUE_NAMES]


def _asked_alike(
    before: Module, program: Operation, plan: Operation, context: Context
) -> Iterator[str]:
    """Yield which operations, text aside, say something else in the plan."""
    old, new = (
        [op for op in walk(function.regions[0].operations) if op.kind not in _TEXT]
        for function in (program, plan)
    )
    if len(old) != len(new):
        yield f"{program['name'].name}: operations were added or dropped"
        return
    for one, other in zip(old, new, strict=True):
        problem = "is another operation" if _heads(one) != _heads(other) else ""
        if not problem and one.kind == "gen":
            problem = _decode_problem(before, one, other, context)
        if not problem and one.kind == "select":
            problem = _select_problem(before, one, other, context)
        if problem:
            yield f"{program['name'].name}: {one.kind} {_name(one)} {problem}"


def _heads(operation: Operation) -> tuple[Any, ...]:
    """Return what an operation says beside its streams."""
    arguments = [value for region in operation.regions for value in region.arguments]
    values = [_values(each) for each in (operation.operands, operation.results, arguments)]
    asked = [operation.attribute(key) for key in _ASKED]
    return _ALIKE.get(operation.kind, operation.kind), values, asked


def _values(values: Any) -> list[Value | None]:
    return [None if value.type in _HANDLES else value for value in values]


def _decode_problem(before: Module, gen: Operation, decode: Operation, context: Context) -> str:
    """Return how a decode differs from its gen in what it ends at or is held to."""
    assert context.tokenizer is not None
    forced = len(str(decode.attribute("forced") or "").encode())
    taken = gen["max_tokens"] - decode["max_tokens"]
    if not (0 < taken <= forced if forced else taken == 0):
        return f"may have {decode['max_tokens']} tokens of {gen['max_tokens']}"
    if decode.attribute("ends") != tuple(context.tokenizer.end_ids):
        return "ends at other tokens than the model's"
    find = context.constraint_of
    held = find is not None and find(gen["type"], records_of(before)) is not None
    if held != (decode.attribute("constraint") is not None):
        return "is held to a type that it has not" if not held else "is not held to its type"
    return ""


def _select_problem(before: Module, select: Operation, planned: Operation, context: Context) -> str:
    """Return how a select's options differ, where their tokens are written down."""
    tokens = planned.attribute("tokens")
    if tokens is None:
        return ""
    assert context.tokenizer is not None
    over = select.operands[1]
    made = next((op for op in before.walk() if over in op.results), None)
    options = made.attribute("value") if made is not None else None
    heal = planned.attribute("heal") or ""
    if not isinstance(options, tuple):
        return "has tokens of options that only a run knows"
    wanted = [tuple(context.tokenizer.encode(heal + option)) for option in options]
    return "" if list(tokens) == wanted else "has other tokens than its options"


def _merged(items: list[Item]) -> list[Item]:
    """Join texts that follow one another; one stands between all operations, be it empty."""
    merged: list[Item] = [("text", "")]
    owed = ""
    for kind, text in items:
        if kind == "text":
            given, owed = text.removeprefix(owed) if owed else text, "" if text else owed
            merged[-1] = ("text", merged[-1][1] + given)
        elif kind == "heal":  # a score gives the space back to the text after it
            given = text.removeprefix(owed) if owed else text
            merged[-1] = ("text", merged[-1][1] + given)
            owed = text
        elif kind == "forced":
            merged[-1] = ("text", merged[-1][1].removesuffix(text))
        else:
            owed = owed if kind == "score" else ""
            merged += [(kind, text), ("text", "")]
    return merged


def _difference(before: list[Item], after: list[Item]) -> str:
    for old, new in zip(before, after, strict=False):
        unread = old[0] == new[0] == "text" and old[1].startswith(new[1])
        if old != new and not unread:
            return f"{old[0]} {old[1]!r} became {new[0]} {new[1]!r}"
    for at, (old, new) in enumerate(zip(before, after, strict=False)):
        follows = before[at + 1][0] if at + 1 < len(before) else "end"
        if old != new and not follows.startswith("end"):
            return f"text {old[1]!r} before a {follows} became {new[1]!r}"
    return "" if len(before) == len(after) else "operations were added or dropped"


class _Program:
    """Reads a program's text in its order; chat messages as the model's format has them."""

    def __init__(self, chat: ChatFormat, roles: Roles) -> None:
        self._chat = chat
        self._roles = roles

    def items(self, function: Operation) -> Iterator[Item]:
        """Yield texts and operations."""
        yield from _shown(self._chat.start())
        yield from self._inside(function)

    def _inside(self, operation: Operation) -> Iterator[Item]:
        for region in operation.regions:
            for inner in region.operations:
                yield from self._item(inner)

    def _item(self, operation: Operation) -> Iterator[Item]:
        kind = operation.name.partition(".")[2]
        if kind == "literal":
            yield "text", operation["text"]
        elif kind == "append":
            yield "text", f"{{%{operation.operands[1].name}}}"
        elif kind in {"begin", "end"}:
            yield from _shown(self._roles.markers(self._chat, operation))
        elif kind in _CALLS:
            yield _ALIKE.get(kind, kind), _name(operation)
        yield from self._inside(operation)
        if kind == "fork":
            yield "end of fork", _name(operation)


class _Plan:
    """Reads a plan's text in its order, and checks that what is known is encoded as text is."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._segments: dict[str, str] = {}
        self.problems: list[str] = []

    def items(self, operation: Operation) -> Iterator[Item]:
        """Yield texts and operations."""
        for region in operation.regions:
            for inner in region.operations:
                yield from self._item(inner)

    def _item(self, operation: Operation) -> Iterator[Item]:
        kind = operation.name.partition(".")[2]
        if kind == "tokens":
            self._segments[operation.result.name] = self._read(operation["ids"])
        elif kind == "tokenize":
            parts = [
                f"{{%{operation.operands[part['value']].name}}}" if _is_value(part) else part
                for part in operation["parts"]
            ]
            self._segments[operation.result.name] = "".join(text for _, text in _shown(parts))
        elif kind == "extend":
            yield "text", "".join(self._segments[value.name] for value in operation.operands[1:])
        elif kind in _CALLS:
            yield "heal", operation.attribute("heal", "")
            yield "forced", operation.attribute("forced", "")
            yield kind, _name(operation)
        yield from self.items(operation)
        if kind == "fork":
            yield "end of fork", _name(operation)

    def _read(self, ids: tuple[int, ...]) -> str:
        """Return what ids read as; those of text must be what their text is encoded to."""
        shown, run = "", list[int]()
        for id in (*ids, None):
            if id is not None and id not in self._tokenizer.special_ids:
                run.append(id)
                continue
            text = b"".join(map(self._tokenizer.token_bytes, run)).decode("utf-8", "replace")
            if self._tokenizer.encode(text) != run:
                self.problems.append(f"{text!r} is encoded to {run}, not as the tokenizer does")
            shown += text + ("" if id is None else f"<{id}>")
            run = []
        return shown


def _is_value(part: Any) -> bool:
    return not isinstance(part, str | int)


def _shown(parts: tuple[Part, ...] | list[Any]) -> Iterator[Item]:
    for part in parts:
        yield "text", f"<{part}>" if isinstance(part, int) else part


def _name(operation: Operation) -> str:
    name = operation.attribute("name", "")
    return getattr(name, "name", name)
