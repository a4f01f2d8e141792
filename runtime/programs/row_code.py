"""The Python functions that run rows, of programs that ask in turn (`in_turn`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...ir.core import Module, Operation
from .beside_writer import BesideWriter
from .bindings import reachable
from .code_writer import USED, Writer
from .effects import Effects
from .in_turn import InTurn


class RowCode:
    """The Python of one program, as `text`.

    `function(instance, frame, kv, *arguments)` is its generator function.
    """

    def __init__(self, program: Operation, writer: Writer) -> None:
        name = program["name"].name
        function = writer.program(name, program.regions[0])
        self.text = writer.text()
        names: dict[str, Any] = USED | writer.bound
        exec(compile(self.text, f"<rows of @{name}>", "exec"), names)
        self.function: Callable[..., Any] = names[function]


def row_code(
    programs: dict[str, Operation], name: str, effects: Effects
) -> dict[str, RowCode]:  # fmt: skip
    """Return the code of a program and of those that it calls: of all that Python can nest."""
    in_turn, code = InTurn(programs, effects), {}
    for each, program in reversed(programs.items()):
        if in_turn.beside(each, called=each != name) is None:
            code[each] = RowCode(program, Writer())
        elif in_turn.nests(each):
            code[each] = RowCode(program, BesideWriter(program.regions[0], in_turn))
    return code


def row_text(plan: Module, name: str) -> str:
    """Return how a plan's rows run: the code of its programs, and why one starts what it asks."""
    programs = reachable(plan, name)
    effects = Effects.of_module(plan, programs)
    in_turn, code, texts = InTurn(programs, effects), row_code(programs, name, effects), []
    for each in reversed(programs):
        why = in_turn.why_not(each, called=each != name)
        how = "starts what it asks" if each in code else "operation by operation"
        head = "" if why is None else f"# @{each}: {how}, as {why}\n"
        texts.append(head + (code[each].text if each in code else ""))
    return "\n".join(texts)
