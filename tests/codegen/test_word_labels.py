"""Labels in words and selection by steps of score: interpreted, in Triton's interpreter, proven."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from weft.codegen.bounds.prove import UnprovenAccess, prove_bounds
from weft.ir.core import Operation
from weft.ir.sparse.policy import MOST_PARTS, SparsePolicy
from weft.passes.tile.builder import KernelBuilder
from weft.passes.tile.selection import word_labels
from weft.passes.tile.selection.bin_boundary import BinSelection
from weft.passes.tile.selection.bin_selection import select_bins
from weft.passes.tile.selection.labels import Labels
from weft.passes.tile.selection.packed_counts import KINDS
from weft.passes.tile.selection.query_words import query_words
from weft.passes.tile.selection.shared_labels import shared_labels
from weft.passes.tile.selection.step_counts import step_counts
from weft.passes.tile.selection.word_labels import (
    STEPS,
    WordScores,
    word_write,
)
from weft.passes.tile.selection.word_scores import word_scores
from weft.passes.tile.sparse.word_selection import word_selection
from weft.tests.codegen import word_label_cases
from weft.tests.codegen.kernel_case import interpreted
from weft.tests.codegen.word_label_cases import (
    HEADS,
    LENGTHS,
    PAGE,
    RECENT,
    SINKS,
    WANTED,
    Case,
    Run,
    case_of,
    exact_scores,
    exact_steps,
    run_all,
    worth,
)
from weft.tests.each_time import each_time


def test_lists_may_say_where_tokens_lie() -> None:
    """Slots of the pools in place of positions, in the same order; nothing else is written."""
    after = (case := case_of("i4")).after
    kernel = select_bins(BinSelection(2, PAGE, SINKS, RECENT, 16, slots=True))
    names = [value.name for value in kernel.regions[0].arguments]
    blank = {name: np.full_like(after[name], -7777) for name in ("chosen", "counts")}
    given = after | blank | {"N": int(case.pages.max()) + 1}
    found = dict(zip(names, interpreted(kernel, [given[name] for name in names]), strict=True))
    np.testing.assert_array_equal(found["counts"], after["counts"])
    for row, head in np.ndindex(len(LENGTHS), 2):
        mine = slice(case.base[row], case.base[row] + int(after["counts"][row, head]))
        positions = after["chosen"][head, mine]
        pages = case.pages[case.row_page[row] + positions // PAGE]
        np.testing.assert_array_equal(found["chosen"][head, mine], pages * PAGE + positions % PAGE)
    assert ((found["chosen"] == -7777) == (after["chosen"] == -7777)).all()


@pytest.mark.parametrize("format", ["i4", "i8"])
def test_the_best_by_step_are_chosen_in_order(format: str) -> None:
    check(case_of(format))


@pytest.mark.parametrize("amounts", [pytest.param({}, marks=pytest.mark.slow), {"top_p": 0.3}])
def test_launches_that_meet_do_what_they_do_one_by_one(amounts: dict[str, float]) -> None:
    """Parts that meet write what separate launches do, to the last word."""
    given = amounts | ({"seed": 5, "shared": True} if amounts else {})  # as where amounts are held
    apart, met = (case_of("i4", **meeting, **given).after for meeting in ({}, {"met": 2}))
    assert set(apart) == set(met)
    for name, array in apart.items():
        np.testing.assert_array_equal(met[name], array, err_msg=name)


@pytest.mark.slow
def test_launches_that_meet_in_the_triton_interpreter(triton_interpreter: Any) -> None:
    check(run_all(triton_interpreter.run, "i4", 1, met=2))


@pytest.mark.gpu
@pytest.mark.parametrize("met", [2, 3])
def test_gpu_launches_that_meet(met: int, gpu: Run) -> None:
    """Twice: counters are left as they may be found."""
    for seed in (1, 2):
        check(run_all(gpu, "i4", seed, met=met))


@pytest.mark.slow  # tests of steps on a device run them too
@pytest.mark.parametrize(("format", "shared"), [("i4", False), ("i4", True), ("i8", True)])
def test_triton_interpreter(format: str, shared: bool, triton_interpreter: Any) -> None:
    check(run_all(triton_interpreter.run, format, 1, shared))


@pytest.mark.gpu
@pytest.mark.parametrize(("format", "shared"), [("i4", False), ("i4", True), ("i8", True)])
def test_gpu(format: str, shared: bool, gpu: Run) -> None:
    check(run_all(gpu, format, 1, shared))


@pytest.mark.parametrize("format", each_time(["i4", "i8"], "i4"))
def test_labels_that_rows_share_are_scored_together(format: str) -> None:
    """Rows of a group get what they get alone: each its own choices of the same pages."""
    check(case := run_all(interpreted, format, seed=2, shared=True))
    assert case.after["own"].tolist() == [0, 5, 5, 5, 0]
    assert case.after["group_rows"].tolist() == [1, 2, 3, -1]


def test_counts_are_summed_up_before_a_byte_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that may count one round at a time sums up after each."""
    monkeypatch.setattr(word_labels, "ROUNDS", 1)
    case = run_all(interpreted, "i4", keys=4, pairs="many")
    check(case)
    assert case.after["coarse"].max() > 4  # more than a round has


