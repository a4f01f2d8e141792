"""Keys in host memory behind a cache: sparse decode's tokens, whatever is predicted or late."""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import weft
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner
from weft.cli.app import app
from weft.compiler import Compilation
from weft.compiler.keys_ahead import fetches_ahead, link_window
from weft.cost_model.keys_ahead import Ahead
from weft.frontend.checkpoints.checkpoint import open_checkpoint
from weft.frontend.models.presets import preset
from weft.ir.diagnostics import CapacityError
from weft.ir.model import ModelConfig
from weft.ir.offload.pipeline import Task
from weft.ir.sparse.policy import SparsePolicy, parse_policy
from weft.options import BadOption, Options
from weft.runtime.devices.memory import DeviceMemoryExceeded
from weft.runtime.execution.host_keys import HostKeys, KeyTraffic, Staged
from weft.runtime.execution.key_device import SimulatedKeys
from weft.runtime.execution.key_room import KeyCosts, KeyRoom, NoKeyRoom
from weft.runtime.execution.sparse_decode import MISSED, SparseDecode
from weft.runtime.offload.queues import Queues
from weft.tests.each_time import each_time
from weft.tests.runtime.execution.test_sparse_decode import (
    PROGRAM,
    executor,
    generate,
    prompts,
    steps_of,
)

pytestmark = pytest.mark.usefixtures("one_thread")
POLICY = "sparse(k=20, sinks=2, recent=6, min_context=0, labels=i4)"
MIB = 1 << 20


def offloaded(policy: str = POLICY, rows: int = 32, **changes: Any) -> Any:
    """Return an executor whose caches have so many rows a key head, and 64 pages on the host."""
    found = executor(policy, kv_host_memory=8 * MIB, kv_memory=_bytes(policy, rows), **changes)
    assert found.host.room == KeyRoom(64, rows)
    return found


def _bytes(policy: str, rows: int) -> int:
    from weft.compiler.key_offload import BOOKS

    config, parsed = open_checkpoint("tiny-dense").config, parse_policy(policy)
    assert parsed is not None
    costs = KeyCosts.of(config, parsed, 16, 4, BOOKS * config.layers)
    return costs.fixed + 64 * costs.device_page + rows * costs.row


def test_tokens_are_those_of_sparse_decode() -> None:
    """Caches start as NaN, and hold two of three sequences' lists: steps are run in parts."""
    plain, model = executor(POLICY), offloaded(rows=48)
    for cache in (*model.host.layers["held_k"], *model.host.layers["held_v"]):
        cache.fill_(torch.nan)
    assert generate(model, prompts(), 12) == generate(plain, prompts(), 12)
    traffic = model.host.traffic()
    assert traffic.guessed > 0 and traffic.predicted > 0 and traffic.late > 0
    assert traffic.held > traffic.predicted  # what the step before has read is there
    memory = model.host.device.memory
    assert memory.peak <= memory.cap and model.host.device.memory.used > 0.9 * memory.cap


@pytest.mark.parametrize(
    "policy",
    [pytest.param(text, marks=pytest.mark.slow) for text in (
        "sparse(ratio=1/3, sinks=1, recent=2, min_context=24, labels=i8, dense=[0, 2])",
        "sparse(top_p=0.6, cap=1/4, sinks=1, recent=2, min_context=16, labels=bf16)")],
)  # fmt: skip
def test_other_policies(policy: str) -> None:
    model = executor(policy, kv_host_memory=8 * MIB, kv_memory=6 * MIB)
    assert generate(model, prompts(), 12) == generate(executor(policy), prompts(), 12)
    assert model.host.traffic().wanted > 0


class Threaded:
    """Runs tasks as a thread a queue does, each after a wait: what a device may do at the same
    time happens at the same time."""

    def __init__(self, staged: Staged, delay: Callable[[Task], None]) -> None:
        self._staged, self._delay = staged, delay
        self._spans = {task.name: task for task in staged.tasks}

    def run(self, launches: list[Any], device: Any) -> None:
        class Device:
            def stream(self, queue: str) -> Any:
                return device.stream(queue)

        def work(task: Task) -> None:
            span = self._spans[task.name]
            for function, arguments in launches[span.first : span.end]:
                function(*arguments)

        queues = Queues(Device(), ("gpu", "up"), self._delay)  # type: ignore[arg-type]
        queues.start(self._staged.pipeline, work).finish()
        queues.close()


