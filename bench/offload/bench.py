"""What has been measured of an offloading bench, of its base setting and of others."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from .runs import KEY_BYTES, Measured, Setting, prompts_of, release, run

MIB = 1 << 20
BEGUN = time.perf_counter()


@dataclass
class Bench:
    """The base setting, what has been measured of it, and why something was not."""

    base: Setting
    hardware: str
    tiny: bool
    n320: int = 320
    budget: float = float("inf")
    wanted: tuple[str, ...] = ()
    why: dict[str, str] = field(default_factory=dict)
    done: dict[Setting, Measured] = field(default_factory=dict)
    _store: tuple[Setting, Any] | None = None

    def measured(self, setting: Setting) -> Measured:
        """Return a setting's run, once."""
        if setting not in self.done:
            release()  # the run before may have left its pages in cycles
            begun = time.perf_counter()
            found = self.done[setting] = run(setting, self.store_of(setting))
            spent = time.perf_counter() - begun
            busy = ", ".join(f"{queue} {1e3 * s:.0f}" for queue, s in found.busy.items())
            say(f"{setting.name}: {found.decode_rate:.1f} tokens/s, step {1e3 * found.step:.1f} ms "
                f"of {len(found.steps)}, prefill {found.prefill:.2f} s, GPU "
                f"{found.gpu_peak / MIB:.0f} MiB; ms by queue: {busy}; {spent:.1f} s in all"
                f"{''.join(f'; {note}' for note in found.notes)}")  # fmt: skip
        return self.done[setting]

    def store_of(self, setting: Setting) -> Any:
        """Return the host memory of all settings with such pages; None where each takes its own.

        One store is there at a time: that of other pages is given back first.
        """
        if self.tiny:
            return None
        from .store import shared_store, store_owner

        owner = store_owner(self.base, setting)
        if self._store is not None and self._store[0] != owner:
            self._store[1].owner.close()
            self._store = None
            release()
        if self._store is None:
            begun = time.perf_counter()
            self._store = (owner, shared_store(owner))
            spent, notes = time.perf_counter() - begun, self._store[1].notes
            say(f"pages and keys are there after {spent:.1f} s {notes}")
        return self._store[1]

    @property
    def late(self) -> bool:
        """Whether the time for more settings is over."""
        return time.perf_counter() - BEGUN > self.budget

    @property
    def ours(self) -> Measured:
        """The run that is compared with the others: what is chosen where nothing is asked."""
        return self.measured(self.base)

    @cached_property
    def prices(self) -> Any:
        """The hardware's figures, of a file or a shipped name."""
        from weft.cost_model import hardware_file

        return hardware_file.load(self.hardware)

    def compared(self, found: Measured) -> Any:
        """Return a run as predictions are compared with it."""
        from weft.cost_model.hrm.shape import MoeShape, Workload
        from weft.cost_model.prediction_error import Setting as Compared
        from weft.frontend.checkpoints.checkpoint import open_checkpoint

        setting = found.setting
        config = open_checkpoint(setting.model).config
        shape = MoeShape.of(config, found.policy.page_format, KEY_BYTES[setting.kv])
        lengths = [len(prompt) for prompt in prompts_of(setting, config.vocab_size)]
        mean = sum(lengths) / len(lengths)
        spread = sum(n * n for n in lengths) / len(lengths) / mean**2
        workload = Workload(mean, setting.new, spread=spread)
        total = found.prefill + (setting.new - 1) * found.step if found.prefill else 0.0
        policy = found.policy
        if not policy.overlap:
            policy = replace(policy, prefill_tokens=setting.max_tokens)
        return Compared(setting.name, shape, policy, workload, found.step, total)

    def predicted(self, found: Measured) -> Any:
        """Return what the hierarchical roofline says of a run's policy."""
        from weft.cost_model.hrm.prediction import predict

        known = self.compared(found)
        return predict(known.policy, known.shape, known.workload, self.prices)


def say(text: str) -> None:
    """Print a line for whoever watches, after the seconds since the beginning."""
    print(f"[{time.perf_counter() - BEGUN:6.1f}] {text}", file=sys.stderr, flush=True)
