"""The pass manager: order is checked, foreign IR is refused, broken output is caught."""

from dataclasses import dataclass

import pytest
from weft.ir.core import Module, make
from weft.ir.parser import parse_module
from weft.ir.source import Span
from weft.ir.verifier import InvalidIR
from weft.passes.manager import (
    Context,
    ForeignDialect,
    MissingFact,
    UnknownPass,
    check_order,
    run_passes,
)
from weft.passes.pipeline import LOWERING, PLAN_PASSES, PROGRAM_PASSES, known_passes, named_passes
from weft.passes.program.canonicalize import Canonicalize
from weft.passes.program.memory.liveness import FreeKV
from weft.passes.program.plans.lower import LowerToPlan


def test_the_pipeline_is_in_an_order_that_holds():
    assert "freed" in check_order((*PROGRAM_PASSES, *LOWERING, *PLAN_PASSES))


def test_a_pass_before_what_it_requires_is_refused_before_anything_runs():
    with pytest.raises(MissingFact, match="lower-to-plan requires 'canonical'"):
        run_passes((LowerToPlan(), Canonicalize()), Module(), Context())


def test_a_pass_that_loses_a_fact_breaks_the_order():
    @dataclass(frozen=True)
    class Loses:
        name = "loses"
        reads = writes = ("program",)
        requires = ensures = keeps = ()

        def run(self, module, context):
            return module

    with pytest.raises(MissingFact, match="canonical"):
        check_order((Canonicalize(), Loses(), LowerToPlan()))


def test_ir_of_another_dialect_is_refused():
    module = parse_module('tile.kernel name = @k, grid = ["1"] {\n  tile.return\n}\n')
    with pytest.raises(ForeignDialect, match="reads program and plan"):
        run_passes((FreeKV(),), module, Context(), frozenset({"planned"}))


def test_a_pass_that_leaves_broken_ir_is_caught():
    @dataclass(frozen=True)
    class Breaks:
        name = "breaks"
        reads = writes = ("program",)
        requires = ensures = keeps = ()

        def run(self, module, context):
            return Module((make("program.literal", text="no stream"),))

    with pytest.raises(InvalidIR, match="program.literal: 0 operands"):
        run_passes((Breaks(),), Module(), Context())


def test_what_a_pass_says_of_a_place_is_told_once():
    @dataclass(frozen=True)
    class Talks:
        name = "talks"
        reads = writes = ("program",)
        requires = ensures = keeps = ()

        def run(self, module, context):
            for line in (1, 2, 1):
                context.left("unread", Span("p.weft", line, 1, line, 2))
            return module

    _, (record,) = run_passes((Talks(),), Module(), Context())
    assert [remark.span.line for remark in record.remarks] == [1, 2]


def test_an_unknown_pass_names_the_known_ones():
    with pytest.raises(UnknownPass, match="prefix-sharing"):
        named_passes(["prefix-shearing"])


@pytest.mark.parametrize("name", sorted(known_passes()))
def test_every_pass_says_what_it_does(name):
    step = known_passes()[name]
    assert type(step).__doc__ and step.reads and step.writes