def threaded(model: Any, delay: Callable[[Task], None]) -> None:
    for recipe, staged in model._staged.items():
        if staged is not None:
            model._staged[recipe] = Threaded(staged, delay)


@pytest.mark.parametrize("slow_queue", each_time(["up", "gpu"], "up"))
def test_queues_at_different_speeds_give_the_same_tokens(slow_queue: str) -> None:
    model, dice = offloaded(rows=32), random.Random(1)
    threaded(model, lambda task: time.sleep(dice.random() / 500 * (task.queue == slow_queue)))
    asked = prompts()[:1]
    assert generate(model, asked, 6) == generate(executor(POLICY), asked, 6)


def test_a_wrong_prediction_changes_nothing() -> None:
    """Predicted queries are noise: fewer rows have come ahead, and tokens stay."""
    asked = prompts()[:1]
    usual, lost = offloaded(rows=32), offloaded(rows=32)
    for recipe in (recipe for _, recipe in lost._sparse_recipes):
        for number, (names, call) in enumerate(zip(recipe.kernels, recipe._calls, strict=True)):
            if names[0].startswith("query_rope"):
                recipe._calls[number] = (_noise(call[0], call[1], recipe), call[1])
    wanted = generate(usual, asked, 10)
    assert generate(lost, asked, 10) == wanted == generate(executor(POLICY), asked, 10)
    found, without = usual.host.traffic(), lost.host.traffic()
    assert found.wanted == without.wanted and found.late < without.late
    assert found.predicted / found.brought > 1.5 * without.predicted / without.brought


def _noise(launch: Any, slots: Any, recipe: Any) -> Callable[..., None]:
    """Return a launch that makes a query, and then noise of it."""
    keys = [recipe._slots.keys[slot] for slot in slots]
    place = max(number for number, key in enumerate(keys) if key[0] == "arena")

    def run(*arguments: Any) -> None:
        launch(*arguments)
        q = torch.from_dlpack(arguments[place])
        q.copy_(torch.randn(q.shape, generator=torch.Generator().manual_seed(3)))

    return run


TWO = """program two(start: str) -> list[str]:
    "{start}"
    gen a(max_tokens=14, temperature=0)
    " And"
    gen b(max_tokens=10, temperature=0)
    return [a, b]
"""


def test_programs_whose_rows_share_prefixes() -> None:
    rows = [{"start": "Once upon a time there was a little fox. " * n} for n in (3, 4, 3, 5)]

    def told(**options: Any) -> list[Any]:
        options |= {"attention": POLICY, "attention_always": True}
        return list(weft.compile(TWO, "tiny-dense", **options).run_rows(rows).values)

    small = {"kv_host_memory": 8 * MIB, "kv_memory": _bytes(POLICY, 48)}
    assert told(**small) == told()


def test_a_page_that_is_copied_leaves_nothing_of_what_was_there() -> None:
    """The cache has rows of a page that is then overwritten by a copy of another."""
    model = offloaded(rows=32)
    host, prompt, pages = model.host, prompts()[0], list(range(3, 20))
    model.forward(steps_of([(prompt, 0, pages)]))
    first = model.forward(steps_of([([7], len(prompt), pages)])).clone()
    used = [int((row_of[:, 3 * 16 : 4 * 16] >= 0).sum()) for row_of in host.layers["row_of"]]
    assert min(used) > 0
    model.copy_page(3, 40)
    model.copy_page(4, 3)  # page 3 holds what page 4 does; 40 what page 3 did
    assert all((row_of[:, 3 * 16 : 4 * 16] < 0).all() for row_of in host.layers["row_of"])
    again = model.forward(steps_of([([7], len(prompt), [40, *pages[1:]])]))
    assert (first == again).all()


COSTS = st.builds(KeyCosts, st.integers(1, 5000), st.integers(1, 900), st.integers(1, 900),
                  st.integers(0, 5000))  # fmt: skip


