"""A program for an endpoint: what its API lacks is refused, consecutive gens share calls."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from ....ir.core import Module, Operation, Region, Symbol, Term, walk
from ....ir.diagnostics import PassError
from ....ir.dialects.program import EFFECTS, SAMPLING, VALUE_NAMES, WHO
from ...manager import Context, ProgramPass
from ..roles import Roles
from .count import describe_calls

STR = Term("str")
_SAME = (*SAMPLING, *WHO)


class NotOverChat(PassError):
    """A statement that a chat endpoint has no call for."""

    template = "{what} cannot be asked of a chat endpoint: {problem}"


class NoBaseline(PassError):
    """A select by a rule that needs the model's view without the prompt."""

    template = 'select {name!r}: by="unconditional" cannot be asked of an endpoint'
    hint = 'use by="token_normalized" or by="greedy"'


@dataclass(frozen=True)
class RemoteCalls(ProgramPass):
    """Check a program against an OpenAI-compatible API, and say what it will ask.

    `chat`: whether calls are chat messages (None: they are where the program has messages). With
    `merge`, a gen's `ahead` says how many of the gens after it one answer may hold: free texts with
    literals between them, where a literal begins with what ends the gen before it. The model writes
    the literal itself, or the rest of its answer is dropped: what a gen may say stays the same.
    """

    merge: bool = True
    chat: bool | None = None

    name: ClassVar[str] = "remote-calls"

    def run(self, module: Module, context: Context) -> Module:
        """Return the module with `ahead` on gens; raises NotOverChat or NoBaseline."""
        chosen = _reachable(module, context.entry)
        chat = self.chat
        if chat is None:
            chat = any(op.name == "program.begin" for op in walk(chosen))
        for function in chosen:
            _check(function, chat)
        form = "chat messages" if chat else "texts to be continued"
        context.did(f"calls are {form}", chosen[-1].span if chosen else None)
        merged = {id(op): self._region_of(op, context) for op in chosen} if self.merge else {}
        after = Module(tuple(merged.get(id(op), op) for op in module.operations))
        describe_calls(_reachable(after, context.entry), context)
        return after

    def _region_of(self, operation: Operation, context: Context) -> Operation:
        regions = tuple(self._merge(region, context) for region in operation.regions)
        return replace(operation, regions=regions)

    def _merge(self, region: Region, context: Context) -> Region:
        """Set `ahead`, from the last gen of the region to the first."""
        operations = list(region.operations)
        for at in reversed(range(len(operations))):
            operation = operations[at]
            if operation.regions:
                operations[at] = self._region_of(operation, context)
            if operation.name != "program.gen":
                continue
            after = _next_gen(operations, at)
            if after is None:
                continue
            literal, effects, follower = after
            reason = _reason_against(operation, literal, effects, operations[follower])
            said = f"gen {operations[follower]['name']!r}"
            if reason:
                context.left(f"{said} has a call of its own: {reason}", operations[follower].span)
                continue
            further = operations[follower].attribute("ahead") or 0
            operations[at] = operation.with_attributes(ahead=1 + further)
            context.did(
                f"{said} is asked for together with gen {operation['name']!r}: the literal between "
                "them is looked for in the answer", operations[follower].span,
            )  # fmt: skip
        return replace(region, operations=tuple(operations))


def _reachable(module: Module, entry: str | None) -> tuple[Operation, ...]:
    """Return the functions that a run of `entry` may reach, all of them without an entry."""
    functions = tuple(op for op in module.operations if op.name == "program.func")
    if entry is None:
        return functions
    wanted, todo = set[Symbol](), [Symbol(entry)]
    while todo:
        name = todo.pop()
        if name in wanted:
            continue
        wanted.add(name)
        bodies = tuple(op for op in functions if op["name"] == name)
        todo += [op["name"] for op in walk(bodies) if op.name == "program.call"]
    return tuple(op for op in functions if op["name"] in wanted)


def _next_gen(operations: list[Operation], at: int) -> tuple[str, bool, int] | None:
    """Return the literal after a gen, whether effects stand there, and the place of the next gen.

    None where another operation of the stream comes first, or no text stands between.
    """
    stream, literal, effects = operations[at].results[0], "", False
    for place in range(at + 1, len(operations)):
        operation = operations[place]
        if operation.name in VALUE_NAMES:
            effects |= operation.name in EFFECTS
        elif operation.name == "program.literal" and operation.operands[0] == stream:
            literal += operation["text"]
            stream = operation.result
        elif operation.name == "program.gen" and operation.operands[0] == stream and literal:
            return literal, effects, place
        else:
            return None
    return None


def _reason_against(head: Operation, literal: str, effects: bool, follower: Operation) -> str:
    """Return why two gens do not share a call; empty where they may."""
    if head["type"] != STR or follower["type"] != STR:
        return "one of them is held to a type"
    if effects:
        return "a tool or a program is called between them"
    if head.attribute("logprobs") or follower.attribute("logprobs"):
        return "its log-probabilities are asked for"
    if any(head.attribute(key) != follower.attribute(key) for key in _SAME):
        return "they are sampled in different ways"
    if head.attribute("seed") is not None and head.attribute("temperature"):
        return "a seed names the draw of each"
    stops, last = head.attribute("stop") or (), follower.attribute("stop")
    if isinstance(stops, Term) or isinstance(last, Term):
        return "one of them ends at a pattern"
    stops = (stops,) if isinstance(stops, str) else stops
    if not any(literal.startswith(stop) or stop.startswith(literal) for stop in stops):
        return f"the literal between them does not begin with a stop of gen {head['name']!r}"
    return ""


def _check(function: Operation, chat: bool) -> None:
    roles = Roles.of(function)
    for operation in walk((function,)):
        if operation.name == "program.select" and operation.attribute("by") == "unconditional":
            raise NoBaseline(name=operation["name"], span=operation.span)
        problem = _problem(operation, roles) if chat else None
        if problem is not None:
            what, text, hint = problem
            raise NotOverChat(what=what, problem=text, hint=hint, span=operation.span)


_USE_TEXT = "; or run it with --remote api=completions, where all is text"


def _problem(operation: Operation, roles: Roles) -> tuple[str, str, str] | None:
    """Return what, why and the mend of an operation that chat messages cannot say."""
    kind = operation.name.partition(".")[2]
    if kind == "score":
        return "score", "it scores only what it says itself", _score_hint()
    if kind not in {"gen", "select", "literal", "append"}:
        return None
    role = roles.open_in(operation.operands[0])
    if role is None:
        what = _what(kind, operation)
        return what, "it stands outside of all messages", "put it into a message" + _USE_TEXT
    if kind in {"gen", "select"} and role != "assistant":
        problem = f"it stands in a {role} message, and the model answers as the assistant"
        return _what(kind, operation), problem, "put it into an assistant message" + _USE_TEXT
    return None


def _score_hint() -> str:
    return "use select, or run the program as text: --remote template=CHECKPOINT or api=completions"


def _what(kind: str, operation: Operation) -> str:
    if kind in {"gen", "select"}:
        return f"{kind} {operation['name']!r}"
    text: Any = operation.attribute("text")
    return "an interpolated value" if text is None else f"the text {_short(text)!r}"


def _short(text: str) -> str:
    return text if len(text) <= 30 else text[:27] + "..."
