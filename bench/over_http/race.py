"""One program raced: compiled, driven in the engine's process, and over HTTP, in turn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from statistics import median
from typing import Any

from ..contest.contest import Contest, Run, Way
from ..contest.figures import agreement, sound
from ..measure import Summary, as_a_server_does, interleave, ratio
from .deployment import Deployment
from .jobs import Job


def over_http(contest: Contest, way: Way, deployment: Deployment) -> Run:
    """Run the program as written by clients in another process, over HTTP.

    Seconds are the clients', from the first request to the last answer; where cores are few,
    without those for which the run waited for one.
    """
    case, made = contest.case, contest.compilation
    rows = dict(zip(contest.numbers, contest.rows, strict=True))
    job = Job(case.path, case.program, contest.bench.model, made.options.seed, rows, way.clients)
    server = contest.server(way)
    with as_a_server_does():
        spent = deployment.run(server, job)
    wall = spent.done.seconds
    seconds = wall - spent.waited
    return Run(seconds, spent.done.answers, server.engine, stretch=wall / seconds)


def race(
    contest: Contest, way: Way, deployment: Deployment, rounds: int, idle: float, exact: bool
) -> dict[str, Any]:
    """Return a program's figures; rows whose answers differ are listed, and where answers are
    `exact` (no batch's shape changes them) left out.

    `http_speedup`: seconds of the HTTP clients, who have the better one of both orders, over
    weft's; `http_wall_speedup` counts waiting for cores, too. `http_over_requests`: how many times
    as long HTTP takes as clients in the engine's process. The run that showed which order is the
    better one is their first, if it was of the same rows.
    """
    sound(contest.requests(way))  # first: what a server that is up for a while has made
    ours = sound(contest.weft(way))
    first = {order: sound(over_http(contest, replace(way, longest_prefix=order), deployment))
             for order in (False, True)}  # fmt: skip
    found = agreement(ours.answers, first[False].answers)
    if exact and found["differing"] and 2 * found["equal_rows"] >= len(contest.rows):
        contest = contest.without(found["differing"])
    best = replace(way, longest_prefix=first[True].seconds < first[False].seconds)
    shown = first[best.longest_prefix]
    of_these = [shown] if len(shown.answers) == len(contest.rows) else []
    runs: dict[str, Callable[[], Run]] = {
        "weft": lambda: contest.weft(way),
        "requests": lambda: contest.requests(best),
        "http": lambda: of_these.pop() if of_these else over_http(contest, best, deployment),
    }
    walls: dict[str, list[float]] = {name: [] for name in runs}
    work: dict[str, dict[str, int]] = {}

    def timed(name: str) -> float:
        run = sound(runs[name]())
        walls[name].append(run.seconds * run.stretch)
        work[name] = {"steps": run.engine.steps, "computed_tokens": run.engine.computed_tokens}
        return run.seconds

    times = interleave({name: partial(timed, name) for name in runs}, rounds, idle)
    speedup = ratio(times["http"], times["weft"])
    return {
        "raced_rows": len(contest.rows),
        **found,
        "seconds": {name: Summary.of(values).json() for name, values in times.items()},
        "wall_seconds": {name: median(values) for name, values in walls.items()},
        "work": work,
        "longest_prefix": best.longest_prefix,
        "http_speedup": speedup.median,
        "http_speedup_range": [speedup.low, speedup.high],
        "http_wall_speedup": median(walls["http"]) / median(walls["weft"]),
        "http_over_requests": ratio(times["http"], times["requests"]).median,
    }