@settings(max_examples=80, deadline=None)
@given(COSTS, st.integers(1, 40), st.integers(1, 1 << 20), st.integers(0, 1 << 20),
       st.integers(8, 4000))  # fmt: skip
def test_what_fits_fits(costs: KeyCosts, k: int, device: int, host: int, context: int) -> None:
    """Bounds hold, and one sequence always finds the rows that it reads; or it is said what not."""
    policy = parse_policy(f"sparse(k={k + 20}, min_context=0)")
    assert policy is not None
    try:
        room = KeyRoom.within(costs, policy, context, 16, device, host)
    except NoKeyRoom as error:
        assert "missing" in str(error)
        return
    assert room.pages * costs.host_page <= host
    need = costs.fixed + room.pages * costs.device_page + room.rows * costs.row
    assert need <= device and room.rows % 16 == 0
    assert room.rows >= min(policy.budget(min(context, room.pages * 16)), room.pages * 16)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 400), min_size=1, max_size=6), st.floats(0, 2000))
def test_no_more_is_fetched_ahead_than_arrives_in_time(lengths: list[int], window: float) -> None:
    """Of what is expected to be missing; but a row always guesses its ends and one more, and rows
    that read all of their keys do not count."""
    policy = parse_policy("sparse(ratio=1/4, sinks=2, recent=6, min_context=30)")
    assert policy is not None
    decode = SparseDecode(policy, 0, {"labels": []}, len(lengths), 400, window=window)
    step = steps_of([([1], length - 1, list(range(25))) for length in lengths])
    decode.wanted(step)
    found = decode.budgets(step)
    budgets, guesses = (found[f"plan_{name}"].numpy() for name in ("budget", "guess_budget"))
    chosen = budgets <= np.array(lengths)
    least = np.minimum(budgets, 2 + 6 + 1)
    assert (guesses >= least).all() and (guesses <= budgets).all()
    more = guesses[chosen] > least[chosen]
    assert MISSED * (guesses[chosen][more] - 1).sum() <= window + 1e-6


def test_a_gpu_fetches_ahead_what_its_link_brings_in_a_layers_time() -> None:
    """An 8 B shape on an H200: 1.3 K tokens while 0.44 GB of weights are read, however many layers
    share the tables of words; of experts those that a token goes to."""
    options = Options.from_env().changed(target="cuda", weights="bf16", kv_host_memory=MIB)
    config, few = preset("llama-8b"), preset("llama-8b-2l")
    assert 1200 < link_window(config, options, "h200") < 1500
    assert link_window(few, options, "h200") == pytest.approx(
        link_window(config, options, "h200"), rel=1e-4
    )
    assert link_window(config, Options.from_env(), "h200") == math.inf
    dense, experts = preset("mixtral-8x7b"), preset("mixtral-8x7b-2l")
    dense = replace(dense, experts=2, experts_per_token=2)
    wide, narrow = (link_window(each, options, "h200") for each in (dense, experts))
    assert wide == pytest.approx(narrow, rel=1e-3)


def test_keys_are_fetched_ahead_where_that_saves_more_than_predicting_takes() -> None:
    """An 8 B shape at 1/16 on an H200: nowhere, as measured; a layer of 70 B reads weights for so
    long that 256 K tokens pay, and 32 K do not. On a simulated device nothing says the cost."""
    policy, small = SparsePolicy(ratio=1 / 16), preset("llama-8b")
    large = replace(small, width=8192, heads=64, ffn=28672)
    asked = Options.from_env().changed(target="cuda", weights="bf16", kv_host_memory=1 << 40)

    def found(config: ModelConfig, tokens: int, options: Options = asked) -> Ahead:
        price = fetches_ahead(replace(config, context_length=tokens), options, policy, "h200")
        assert price is not None
        return price

    for tokens in (1 << 14, 1 << 16, 5 << 14, 3 << 15, 1 << 17, 1 << 18):
        assert not found(small, tokens).pays
        assert "are not fetched ahead" in str(found(small, tokens))
    assert found(large, 1 << 18).pays and not found(large, 1 << 15).pays
    less = asked.changed(kv_host_memory=4 << 30)  # of 32 K tokens
    assert found(large, 1 << 18, less) == found(large, 1 << 15)
    assert fetches_ahead(small, Options.from_env(), policy, "h200") is None


