"""The bounds prover: it proves what is inside, and finds every planted fault."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from weft.codegen.bounds import prove, symbolic_loops
from weft.codegen.bounds.prove import (
    EFFORT,
    BoundsProof,
    ContradictoryFacts,
    UnprovenAccess,
    proof_key,
    prove_bounds,
)
from weft.ir import core
from weft.ir.core import Operation
from weft.ir.expression import ExpressionError
from weft.passes.tile.builder import KernelBuilder
from weft.tests.codegen.kernel_cases import FAMILIES, make


@pytest.mark.parametrize("family", FAMILIES)
def test_families_are_proven_quickly(family: str) -> None:
    proof = prove_bounds(make(family, "one").kernel, effort=EFFORT // 1000)
    assert proof.ok and proof.accesses


def copy_kernel(
    columns: int = 100, block: int = 32, bound: int | None = 100, offset: int = 0,
    grid: str | None = None,
) -> Operation:  # fmt: skip
    """y[row, c] = x[row, c + offset], with a mask c < bound."""
    b = KernelBuilder("copy")
    b.scalar("T")
    x, y = b.buffer("x", "f32", "T", columns), b.buffer("y", "f32", "T", columns)
    row, part = b.program_id(0), b.program_id(1)
    column = b.map(f"a * {block} + b", part, b.iota(block), dtype="i32")
    mask = None if bound is None else b.map(f"a < {bound}", column)
    value = b.load(x, row, b.map(f"a + {offset}", column), mask=mask)
    b.store(y, row, column, value, mask=mask)
    return b.finish(grid or "T", f"ceildiv({columns}, {block})")


def gather_kernel(fact: str) -> Operation:
    b = KernelBuilder("gather")
    b.scalar("T"), b.scalar("N")
    table, ids, out = b.buffer("table", "f32", "N"), b.buffer("ids", "i32", "T"), b.buffer(
        "out", "f32", "T")  # fmt: skip
    row = b.program_id(0)
    b.store(out, row, b.load(table, b.load(ids, row)))
    return b.finish("T", requires=(fact,) if fact else ())


def pages_kernel(page: int, divide: int) -> Operation:
    """out[pos] = pool[table[pos // divide], pos % page] over a loop of positions."""
    b = KernelBuilder("pages")
    b.scalar("N"), b.scalar("M")
    limit = b.scalar("L")
    pool = b.buffer("pool", "f32", "N", page)
    table, out = b.buffer("table", "i32", "M"), b.buffer("out", "f32", "L")
    lane, zero = b.iota(8), b.full(0, "i32")
    with b.loop(zero, limit, step=8) as loop:
        position = b.map("a + b", loop.index, lane, dtype="i32")
        live = b.map("a < b", position, limit)
        row = b.load(table, b.map(f"a // {divide}", position), mask=live)
        value = b.load(pool, row, b.map(f"a % {page}", position), mask=live)
        b.store(out, position, value, mask=live)
        loop.yields()
    return b.finish("1", requires=("0 <= table[*] < N", f"L <= M * {page}"))


def ragged_kernel(monotone: bool, until: str = "a") -> Operation:
    """Each program walks starts[p] .. starts[p + 1] of x, unmasked."""
    b = KernelBuilder("ragged")
    b.scalar("B"), b.scalar("T"), b.scalar("S")
    x, starts, out = b.buffer("x", "f32", "T"), b.buffer("starts", "i32", "S"), b.buffer(
        "out", "f32", "B")  # fmt: skip
    p = b.program_id(0)
    low, high = b.load(starts, p), b.load(starts, b.map("a + 1", p))
    with b.loop(low, b.map(until, high), b.full(0.0, "f32")) as loop:
        loop.yields(b.map("a + b", loop.carried[0], b.load(x, loop.index)))
    b.store(out, p, loop.results[0])
    facts = ["S == B + 1", "starts[0] == 0", "starts[B] == T"]
    return b.finish("B", requires=(*facts, *(["starts[i] <= starts[i + 1]"] if monotone else [])))


def narrow_kernel(rows: int) -> Operation:
    """out[p] = p for as many programs, with p in one signed byte on the way."""
    b = KernelBuilder("narrow")
    out = b.buffer("out", "i32", rows)
    row = b.program_id(0)
    b.store(out, b.map("a", row, dtype="i8"), row)
    return b.finish(str(rows))


def rewritten_kernel() -> Operation:
    """A gather whose ids the kernel writes first, as `writes` does not say."""
    kernel = gather_kernel("0 <= ids[*] < N")
    region = kernel.regions[0]
    store = core.make("tile.store", region.arguments[3], *(region.operations[0].results * 2))
    body = (region.operations[0], store, *region.operations[1:])
    return replace(kernel, regions=(replace(region, operations=body),))


def nested_kernel() -> Operation:
    """out[N - 1] = 0 after loops in which a carried 0 is below N as there is a round around it."""
    b = KernelBuilder("nested")
    rows = b.scalar("N")
    out, zero = b.buffer("out", "i32", "N"), b.full(0, "i32")
    with b.loop(zero, rows) as outer:
        with b.loop(zero, b.full(4, "i32"), zero) as inner:
            b.store(out, inner.carried[0], zero)
            inner.yields(inner.carried[0])
        outer.yields()
    b.store(out, b.map("a - 1", rows), zero)
    return b.finish("1")


def counter_kernel(step: int, extent: int) -> Operation:
    """A carried index that grows by `step` in each of 10 rounds, into a buffer of `extent`."""
    b = KernelBuilder("counter")
    out = b.buffer("out", "i32", extent)
    zero = b.full(0, "i32")
    with b.loop(zero, b.full(10, "i32"), zero) as loop:
        here = loop.carried[0]
        b.store(out, here, here)
        loop.yields(b.map(f"a + {step}", here))
    return b.finish("1")


GOOD: dict[str, Callable[[], Operation]] = {
    "masked copy": copy_kernel,
    "whole blocks": lambda: copy_kernel(columns=96, bound=None),
    "gather": lambda: gather_kernel("0 <= ids[*] < N"),
    "gather by position": lambda: gather_kernel("0 <= ids[i] < min(N, i + 1)"),
    "pages": lambda: pages_kernel(16, 16),
    "monotone starts": lambda: ragged_kernel(True),
    "carried index": lambda: counter_kernel(1, 10),
    "a byte that holds it": lambda: narrow_kernel(128),
    "element fact": lambda: replace(ragged_kernel(False), attributes=tuple(
        (key, (*value, "0 <= starts[*] <= T") if key == "requires" else value)
        for key, value in ragged_kernel(False).attributes)),
}  # fmt: skip

FAULTS: dict[str, tuple[Callable[[], Operation], str]] = {
    "off by one": (lambda: copy_kernel(offset=1), "%x"),
    "no mask": (lambda: copy_kernel(bound=None), "%x"),
    "mask one too wide": (lambda: copy_kernel(bound=101), "%x"),
    "grid too large": (lambda: copy_kernel(grid="T + 1"), "%x"),
    "negative": (lambda: copy_kernel(offset=-1), "%x"),
    "no fact": (lambda: gather_kernel(""), "%table"),
    "fact one too wide": (lambda: gather_kernel("0 <= ids[*] <= N"), "%table"),
    "fact without lower end": (lambda: gather_kernel("ids[*] < N"), "%table"),
    "wrong page size": (lambda: pages_kernel(16, 8), "%table"),
    "not monotone": (lambda: ragged_kernel(False), "%x"),
    "loop one too far": (lambda: ragged_kernel(True, "a + 1"), "%x"),
    "carried index too fast": (lambda: counter_kernel(2, 10), "%out"),
    "carried index too far": (lambda: counter_kernel(1, 9), "%out"),
    "more than a byte holds": (lambda: narrow_kernel(129), "%out"),
    "a fact of what it writes": (rewritten_kernel, "%table"),
    "what only a loop's rounds know": (nested_kernel, "%out"),
}


@pytest.mark.parametrize("name", GOOD)
def test_good(name: str) -> None:
    assert prove_bounds(GOOD[name]()).ok


@pytest.mark.parametrize("name", FAULTS)
def test_fault_is_found(name: str) -> None:
    build, buffer = FAULTS[name]
    with pytest.raises(UnprovenAccess) as caught:
        prove_bounds(build())
    assert f"of {buffer} is not proven" in caught.value.message
    assert "in this operation: " in str(caught.value)


def test_a_guess_that_takes_too_long_is_given_up_and_not_believed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kernel = GOOD["carried index"]()
    assert {access.by for access in prove_bounds(kernel).accesses} == {"invariant"}
    monkeypatch.setattr(symbolic_loops, "GUESS", 1)
    with pytest.raises(UnprovenAccess):
        prove_bounds(kernel)


def test_counter_example_names_what_a_person_needs() -> None:
    with pytest.raises(UnprovenAccess) as caught:
        prove_bounds(copy_kernel(bound=101))
    assert "T = 1, program (0, 3), lane (4), index 100, extent 100" in caught.value.message


def test_contradictory_facts_prove_nothing() -> None:
    with pytest.raises(ContradictoryFacts, match="a program in its grid"):
        prove_bounds(gather_kernel("(T < N) & (N < T)"))
    with pytest.raises(ContradictoryFacts, match="an element in each buffer"):
        prove_bounds(gather_kernel("0 <= ids[*] < min(N, 0)"))


def test_an_index_of_a_fact_is_i_or_near_it() -> None:
    for index in ("i * 2", "1 + i", "i // 4"):
        with pytest.raises(ExpressionError, match="an index is i, or i plus or minus a number"):
            prove_bounds(gather_kernel(f"0 <= ids[{index}] < N"))


def test_failures_may_be_listed_instead() -> None:
    proof = prove_bounds(copy_kernel(bound=None), allow_unproven=True)
    assert not proof.ok and len(proof.failures) == 2


def test_proof_round_trips_and_is_keyed_by_text() -> None:
    kernel = copy_kernel()
    proof = prove_bounds(kernel)
    assert BoundsProof.from_json(proof.to_json()) == proof
    assert proof.key == proof_key(kernel) == proof_key(copy_kernel())
    assert proof.key != proof_key(copy_kernel(offset=0, columns=64))


def test_an_older_provers_proofs_count_for_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    kernel = copy_kernel()
    key, source = proof_key(kernel), Path(prove.__file__)
    folder = shutil.copytree(source.parent, tmp_path / "bounds")
    monkeypatch.setattr(prove, "__file__", str(folder / source.name))
    monkeypatch.setattr(prove, "prover_digest", prove.prover_digest.__wrapped__)
    assert proof_key(kernel) == key, "wherever it lies"
    with (folder / "symbolic_loops.py").open("a") as file:
        file.write("# Another prover.\n")
    assert proof_key(kernel) != key
