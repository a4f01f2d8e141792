"""Constrained decoding: what grammars cost while a program runs, what forced tokens save.

python -m bench.constrained                  the table
python -m bench.constrained --json           last line one JSON object
python -m bench.constrained --quick          fewer schemas and rounds

Other benches call these, each of which returns a dict of plain values:

    grammar_cost(model="tiny-dense")             {"grammar_us_per_token", "grammar_compile_ms", ...}
    json_parse_rate(count=1000, seed=0)          {"json_parse_rate", "canonical_rate", "failures"}
    speeds(model="tiny-dense", rounds=5)         {"constrained_vs_free", "forced_speedup", ...}
    figures(quick=False)                         all keys of the three in one dict

Figures to reach, written down before the first measurement: grammar compilation while a program
runs 0 ms; grammar work under 20 us a constrained token; constrained decoding never slower a token
than free decoding (>= 1.0), >= 1.2 times as fast where a quarter of the tokens are forced; of 1,000
random schemas every output parses, is valid, and is canonical in its tokens.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from time import perf_counter
from typing import Any

from weft.compiler import Compilation
from weft.runtime import engine as engine_module
from weft.runtime.constraints.watch import Watch
from weft.runtime.executable import Executable

from .constraints.json_rate import json_parse_rate
from .constraints.programs import (
    FREE,
    PATTERN,
    RECORD,
    ROWS,
    Bench,
    forced_share,
    opening_tokens,
)
from .in_turn import in_turn, share_pages
from .measure import Summary, as_a_server_does, seconds, wait_for_idle

Figures = dict[str, Any]

WARM = 4
"""Runs of each contender that do not count. A GPU's steps of each shape are recorded when they have
come some times, 13 ms each, once a process: free text's in the first run, a record's, whose rows
are forced on at different times, in several."""

SIDES = 3
"""Executables that run side by side, in pages of their own."""

GRAMMAR_RUNS = 5
"""Runs of a record's rows, no two alike, of which the one with the median of grammar's work counts.
"""


def grammar_cost(model: str = "tiny-dense", bench: Bench | None = None) -> Figures:
    """Return the microseconds of grammar work a constrained token, all of it, and compile times.

    Everything that a constraint adds to the host's work is timed: making the watch, masks, accept,
    forced runs, canonical ends. The model is one that costs nothing.
    """
    bench = bench or Bench(model)
    executable = bench.executable(RECORD, toy=True)
    numbers = iter(range(1_000_000))
    executable.run_rows([{"text": f"Row {next(numbers)}."} for _ in range(ROWS)])  # warm
    runs: list[dict[str, float]] = []
    for _ in range(GRAMMAR_RUNS):
        rows = [{"text": f"Row {next(numbers)}."} for _ in range(4 * ROWS)]
        with _timed() as spent:
            tokens = executable.run_rows(rows).stats.generated_tokens
        runs.append({name: 1e6 * seconds / tokens for name, seconds in spent.items()})
    micros = sorted(runs, key=lambda run: sum(run.values()))[GRAMMAR_RUNS // 2]
    return {
        "grammar_us_per_token": sum(micros.values()),
        "grammar_us_by_part": micros,
        "grammar_runtime_compile_ms": 0.0 if _no_guides(executable) else None,
        **_compile_times(bench),
    }


def speeds(
    model: str = "tiny-dense", rounds: int = 5, bench: Bench | None = None, idle: float = 0.0,
    sizes: tuple[int, int] = (1, ROWS), times: int = 4,
) -> Figures:  # fmt: skip
    """Return how much faster constrained tokens come than free ones, on the real model.

    Each figure is a ratio of median seconds a generated token, prompts and all, of programs with
    the same prompt and as many tokens: free text, a pattern that forces nothing, and a record. On a
    CPU a step of each is run in turn.
    `forced_speedup` is the record's at batch 1, where a step costs the same for one token as for
    a few; `constrained_vs_free` is the least of pattern and record at both sizes of a batch. Of the
    smaller one a round has so many `times`.
    """
    bench = bench or Bench(model)
    first = bench.executable(RECORD)
    sample = first.run_rows([{"text": f"Number {number}."} for number in range(ROWS)]).stats
    tokens = sample.generated_tokens // ROWS + opening_tokens(first)
    forced = forced_share(first)  # now: the others use its pages
    free = FREE.replace("TOKENS", str(tokens))
    executables = {
        "record": bench.executable(RECORD, sides=SIDES),
        "free": bench.executable(free.replace("TYPE", "str"), endless=True, sides=SIDES),
        "pattern": bench.executable(free.replace("TYPE", PATTERN), endless=True, sides=SIDES),
    }
    share_pages([each.engine for each in executables.values()], bench.executor)
    timed = _alone if first.engine.ahead else _side_by_side
    one, many = sizes
    contenders = [
        {
            f"{name} {size}": Batches(executable, size, count, None if name == "record" else tokens)
            for name, executable in executables.items()
        }
        for size, count in ((one, times), (many, 1))
    ]
    found: dict[str, list[float]] = {name: [] for some in contenders for name in some}
    for number in range(WARM + rounds):
        wait_for_idle(idle if number >= WARM else 0.0)
        for some in contenders:
            for name, each in timed(some).items():
                if number >= WARM:
                    found[name].append(each)
    medians = {name: Summary.of(values).median for name, values in found.items()}
    ratios = {
        f"{name}_vs_free_batch_{size}": medians[f"free {size}"] / medians[f"{name} {size}"]
        for name in ("record", "pattern")
        for size in sizes
    }
    return {
        "constrained_vs_free": min(ratios.values()),
        "forced_speedup": ratios["record_vs_free_batch_1"],
        "forced_share": forced,
        "tokens_a_row": tokens,
        **ratios,
        "us_per_token": {name: 1e6 * median for name, median in medians.items()},
    }


def figures(quick: bool = False, idle: float = 0.0, model: str = "tiny-dense") -> Figures:
    """Return all figures of this bench."""
    bench = Bench(model)
    return {
        **grammar_cost(model, bench),
        **speeds(model, 2 if quick else 7, bench, idle),
        **json_parse_rate(100 if quick else 1000, 0, model, bench),
    }


@dataclass
class Batches:
    """Runs of batches, some `times` a round, which count their `tokens`, openings, too.

    `drawn` is how many tokens each row draws where that is known: a canonical end may leave fewer.
    """

    executable: Executable
    size: int
    times: int
    drawn: int | None
    tokens: int = 0
    numbers: Iterator[int] = field(default_factory=count)

    def steps(self) -> Iterator[None]:
        """Run a round of them, and yield after each step."""
        executable, opening, self.tokens = self.executable, opening_tokens(self.executable), 0
        for _ in range(self.times):
            rows = [{"text": f"This is number {next(self.numbers)}."} for _ in range(self.size)]
            jobs = ((at, executable.check_row(at, row)) for at, row in enumerate(rows))
            for ended in executable.session().steps(jobs):
                for _, outcome in ended:
                    if isinstance(outcome, Exception):
                        raise outcome
                    self.tokens += self.drawn or outcome.stats.generated_tokens + opening
                yield


def _side_by_side(contenders: Mapping[str, Batches]) -> dict[str, float]:
    """Run a round of all, a step of each in turn; return the own seconds a token of each."""
    with as_a_server_does():
        spent = in_turn({name: each.steps() for name, each in contenders.items()})
    return {name: spent[name] / each.tokens for name, each in contenders.items()}


def _alone(contenders: Mapping[str, Batches]) -> dict[str, float]:
    """Run a round of each, one after another; return their seconds a token by the wall's clock: a
    device computes on while its host does something else."""
    return {name: seconds(lambda: deque(each.steps(), 0)) / each.tokens  # noqa: B023
            for name, each in contenders.items()}  # fmt: skip


@contextmanager
def _timed() -> Iterator[dict[str, float]]:
    """Time all that constraints do on the host, by part."""
    spent: dict[str, float] = {}
    undo: list[Callable[[], None]] = []

    def time(owner: Any, name: str) -> None:
        plain = getattr(owner, name)

        def timed(*values: Any) -> Any:
            start = perf_counter()
            result = plain(*values)
            spent[name] = spent.get(name, 0.0) + perf_counter() - start
            return result

        setattr(owner, name, timed)
        undo.append(lambda: setattr(owner, name, plain))

    from weft.runtime.programs.machine import Machine

    for name in ("fill_masks", "take_tokens"):
        time(engine_module, name)
    for name in ("accept", "catch_up", "take_forced", "settled"):
        time(Watch, name)
    time(Machine, "watch")
    try:
        yield spent
    finally:
        for step in undo:
            step()


def _compile_times(bench: Bench) -> Figures:
    """Return the milliseconds of compiling the record's constraint: anew, and from the cache."""
    from weft.codegen.table_cache import TableCache
    from weft.ir.constraints import tables as constraint_tables

    with tempfile.TemporaryDirectory() as folder:
        times = []
        for _ in range(2):
            constraint_tables._known.clear()
            options = bench.options.changed(cache=Path(folder))
            compilation = Compilation(RECORD, bench.model, options=options)
            _ = compilation.plan
            record = next(r for r in compilation.records if r.name == "compile-constraints")
            times.append(1000 * record.seconds)
            assert isinstance(compilation.context.store, TableCache)
    return {"table_compile_ms": times[0], "table_load_ms": times[1]}


def _no_guides(executable: Executable) -> bool:
    """Whether no constraint of the plan is left to be worked out at run time."""
    return all(
        operation.attribute("table")
        for operation in executable.plan.operations
        if operation.name == "plan.constraint"
    )


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--json", action="store_true", help="last line one JSON object")
    parser.add_argument("--quick", action="store_true", help="fewer schemas and rounds")
    parser.add_argument("--idle", type=float, default=0.0, help="seconds to wait for a quiet host")
    options = parser.parse_args()
    found = figures(options.quick, options.idle)
    for name, value in found.items():
        print(f"{name:28s} {value:.4g}" if isinstance(value, float) else f"{name:28s} {value}")
    if options.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
