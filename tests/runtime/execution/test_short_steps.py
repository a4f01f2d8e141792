"""Which steps of chunks run as decode steps: what is timed, what is kept, what is refused."""

import itertools
import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from weft.codegen.cache import CacheFull, KernelCache
from weft.compiler.choices import short_steps as steps_here
from weft.options import Options
from weft.runtime.devices.kept_choice import kept
from weft.runtime.execution import short_steps
from weft.runtime.execution.host_products import ProductChoice
from weft.runtime.execution.short_steps import (
    CHUNK,
    MOST_PARTS,
    ShortSteps,
    chunks,
    measured,
    read,
    usual,
)
from weft.runtime.execution.token_rows import KeptRows, token_rows
from weft.tests.runtime.execution.steps_by_hand import step as any_step

ROWS = 8


def executor(**changes):
    """What is asked of an executor, with room for every step that is tried."""
    sizes = {"decode_rows": ROWS, "short_rows": ROWS, "max_tokens": 512, "num_pages": 64,
             "max_batch": 16, "page_size": 16, "context_length": 128, "short": ShortSteps(1),
             "products": ProductChoice()}  # fmt: skip
    return SimpleNamespace(**sizes | changes)


@pytest.fixture
def costs(monkeypatch):
    """Make steps cost so much a row as decode steps, so much a launch and a row by the library."""

    def set_costs(row, start, library):
        def seconds(_, step):
            tokens = len(step.tokens)
            return row * tokens if step.is_decode else start + library * tokens

        monkeypatch.setattr(short_steps, "_seconds", seconds)

    return set_costs


def test_a_library_that_is_slower_at_any_size_leaves_as_many_parts_as_there_may_be(costs):
    costs(row=1.0, start=0.0, library=2.0)
    found = measured(executor())
    assert found == ShortSteps(MOST_PARTS, 1, MOST_PARTS * ROWS, 2.0 * MOST_PARTS * ROWS)


def test_a_library_that_is_faster_has_all_but_the_shortest_steps(costs):
    costs(row=1.0, start=0.0, library=0.5)
    assert measured(executor()) == ShortSteps(1)


def test_parts_end_where_the_library_has_made_up_for_its_start(costs):
    costs(row=1.0, start=1.5 * ROWS, library=0.5)  # breaks even at three parts
    assert measured(executor()).parts == 2


def test_less_than_noise_is_no_gain(costs):
    costs(row=1.0, start=0.0, library=1.01)
    assert measured(executor()).parts == 1


def test_another_process_in_one_of_the_tries_decides_nothing(costs, monkeypatch):
    costs(row=1.0, start=0.0, library=1.5)
    alone, count = short_steps._seconds, itertools.count()

    def disturbed(executor, step):
        beside = next(count) % 20 == 0 and step.is_decode
        return alone(executor, step) * (10 if beside else 1)

    monkeypatch.setattr(short_steps, "_seconds", disturbed)
    assert measured(executor()).parts == MOST_PARTS


