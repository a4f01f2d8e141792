"""When a GPU does nothing while programs run: before the first step, between, behind the last.

    python -m bench.gpu_idle best_draft rag        ours, and clients of the same engine

By events around each step's launch, in four runs of ours and two of clients, the first of which
record steps. No figure comes from here.
"""

from __future__ import annotations

import argparse
import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch
from weft.runtime.engine import Engine

from .contest.cases import CASES
from .contest.contest import Contest, Run, Way
from .programs_gpu import CLIENTS, on_device, rows_of

Span = tuple[float, float]
"""When a step began and ended, in milliseconds since an engine was made."""


@dataclass(frozen=True)
class Idle:
    """Milliseconds in which a device computed steps, and in which it did nothing."""

    busy: float
    before: float
    between: float
    behind: float
    longest: tuple[float, ...]
    """The longest times between steps, from the most on."""

    @classmethod
    def of(cls, steps: Sequence[Span], end: float, longest: int = 4) -> Idle:
        """Return what steps leave of a run that ended at `end`."""
        gaps = [after[0] - before[1] for before, after in zip(steps, steps[1:], strict=False)]
        return cls(
            busy=sum(last - first for first, last in steps), before=steps[0][0],
            between=sum(gaps), behind=end - steps[-1][1],
            longest=tuple(sorted(gaps, reverse=True)[:longest]),
        )  # fmt: skip

    def __str__(self) -> str:
        gaps = " ".join(f"{gap:.1f}" for gap in self.longest)
        return (
            f"busy {self.busy:7.1f}  before the first {self.before:5.1f}  "
            f"between {self.between:6.1f} ({gaps})  behind the last {self.behind:5.1f}"
        )


def _mark() -> torch.cuda.Event:
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def idle_of(run: Callable[[], Run], executor: Any) -> tuple[Run, Idle]:
    """Run on an executor's GPU; return when that did nothing from the first engine on."""
    began: list[torch.cuda.Event] = []
    marks: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
    make, forward = Engine.__init__, executor.forward

    def made(engine: Engine, *given: Any, **named: Any) -> None:
        make(engine, *given, **named)
        began.append(_mark())

    def stepped(*given: Any) -> Any:
        first = _mark()
        logits = forward(*given)
        marks.append((first, _mark()))
        return logits

    gc.collect()
    with patch.object(Engine, "__init__", made), patch.object(executor, "forward", stepped):
        found = run()
    end = _mark()
    torch.cuda.synchronize()
    at = began[0].elapsed_time
    return found, Idle.of([(at(first), at(last)) for first, last in marks], at(end))


def main() -> None:
    """Run the programs that are asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("programs", nargs="+", choices=list(CASES))
    options = parser.parse_args()
    bench, way = on_device(), Way(kv_tokens=0, clients=CLIENTS)
    for name in options.programs:
        contest = Contest(bench, CASES[name], rows_of(CASES[name]))
        executor: Any = contest.compilation.executor
        for side in ("ours", "ours", "clients", "ours", "ours", "clients"):
            call = contest.weft if side == "ours" else contest.requests
            before = executor.recordings
            found, idle = idle_of(lambda call=call: call(way), executor)
            print(
                f"{name:18s} {side:8s} {1e3 * found.seconds:7.1f} ms, {found.engine.steps:3d} "
                f"steps, {executor.recordings - before} recorded: {idle}",
                flush=True,
            )


if __name__ == "__main__":
    main()
