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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from time import perf_counter
from typing import Any

from weft.bench.measure import Summary, interleave
from weft.bench.random_schemas import random_schema
from weft.compiler import Compilation
from weft.frontend.checkpoint import open_checkpoint
from weft.frontend.constraints import constraint_of
from weft.ir.constraint_tables import ConstraintTables
from weft.ir.token_table import TokenTable
from weft.ir.types import Term
from weft.options import Options
from weft.runtime import engine as engine_module
from weft.runtime.executable import Executable
from weft.runtime.simulator import ToyExecutor
from weft.runtime.watch import Watch

Figures = dict[str, Any]

RECORD = """
record Item:
    name: str(max_tokens=6)
    count: int(1..20)

record Order:
    customer: str(max_tokens=8)
    express: bool
    items: list[Item](max_items=2)
    channel: choice["shop", "web"]

program take(text: str) -> Order:
    user "Extract the order as JSON. {text}"
    assistant gen order(max_tokens=120): Order
    return order
"""
"""A record as programs have them: about half of its tokens are forced."""

PATTERN = """
program take(text: str) -> str:
    user "Say something. {text}"
    assistant gen words(max_tokens=60): regex "[A-Za-z ,.]{300,400}"
    return words
"""
"""A constraint that forces nothing: only masks."""

FREE = """
program take(text: str) -> str:
    user "Tell a long story. {text}"
    assistant gen words(max_tokens=60): str
    return words
"""

ROWS = 16


class Bench:
    """A model in memory, and executables of program texts on it; ends never end free text."""

    def __init__(self, model: str = "tiny-dense", options: Options | None = None) -> None:
        self.model, self.options = model, options or Options.from_env()
        self._executor: Any = None
        self._sampler: Any = None

    def executable(self, text: str | Path, toy: bool = False) -> Executable:
        """Compile a program; with `toy`, for a model of this vocabulary that costs nothing."""
        compilation = Compilation(text, self.model, options=self.options)
        if toy:
            tokenizer = _checkpoint(compilation).tokenizer
            limits = {"num_pages": 4000, "page_size": 16, "context_length": 4096}
            executor = ToyExecutor(tokenizer.size, max_batch=ROWS, max_tokens=512, **limits)
            plan, tables = compilation.plan, compilation.context.tables
            return Executable(
                plan, compilation.program_name, executor, tokenizer,
                tables=tables.by_key if tables else {},
            )  # fmt: skip
        if self._executor is None:
            self._executor, self._sampler = compilation.executor, compilation.sampler
        compilation.__dict__.update(executor=self._executor, sampler=self._sampler)
        return compilation.executable()


def grammar_cost(model: str = "tiny-dense", bench: Bench | None = None) -> Figures:
    """Return the microseconds of grammar work a constrained token, all of it, and compile times.

    Everything that a constraint adds to the host's work is timed: making the watch, masks, accept,
    forced runs, canonical ends. The model is one that costs nothing.
    """
    bench = bench or Bench(model)
    executable = bench.executable(RECORD, toy=True)
    rows = [{"text": f"Row {number}."} for number in range(4 * ROWS)]
    executable.run_rows(rows[:ROWS])  # warm
    with _timed() as spent:
        result = executable.run_rows(rows)
    tokens = result.stats.generated_tokens
    micros = {name: 1e6 * seconds / tokens for name, seconds in spent.items()}
    return {
        "grammar_us_per_token": sum(micros.values()),
        "grammar_us_by_part": micros,
        "grammar_runtime_compile_ms": 0.0 if _no_guides(executable) else None,
        **_compile_times(bench),
    }


def json_parse_rate(
    count: int = 1000, seed: int = 0, model: str = "tiny-dense", bench: Bench | None = None
) -> Figures:
    """Return the share of outputs that parse, are valid, and are canonical, over random schemas.

    Tokens are drawn from a model that knows nothing (logits from a hash), at temperature 1; the
    budget is what the shortest text needs plus 0 to 40 tokens, so that most runs meet its end.
    """
    bench, random = bench or Bench(model), Random(seed)
    tokenizer = open_checkpoint(model).tokenizer
    tables = ConstraintTables(tokenizer)
    good, canonical, regular, failures = 0, 0, 0, []
    for number in range(count):
        schema = random_schema(random)
        table = tables.find(*_constraint(schema))
        regular += isinstance(table, TokenTable)
        least = int(table.distance[1]) if isinstance(table, TokenTable) else 400
        budget = max(1, least + random.randint(0, 40))
        ids, text = _generated(bench, schema, budget, number)
        problem = _problem(text, schema)
        good += problem is None
        same = _is_canonical(tokenizer, ids)
        canonical += same
        if problem is not None or not same:
            failures.append({"number": number, "schema": schema, "text": text, "why": problem})
    return {
        "json_parse_rate": good / count,
        "canonical_rate": canonical / count,
        "regular_rate": regular / count,
        "schemas": count,
        "failures": failures[:5],
    }