@pytest.mark.parametrize(
    "small",
    [{"max_tokens": 2 * ROWS}, {"num_pages": 2 * ROWS // CHUNK}, {"decode_rows": ROWS // 2}],
)
def test_no_step_is_tried_that_does_not_fit(costs, small):
    costs(row=1.0, start=0.0, library=2.0)
    found = measured(executor(**small))
    assert 2 <= found.parts <= MOST_PARTS
    if "decode_rows" not in small:
        assert found.parts == 2


@pytest.mark.parametrize("small", [{"page_size": 2}, {"decode_rows": 0}])
def test_where_nothing_can_be_timed_steps_are_the_librarys(costs, small):
    costs(row=1.0, start=0.0, library=2.0)
    assert measured(executor(**small)) == ShortSteps(1)


def test_no_step_is_tried_of_more_sequences_than_there_may_be(costs, monkeypatch):
    costs(row=1.0, start=0.0, library=2.0)
    alone, tried = short_steps._seconds, []

    def seconds(executor, step):
        if not step.is_decode:
            tried.append((len(step.tokens), len(step.kv_lengths)))
            assert int(step.slots.max()) < executor.num_pages * executor.page_size
            assert int(step.kv_lengths.max()) <= executor.context_length
        return alone(executor, step)

    monkeypatch.setattr(short_steps, "_seconds", seconds)
    measured(executor(max_batch=4))
    assert sorted(set(tried)) == [(16, 4), (32, 4)]
    measured(executor(num_pages=20))  # so many that each sequence has one


def test_chunks_stand_behind_pages_of_their_sequences():
    step = chunks(8, page_size=16, behind=2)
    assert step.page_table.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert step.positions.tolist() == 2 * [32, 33, 34, 35] and step.kv_lengths.tolist() == [36, 36]
    assert step.slots.tolist() == [32, 33, 34, 35, 80, 81, 82, 83]


def test_chunks_are_sequences_of_their_own():
    step = chunks(12, page_size=16)
    assert not step.is_decode
    assert step.query_starts.tolist() == [0, 4, 8, 12]
    assert step.slots.tolist() == [0, 1, 2, 3, 16, 17, 18, 19, 32, 33, 34, 35]
    assert step.page_table.tolist() == [[0], [1], [2]]
    assert step.kv_lengths.tolist() == [4, 4, 4] and step.logits_rows.tolist() == [3, 7, 11]


def test_steps_of_many_parts_have_few_keys():
    few, many = chunks(2 * ROWS, 16), chunks(8 * ROWS, 16)
    near, far = ShortSteps(8), ShortSteps(8, far=2)
    assert near.takes(few, ROWS) and near.takes(many, ROWS)
    assert not ShortSteps(4).takes(many, ROWS) and not ShortSteps(1).takes(few, ROWS)
    for step in (few, many):
        step.kv_lengths[1] = short_steps.MOST_KEYS + 1
    assert not near.takes(few, ROWS) and not near.takes(many, ROWS)
    assert far.takes(few, ROWS) and not far.takes(many, ROWS)
    alone = replace(few, kv_lengths=torch.ones(len(few.tokens), dtype=torch.int32))
    assert alone.is_decode and not near.takes(alone, ROWS)


def test_what_holds_behind_many_keys_is_not_timed_but_stays(costs):
    costs(row=1.0, start=0.0, library=2.0)
    assert measured(executor(short=ShortSteps(4, far=4))).far == 4


def test_what_was_measured_is_kept_and_not_measured_again(tmp_path):
    path, runs = tmp_path / "short.json", []

    def measure():
        runs.append(1)
        return ShortSteps(2, 1, 0.25, 0.5)

    assert kept(path, read, measure, path.write_bytes) == kept(
        path, read, measure, path.write_bytes
    )
    assert len(runs) == 1


def test_a_full_disk_keeps_nothing_and_stops_nothing(costs, monkeypatch, tmp_path):
    def full(cache):
        raise CacheFull(folder=cache.folder, problem="No space left on device")

    costs(row=1.0, start=0.0, library=2.0)
    monkeypatch.setattr(KernelCache, "writable", full)
    found = steps_here(executor(config="any"), Options(cache=tmp_path))
    assert found.parts == MOST_PARTS and not list(tmp_path.rglob("short*"))


@pytest.mark.parametrize("text", ["", "{", "[]", '{"parts": 0}', '{"parts": "x"}', '{"rows": 1}'])
def test_a_broken_file_is_measured_anew(tmp_path, text):
    path = tmp_path / "short.json"
    path.write_text(text)
    assert kept(path, read, lambda: ShortSteps(2), path.write_bytes) == ShortSteps(2)
    assert json.loads(path.read_text())["parts"] == 2


def test_the_usual_choice_knows_that_a_library_must_widen_narrow_weights():
    assert usual(exact=False).parts > usual(exact=True).parts


def test_the_choice_is_told_with_the_ratio_that_was_timed():
    told = ShortSteps(2, 1, 0.25, 0.5).describe(32)
    assert "up to 32 tokens" in told and "2.00 times" in told
    assert "times" not in ShortSteps(1).describe(16)


def test_parts_of_more_than_a_group_are_of_whole_groups():
    """So they are of few shapes: the last token comes again, which writes what it has written."""
    step, again = chunks(40, 16), KeptRows()
    step.tokens += torch.arange(40, dtype=torch.int32)
    ((part, wanted),) = token_rows(step, 64)
    assert part.tokens.tolist() == [*range(40), *8 * [39]] and part.is_decode
    assert set(part.slots[40:].tolist()) == {int(step.slots[39])}
    assert part.logits_rows.tolist() == [*range(3, 40, 4), *6 * [39]] and len(wanted) == 10
    assert [len(part.tokens) for part, _ in token_rows(step, 24)] == [24, 16]
    assert [len(part.tokens) for part, _ in token_rows(chunks(44, 16), 20)] == [20, 20, 4]
    seen = {id(part) for tokens in (36, 40, 48) for part, _ in again(chunks(tokens, 16), 64)}
    assert len(seen) == 1


def test_parts_come_again_as_the_same_steps_written_over():
    again, seen = KeptRows(), []
    for shift, tokens in ((0, 3 * ROWS + CHUNK), (5, 3 * ROWS + CHUNK), (9, CHUNK)):
        step = chunks(tokens, 16)
        step.tokens += shift + torch.arange(tokens, dtype=torch.int32)
        step.positions += shift
        step.page_table += shift
        steps = []
        for (part, wanted), (plain, asked) in zip(
            again(step, ROWS), token_rows(step, ROWS), strict=True
        ):
            assert wanted.tolist() == asked.tolist()
            for name, tensor in vars(plain).items():
                if tensor is not None:
                    assert torch.equal(getattr(part, name), tensor), name
                    assert getattr(part, name).data_ptr() != tensor.data_ptr()
            steps.append(part)
        seen.append([id(part) for part in steps])
    assert seen[0] == seen[1] and len(set(seen[0])) == 2  # whole parts are one step
    assert seen[2] == seen[0][-1:]


def test_parts_of_a_step_begin_with_the_sequences_that_begin_first():
    """One that reads what another computes in the step goes on behind that one's begin."""
    made = any_step(([7, 8], 20, [1, 5]), ([*range(20)], 0, [1, 2]), ([9], 3, [4]), rows=[1, 22, 2])
    seen, rows = [], {}
    for part, wanted in token_rows(made, ROWS):
        seen += part.tokens.tolist()
        last = part.tokens[part.logits_rows.long()].tolist()
        rows |= {int(row): token for row, token in zip(wanted, last, strict=False)}
    assert seen == [*range(20), 9, 7, 8] and rows == {0: 8, 1: 9, 2: 0}
    ((part, _),) = token_rows(made, 64)
    assert part.tokens[:23].tolist() == [7, 8, *range(20), 9]  # within a part no order matters
