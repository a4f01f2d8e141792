"""Where a program's time goes on both sides, and the most that any schedule could gain.

Bounds keep the work: each token that must be computed once, each row of logits that is drawn or
scored. The first (`least_seconds`) has every step full, prompts spread evenly over steps, and no
row wait for its own last token. Rows' own paths mostly forbid that: four turns of 64 tokens are 256
steps, however wide these are. The tight one (`tight_seconds`) knows when a row can come at the
earliest, from a run whose steps take all that is ready: whatever comes before step k there is still
to be done after k steps of any schedule (Hu, Operations Research 9, 1961).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

from weft.runtime.simulator import Price


@dataclass
class Work:
    """A price that also counts what it is asked for."""

    price: Price
    steps: int = 0
    tokens: int = 0
    rows: int = 0
    keys: int = 0
    sequences: int = 0
    each_step: list[tuple[int, int]] = field(default_factory=list)
    """Rows and tokens of each step."""

    def __call__(self, queries: Sequence[int], keys: Sequence[int], rows: int) -> float:
        """Return the seconds of a step."""
        self.steps += 1
        self.tokens += sum(queries)
        self.rows += rows
        self.keys += sum(keys)
        self.sequences += len(keys)
        self.each_step.append((rows, sum(queries)))
        return self.price(queries, keys, rows)

    def least_seconds(self, batch: int, tokens: int, most: int) -> float:
        """Return the seconds of the same rows and so many tokens in full, even steps.

        A step takes `batch` rows and `most` tokens.
        """
        return self._full(self.rows, tokens, batch, most)

    def tight_seconds(self, batch: int, tokens: int, most: int) -> float:
        """Return the same of a run whose steps took all that was ready, with what had to wait.

        For some k: k of the cheapest steps, and then full ones of what comes after k steps here.
        """
        cheapest = self.price([1], [1], 1)
        late = accumulate(reversed(self.each_step), lambda a, b: (a[0] + b[0], a[1] + b[1]))
        return max(
            k * cheapest + self._full(rows, min(fed, tokens), batch, most)
            for k, (rows, fed) in enumerate(reversed(list(late)))
        )

    def _full(self, rows: int, tokens: int, batch: int, most: int) -> float:
        steps = max(-(-rows // batch), -(-tokens // most))
        each = max(1, round(tokens / max(1, steps * batch)))
        keys = round(self.keys / max(1, self.sequences))
        return steps * self.price([each] * batch, [keys] * batch, batch)

    def json(self) -> dict[str, Any]:
        """Return the counts."""
        width = round(self.rows / max(1, self.steps), 2)
        return {"steps": self.steps, "tokens": self.tokens, "rows": self.rows, "rows_a_step": width}


def cpu_bound(found: dict[str, Any], tokens: int) -> float:
    """Return the clients' seconds over weft's model time for so many tokens, without any host."""
    profile = found["profile"]["weft"]
    fed = profile["prefill_tokens"] + profile["decode_tokens"]
    return found["seconds"]["requests"]["median"] / (profile["model_s"] * min(1.0, tokens / fed))


def table(programs: dict[str, dict[str, Any]]) -> list[str]:
    """Return one line a program: weft's and the clients' work, gains, and their bounds."""
    programs = {name: found for name, found in programs.items() if "work" in found}
    if not programs:
        return []
    head = (
        f"{'':18s} {'tokens':>15s} {'steps':>11s} {'rows a step':>13s} {'path':>5s} {'8 B':>6s}"
        f" {'bound':>6s} {'tight':>6s} {'CPU':>6s} {'bound':>6s} {'model s':>13s} {'host s':>13s}"
    )
    lines = [head]
    for name, found in programs.items():
        ours, theirs = found["work"]["weft"], found["work"]["requests"]
        cells = [
            f"{name:18s} {ours['tokens']:7d}/{theirs['tokens']:<7d}",
            f"{ours['steps']:5d}/{theirs['steps']:<5d}",
            f"{ours['rows_a_step']:6.1f}/{theirs['rows_a_step']:<6.1f}",
            f"{found['longest_path']:5d} {found['simulated_8b_speedup']:6.2f}",
            f"{found['simulated_8b_bound']:6.2f} {found['simulated_8b_tight_bound']:6.2f}",
        ]
        if "speedup_bound" in found:
            profiles = [found["profile"][side] for side in ("weft", "requests")]
            model = "/".join(f"{each['model_s']:.2f}" for each in profiles)
            host = "/".join(f"{each['engine_host_s'] + each['between_steps_s']:.2f}"
                            for each in profiles)  # fmt: skip
            cells.append(f"{found['speedup']:6.2f} {found['speedup_bound']:6.2f}")
            cells.append(f"{model:>13s} {host:>13s}")
        lines.append(" ".join(cells))
    return lines