def test_without_predictions_tokens_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"attention": POLICY, "kv_host_memory": 8 * MIB, "kv_memory": _bytes(POLICY, 48)}
    ahead = weft.compile(PROGRAM, "tiny-dense", **options).run(question="Why?")
    monkeypatch.setattr("weft.compiler.attention.fetches_ahead", lambda *given: Ahead(2e-6, 1e-6))
    executable = weft.compile(PROGRAM, "tiny-dense", **options)
    assert executable.run(question="Why?").value == ahead.value
    assert "0 of these fetch ahead" in executable.explain()
    assert "takes 2 us, and saves 1 us of the link" in executable.explain()
    model: Any = executable.engine.executor
    assert model.host.traffic().guessed == 0 < model.host.traffic().held


def test_the_cap_holds() -> None:
    device = SimulatedKeys(1 << 16)
    device.memory.allocate("labels", (1 << 15,), torch.uint8)
    with pytest.raises(DeviceMemoryExceeded):
        device.memory.allocate("held_k", (1 << 16,), torch.uint8)


def test_bad_input() -> None:
    def compiled(**changes: Any) -> Any:
        options = Options.from_env().changed(kv_host_memory=8 * MIB, **changes)
        return Compilation(PROGRAM, "tiny-dense", options=options).attention

    with pytest.raises(BadOption, match="only those that are selected"):
        compiled()
    with pytest.raises(BadOption, match="unit=page"):
        compiled(attention="sparse(k=64, unit=page)")
    with pytest.raises(BadOption, match="no tail"):
        compiled(attention="sparse(k=64, tail=mean)")
    for changes in ({"executor": "reference"}, {"gpu_memory": MIB}, {"tp": 2}):
        with pytest.raises(BadOption, match="kv_host_memory"):
            compiled(**changes)
    for small in ({"kv_memory": MIB // 8}, {"kv_host_memory": 1000}):
        with pytest.raises(CapacityError, match="iB are missing"):
            executor(POLICY, **({"kv_host_memory": 8 * MIB} | small))


def test_explain_and_the_summary_say_what_happens() -> None:
    options = {"attention": POLICY, "kv_host_memory": 8 * MIB, "kv_memory": _bytes(POLICY, 48)}
    executable = weft.compile(PROGRAM, "tiny-dense", **options)
    executable.run(question="Why?")
    told = executable.explain()
    assert "8 layers fetch the keys that they select to a cache" in told
    assert "7 of these fetch ahead" in told and "hold for any durations" in told
    model: Any = executable.engine.executor
    described = dict(model.describe())
    assert "1024 tokens in host memory, 48 rows" in described["keys"]
    assert "were in the cache" in described["fetched"]
    assert "iB over the link" in described["fetched"]


def test_row_bytes() -> None:
    host: HostKeys = offloaded(rows=32).host
    assert host.traffic().row_bytes == 2 * 64 * 4


def test_the_command_counts_what_was_fetched(tmp_path: Path) -> None:
    file = tmp_path / "ask.weft"
    file.write_text(PROGRAM)
    command = ["run", str(file), "--arg", "question=Why?", "--json", "--attention", POLICY,
               "--kv-memory", "3MiB", "--kv-host-memory", "8MiB"]  # fmt: skip
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    fetched = json.loads(done.stdout.splitlines()[-1])["fetched"]
    assert fetched["wanted"] >= fetched["held"] >= fetched["predicted"] > 0


def test_traffic_is_told_in_shares_of_what_was_read():
    traffic = KeyTraffic(wanted=10, held=8, predicted=3, guessed=6, brought=4, row_bytes=256)
    assert str(traffic) == (
        "10 rows read: 50.0% were in the cache, 30.0% had come ahead, 20.0% came late; 75.0% of "
        "the 4 brought ahead were read at once; 1.5 KiB over the link"
    )
    assert str(KeyTraffic(0, 0, 0, 0, 0, 256)) == "nothing: every step read all keys"
