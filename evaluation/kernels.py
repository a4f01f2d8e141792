"""A model under test, run by its compiled kernels: what follows a context comes a token a step, as
in a program's gen. It answers like `subject.Subject`, a `Judged` in place of its attention."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..codegen.meaning.sparse_reference import Reads
from ..frontend.checkpoints.checkpoint import Checkpoint
from ..runtime.execution.step import StepInput
from .attention import Judged
from .subject import ContextTooLong

if TYPE_CHECKING:
    from ..runtime.execution.compiled_executor import CompiledExecutor

_PROGRAM = 'program evaluated() -> str:\n    "a"\n    gen x(max_tokens=1)\n    return x\n'
MARGIN = 64
"""Slots past the context's end."""


class KernelSubject:
    """A checkpoint under the kernels of several attentions, on the CPU, by its own `calibration` or
    a file's; raises as compiling does.

    `begin` keeps a context, which each attention reads densely when it is first asked to follow it.
    """

    def __init__(
        self, checkpoint: Checkpoint, threads: int = 1, calibration: Path | None = None
    ) -> None:
        self.checkpoint, self.config, self._threads = checkpoint, checkpoint.config, threads
        self._calibration = calibration
        self._runs: dict[str, _Run] = {}
        self._context: tuple[int, ...] = ()
        self.length = 0

    def begin(self, ids: Sequence[int], room: int = 0) -> None:
        """Take a context; `room` more tokens will follow."""
        if len(ids) + room > self.config.context_length:
            raise ContextTooLong(tokens=len(ids) + room, model=self.checkpoint.name,
                                 context=self.config.context_length)  # fmt: skip
        self._context, self.length = tuple(ids), len(ids)

    def attention_of(self, judged: Judged) -> Judged:
        """Return what `follow` and `whole` take."""
        return judged

    def follow(self, ids: Sequence[int], attend: Judged) -> Tensor:
        """Return the logits [len(ids), V] of tokens after the context."""
        judged = attend
        run = self._runs.get(judged.name)
        if run is None:
            run = self._runs[judged.name] = _Run(
                self.checkpoint, judged, self._threads, self._calibration
            )
        if run.context != self._context:
            run.read(self._context)
        return run.decode(ids)

    def whole(self, ids: Sequence[int], attend: Judged) -> Tensor:
        """Return the logits of every token of a sequence of its own, decoded from its start."""
        self.begin([], room=len(ids))
        return self.follow(ids, attend)


class _Run:
    """One attention's kernels, and one sequence in pages 0, 1, ..."""

    def __init__(
        self, checkpoint: Checkpoint, judged: Judged, threads: int, calibration: Path | None
    ) -> None:
        self._judged, self._config = judged, checkpoint.config
        self._executor = _executor(checkpoint, judged, threads, calibration)
        self._executor.watcher = self._watch
        page = self._executor.page_size
        self._table = torch.arange(self._executor.num_pages, dtype=torch.int32)[None]
        self._table = self._table[:, : -(-checkpoint.config.context_length // page)]
        self.context: tuple[int, ...] | None = None
        policy = judged.policy
        self._sparse = [] if policy is None else [
            layer for layer in range(self._config.layers)
            if layer not in policy.dense and not self._config.windows[layer]
        ]  # fmt: skip

    def read(self, ids: tuple[int, ...]) -> None:
        """Read a context densely."""
        most = self._executor.max_tokens
        for at in range(0, len(ids), most):
            self._executor.forward(self._step(ids[at : at + most], at))
        self.context = ids

    def decode(self, ids: Sequence[int]) -> Tensor:
        """Return the logits after each token, one step each."""
        start = len(self.context or ())
        return torch.stack([
            self._executor.forward(self._step([token], start + place))[0].clone()
            for place, token in enumerate(ids)
        ])  # fmt: skip

    def _step(self, ids: Sequence[int], first: int) -> StepInput:
        places = torch.arange(first, first + len(ids), dtype=torch.int32)
        ends, last = [0, len(ids)], [len(ids) - 1]
        starts, rows = (torch.tensor(x, dtype=torch.int32) for x in (ends, last))
        lengths = torch.tensor([first + len(ids)], dtype=torch.int32)
        tokens = torch.tensor(list(ids), dtype=torch.int32)
        self._at = first + len(ids)
        self._decodes = len(ids) == 1
        return StepInput(tokens, places, places, starts, lengths, self._table, rows)

    def _watch(self, kernels: Sequence[tuple[str, str]], launches: Sequence[Any]) -> None:
        """Run launches, and count what those of sparse decode read."""
        found = []
        for (name, _), (function, arguments) in zip(kernels, launches, strict=True):
            function(*arguments)
            if name.startswith("gathered"):
                found.append(int(torch.from_dlpack(arguments[8]).sum()))
        if self._decodes:
            self._count(found)

    def _count(self, units: list[int]) -> None:
        heads, policy = self._config.kv_heads, self._judged.policy
        for number, layer in enumerate(self._sparse):
            reads = self._judged.reads.setdefault(layer, Reads())
            reads.context += heads * self._at
            reads.read += self._tokens(units[number]) if units else heads * self._at
            chosen = policy is not None and not policy.reads_whole(self._at)
            reads.scored += heads * self._at * chosen
            reads.rows += heads * chosen

    def _tokens(self, units: int) -> int:
        """Return the tokens of all key heads' lists; a list's last page is the context's."""
        policy, page, heads = self._judged.policy, self._executor.page_size, self._config.kv_heads
        if policy is None or policy.unit == "token":
            return units
        return units * page - heads * (-self._at % page)


def _executor(
    checkpoint: Checkpoint, judged: Judged, threads: int, calibration: Path | None
) -> CompiledExecutor:
    """Return compiled kernels with room for a context."""
    from ..compiler import Compilation
    from ..options import Options
    from ..runtime.execution.executor import page_bytes

    pages = -(-(checkpoint.config.context_length + MARGIN) // 16)
    memory = 2 * pages * page_bytes(checkpoint.config)
    options = Options.from_env().changed(
        attention=judged.name, attention_always=True, max_batch=16, kv_memory=memory,
        threads=threads, calibration=calibration if judged.policy is not None else None,
    )  # fmt: skip
    folder = checkpoint.folder or checkpoint.name
    return Compilation(_PROGRAM, folder, options=options).executor  # type: ignore[return-value]
