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
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from random import Random
from time import perf_counter
from typing import Any

import numpy as np
from weft.bench.measure import Summary, interleave
from weft.bench.random_schemas import random_schema
from weft.compiler import Compilation
from weft.frontend.checkpoint import open_checkpoint
from weft.frontend.constraints import constraint_of
from weft.ir.constraint_tables import ConstraintTables
from weft.ir.parser import parse_module
from weft.ir.token_table import TokenTable
from weft.ir.types import Term
from weft.options import Options
from weft.runtime import engine as engine_module
from weft.runtime.executable import Executable
from weft.runtime.sampler import sample_rows
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

FREE = """
program take(text: str) -> str:
    user "Extract the order as JSON. {text}"
    assistant gen words(max_tokens=TOKENS): TYPE
    return words
"""
"""The same prompt and as many tokens: TYPE is str, or a pattern that forces nothing."""

PATTERN = 'regex "[A-Za-z ,.]{1,600}"'

ROWS = 16


class Bench:
    """A model in memory, and executables of program texts on it."""

    def __init__(self, model: str = "tiny-dense", options: Options | None = None) -> None:
        self.model, self.options = model, options or Options.from_env()
        self._executor: Any = None
        self._sampler: Any = None

    def executable(self, text: str | Path, toy: bool = False, endless: bool = False) -> Executable:
        """Compile a program; with `toy`, for a model of this vocabulary that costs nothing.

        With `endless`, no end token ends a gen: all its tokens come.
        """
        compilation = Compilation(text, self.model, options=self.options)
        plan, tokenizer = compilation.plan, _checkpoint(compilation).tokenizer
        if toy:
            limits = {"num_pages": 4000, "page_size": 16, "context_length": 4096}
            executor: Any = ToyExecutor(tokenizer.size, max_batch=ROWS, max_tokens=512, **limits)
            sampler: Any = sample_rows
        else:
            if self._executor is None:
                self._executor, self._sampler = compilation.executor, compilation.sampler
            executor, sampler = self._executor, self._sampler
        if endless:
            plan = parse_module(re.sub(r"ends = \[[0-9, ]*\]", "ends = []", str(plan)))
        tables = compilation.context.tables
        known = tables.by_key if tables else {}
        if endless:
            known = {key: _endless(table, tokenizer.end_ids) for key, table in known.items()}
        return Executable(
            plan, compilation.program_name, executor, tokenizer, sample=sampler, tables=known
        )


def _endless(table: TokenTable, ends: tuple[int, ...]) -> TokenTable:
    masks = table.masks.copy().view(np.uint32)
    for end in ends:
        masks[:, end // 32] &= np.uint32(~(1 << end % 32) & 0xFFFFFFFF)
    return replace(table, masks=masks.view(np.int32))


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

    Each figure is a ratio of median seconds a generated token, prompts and all, of programs with
    the same prompt and as many tokens: free text, a pattern that forces nothing, and a record.
    `forced_speedup` is the record's at batch 1, where a step costs the same for one token as for
    a few; `constrained_vs_free` is the least of pattern and record at batch 1 and 16.
    """
    bench = bench or Bench(model)
    record = bench.executable(RECORD)
    sample = record.run_rows([{"text": f"Number {number}."} for number in range(ROWS)]).stats
    tokens = sample.generated_tokens // ROWS + _opening(record)
    free = FREE.replace("TOKENS", str(tokens))
    executables = {
        "record": record,
        "free": bench.executable(free.replace("TYPE", "str"), endless=True),
        "pattern": bench.executable(free.replace("TYPE", PATTERN), endless=True),
    }
    contenders: dict[str, Callable[[], float]] = {}
    for name, executable in executables.items():
        executable.run(text="Warm up.")
        drawn = None if executable is record else tokens
        contenders[f"{name} 1"] = _round(executable, 1, 4, drawn)
        contenders[f"{name} {ROWS}"] = _round(executable, ROWS, 1, drawn)
    found = interleave(contenders, rounds, idle)
    medians = {name: Summary.of(values).median for name, values in found.items()}
    ratios = {
        f"{name}_vs_free_batch_{size}": medians[f"free {size}"] / medians[f"{name} {size}"]
        for name in ("record", "pattern")
        for size in (1, ROWS)
    }
    return {
        "constrained_vs_free": min(ratios.values()),
        "forced_speedup": ratios["record_vs_free_batch_1"],
        "forced_share": forced_share(record),
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


def forced_share(executable: Executable) -> float:
    """Return the share of a run's generated tokens that were never sampled."""
    forced = 0
    plain = Watch.forced

    def counted(watch: Watch, limit: int) -> list[int]:
        nonlocal forced
        tokens = plain(watch, limit)
        forced += len(tokens)
        return tokens

    opening = _opening(executable)
    Watch.forced = counted  # type: ignore[method-assign]
    try:
        stats = executable.run(text="Anna wants two lamps, please.").stats
    finally:
        Watch.forced = plain  # type: ignore[method-assign]
    return (forced + opening) / (stats.generated_tokens + opening)


def _opening(executable: Executable) -> int:
    """Return how many tokens of a gen the compiler has moved into its prompt."""
    openings = [op["forced"] for op in executable.plan.walk() if op.attribute("forced")]
    return sum(len(executable.machine.tokenizer.encode(text)) for text in openings)


def _round(executable: Executable, size: int, times: int, drawn: int | None) -> Callable[[], float]:
    """Return what runs a batch some times and gives the seconds a token, openings counted.

    `drawn` is how many tokens each row draws where that is known: a canonical end may leave fewer.
    """
    numbers = iter(range(1_000_000))
    opening = _opening(executable)

    def run() -> float:
        spent, tokens = 0.0, 0
        for _ in range(times):
            rows = [{"text": f"This is number {next(numbers)}."} for _ in range(size)]
            start = perf_counter()
            stats = executable.run_rows(rows).stats
            spent += perf_counter() - start
            tokens += size * drawn if drawn else stats.generated_tokens + size * opening
        return spent / tokens

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
