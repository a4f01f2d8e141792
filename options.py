"""Compilation options: one record, and the one place where environment variables are read."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from .ir.diagnostics import WeftError

WEIGHT_FORMATS = ("f32", "bf16", "int8")
EXECUTORS = ("compiled", "reference")


class BadOption(WeftError):
    """An option that is unknown or has an impossible value."""

    kind = "option error"
    template = "{problem}"


@dataclass(frozen=True)
class Options:
    """What a compilation may choose.

    `weights` is the format that weights are kept in; `executor` is `compiled`, or `reference` for
    the meaning of the graph run operation by operation; `kv_memory` bounds keys and values in
    bytes; `threads` of a CPU (0: every core; one process has one pool, sized by the first model
    that it loads); `max_batch` sequences and `max_tokens` rows bound one step. `cache` holds
    compiled kernels (None: the user's cache folder). `prove` refuses kernels without a bounds
    proof; `trace` records every step.
    """

    target: str = "cpu"
    weights: str = "f32"
    executor: str = "compiled"
    threads: int = 0
    kv_memory: int = 256 << 20
    max_batch: int = 16
    max_tokens: int = 512
    seed: int = 0
    cache: Path | None = None
    prove: bool = True
    trace: bool = False

    def __post_init__(self) -> None:
        _one_of("weights", self.weights, WEIGHT_FORMATS)
        _one_of("executor", self.executor, EXECUTORS)
        _one_of("target", self.target, ("cpu",))
        for name in ("kv_memory", "max_batch", "max_tokens"):
            if getattr(self, name) <= 0:
                raise BadOption(problem=f"{name} must be positive, not {getattr(self, name)}")

    @staticmethod
    def from_env(environment: Mapping[str, str] | None = None) -> Options:
        """Return the defaults, changed by WEFT_CACHE and WEFT_THREADS."""
        env = os.environ if environment is None else environment
        cache = Path(env["WEFT_CACHE"]) if env.get("WEFT_CACHE") else None
        return Options(cache=cache, threads=int(env.get("WEFT_THREADS") or 0))

    def changed(self, **changes: Any) -> Options:
        """Return a copy with some options set; raises BadOption for an unknown one."""
        known = {item.name for item in fields(self)}
        for name in changes:
            if name not in known:
                hint = f"the options are: {', '.join(sorted(known))}"
                raise BadOption(problem=f"there is no option {name!r}", hint=hint)
        return replace(self, **changes)

    @property
    def thread_count(self) -> int:
        """Threads of a CPU kernel: as asked, or the cores that this process may use."""
        return self.threads or len(os.sched_getaffinity(0))


def _one_of(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise BadOption(problem=f"{name} must be one of {', '.join(choices)}, not {value!r}")