def test_few_programs_share_a_row_of_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of more than 512 pairs of a row and a key head, which counts as four here: shares of two
    parts each, and what the middle weighs from as many."""
    for module in (word_label_cases, sys.modules[__name__]):
        monkeypatch.setattr(module, "LENGTHS", [*[0] * 64, 40])
        monkeypatch.setattr(module, "WANTED", [*[0] * 64, 14])
    check(case := run_all(interpreted, "i4", tail=True))
    coarse, sums = case.after["coarse"], case.after["tail_sum"]
    assert (coarse[64:, :, :4] >= 0).all() and (coarse[64:, :, 4:] == -9).all()
    assert not np.isnan(sums[64:, :, :4]).any() and np.isnan(sums[64:, :, 4:]).all()


def test_kernels_for_few_and_for_many_pairs_run_apart() -> None:
    """Five rows are many: the other kernel has no programs, and leaves all as it is."""
    case = case_of("i4")
    rows = len(LENGTHS)
    for count, pairs in ((rows, "few"), (2, "few"), (1, "many")):
        kernel = word_scores(WordScores(case.labels, HEADS, SINKS, RECENT, "f32", 16, pairs=pairs))
        names = [value.name for value in kernel.regions[0].arguments]
        given = case.after | {
            "B": count,
            "coarse": np.full((count, 2, MOST_PARTS, KINDS), -9, "i4"),
        }
        rowwise = ("query", "bias", "reach", "row_page", "base", "kv_lengths", "span", "own")
        given |= {name: given[name][:count] for name in rowwise}
        found = dict(zip(names, interpreted(kernel, [given[n] for n in names]), strict=True))
        assert (found["coarse"] == -9).all()


def test_who_scores_rounds_queries_as_the_launch_for_shared_rows() -> None:
    """To the last bit, whichever program of a row and key head has written."""
    after = (case := case_of("i4")).after
    kernel = query_words(WordScores(case.labels, HEADS, SINKS, RECENT, "f32"))
    names = [value.name for value in kernel.regions[0].arguments]
    made = ("query", "bias", "reach")
    for groups in (0, 1):  # launched where rows share labels
        blank = {name: np.full_like(after[name], -9) for name in made}
        given = after | blank | {"Q": groups}
        found = dict(zip(names, interpreted(kernel, [given[name] for name in names]), strict=True))
        for name in made:
            np.testing.assert_array_equal(found[name], after[name] if groups else -9)


def test_a_group_that_shares_less_than_it_says_is_found() -> None:
    """The planted fault: a row whose pages are its own, scored by those of another."""

    def wrong(kernel: Operation, arguments: list[Any]) -> list[Any]:
        names = [value.name for value in kernel.regions[0].arguments]
        if "own" in names:  # and rows 1 and 3 share seven
            arguments[names.index("own")] = np.array([0, 8, 8, 8, 0], "i4")
        if "group_pages" in names:
            arguments[names.index("group_pages")] = np.array([8], "i4")
        return interpreted(kernel, arguments)

    with pytest.raises(AssertionError):
        check(run_all(wrong, "i4", seed=2, shared=True))


def check(case: Case) -> None:
    """Choices are those of scores computed without any packing, in order of position."""
    for row, length in enumerate(LENGTHS):
        for head in range(2):
            count = case.after["counts"][row, head]
            chosen = case.after["chosen"][head, case.base[row] :][:count]
            want = min(WANTED[row], length)
            assert count == want, (row, head)
            assert (np.diff(chosen) > 0).all() and set(chosen) <= set(range(length))
            last = max(length - RECENT, min(length, SINKS))
            forced = {*range(min(length, SINKS)), *range(last, length)}
            assert forced <= set(chosen)
            steps = exact_steps(case, row, head)
            middle = np.arange(min(length, SINKS), last)
            ranked = sorted(middle, key=lambda unit: (-steps[unit], unit))
            assert set(chosen) == forced | set(ranked[: want - len(forced)])


AMOUNTS: list[dict[str, float]] = [{"threshold": 0.4}, {"top_p": 0.3}]


@pytest.mark.slow
@pytest.mark.parametrize("amounts", AMOUNTS)
def test_a_threshold_and_a_share_in_the_triton_interpreter(
    amounts: dict[str, float], triton_interpreter: Any
) -> None:
    check_amounts([run_all(triton_interpreter.run, "i4", 5, shared=True, **amounts)], amounts)


@pytest.mark.gpu
@pytest.mark.parametrize("amounts", AMOUNTS)
def test_gpu_threshold_and_share(amounts: dict[str, float], gpu: Run) -> None:
    check_amounts([run_all(gpu, "i4", 5, shared=True, **amounts)], amounts)


@pytest.mark.parametrize(
    ("amount", "format", "seed"),
    each_time(
        [(amount, *labels) for amount in (0, 1) for labels in (("i8", 4), ("i4", 5))],
        *[(0, "i8", 4), (1, "i4", 5)],
    ),
)
def test_a_threshold_and_a_share_of_the_mass(amount: int, format: str, seed: int) -> None:
    case = case_of(format, seed=seed, shared=True, **AMOUNTS[amount])
    bounds = check_amounts([case], AMOUNTS[amount])
    assert bounds == {True, False}  # bound by the amount, and by the budget


def check_amounts(cases: list[Case], amounts: dict[str, float]) -> set[bool]:
    """As `ir.sparse.policy` has it, of scores that are their steps: ties go to the lower position.
    Return whether the budget left room."""
    found = set()
    for case in cases:
        for row, head in np.ndindex(len(LENGTHS), 2):
            middle = np.arange(min(LENGTHS[row], SINKS), max(LENGTHS[row] - RECENT, SINKS))
            if not LENGTHS[row] or not len(middle):
                continue
            steps = exact_steps(case, row, head)[middle]
            scores = steps * float(case.after["worth"][row, head])
            np.testing.assert_allclose(case.after["worth"][row, head], worth(case, row, head), 1e-5)
            weights = np.exp2(scores - scores.max())
            order = np.argsort(-steps, kind="stable")
            before = np.cumsum(weights[order]) - weights[order]
            enough = (before < amounts["top_p"] * weights.sum() if "top_p" in amounts
                      else weights[order] >= amounts["threshold"])  # fmt: skip
            room = WANTED[row] - (LENGTHS[row] - len(middle))
            wanted = set(middle[order[: min(int(enough.sum()), room)]])
            count = case.after["counts"][row, head]
            chosen = set(case.after["chosen"][head, case.base[row] :][:count])
            assert chosen & set(middle) == wanted, (row, head)
            found.add(len(wanted) < room)
    return found


def test_what_the_middle_weighs_is_summed_up_by_query_head() -> None:
    check_tail(run_all(interpreted, "i4", 6, tail=True))


@pytest.mark.slow
def test_what_the_middle_weighs_in_the_triton_interpreter(triton_interpreter: Any) -> None:
    check_tail(run_all(triton_interpreter.run, "i8", 7, tail=True))


@pytest.mark.gpu
def test_gpu_what_the_middle_weighs(gpu: Run) -> None:
    check_tail(run_all(gpu, "i8", 7, tail=True))


def check_tail(case: Case) -> None:
    """Of scores that are products of rounded queries: parts' sums, each against its largest."""
    check(case)
    for row, head in np.ndindex(len(LENGTHS), 2):
        last = max(LENGTHS[row] - RECENT, min(LENGTHS[row], SINKS))
        middle = slice(min(LENGTHS[row], SINKS), last)
        scores = exact_scores(case, row, head)[0][:, middle]
        unit = float(case.after["score_unit"][row, head])
        for member in range(HEADS // 2):
            place = row, head * (HEADS // 2) + member
            tops, sums = (case.after[name][place].astype("f8")
                          for name in ("tail_max", "tail_sum"))  # fmt: skip
            wanted = np.exp2(scores[member] * unit).sum()
            live = 16  # parts that so many rows are cut into
            assert np.isnan(tops[live:]).all()
            found = (sums[:live] * np.exp2(tops[:live].clip(-1e3))).sum()
            np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_steps_follow_exact_scores() -> None:
    """A step is a 255th of what scores can be: what is chosen scores no worse than that."""
    case = case_of("i8")
    row, head = 3, 1
    count = case.after["counts"][row, head]
    chosen = set(case.after["chosen"][head, case.base[row] :][:count])
    pages = case.pages[case.row_page[row] :][: -(-LENGTHS[row] // PAGE)]
    keys = case.k[pages, head].reshape(-1, 16)[: LENGTHS[row], :8]
    q = case.q[row].reshape(2, 2, 16)[head, :, :8]
    exact = (q @ (keys - case.mean[head]).T).max(0)
    middle = [unit for unit in range(SINKS, LENGTHS[row] - RECENT)]
    left = max(exact[unit] for unit in middle if unit not in chosen)
    least = min(exact[unit] for unit in middle if unit in chosen)
    reach = 2 * (np.abs(q) * 2.5).sum(1).max()
    assert left - least < reach / STEPS + 0.02 * reach


def test_every_access_is_proven() -> None:
    labels = Labels(8, 128, 64, 32, "i4", "bf16")
    shape = WordScores(labels, 32)
    adaptive = BinSelection(8, 64, top_p=0.9)
    for kernel in (word_write(labels), query_words(shape), shared_labels(shape), word_scores(shape),
                   query_words(replace(shape, scale=0.1)), step_counts(adaptive),
                   step_counts(BinSelection(8, 64)), select_bins(adaptive),
                   select_bins(BinSelection(8, 64)), select_bins(BinSelection(8, 64, slots=True)),
                   word_scores(replace(shape, scale=0.1, tail=True))):  # fmt: skip
        assert prove_bounds(kernel).ok


def test_compiles_for_hopper() -> None:
    """Four channels are one instruction, and labels come 16 bytes a thread, and leave caches first;
    labels that rows share are multiplied on tensor cores."""
    pytest.importorskip("triton")
    from weft.codegen.triton.compile import compile_offline
    from weft.passes.tile.gpu_schedules import gpu_schedule

    shape = WordScores(Labels(8, 128, 64, 32, "i4", "bf16"), 32)
    text = compile_offline(word_scores(shape), gpu_schedule(word_scores(shape)))["ptx"]
    assert "dp4a" in text and "v4.b32" in text and "L1::evict_first" in text
    text = compile_offline(shared_labels(shape), gpu_schedule(shared_labels(shape)))["ptx"]
    assert "wgmma" in text and "s32.s8.s8" in text


def test_where_all_is_one_launch_warps_seldom_wait() -> None:
    """Four warps work out where a selection ends, each for itself: its programs have half of the
    barriers that tiles of all parts' counts, and sums one by one, took (72)."""
    pytest.importorskip("triton")
    from weft.codegen.triton.compile import compile_offline
    from weft.passes.tile.gpu_schedules import gpu_schedule

    shape = WordScores(Labels(8, 128, 64, 32, "i4", "bf16"), 32)
    kernels = word_selection(shape, SparsePolicy(ratio=1 / 16, channels=32), slots=True)
    (kernel,) = (each for each in kernels if each["name"].name.startswith("chosen_words"))
    assert gpu_schedule(kernel).num_warps == 4
    assert compile_offline(kernel, gpu_schedule(kernel))["ptx"].count("bar.sync") < 40


def test_a_list_that_is_too_short_is_found() -> None:
    kernel = select_bins(BinSelection(2, 16))
    wrong = [fact for fact in kernel["requires"] if "base[i]" not in fact]
    with pytest.raises(UnprovenAccess):
        prove_bounds(kernel.with_attributes(requires=wrong))


def test_products_of_four_bytes_on_a_cpu() -> None:
    """`dot4` has a sign in each byte, the highest too, on every target."""
    from weft.tests.codegen.tvm_cases import run as compiled

    b = KernelBuilder("dot4_rows")
    b.scalar("N")
    left, right, total, out = (b.buffer(name, "i32", "N") for name in ("x", "y", "z", "out"))
    row = b.program_id(0, "row")
    values = [b.load(buffer, row) for buffer in (left, right, total)]
    b.store(out, row, b.map("dot4(a, b, c)", *values, dtype="i32"))
    kernel = b.finish("N", requires=("N >= 0",))
    rng = np.random.default_rng(2)
    bytes_of = rng.integers(-128, 128, (2, 64, 4)).astype("i1")
    x, y = (part.copy().view("i4").ravel() for part in bytes_of)
    z = rng.integers(-999, 999, 64).astype("i4")
    expected = z + (bytes_of[0].astype(int) * bytes_of[1]).sum(1)
    for run in (interpreted, compiled):
        found = run(kernel, [64, x, y, z, np.full(64, 7, "i4")])[-1]
        np.testing.assert_array_equal(found, expected)
