"""A process that runs, on a GPU's executor with its kernels interpreted, sparse attention with all
that it has to go with: experts, keys in fp8, a shared prefix, a constraint, rows read whole.

A model so small that this is quick. Of three sequences that begin alike two read their keys whole,
the prefix once for both, beside a third that selects its own in the same launch, and whose text is
a choice. Prints one JSON object: tokens by the engine, tokens by the graph's meaning, the choice's
text, how many query rows read the prefix at once in a step that selects for another row, and the
formats of keys and values.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from weft.codegen.build_cuda import load_kernels
from weft.codegen.meaning.sparse_decode_reference import DecodeAttention
from weft.compiler.loading import device_sampler, executor_on
from weft.frontend.models.registry import build_graph
from weft.ir.constraints.tables import ConstraintTables
from weft.ir.constraints.token_table import TokenTable
from weft.options import Options
from weft.passes.tile.gpu_schedules import gpu_step_kernels
from weft.passes.tile.regimes import lower_for_gpu, merge_kernels
from weft.runtime.attention.cost import Rates
from weft.runtime.constraints.stops import TokenBytes
from weft.runtime.constraints.table_matcher import TableConstraint
from weft.runtime.constraints.watch import Watch
from weft.runtime.engine import Engine
from weft.runtime.execution.executor import ReferenceExecutor
from weft.runtime.execution.step import StepInput, whole_rows
from weft.runtime.execution.weights import RandomTensors, load_weights
from weft.runtime.schedule.request import Request, Sampling
from weft.tests.runtime.gpu.device_worker import Rounded, attention, config, round_as_devices_do

NAME = "everything"
LIMITS = {"max_batch": 4, "max_tokens": 128}
SHARED = 66
"""Tokens that all sequences begin with: a page of 64, and two."""
CHOICE = "[a-m]{2}[0-9]"


class Letters:
    """A vocabulary of the 95 printable characters of ASCII and an end."""

    size, end_ids, special_ids = 96, (95,), frozenset({95})

    def encode(self, text: str) -> list[int]:
        """Return a token a character."""
        return [ord(letter) - 32 for letter in text]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the characters."""
        return b"".join(map(self.token_bytes, ids)).decode()

    def token_bytes(self, id: int) -> bytes:
        """Return a character; nothing of the end."""
        return bytes([id + 32]) if id < 95 else b""


def held_to(choice: str) -> Watch:
    """Return what holds a text to a choice, as a gen's type does."""
    letters = Letters()
    table = ConstraintTables(letters).find("regex", choice)
    assert isinstance(table, TokenTable), table
    return Watch(TokenBytes(letters), TableConstraint(table, letters, 96).start())


def generate(executor: Any, sampler: Any = None) -> list[list[int]]:
    """Two sequences that are read whole, and one that selects and is held to a choice."""
    engine = Engine(executor, sampler) if sampler else Engine(executor)
    pick, requests = torch.Generator().manual_seed(1), []
    start = torch.randint(0, 95, (SHARED,), generator=pick).tolist()
    for row, reads in enumerate(("dense", "dense", "")):
        sequence = engine.create((row,))
        sequence.append(start + torch.randint(0, 95, (1 + row,), generator=pick).tolist())
        watch = held_to(CHOICE) if row == 2 else None
        requests.append(Request(sequence, f"row {row}", Sampling(max_tokens=3), watch,
                                attention=reads))  # fmt: skip
        engine.submit(requests[-1])
    while engine:
        engine.step()
    engine.check()
    return [request.generated().tolist() for request in requests]


def main() -> None:
    """Run both, and print what came of it."""
    shape = config(NAME)
    graph = build_graph(shape)
    sparse = attention(NAME, shape)
    assert sparse is not None
    round_as_devices_do()
    regimes = lower_for_gpu(shape, graph, weights="f32", activations="f32", kv="f8e4m3", **LIMITS,
                            attention=sparse.passes)  # fmt: skip
    wanted = merge_kernels(regimes) + gpu_step_kernels(shape.vocab_size)
    kernels = load_kernels(wanted, Path(sys.argv[1]), interpreted=True)
    limits: dict[str, Any] = LIMITS
    options = Options(target="cuda", weights="f32", kv="fp8", kv_memory=1, **limits)
    checkpoint: Any = SimpleNamespace(config=shape, folder=None, name="random", graph=graph)
    device: Any = executor_on(checkpoint, regimes, kernels, options, 8, "cpu", attention=sparse)
    slow = {"memory": 1e3, "cache": 1e3, "program": 1e3, "processor": 1e3}
    device._lists._rates = Rates(**slow)  # so few keys would not be worth reading once
    lists, together = device._lists.sparse, [0]
    plan = lists.plan

    def watched(*arguments: Any) -> Any:
        made, rows = plan(*arguments), arguments[1]
        if rows.chosen.any() and not rows.chosen.all():
            together.append(int(made.item_rows.max()))
        return made

    lists.plan = watched
    found = generate(device, device_sampler(device, kernels))
    dense = {n: weight.dense() for n, weight in load_weights(graph, RandomTensors()).items()}
    run = Rounded(graph, dense, slots=64 * 8)
    run.attend = attend = DecodeAttention(sparse.policy, sparse.calibration,
                                          page=device.page_size, words=True)  # fmt: skip

    def before(step: StepInput) -> None:
        attend.whole = whole_rows(step, len(step.kv_lengths), True).tolist()

    expected = generate(ReferenceExecutor(shape, run, num_pages=32, before=before, **LIMITS))
    formats = sorted({str(pool.dtype) for pool in device._pools})
    print(json.dumps([found, expected, Letters().decode(found[2]), max(together), formats]))


if __name__ == "__main__":
    main()
