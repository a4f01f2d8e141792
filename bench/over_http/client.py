"""Clients over HTTP: programs walked as by the clients in the engine's process, requests by socket.

One process walks all rows. `python -m bench.over_http.client PORT FD` is told of runs over the
channel FD, and sends back the seconds from the first request to the last answer, and the answers.
"""

from __future__ import annotations

import socket
import sys
from functools import cache
from pathlib import Path
from time import perf_counter

from weft.compiler import Compilation
from weft.frontend.semantics.constraints import constraint_of
from weft.options import Options

from ..contest.driver import Program
from ..measure import as_a_server_does
from .channel import Channel, Ended
from .connections import HttpServer, post_of
from .jobs import BEGUN, Done, Job, Volley


def walk(server: HttpServer, program: Program, job: Job, channel: Channel) -> Done:
    """Walk a program for all rows; connections are open before, and the channel hears of it."""
    server.engine.warm(job.clients)
    with as_a_server_does():  # here too
        channel.send(BEGUN)
        start = perf_counter()
        answers = program.run_rows(server, job.rows, job.clients)
        seconds = perf_counter() - start
    return Done(seconds, answers)


def fire(server: HttpServer, volley: Volley) -> Done:
    """Send requests, the next one when one is answered."""
    engine, left = server.engine, volley.count
    engine.warm(volley.clients)
    start = perf_counter()
    while left or engine:
        while left and engine.busy < volley.clients:
            engine.submit(post_of(volley.asked))
            left -= 1
        engine.step()
    return Done(perf_counter() - start, [])


@cache
def program_of(path: Path, name: str | None, model: str, seed: int) -> Program:
    """Return a program as its author wrote it, with its model's chat format."""
    made = Compilation(path, model, name=name, options=Options.from_env())
    assert made.checkpoint is not None
    return Program(
        made.lowered, made.program_name, made.checkpoint.chat, constraint_of, made.opened.tools,
        seed,
    )  # fmt: skip


def main() -> None:
    """Make the runs that the engine's process asks for, until it ends."""
    channel = Channel(socket.socket(fileno=int(sys.argv[2])), "the engine")
    server = HttpServer(int(sys.argv[1]))
    try:
        while True:
            for job in channel.wait():
                if isinstance(job, Volley):
                    channel.send(fire(server, job))
                    continue
                program = program_of(job.path, job.program, job.model, job.seed)
                channel.send(walk(server, program, job, channel))
    except Ended:
        server.engine.close()


if __name__ == "__main__":
    main()
