"""compile(): the whole way from a program and a checkpoint to something that runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..codegen.table_cache import TableCache
from ..frontend import ast as syntax
from ..frontend.checkpoints.checkpoint import Checkpoint, open_checkpoint
from ..frontend.ignored import ignored, tell
from ..frontend.lowering.lower import lower
from ..frontend.open import NoPrograms, NoSuchProgramName, OpenProgram, open_program
from ..frontend.semantics.checker import check
from ..frontend.semantics.constraints import constraint_of
from ..ir.core import Module, Operation
from ..ir.diagnostics import Warning
from ..options import Launch, Options
from ..passes.manager import Context, PassRecord, run_passes
from ..passes.pipeline import LOWERING, PLAN_PASSES, PROGRAM_PASSES
from ..passes.program.plans.lower import NoVocabulary
from ..passes.program.prefixes.tree import PlanPrefixes, PrefixTree
from ..passes.validation.registry import validation
from .attention import Attention, asked_attention
from .formats import page_size
from .key_offload import require_offloadable
from .loading import (
    compiled_executor,
    compiled_sampler,
    device_executor,
    device_sampler,
    join_ranks,
    loaded,
    reference_executor,
    require_gpu,
    serve,
)
from .lowering import ModelLowering, has_constraints
from .remote_model import (
    NotForRemote,
    check_options,
    remote_address,
    remote_executable,
    remote_passes,
)
from .stages import Stages, explanation, record_of

if TYPE_CHECKING:
    from ..codegen.kernel import Kernel
    from ..ir.schedule import Schedule
    from ..passes.tile.regimes import Regime
    from ..runtime.executable import Executable
    from ..runtime.execution.sampler import SampleKernel
    from ..runtime.execution.step import ModelExecutor
    from ..runtime.execution.weights import Progress
    from ..runtime.remote.address import Address
    from ..runtime.schedule.policy import Policy
    from .offloading import Offloading


def compile(
    program: Any,
    model: str | Path = "tiny-dense",
    *,
    name: str | None = None,
    tools: Mapping[str, Callable[..., Any]] | None = None,
    options: Options | None = None,
    progress: Progress | None = None,
    **changes: Any,
) -> Executable:
    """Compile a program for a model and return an executable.

    `program` is a path to a .weft file, its text, or a function under `@weft.program`; `name`
    picks one program of several (default: the last). `model` is a shipped name, a checkpoint
    folder, `random:SHAPE`, or a model behind an endpoint: `openai:URL#NAME`. `tools` gives the
    Python functions of `tool` declarations. `progress` hears how many bytes of weights are loaded,
    and of how many. Further keywords change `options`: see `Options`.

    Raises WeftError: syntax, names, types, passes, capacity, kernels, model.
    """
    chosen = Options.of(options).changed(**changes)
    compilation = Compilation(program, model, name=name, tools=tools, options=chosen)
    compilation.progress = progress
    return compilation.executable()


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
        self.launch = Launch.from_env()
        self.progress: Progress | None = None
        self.records: list[PassRecord] = []

    @cached_property
    def checkpoint(self) -> Checkpoint | None:
        """The model's configuration, graph and vocabulary; None when compiling without one."""
        if self.model is None or self.remote is not None:
            return None
        return open_checkpoint(self.model)

    @cached_property
    def remote(self) -> Address | None:
        """Where the model is, if it is behind an endpoint."""
        return remote_address(self.model)

    @cached_property
    def context(self) -> Context:
        """What passes may know of the model."""
        known: dict[str, Any] = {"pure_tools": self.pure_tools, "entry": self.program_name}
        known["validate"] = validation() if self.options.validate else None
        if self.checkpoint is None:
            return Context(constraint_of=constraint_of, **known)
        return Context(
            tokenizer=self.checkpoint.tokenizer,
            chat=self.checkpoint.chat,
            constraint_of=constraint_of,
            model_name=self.checkpoint.name,
            context_length=self.checkpoint.config.context_length,
            target=self.options,
            store=TableCache(self.options.cache),
            **known,
        )

    @property
    def pure_tools(self) -> dict[str, Callable[..., Any]]:
        """The tools that folding may run: those declared pure that have a function here."""
        from ..ir.values import records_of
        from ..runtime.programs.tools import call_now

        declared = (op for op in self.lowered.operations if op.name == "program.tool")
        functions, records = self.opened.tools, records_of(self.lowered)
        return {
            op["name"].name: call_now(op, records, functions[op["name"].name])
            for op in declared
            if op.attribute("pure") and op["name"].name in functions
        }

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
        passes = remote_passes(self.options.remote) if self.remote else PROGRAM_PASSES
        return self._run(passes, self.lowered)

    @cached_property
    def plan(self) -> Module:
        """What the engine executes."""
        if self.remote is not None:
            raise NotForRemote(model=self.remote)
        facts = frozenset({"canonical", "prefixes"})
        return self._run((*LOWERING, *PLAN_PASSES), self.program, facts)

    @cached_property
    def attention(self) -> Attention | None:
        """The sparse attention that is asked for, with the model's calibration."""
        found = asked_attention(self._need_checkpoint(), self.options, self.plan)
        require_offloadable(self.options, found)
        return found

    @cached_property
    def lowering(self) -> ModelLowering:
        """The model's way from its graph to kernels, where it fits its device whole."""
        return ModelLowering(
            self._need_checkpoint(), self.options, self.launch, self.attention,
            has_constraints(self.plan), self.records,
        )  # fmt: skip

    @cached_property
    def offloading(self) -> Offloading | None:
        """The model divided between GPU and CPU, where the options bound the GPU's memory."""
        from .offloading import Offloading

        if not self.options.gpu_memory:
            return None
        return Offloading(self._need_checkpoint(), self.options, self.records)

    @cached_property
    def regimes(self) -> list[Regime]:
        """The model lowered for each kind of step: decode by rows, and any step."""
        return self.lowering.regimes

    @property
    def graph(self) -> Module:
        """The model's step after the passes that all regimes share; or its sections."""
        return self.lowering.graph if self.offloading is None else self.offloading.module

    @property
    def tile(self) -> Module:
        """Every kernel, once."""
        return self.lowering.tile if self.offloading is None else self.offloading.tile

    @property
    def schedules(self) -> list[tuple[Operation, Schedule]]:
        """Every kernel with its schedule: the one chosen on this device, if one was."""
        return self.lowering.schedules

    @cached_property
    def kernels(self) -> Mapping[str, Kernel]:
        """The compiled kernels, by name."""
        from ..passes.tile.rows.sampling import sampling_kernels

        if self.offloading is None:
            return self.lowering.kernels
        vocabulary = self._need_checkpoint().config.vocab_size
        return self.offloading.kernels(sampling_kernels(vocabulary))

    @property
    def on_gpu(self) -> bool:
        """Whether the target is a GPU."""
        return self.options.target == "cuda"

    @cached_property
    def executor(self) -> ModelExecutor:
        """The model in memory, ready for steps."""
        return loaded(self._load)

    def _load(self) -> ModelExecutor:
        checkpoint = self._need_checkpoint()
        if self.options.executor == "reference":
            join_ranks(self.options, self.launch, lambda: self.lowering.rank_graph)
            graph = self.lowering.rank_graph
            return reference_executor(checkpoint, graph, self.options, self.attention)
        if self.on_gpu and self.options.tp == 1:
            require_gpu()
        if self.offloading is not None:
            self.offloading.require(self.attention is None)
            return self.offloading.executor(self.kernels)
        join_ranks(self.options, self.launch, lambda: self.kernels)
        make: Any = device_executor if self.on_gpu else compiled_executor
        return make(
            checkpoint, self.regimes, self.kernels, self.options, self.progress, self.attention
        )

    @cached_property
    def sampler(self) -> SampleKernel:
        """What draws tokens from logits."""
        from ..runtime.execution.sampler import sample_rows

        if self.options.executor == "reference":
            return sample_rows
        if self.on_gpu and self.offloading is None:
            return device_sampler(self.executor, self.kernels)
        return compiled_sampler(self.executor, self.kernels)

    @property
    def policy(self) -> Policy | None:
        """What waits for whom: on a GPU nothing does for less than a page, where prompts that begin
        alike do not share it in one step."""
        from ..runtime.schedule.policy import Policy

        if not self.on_gpu or self.offloading is not None:
            return None
        return Policy(least_gain=page_size(self.options))

    def diff(self, pass_name: str) -> str:
        """Return what a pass changed, as a unified diff of the IR text."""
        return record_of(self, pass_name).diff()

    def explain(self) -> str:
        """Return what each pass did and what it left, with source lines."""
        return explanation(self)

    def executable(self) -> Executable:
        """Return what runs the program; a rank other than 0 serves that one, and then exits."""
        check_options(self.options, self.remote)
        if self.remote is not None:
            return remote_executable(self, self.remote)
        if self.options.tp > 1 and self.launch.rank:
            serve(self.executor)
        from ..runtime.executable import Executable
        from ..runtime.tracing.trace import Trace

        checkpoint = self._need_checkpoint()
        tell([*self.warnings, *ignored(self.lowered)])
        return Executable(
            self.plan,
            self.program_name,
            self.executor,
            checkpoint.tokenizer,
            tools=self.opened.tools,
            tables=None if self.context.tables is None else self.context.tables.by_key,
            stages=Stages(self),
            report=self,
            model=checkpoint.name,
            seed=self.options.seed,
            sample=self.sampler,
            policy=self.policy,
            trace=Trace() if self.options.trace else None,
            prefixes=self.prefixes,
        )

    @cached_property
    def prefixes(self) -> PlanPrefixes:
        """What the program's calls will send, of any batch of rows."""
        return PlanPrefixes(self.plan, self.program_name, self._need_checkpoint().tokenizer)

    def prefix_tree(self, rows: Sequence[Mapping[str, Any]] = ()) -> PrefixTree:
        """Return the prefix tree of a batch, its rows checked; raises BadArguments."""
        return self.prefixes.tree([self.bind(row, number) for number, row in enumerate(rows)])

    def bind(self, given: Mapping[str, Any], row: int | None = None) -> dict[str, Any]:
        """Return the values of the program's parameters, which needs no model; raises BadArguments,
        which speaks of a `row` if that is given."""
        from ..ir.values import records_of
        from ..runtime.programs.arguments import bind_arguments

        function = self.lowered.symbol(self.program_name)
        return bind_arguments(function, records_of(self.lowered), given, row)

    @property
    def program_name(self) -> str:
        """The program to run: the one asked for, or the file's last."""
        names = [op["name"].name for op in self.lowered.operations if op.name == "program.func"]
        if not names:
            raise NoPrograms(file=self.opened.source.name)
        if self.name is not None and self.name not in names:
            raise NoSuchProgramName(name=self.name, names=", ".join(names))
        return self.name or names[-1]

    def _need_checkpoint(self) -> Checkpoint:
        if self.remote is not None:
            raise NotForRemote(model=self.remote)
        if self.checkpoint is None:
            raise NoVocabulary()
        return self.checkpoint

    def _run(self, passes: tuple[Any, ...], module: Module, facts: frozenset[str] = frozenset()
             ) -> Module:  # fmt: skip
        module, records = run_passes(passes, module, self.context, facts)
        self.records += records
        return module
