"""The kernels of a cache of keys across a link: what lists name is there, and up to date."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from weft.codegen.bounds.prove import UnprovenAccess, prove_bounds
from weft.ir.core import Module
from weft.ir.parser import parse_module
from weft.ir.printer import print_module
from weft.ir.verifier import verify
from weft.passes.tile.sparse.key_cache import (
    COUNTERS,
    KeyCache,
    fetch,
    forget,
    free,
    look,
    place,
    rows,
)
from weft.tests.codegen.kernel_case import interpreted

SHAPES = {
    "table": KeyCache(2, 4, 4, keys=4),
    "parts": KeyCache(2, 4, 4, keys=4, parts=2),
    "flat": KeyCache(2, 4, 4, keys=8, flat=True, parts=3),
}
PAGES, COLUMNS = 12, 5
EXTENT = COLUMNS * 4


def kernels(shape: KeyCache) -> dict[str, Any]:
    both = {f"{kind}{ahead}": kernel(shape, bool(ahead))
            for kind, kernel in (("look", look), ("free", free), ("place", place))
            for ahead in (0, 1)}  # fmt: skip
    return both | {"fetch": fetch(shape, 2), "rows": rows(shape), "forget": forget(shape)}


@dataclass
class Cache:
    """A layer's pools and cache as arrays, and launches over them by name."""

    run: Any
    shape: KeyCache
    room: int

    def __post_init__(self) -> None:
        rng, s = np.random.default_rng(0), self.shape
        k, pool = s.kv_heads, (s.kv_heads, s.page, s.head_dim)
        self.kernels = kernels(s)
        blank = np.full((k, self.room), -7777, "i4")
        self.given: dict[str, Any] = {
            "N": PAGES, "S": PAGES * s.page, "H": self.room, "HP": self.room // s.page,
            "k": rng.standard_normal((PAGES, *pool)).astype("f4"),
            "v": rng.standard_normal((PAGES, *pool)).astype("f4"),
            "held_k": np.full((self.room // s.page, *pool), np.nan, "f4"),
            "held_v": np.full((self.room // s.page, *pool), np.nan, "f4"),
            "row_of": np.full((k, PAGES * s.page), -1, "i4"),
            "slot_of": np.full((k, self.room), -1, "i4"), "marks": np.zeros((k, self.room), "i4"),
            "hand": np.zeros(k, "i4"), "counters": np.zeros(len(COUNTERS), "i4"),
            "fresh": np.zeros(k, "i4"),
        }  # fmt: skip
        self.given |= {n: np.full((k, s.parts), -7777, "i4") for n in ("spare", "asked")}
        self.given |= {n: blank.copy() for n in ("victims", "fresh_slot", "fresh_row")}

    def launch(self, name: str) -> None:
        arguments = self.kernels[name].regions[0].arguments
        given = [self.given[value.name] for value in arguments]
        after = self.run(self.kernels[name], given)
        for value, array in zip(arguments, after, strict=True):
            if isinstance(array, np.ndarray):
                self.given[value.name] = array

    def lists(self, table: np.ndarray, lengths: np.ndarray, named: list[list[np.ndarray]]) -> None:
        """Take lists of positions: `named` by sequence and key head."""
        b, k = len(lengths), self.shape.kv_heads
        counts = np.array([[len(named[r][h]) for h in range(k)] for r in range(b)], "i4")
        base = np.arange(b, dtype="i4") * EXTENT
        shape = (k, b * EXTENT) if self.shape.flat else (b, k, EXTENT)
        chosen = np.full(shape, 12345, "i4")
        for r, h in np.ndindex(b, k):
            of = chosen[h, base[r] :] if self.shape.flat else chosen[r, h]
            of[: counts[r, h]] = named[r][h]
        self.given |= {
            "B": b, "MAXP": COLUMNS, "L": EXTENT, "E": table.size, "C": b * EXTENT,
            "page_table": table, "pages": table.ravel().copy(), "base": base,
            "row_page": np.arange(b, dtype="i4") * COLUMNS, "kv_lengths": lengths.astype("i4"),
            "chosen": chosen, "counts": counts, "rows": np.full(shape, -7777, "i4"),
        }  # fmt: skip

    def bring(self, ahead: bool) -> None:
        for name in (f"look{ahead:d}", f"free{ahead:d}", f"place{ahead:d}", "fetch"):
            self.launch(name)
        if not ahead:
            self.launch("rows")

    def entry(self, row: int, head: int, number: int) -> int:
        found = self.given["rows"]
        return int(found[head, row * EXTENT + number] if self.shape.flat
                   else found[row, head, number])  # fmt: skip

    def check(self, table: np.ndarray, named: list[list[np.ndarray]]) -> None:
        """Every entry's row in the cache is its token's in the pools; the books agree."""
        page = self.shape.page
        for row, of_heads in enumerate(named):
            for head, tokens in enumerate(of_heads):
                for number, token in enumerate(tokens):
                    place = self.entry(row, head, number)
                    source = table[row, token // page], head, token % page
                    for pool, held in (("k", "held_k"), ("v", "held_v")):
                        found = self.given[held][place // page, head, place % page]
                        assert (found == self.given[pool][source]).all(), (row, head, token)
        for head in range(self.shape.kv_heads):
            slot_of, row_of = self.given["slot_of"][head], self.given["row_of"][head]
            known = np.flatnonzero(slot_of >= 0)
            assert (row_of[slot_of[known]] == known).all()
            assert set(np.flatnonzero(row_of >= 0)) == set(slot_of[known])
        assert not self.given["marks"].any()

    def write(self, slot: int) -> None:
        """Write a token anew, of all key heads."""
        page = self.shape.page
        for pool in "kv":
            self.given[pool][slot // page, :, slot % page] += 1
        self.given |= {"slots": np.array([slot, -1], "i4"), "T": 2}
        self.launch("forget")


def lists_of(rng: Any, lengths: np.ndarray, heads: int, most: int) -> list[list[np.ndarray]]:
    return [[np.sort(rng.choice(n, min(n, int(rng.integers(0, most + 1))), replace=False))
             for _ in range(heads)] for n in lengths]  # fmt: skip


def steps(run: Any, shape: KeyCache, seed: int, count: int, guesses: bool = True) -> Cache:
    """Run fetches of random lists of two sequences that share their first page."""
    rng, cache = np.random.default_rng(seed), Cache(run, shape, room=20)
    for _ in range(count):
        order = rng.permutation(PAGES)
        table = order[: 2 * COLUMNS].reshape(2, COLUMNS).astype("i4")
        table[1, 0] = table[0, 0]
        lengths = rng.integers(1, EXTENT + 1, 2)
        wanted, guess = (lists_of(rng, lengths, shape.kv_heads, 10) for _ in "ab")
        if guesses:
            cache.lists(table, lengths, guess)
            cache.bring(ahead=True)
        cache.write(int(rng.integers(PAGES * shape.page)))
        cache.lists(table, lengths, wanted)
        cache.bring(ahead=False)
        cache.check(table, wanted)
    return cache


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_proven_and_round_trips(shape: KeyCache) -> None:
    for kernel in kernels(shape).values():
        module = Module((kernel,))
        verify(module, ("tile",))
        assert parse_module(print_module(module)) == module
        assert prove_bounds(kernel).ok


def test_a_launch_that_promises_less_is_not_proven() -> None:
    kernel = look(SHAPES["table"], False)
    facts = tuple(fact for fact in kernel["requires"] if "kv_lengths" not in fact)
    with pytest.raises(UnprovenAccess):
        prove_bounds(kernel.with_attributes(requires=facts))


@pytest.mark.parametrize("name", SHAPES)
def test_meaning(name: str) -> None:
    steps(interpreted, SHAPES[name], 1, 3)
    steps(interpreted, SHAPES[name], 2, 2, guesses=False)


@pytest.mark.slow
def test_tvm() -> None:
    pytest.importorskip("tvm")
    from weft.tests.codegen.tvm_cases import run

    for seed in (3, 4):
        steps(run, SHAPES["table"], seed, 12)


@pytest.mark.slow
@pytest.mark.parametrize("name", SHAPES)
def test_triton_interpreter(name: str, triton_interpreter: Any) -> None:
    steps(triton_interpreter.run, SHAPES[name], 5, 3)


@pytest.mark.gpu
@pytest.mark.parametrize("name", SHAPES)
def test_gpu(name: str, gpu: Any) -> None:
    steps(gpu, SHAPES[name], 5, 3)


def test_counters() -> None:
    """What came ahead and is wanted counts as predicted; what was there before as held."""
    cache = Cache(interpreted, SHAPES["table"], room=20)
    table, lengths = np.arange(1, 6, dtype="i4")[None], np.array([20])

    def bring(tokens: list[int], ahead: bool) -> None:
        cache.lists(table, lengths, [[np.array(tokens)] * 2])
        cache.bring(ahead)

    bring([1, 2, 3, 4], False)
    bring([3, 4, 5, 6], True)
    bring([4, 5, 9], False)
    counted = dict(zip(COUNTERS, cache.given["counters"].tolist(), strict=True))
    assert counted == {"wanted": 14, "held": 4, "predicted": 2, "guessed": 8, "brought": 4}


def test_a_slot_that_is_not_forgotten_is_found_out() -> None:
    """A planted fault: tokens are written anew, and the cache is not told."""

    class Deaf(Cache):
        def launch(self, name: str) -> None:
            if name != "forget":
                super().launch(name)

    cache = Deaf(interpreted, SHAPES["table"], room=20)
    table, named = np.arange(1, 6, dtype="i4")[None], [[np.arange(4)] * 2]
    cache.lists(table, np.array([20]), named)
    cache.bring(False)
    cache.write(int(table[0, 0]) * 4)
    cache.lists(table, np.array([20]), named)
    cache.bring(False)
    with pytest.raises(AssertionError):
        cache.check(table, named)


@pytest.mark.slow
def test_kernels_of_an_8b_shape_compile_for_hopper() -> None:
    pytest.importorskip("triton")
    from weft.codegen.triton.compile import compile_offline
    from weft.passes.tile.gpu_schedules import gpu_schedule
    from weft.passes.tile.sparse.held_attention import HeldParts, held_parts

    shape = KeyCache(8, 128, 64, "bf16", flat=True, keys=1024, parts=16)
    held = held_parts(HeldParts(32, 8, 128, page=64, few=16, many=0, keys=64, keys_listed=128))
    for kernel in (held, look(shape, True), free(shape, True), place(shape, True),
                   look(shape, False), free(shape, False), place(shape, False), fetch(shape, 16),
                   rows(shape), forget(shape)):  # fmt: skip
        assert len(compile_offline(kernel, gpu_schedule(kernel, True))["cubin"]) > 1000