def speeds(
    model: str = "tiny-dense", rounds: int = 5, bench: Bench | None = None, idle: float = 0.0
) -> Figures:
    """Return how much faster constrained tokens come than free ones, on the real model.

    `constrained_vs_free` is the least of a pattern, where nothing is forced, and a record;
    `forced_speedup` is the record's. Each is a ratio of median seconds a generated token (forced
    tokens count, as they do in free text), of a batch of 16 rows.
    """
    bench = bench or Bench(model)
    texts = {"free": FREE, "pattern": PATTERN, "record": RECORD}
    executables = {name: bench.executable(text) for name, text in texts.items()}
    for executable in executables.values():
        executable.run_rows([{"text": "Warm up."}] * 2)
    found = interleave(
        {name: _round(executable) for name, executable in executables.items()}, rounds, idle
    )
    summaries = {name: Summary.of(values) for name, values in found.items()}
    ratios = {
        name: summaries["free"].median / summaries[name].median for name in ("pattern", "record")
    }
    return {
        "constrained_vs_free": min(ratios.values()),
        "pattern_vs_free": ratios["pattern"],
        "forced_speedup": ratios["record"],
        "forced_share": forced_share(executables["record"]),
        "us_per_token": {name: 1e6 * summary.median for name, summary in summaries.items()},
    }


def figures(quick: bool = False, idle: float = 0.0, model: str = "tiny-dense") -> Figures:
    """Return all figures of this bench."""
    bench = Bench(model)
    return {
        **grammar_cost(model, bench),
        **speeds(model, 2 if quick else 7, bench, idle),
        **json_parse_rate(100 if quick else 1000, 0, model, bench),
    }


def forced_share(executable: Executable) -> float:
    """Return the share of a run's generated tokens that were never sampled."""
    forced = 0
    plain = Watch.forced

    def counted(watch: Watch, limit: int) -> list[int]:
        nonlocal forced
        tokens = plain(watch, limit)
        forced += len(tokens)
        return tokens

    openings = [op["forced"] for op in executable.plan.walk() if op.attribute("forced")]
    opening = sum(len(executable.machine.tokenizer.encode(text)) for text in openings)
    Watch.forced = counted  # type: ignore[method-assign]
    try:
        stats = executable.run(text="Anna wants two lamps, please.").stats
    finally:
        Watch.forced = plain  # type: ignore[method-assign]
    return (forced + opening) / (stats.generated_tokens + opening)


def _round(executable: Executable) -> Callable[[], float]:
    """Return what runs a batch and gives the seconds a token, openings counted as tokens."""
    numbers = iter(range(1_000_000))
    openings = [op["forced"] for op in executable.plan.walk() if op.attribute("forced")]
    opening = sum(len(executable.machine.tokenizer.encode(text)) for text in openings)

    def run() -> float:
        rows = [{"text": f"This is text number {next(numbers)}."} for _ in range(ROWS)]
        start = perf_counter()
        stats = executable.run_rows(rows).stats
        return (perf_counter() - start) / (stats.generated_tokens + ROWS * opening)

    return run


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

    from weft.runtime.machine import Machine

    time(engine_module, "fill_masks")
    for name in ("accept", "forced", "settled"):
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
    from weft.ir import constraint_tables

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


def _constraint(schema: dict[str, Any]) -> tuple[str, str]:
    found = constraint_of(Term("schema", (json.dumps(schema, ensure_ascii=False),)), {})
    assert found is not None
    return found


def _generated(
    bench: Bench, schema: dict[str, Any], budget: int, seed: int
) -> tuple[list[int], str]:
    """Run a program of one gen; return its stream's tokens, and the text of the gen."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "s.json").write_text(json.dumps(schema, ensure_ascii=False))
        program = Path(folder) / "p.weft"
        program.write_text(
            'program p():\n    user "JSON, please."\n    assistant gen v'
            f'(max_tokens={budget}, temperature=1.0, seed={seed}): schema "s.json"\n'
        )
        executable = bench.executable(program, toy=True)
        ids: list[int] = []
        free = executable.engine.free

        def noted(sequence: Any, remember: bool = True) -> None:
            ids[:] = max(ids, sequence.ids(), key=len)
            free(sequence, remember)

        executable.engine.free = noted  # type: ignore[method-assign]
        try:
            whole = executable.run().text
        except Exception as error:  # a value that does not parse ends the run
            whole = f"assistant: {error}"
    return ids, whole


def _problem(text: str, schema: dict[str, Any]) -> str | None:
    """Return what is wrong with the JSON at a stream's end, or None."""
    import jsonschema

    begin = text.index("JSON, please.") + len("JSON, please.") if "JSON, please." in text else 0
    try:
        jsonschema.validate(json.loads(text[begin:].strip()), schema)
    except (ValueError, jsonschema.ValidationError) as error:
        return str(error).splitlines()[0]
    return None


def _is_canonical(tokenizer: Any, ids: list[int]) -> bool:
    """Whether every run of text between special tokens is encoded as its whole text is."""
    run: list[int] = []
    for id in [*ids, min(tokenizer.special_ids)]:
        if id not in tokenizer.special_ids:
            run.append(id)
            continue
        if run and tokenizer.encode(tokenizer.decode(run)) != run:
            return False
        run = []
    return True


def _checkpoint(compilation: Compilation) -> Any:
    assert compilation.checkpoint is not None
    return compilation.checkpoint


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
