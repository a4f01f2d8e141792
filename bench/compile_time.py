"""Compile time: a program of 500 statements with 10,000 rows, and the proof that its rows fit.

    python -m bench.compile_time [--json] [--profile]

`compile_10k_rows_s` is everything from the text to the plan, and the check and the memory claim of
every row; `memory_proof_s` is the proof alone, made anew.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import pstats
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

if __package__ == "bench":  # run from a checkout, where the package is not called weft
    sys.path.insert(0, str(Path(__file__).parents[1] / ".pyroot"))

STATEMENTS = 500
ROWS = 10_000
_SIDES = ("clarity", "evidence", "style", "tone")


def program_text(statements: int = STATEMENTS) -> str:
    """Return a program of so many statements: texts, gens, selects, forks, calls and branches."""
    lines = [
        "program note(text: str) -> str:",
        '    user "Note on {text}"',
        "    assistant gen short(max_tokens=8)",
        "    return short",
        "",
        "program long(text: str, sides: list[str]) -> str:",
        '    system "You judge texts."',
    ]
    count = 4
    number = 0
    while count < statements - 1:
        number += 1
        side = _SIDES[number % len(_SIDES)]
        lines += [
            f'    user "Part {number} of {{text}}: judge its {side}."',
            f"    assistant gen part{number}(max_tokens=12)",
            "    fork side in sides as views" + f"{number}:",
            f'        user "Now the {{side}} of part {number}."',
            f'        assistant gen view{number}: choice["good", "bad", "none"]',
            f"        yield view{number}",
            f'    assistant select mark{number} from ["A", "B", "C"]',
            f'    if mark{number} == "C":',
            f'        user "Why? {{part{number}}}"',
            f"    let note{number} = call note(part{number})",
        ]
        count += 10
    return "\n".join([*lines, "    return part1", ""])


def rows_of(count: int = ROWS) -> list[dict[str, Any]]:
    """Return rows whose texts differ, and share beginnings."""
    return [
        {"text": f"text {number % 97} of kind {number}", "sides": list(_SIDES[: number % 4 + 1])}
        for number in range(count)
    ]


def compile_10k_rows(statements: int = STATEMENTS, rows: int = ROWS) -> dict[str, Any]:
    """Compile the program, check the rows and work out what each claims; return the seconds."""
    from weft.compiler import Compilation
    from weft.compiler.formats import PAGE_SIZE
    from weft.compiler.loading import page_count
    from weft.compiler.memory_proof import memory_proof
    from weft.ir.budget import Limits
    from weft.ir.values import records_of
    from weft.options import Options
    from weft.runtime.programs.arguments import bind_arguments
    from weft.runtime.schedule.forecast import Forecast
    from weft.runtime.schedule.row_order import in_prefix_order

    given, text = rows_of(rows), program_text(statements)
    with tempfile.TemporaryDirectory() as folder:
        options = Options(cache=Path(folder))
        start = time.perf_counter()
        compilation = Compilation(text, "tiny-dense", options=options)
        plan, checkpoint = compilation.plan, compilation.checkpoint
        planned = time.perf_counter()
        assert checkpoint is not None
        programs = {op["name"].name: op for op in plan.operations if op.name == "plan.func"}
        function, records = programs[compilation.program_name], records_of(plan)
        checked = [bind_arguments(function, records, row, n) for n, row in enumerate(given)]
        rows_checked = time.perf_counter()
        forecast = Forecast(
            programs, function, checkpoint.tokenizer,
            Limits(PAGE_SIZE, checkpoint.config.context_length), page_count(checkpoint, options),
            options.max_batch,
        )  # fmt: skip
        ordered = in_prefix_order(enumerate(checked), forecast, len(checked))
        claims = [forecast.claim(row) for _, row in ordered]
        claimed = time.perf_counter()
        proof = memory_proof(compilation, given[3])
    return {
        "statements": statements,
        "rows": rows,
        "compile_s": planned - start,
        "check_rows_s": rows_checked - planned,
        "claims_s": claimed - rows_checked,
        "compile_10k_rows_s": claimed - start,
        "memory_proof_s": proof.seconds,
        "memory_lemmas": proof.lemmas,
        "proven_rows": sum(claim.proven for claim in claims),
        "passes_ms": {r.name: round(1000 * r.seconds, 1) for r in compilation.records},
    }


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--profile", action="store_true", help="print where the time goes")
    parser.add_argument("--statements", type=int, default=STATEMENTS)
    parser.add_argument("--rows", type=int, default=ROWS)
    given = parser.parse_args()
    profile = cProfile.Profile()
    if given.profile:
        found = profile.runcall(compile_10k_rows, given.statements, given.rows)
        pstats.Stats(profile).sort_stats("cumulative").print_stats(45)
    else:
        found = compile_10k_rows(given.statements, given.rows)
    if given.json:
        print(json.dumps(found))
    else:
        for key, value in found.items():
            print(f"{key:>20}  {value:.3f}" if isinstance(value, float) else f"{key:>20}  {value}")


if __name__ == "__main__":
    main()
