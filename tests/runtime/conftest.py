"""Fixtures of the runtime's tests: programs compiled for a toy model whose KV is checked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from weft.frontend.lowering.lower import lower
from weft.frontend.semantics.checker import check
from weft.frontend.semantics.constraints import constraint_of
from weft.frontend.text.parser import parse_text
from weft.ir.core import Module
from weft.passes.manager import Context, run_passes
from weft.passes.pipeline import LOWERING, PLAN_PASSES, PROGRAM_PASSES
from weft.passes.program.prefixes.tree import PlanPrefixes
from weft.passes.validation.registry import validation
from weft.runtime.executable import Executable
from weft.runtime.execution.sampler import sample_rows
from weft.runtime.reference import Reference, ReferenceResult
from weft.runtime.simulator import ToyChat, ToyExecutor, ToyTokenizer, toy_logits
from weft.runtime.tracing.trace import Trace
from weft.tests.runtime.interpreting import Interpreting

WORDS = (" the", "hello", "ing", '": ', '", "', '{"', " A", " B", "a b", "\n\n", "Grade", "ab")


@dataclass
class Toy:
    """Compiles program text for the toy model, each text once, and runs it by the oracle."""

    tokenizer: ToyTokenizer = field(default_factory=lambda: ToyTokenizer(WORDS))
    modules: dict[str, Module] = field(default_factory=dict)
    plans: dict[str, Module] = field(default_factory=dict)

    def lowered(self, text: str) -> Module:
        if text not in self.modules:
            file = parse_text(text)
            check(file)
            self.modules[text] = lower(file)
        return self.modules[text]

    def plan(self, module: Module) -> Module:
        context = Context(
            tokenizer=self.tokenizer, chat=ToyChat(), constraint_of=constraint_of, model_name="toy",
            validate=validation(),
        )  # fmt: skip
        passes = (*PROGRAM_PASSES, *LOWERING, *PLAN_PASSES)
        return run_passes(passes, module, context)[0]

    def planned(self, text: str | Module) -> Module:
        if not isinstance(text, str):
            return self.plan(text)
        if text not in self.plans:
            self.plans[text] = self.plan(self.lowered(text))
        return self.plans[text]

    def compile(
        self,
        text: str | Module,
        tools: dict[str, Callable[..., Any]] | None = None,
        seed: int = 0,
        trace: Trace | None = None,
        ahead: bool = False,
        together: bool = False,
        **limits: int,
    ) -> Executable:
        module = self.lowered(text) if isinstance(text, str) else text
        limits = {"context_length": 2048, "num_pages": 600, **limits}
        from weft.tests.runtime.schedule.ahead import AheadExecutor, AheadSampler

        executor = (AheadExecutor if ahead else ToyExecutor)(self.tokenizer.size, **limits)
        executor.copies_slots = together
        sample = AheadSampler(executor) if isinstance(executor, AheadExecutor) else sample_rows
        name = module.operations[-1]["name"].name
        plan = self.planned(text)
        return Executable(
            plan, name, executor, self.tokenizer, tools=tools, seed=seed, model="toy", trace=trace,
            sample=sample,  # type: ignore[arg-type]
            prefixes=PlanPrefixes(plan, name, self.tokenizer),
        )  # fmt: skip

    def oracle(
        self,
        text: str | Module,
        tools: dict[str, Callable[..., Any]] | None = None,
        seed: int = 0,
    ) -> Callable[..., ReferenceResult]:
        module = self.lowered(text) if isinstance(text, str) else text
        reference = Reference(
            module, module.operations[-1]["name"].name,
            lambda ids: toy_logits(ids, self.tokenizer.size), self.tokenizer, ToyChat(),
            constraint_of, tools, seed,
        )  # fmt: skip
        return reference.run

    def assert_clean(self, executable: Executable) -> None:
        """Check that nothing is held any more, and that the books of the KV memory are right."""
        engine = executable.engine
        engine.check()
        assert engine.kv.live == 0 and not engine and not engine.hits._of
        host = executable._host
        assert not host.loop and not host.loop._tools and not host.upcoming._cache
        engine.tree.clear()
        assert engine.kv.free == engine.kv.num_pages


@pytest.fixture(scope="session")
def toy() -> Toy:
    return Toy()


@pytest.fixture(scope="session")
def interpreting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Interpreting]:
    """Return what runs scripts whose Triton kernels are interpreted."""
    pytest.importorskip("triton")
    process = Interpreting(tmp_path_factory.mktemp("interpreting"))
    yield process
    process.close()


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Run torch's many small operations on one thread: more would only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
