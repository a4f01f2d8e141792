"""compile(): the whole way from a program and a checkpoint to something that runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .frontend import ast as syntax
from .frontend.checker import check
from .frontend.checkpoint import Checkpoint, open_checkpoint
from .frontend.constraints import constraint_of
from .frontend.lower import lower
from .frontend.open import OpenProgram, open_program
from .ir.core import Module
from .ir.diagnostics import Warning
from .options import Options
from .passes.manager import Context, PassRecord, run_passes
from .passes.pipeline import LOWERING, PLAN_PASSES, PROGRAM_PASSES

if TYPE_CHECKING:
    from .runtime.executable import Executable

__all__ = ["Compilation", "Options", "compile"]


def compile(
    program: Any,
    model: str | Path = "tiny-dense",
    *,
    name: str | None = None,
    tools: Mapping[str, Callable[..., Any]] | None = None,
    options: Options | None = None,
    **changes: Any,
) -> Executable:
    """Compile a program for a model and return an executable.

    `program` is a path to a .weft file, its text, or a function under `@weft.program`; `name`
    picks one program of several (default: the last). `model` is a shipped name, a checkpoint
    folder or `random:SHAPE`. `tools` gives the Python functions of `tool` declarations. Further
    keywords change `options`: see `Options`.

    Raises WeftError: syntax, names, types, passes, capacity, kernels, model.
    """
    chosen = (options or Options.from_env()).changed(**changes)
    return Compilation(program, model, name=name, tools=tools, options=chosen).executable()


class Compilation:
    """The stages of one compilation, top to bottom; each is made when first asked for."""

    def __init__(
        self,
        program: Any,
        model: str | Path | None = "tiny-dense",
        *,
        name: str | None = None,
        tools: Mapping[str, Callable[..., Any]] | None = None,
        options: Options | None = None,
    ) -> None:
        self.opened: OpenProgram = open_program(program, tools, name)
        self.name = name
        self.model = model
        self.options = options or Options.from_env()
        self.records: list[PassRecord] = []

    @cached_property
    def checkpoint(self) -> Checkpoint | None:
        """The model's configuration, graph and vocabulary; None when compiling without one."""
        return open_checkpoint(self.model) if self.model is not None else None

    @cached_property
    def context(self) -> Context:
        """What passes may know of the model."""
        if self.checkpoint is None:
            return Context(constraint_of=constraint_of)
        return Context(
            tokenizer=self.checkpoint.tokenizer,
            chat=self.checkpoint.chat,
            constraint_of=constraint_of,
            model_name=self.checkpoint.name,
            context_length=self.checkpoint.config.context_length,
            target=self.options,
        )

    @cached_property
    def ast(self) -> syntax.File:
        """The parsed program."""
        return self.opened.file

    @cached_property
    def warnings(self) -> list[Warning]:
        """What the checker found suspicious; it raises on what is wrong."""
        return check(self.ast)

    @cached_property
    def lowered(self) -> Module:
        """Program IR before any pass."""
        _ = self.warnings
        return lower(self.ast)

    @cached_property
    def program(self) -> Module:
        """Program IR after its passes."""
        return self._run(PROGRAM_PASSES, self.lowered)

    @cached_property
    def plan(self) -> Module:
        """What the engine executes."""
        facts = frozenset({"canonical", "prefixes"})
        return self._run((*LOWERING, *PLAN_PASSES), self.program, facts)

    @cached_property
    def graph(self) -> Module:
        """The model's step after its passes."""
        assert self.checkpoint is not None
        return self._run(GRAPH_PASSES, self.checkpoint.graph)

    def _run(self, passes: tuple[Any, ...], module: Module, facts: frozenset[str] = frozenset()
             ) -> Module:  # fmt: skip
        module, records = run_passes(passes, module, self.context, facts)
        self.records += records
        return module
