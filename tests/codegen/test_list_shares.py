"""Attention by the programs that chose the keys: shares of lists, and their join."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from weft.codegen.bounds.prove import prove_bounds
from weft.codegen.meaning.arrays import widen
from weft.codegen.meaning.reference import run_kernel
from weft.ir.core import Module, Operation
from weft.ir.parser import parse_module
from weft.ir.printer import print_module
from weft.ir.sparse.policy import MOST_PARTS, SparsePolicy, parse_policy
from weft.ir.verifier import verify
from weft.passes.tile.gpu_schedules import gpu_schedule
from weft.passes.tile.lowering.sparse import selection_on_gpu
from weft.passes.tile.meeting import meeting
from weft.passes.tile.selection.labels import Labels
from weft.passes.tile.sparse.list_shares import list_shares, share_join
from weft.passes.tile.sparse.sparse_parts import SparseParts
from weft.tests.codegen.parts_cases import Tree, tolerance, tree

COMMON: dict[str, Any] = {"many": 0, "slots": True}
SHAPES = {
    "f32": SparseParts(4, 2, 16, page=4, q="f32", kv="f32", few=4, keys_listed=8, **COMMON),
    "bf16": SparseParts(8, 2, 32, page=8, few=16, keys_listed=16, **COMMON),
    "odd_group": SparseParts(
        6, 2, 32, page=4, q="f32", kv="f32", few=16, keys_listed=4, **COMMON
    ),
    "mha": SparseParts(2, 2, 32, page=4, q="f32", kv="f32", few=16, keys_listed=64, **COMMON),
}  # fmt: skip
ROWS = {"some": [90], "more": [170], "none": [0], "fewer than shares": [3]}
each_shape = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)


def both(shape: SparseParts) -> Operation:
    """Return shares and their join as one launch."""
    return meeting("both", list_shares(shape), share_join(shape))


@dataclass
class Case:
    """Rows that chose some keys at random, and the kernel's arguments by name."""

    tree: Tree
    chosen: dict[tuple[int, int], np.ndarray]
    given: dict[str, Any]


