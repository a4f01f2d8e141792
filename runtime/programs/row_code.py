"""The Python functions that run rows, of programs that ask in turn (`in_turn`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...ir.core import Module, Operation
from .bindings import reachable
from .code_writer import USED, Writer
from .effects import Effects
from .in_turn import InTurn


class RowCode:
    """The Python of one program, as `text`.

    `function(instance, frame, kv, *arguments)` is its generator function.
    """

    def __init__(self, program: Operation) -> None:
        name = program["name"].name
        writer = Writer()
        function = writer.program(name, program.regions[0])
        self.text = writer.text()
        names: dict[str, Any] = USED | writer.bound
        exec(compile(self.text, f"<rows of @{name}>", "exec"), names)
        self.function: Callable[..., Any] = names[function]


def row_code(
    programs: dict[str, Operation], name: str, effects: Effects
) -> dict[str, RowCode]:  # fmt: skip
    """Return the code of the programs that ask in turn, of one and those that it calls."""
    in_turn = InTurn(programs, effects)
    return {
        each: RowCode(program)
        for each, program in reversed(programs.items())
        if in_turn.beside(each, called=each != name) is None
    }


def row_text(plan: Module, name: str) -> str:
    """Return how a plan's rows run: the code of its programs, or why one has none."""
    programs = reachable(plan, name)
    effects = Effects.of_module(plan, programs)
    in_turn, code, texts = InTurn(programs, effects), row_code(programs, name, effects), []
    for each in reversed(programs):
        if each in code:
            texts.append(code[each].text)
            continue
        why = in_turn.why_not(each, called=each != name)
        texts.append(f"# @{each}: operation by operation, as {why}\n")
    return "\n".join(texts)
