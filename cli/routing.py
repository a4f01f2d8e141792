"""`weft run --record-routing`: what is checked before the run, and the file after it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..ir.diagnostics import RunError
from .output import check_file
from .render import remarks

if TYPE_CHECKING:
    from ..runtime.executable import Executable


class NotRecorded(RunError):
    """Routing that cannot be recorded, or not to such a file."""

    template = "--record-routing: {problem}"
    hint = (
        "it records the experts of a model that --gpu-memory divides: with as much as the whole "
        "model takes, all of them are resident"
    )


def check_recording(file: Path | None, gpu_memory: str) -> None:
    """Raise NotRecorded or NotWritten, before a model is loaded, where nothing would be kept."""
    if file is None:
        return
    if not gpu_memory:
        raise NotRecorded(problem="there is no --gpu-memory")
    check_file(file, "--record-routing")


@contextmanager
def recording(executable: Executable, file: Path | None, model: str) -> Iterator[None]:
    """Record what routers give, and write it at the end, also that of a run that was broken off."""
    if file is None:
        yield
        return
    from ..runtime.offload.executor import OffloadExecutor
    from ..runtime.offload.routing import RoutingRecorder

    engine: Any = executable.engine
    executor = engine.executor
    assert isinstance(executor, OffloadExecutor)
    recorder = executor.routing = RoutingRecorder(executor.config, model)
    try:
        yield
    finally:
        executor.routing = None
        trace = recorder.trace()
        if trace is not None:
            trace.save(file)
            steps = int(trace.decode.sum())
            remarks().print(f"routing of {trace.tokens} tokens ({steps} of decode steps) saved in "
                            f"{file}", markup=False)  # fmt: skip