def case_of(shape: SparseParts, lengths: list[int], seed: int = 0) -> Case:
    found = tree(shape, [(0, [max(length, 1)]) for length in lengths], seed=seed)
    rng, page = np.random.default_rng(seed), shape.page
    room = [-(-length // page) * page for length in lengths]
    base = (np.cumsum(room) - room).astype("i4")
    places = np.full((shape.kv_heads, sum(room) + 7), 1 << 30, "i4")
    budgets = np.array([rng.integers(1, length + 1) if length else 9 for length in lengths], "i4")
    chosen = {}
    for row, head in np.ndindex(len(lengths), shape.kv_heads):
        if not lengths[row]:
            continue
        count = budgets[row]
        tokens = chosen[row, head] = np.sort(rng.choice(lengths[row], count, replace=False))
        slots = found.batch.table[row, tokens // page] * page + tokens % page
        places[head, base[row] : base[row] + count] = slots
    few, states = len(lengths), (shape.kv_heads, MOST_PARTS)
    each = shape.group * shape.head_dim // MOST_PARTS
    given = {
        "T": len(found.q), "N": len(found.pools[0]), "B": few, "C": places.shape[1],
        "q": found.q, "k": found.pools[0], "v": found.pools[1], "base": base,
        "kv_lengths": np.array(lengths, "i4"), "chosen": places, "budgets": budgets, "SR": few,
        **{name: np.full((few, *states, shape.group), np.nan, "f4")
           for name in ("share_max", "share_sum")},
        "share_acc": np.full((few, *states, MOST_PARTS, each), np.nan, "f4"),
        "out": np.full(found.q.shape, 0x7FC0 if shape.q == "bf16" else np.nan, found.q.dtype),
        "meets": np.zeros((few, shape.kv_heads), "i4"),
    }  # fmt: skip
    return Case(found, chosen, given)


def ordered(kernel: Operation, case: Case) -> list[Any]:
    return [case.given[value.name] for value in kernel.regions[0].arguments]


def out_of(kernel: Operation, after: list[Any]) -> np.ndarray:
    out = after[[value.name for value in kernel.regions[0].arguments].index("out")]
    return (out.astype("u4") << 16).view("f4") if out.dtype == np.uint16 else out


def numbers(values: np.ndarray) -> np.ndarray:
    return widen(values, "bf16") if values.dtype == np.uint16 else values


def exact(shape: SparseParts, case: Case) -> np.ndarray:
    """Return softmax attention over what each row chose; NaN for those that chose nothing."""
    k, v, q = (numbers(x).astype("f8") for x in (*case.tree.pools, case.tree.q))
    out = np.full(q.shape, np.nan).reshape(len(q), shape.heads, shape.head_dim)
    for (row, head), tokens in case.chosen.items():
        at = case.tree.batch.table[row, tokens // shape.page], head, tokens % shape.page
        for member in range(head * shape.group, (head + 1) * shape.group):
            asked = q[row].reshape(shape.heads, shape.head_dim)[member]
            scores = k[at] @ asked * (shape.scale or shape.head_dim**-0.5)
            weights = np.exp(scores - scores.max())
            out[row, member] = weights @ v[at] / weights.sum()
    return out.reshape(q.shape)


@each_shape
def test_proven_and_round_trips(shape: SparseParts) -> None:
    for kernel in (list_shares(shape), share_join(shape), both(shape)):
        module = Module((kernel,))
        verify(module, ("tile",))
        assert parse_module(print_module(module)) == module
        assert prove_bounds(kernel).ok
        facts = tuple(fact for fact in kernel["requires"] if fact != "SR >= 1")
        wrong = kernel.with_attributes(requires=facts)
        assert not prove_bounds(wrong, allow_unproven=True).ok


@each_shape
@pytest.mark.parametrize("lengths", ROWS.values(), ids=ROWS)
def test_shares_of_a_list_make_its_attention(shape: SparseParts, lengths: list[int]) -> None:
    """Rows that chose nothing stay as they were."""
    kernel, case = both(shape), case_of(shape, lengths, seed=len(lengths))
    run_kernel(kernel, *(given := ordered(kernel, case)))
    np.testing.assert_allclose(
        out_of(kernel, given), exact(shape, case), rtol=0, atol=tolerance(shape)
    )


@pytest.mark.parametrize("name", ["f32", "bf16", "odd_group"])
def test_triton_interpreter(name: str, triton_interpreter: Any) -> None:
    shape = SHAPES[name]
    kernel = both(shape)
    for lengths in ([70], [0]):
        case = case_of(shape, lengths, seed=3)
        after = triton_interpreter.run(kernel, ordered(kernel, case))
        np.testing.assert_allclose(
            out_of(kernel, after), exact(shape, case), rtol=0, atol=tolerance(shape)
        )


def test_what_a_list_says_past_its_end_is_nobodys() -> None:
    """The same with other values there, and in the rows of keys that nobody chose."""
    shape, found = SHAPES["f32"], []
    for spoilt in (False, True):
        case = case_of(shape, [60], seed=5)
        if spoilt:
            for head in range(shape.kv_heads):
                case.given["chosen"][head, len(case.chosen[0, head]) :] = head
        kernel = both(shape)
        run_kernel(kernel, *(given := ordered(kernel, case)))
        found.append(out_of(kernel, given))
    np.testing.assert_array_equal(*found)


def test_without_a_meeting_a_join_reads_what_was_not_there() -> None:
    """The planted fault: programs that do both one after another, as they come."""
    kernel, case = both(SHAPES["f32"]), case_of(SHAPES["f32"], [90])
    region = kernel.regions[0]
    kept = tuple(op for op in region.operations if op.name != "tile.meet")
    broken = replace(kernel, regions=(replace(region, operations=kept),))
    run_kernel(broken, *(given := ordered(broken, case)))
    assert not np.allclose(out_of(broken, given), exact(SHAPES["f32"], case), atol=0.1)


def test_more_rows_have_no_programs() -> None:
    """Of many pairs of a row and a key head launches of their own read the lists."""
    kernel, case = both(SHAPES["f32"]), case_of(SHAPES["f32"], [9, 9])
    run_kernel(kernel, *(given := ordered(kernel, case)))
    assert np.isnan(out_of(kernel, given)).all()


def chosen_at_once(amounts: str, slots: bool = True) -> list[str]:
    """Return the names of a selection's kernels that are launched for few rows alone."""
    labels = Labels(8, 128, 64, 32, "i4", "bf16")
    policy = parse_policy(f"sparse({amounts}, channels=32)")
    assert policy is not None
    kernels, _ = selection_on_gpu(policy, labels, 32, 128**-0.5, "bf16", slots=slots)
    return [k["name"].name.partition("_")[0] for k in kernels if "_few" in k["name"].name]


def test_only_plain_budgets_over_slots_are_attended_to_at_once() -> None:
    """With positions, which a cache is asked for first, or more to weigh, launches follow."""
    assert chosen_at_once("ratio=1/16") == ["attended"]
    assert chosen_at_once("k=2048") == ["attended"]
    assert chosen_at_once("k=2048", slots=False) == ["chosen"]
    assert "attended" not in chosen_at_once("top_p=0.8")
    assert "attended" not in chosen_at_once("k=2048, tail=mean")


def test_shares_and_their_join_compile_for_hopper() -> None:
    pytest.importorskip("triton")
    from weft.codegen.triton.compile import compile_offline

    kernel = both(SHAPES["bf16"])
    text = compile_offline(kernel, gpu_schedule(kernel))["ptx"]
    assert text.count("atom.acq_rel.gpu.global.add") == 1  # between shares and join


@pytest.mark.slow  # the parts of what is compiled here are compiled each time, one by one
def test_two_programs_fit_on_a_multiprocessor_with_keys_on_their_way() -> None:
    pytest.importorskip("triton")
    from weft.codegen.triton.compile import compile_offline

    labels = Labels(8, 128, 64, 32, "i4", "bf16")
    kernels, _ = selection_on_gpu(SparsePolicy(ratio=1 / 16, channels=32), labels, 32, 128**-0.5,
                                  "bf16", slots=True)  # fmt: skip
    (kernel,) = (k for k in kernels if k["name"].name.startswith("attended"))
    schedule = gpu_schedule(kernel)
    text = compile_offline(kernel, schedule)["ptx"]
    assert schedule.num_warps * 32 * schedule.registers * 2 <= 1 << 16
    assert "cp.async" in text and "mma.sync" in text
    assert text.count("atom.acq_rel.gpu.global.add") == 4  # after scores, counts, lists and shares


@pytest.mark.gpu
@pytest.mark.parametrize("lengths", [[70], [3000], [20_000], [0]])
def test_gpu(lengths: list[int], gpu: Any) -> None:
    shape = SparseParts(32, 8, 128, page=64, few=16, keys_listed=64, **COMMON)
    kernel, case = both(shape), case_of(shape, lengths, seed=1)
    for _ in range(20):
        after = gpu(kernel, ordered(kernel, case))
        np.testing.assert_allclose(
            out_of(kernel, after), exact(shape, case), rtol=0, atol=tolerance(shape)
        )
