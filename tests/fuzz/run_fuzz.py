"""The fuzzer: `python tests/fuzz/run_fuzz.py --seconds 60`, or `--replay FILE` for one case."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random
from time import monotonic, time

from weft.tests.fuzz.fuzz_case import Case, Problem, Uninteresting, check_case, random_case
from weft.tests.fuzz.minimise import minimise

FOUND = Path(__file__).parents[2] / "build" / "fuzz"
"""Where failing cases are written."""


def kind_of(case: Case, run: Callable[[Case], None] = check_case) -> str | None:
    """Return what a case shows to be wrong: the kind of problem, or None."""
    try:
        run(case)
    except Uninteresting:
        return None
    except Problem as problem:
        return problem.kind
    except Exception as error:
        return f"crash: {type(error).__name__}"
    return None


def fuzz(
    seconds: float,
    first_seed: int,
    run: Callable[[Case], None] = check_case,
    stop_at: int = 1,
    folder: Path = FOUND,
    cases: int | None = None,
    patience: float = 40,
) -> tuple[Counter[str], list[Path]]:
    """Run random cases for a while, `cases` of them at most, and make one that fails smaller for
    `patience` seconds; return how they ended, and the files of those that fail."""
    ended: Counter[str] = Counter()
    found: list[Path] = []
    end, seed = monotonic() + seconds, first_seed
    while monotonic() < end and len(found) < stop_at and ended.total() != cases:
        case = random_case(Random(seed))
        kind = kind_of(case, run)
        ended[kind or "fine"] += 1
        if kind is not None and ended[kind] == 1:
            found.append(_report(case, kind, seed, run, folder, patience))
        seed += 1
    return ended, found


def _report(
    case: Case, kind: str, seed: int, run: Callable[[Case], None], folder: Path, patience: float
) -> Path:
    """Make a failing case small, write it, and say how to run it again."""
    small = minimise(case, lambda other: kind_of(other, run) == kind, patience)
    detail = kind
    try:
        run(small)
    except Exception as error:
        detail = str(error)
    path = folder / f"seed_{seed}.json"
    small.write(path, detail)
    print(f"\nseed {seed}: {detail}\n{small.text}\npasses: {', '.join(small.passes)}")
    print(f"again: python tests/fuzz/run_fuzz.py --replay {path}\n", flush=True)
    return path


def main() -> int:
    """Fuzz, or run one case again; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=None, help="of the first case")
    parser.add_argument("--most", type=int, default=3, help="stop after so many kinds of failure")
    parser.add_argument("--replay", type=Path, help="a file that an earlier run wrote")
    given = parser.parse_args()
    if given.replay:
        check_case(Case.read(given.replay))
        print("the case passes")
        return 0
    seed = int(time()) if given.seed is None else given.seed
    ended, found = fuzz(given.seconds, seed, stop_at=given.most)
    print(f"seeds from {seed}: ", end="")
    print(", ".join(f"{count} {kind}" for kind, count in ended.most_common()))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
