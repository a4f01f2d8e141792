"""Programs on weft beside the same engine driven request by request: every figure, one command.

python -m bench.programs                      all programs on tiny-dense, and simulated 8 B
python -m bench.programs --only rag chat      these programs
python -m bench.programs --only constrained   constrained tokens beside free ones
python -m bench.programs --only compile_time  500 statements and 10,000 rows; the memory proof
python -m bench.programs --quick              fewer rows, one round
python -m bench.programs --json --record      last line one JSON object; kept in bench/results
python -m bench.programs --target cuda        an 8 B shape on this GPU, as bench.programs_gpu says
python -m bench.programs --http               beside an HTTP server of the same engine, also on cuda
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
from collections.abc import Sequence
from typing import Any

from weft.bench.contest.bound import table
from weft.bench.contest.cases import CASES, ROOT
from weft.bench.contest.contest import Bench, Contest
from weft.bench.contest.figures import measure
from weft.bench.cpu import record
from weft.bench.measure import geometric_mean
from weft.codegen.threads import share_cores

RESULTS = ROOT / "bench" / "results" / "programs.json"

COLUMNS = (
    ("speedup", "speedup"), ("forced", "speedup_vs_forced_baseline"),
    ("no cache", "speedup_vs_no_cache"), ("roomy", "speedup_roomy"), ("8B", "simulated_8b_speedup"),
    ("8B roomy", "simulated_8b_speedup_roomy"),
)  # fmt: skip

SPEEDUPS = (
    "speedup", "speedup_roomy", "simulated_8b_speedup", "simulated_8b_speedup_roomy",
)  # fmt: skip

Figures = dict[str, Any]


def run_programs(
    names: list[str], rounds: int, quick: bool, simulate: bool, idle: float, no_cache: bool = False
) -> tuple[Figures, Figures]:
    """Measure programs one after another; return their figures, and what failed, by name."""
    price = None
    if simulate:
        from weft.bench.contest.simulated import RooflinePrice

        price = RooflinePrice()
    bench, figures, failed = Bench(), {}, {}
    for name in names:
        case = CASES[name]
        gc.collect()
        try:
            contest = Contest(bench, case, case.rows(quick))
            figures[name] = measure(contest, rounds, price, quick, idle, no_cache)
        except Exception as error:  # one program's failure must not lose the others' figures
            failed[name] = f"{type(error).__name__}: {error}"
            print(f"{name:18s} failed: {failed[name]}", flush=True)
            continue
        print(line(name, figures[name]), flush=True)
    return figures, failed


def line(name: str, found: Figures) -> str:
    """Return one row of the table."""
    pressed = found["scaled_memory"]
    steps = [pressed[side]["steps"] for side in ("weft", "requests")]
    cells = [
        f"{name:18s} {found['rows']:3d} rows {found['calls']:4d} calls",
        f"hits {found['hit_rate']:6.1%} ({found['hit_rate_of_ideal']:.2%} of ideal)",
        f"steps {steps[0]:4d} / {steps[1]:4d}",
        *(f"{short} {found[key]:.2f}" for short, key in COLUMNS if found.get(key)),
    ]  # fmt: skip
    if found["differing"]:
        pieces = found.get("prompts_in_other_tokens", 0)
        cells.append(f"{len(found['differing'])} rows differ ({pieces} prompts in other tokens)")
    return "  ".join(cells)


def summary(programs: Figures) -> Figures:
    """Return the figures over all programs."""
    staged = [name for name in programs if CASES[name].staged]
    found: Figures = {
        "staged_programs": staged,
        "hit_rate_of_ideal_min": _least(programs, "hit_rate_of_ideal"),
        "speedup_min": _least(programs, "speedup"),
        "differing_rows": {n: each["differing"] for n, each in programs.items()
                           if each["differing"]},
    }  # fmt: skip
    for key in SPEEDUPS:
        found[f"{key}_geomean"] = geometric_mean(programs[name].get(key) for name in staged)
    for key in ("speedup_bound", "simulated_8b_bound", "simulated_8b_tight_bound"):
        found[f"{key}_geomean"] = geometric_mean(programs[name].get(key) for name in staged)
    found["simulated_8b_speedup_min"] = _least(programs, "simulated_8b_speedup")
    return found


def _least(programs: Figures, key: str) -> float | None:
    return min((each[key] for each in programs.values() if key in each), default=None)


def elsewhere(quick: bool, only: Sequence[str] = ()) -> Figures:
    """Return the figures that other commands of this folder measure, null where they cannot.

    Of `only`, where that is given, those that are measured so: "constrained", "compile_time".
    """
    others = {"constrained": (CONSTRAINED, _constrained),
              "compile_time": (COMPILE_TIME, _compile_time)}  # fmt: skip
    chosen = [each for name, each in others.items() if not only or name in only]
    found: Figures = {"reasons": {}} if chosen else {}
    for keys, run in chosen:
        try:
            figures = run(quick)
            found |= {key: figures.get(key) for key in keys}
        except Exception as error:
            found |= dict.fromkeys(keys)
            found["reasons"] |= dict.fromkeys(keys, f"{type(error).__name__}: {error}")
    return found


CONSTRAINED = (
    "constrained_vs_free", "forced_speedup", "json_parse_rate", "canonical_rate",
    "grammar_us_per_token", "pattern_vs_free_batch_1", "pattern_vs_free_batch_16",
    "record_vs_free_batch_1", "record_vs_free_batch_16", "us_per_token",
)  # fmt: skip
COMPILE_TIME = ("compile_10k_rows_s", "memory_proof_s")


def _constrained(quick: bool) -> Figures:
    from weft.bench import constrained

    return constrained.figures(quick=quick)


def _compile_time(quick: bool) -> Figures:
    from weft.bench import compile_time

    return compile_time.compile_10k_rows()


def main() -> None:
    """Run what is asked for."""
    options = _options()
    if options.http:
        from weft.bench.over_http.channel import Ended
        from weft.bench.over_http.command import run

        try:
            sys.exit(run(options))
        except Ended as error:
            sys.exit(f"{error}: is uvicorn there? pip install -c constraints.txt -e '.[bench]'")
    if options.target == "cuda":
        from weft.bench import programs_gpu

        sys.exit(programs_gpu.run(options))
    os.environ["WEFT_THREADS"] = str(options.threads)
    share_cores(options.threads)
    names = [name for name in options.only or CASES if name in CASES]
    rounds = options.rounds if options.rounds is not None else 1 if options.quick else 5
    programs, failed = run_programs(
        names, rounds, options.quick, not options.no_simulation, options.idle, options.no_cache
    )
    print(*table({name: programs[name] for name in programs if CASES[name].staged}), sep="\n")
    over_all, others = summary(programs), elsewhere(options.quick, options.only or ())
    figures = over_all | others
    for key, value in figures.items():
        if isinstance(value, float):
            print(f"  {key:32s} {value:.4f}")
    figures["threads"] = options.threads
    figures |= programs | ({"failed": failed} if failed else {})
    compiled = "compile_time" in (options.only or ["compile_time"])
    if options.only and others.get("reasons", {}).keys() & {*COMPILE_TIME}:
        compiled = False  # an earlier figure keeps its date
    if options.record and (programs or compiled):
        kept, sections = programs, [*programs]  # what failed keeps its earlier figures and date
        if not options.only:
            kept = programs | others | ({} if failed else over_all | {"threads": options.threads})
        elif compiled:
            kept = programs | {key: others[key] for key in COMPILE_TIME}
        sections += ["compile_time"] * compiled
        record(to_keep(kept), sections, RESULTS)
        if options.only and programs:
            record(_over_record(), [], RESULTS)
    if options.json:
        print(json.dumps(figures))
    sys.exit(1 if failed or figures.get("reasons") else 0)


def _over_record() -> Figures:
    """Return the figures over all programs as the record has them: none where it lacks one."""
    known = json.loads(RESULTS.read_text())["figures"]
    return summary({name: known[name] for name in CASES}) if CASES.keys() <= known.keys() else {}


def to_keep(figures: Figures) -> Figures:
    """Return what a record is given: null only where a measurement failed, as the figure of an
    earlier run must not stand for it."""
    failed = figures.get("reasons", {})
    return {key: value for key, value in figures.items() if value is not None or key in failed}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", metavar="NAME",
                        choices=[*CASES, "constrained", "compile_time"],
                        help=f"these: {', '.join(CASES)}, constrained, compile_time")  # fmt: skip
    parser.add_argument(
        "--rounds", type=int, help="interleaved rounds (5; 1 with --quick; 0 times nothing)"
    )
    parser.add_argument("--target", choices=("cpu", "cuda"), default="cpu",
                        help="cuda: an 8 B shape on this GPU")  # fmt: skip
    parser.add_argument("--http", action="store_true",
                        help="race an HTTP server of the same engine")  # fmt: skip
    parser.add_argument("--commit", default="", help="on a GPU: what is measured, without git")
    parser.add_argument("--quick", action="store_true", help="a quarter of the rows, one round")
    parser.add_argument("--no-simulation", action="store_true", help="leave the 8 B shape out")
    parser.add_argument("--no-cache", action="store_true",
                        help="also race clients without a prefix cache: minutes")  # fmt: skip
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of both sides (1)")
    parser.add_argument("--idle", type=float, default=0.0,
                        help="before a round wait so many seconds for an idle machine")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    parser.add_argument("--record", action="store_true", help=f"merge into {RESULTS.name}")
    options = parser.parse_args()
    if options.record and options.quick:
        parser.error("--quick is no figure to keep: leave --record out")
    if options.record and options.rounds == 0:
        parser.error("--rounds 0 times nothing: figures of an earlier run would get today's date")
    asked = {*(options.only or ())}
    unfit = asked & {"compile_time"} if options.target == "cuda" else set()
    unfit |= asked & {"compile_time", "constrained"} if options.http else set()
    if unfit:
        what = f"--only {min(unfit)} is no race there"
        parser.error(f"{what}: leave out --http and --target cuda")
    return options


if __name__ == "__main__":
    main()
