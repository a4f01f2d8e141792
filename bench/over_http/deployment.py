"""The processes of the HTTP side: the front and the clients, beside the engine's own."""

from __future__ import annotations

import socket
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

from ..measure import ran_and_waited
from .channel import Channel
from .core import Lost, serve
from .jobs import Done, Job, Volley

END_WITHIN = 10.0
"""Seconds that a process gets to end by itself."""


@dataclass(frozen=True)
class Spent:
    """What came of a run, and seconds: that it waited for a core, and that the front and the
    clients had one."""

    done: Done
    waited: float
    front: float
    clients: float


class Deployment:
    """A front and a process of clients, which are up for many runs; this process has the engine.

    The port is one that was free; it is again when the front has ended. With `few_cores` it is
    counted how long a run waits for one: the engine's thread that could run, and the others while
    the engine had nothing to do.
    """

    def __init__(self, model: str, few_cores: bool = False) -> None:
        self._processes: list[subprocess.Popen[bytes]] = []
        self._channels: list[Channel] = []
        self._model, self._few_cores = model, few_cores
        self.start()

    def start(self) -> None:
        """Start both processes, in place of those that were there; raises Ended."""
        self.close()
        try:
            self.front = self._start("the HTTP front", "front", self._model)
            (self.port,) = self.front.wait()
            self.clients = self._start("the clients' process", "client", str(self.port))
        except BaseException:
            self.close()
            raise

    def run(self, server: Any, job: Job | Volley) -> Spent:
        """Let the clients make a run on an engine; return what came of it.

        Raises Ended, and EngineFailed, after which others can be made.
        """
        before = self._ran()
        lost = Lost([process.pid for process in self._processes]) if self._few_cores else None
        self.clients.send(job)
        done = serve(server, self.front, self.clients, lost)
        waited = 0.0 if lost is None else lost.seconds
        front, clients = (now - then for now, then in zip(self._ran(), before, strict=True))
        return Spent(done, waited, front, clients)

    def close(self) -> None:
        """End both processes: each reads that its channel is closed."""
        for channel in reversed(self._channels):
            channel.close()
        for process in self._processes:
            try:
                process.wait(END_WITHIN)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._channels, self._processes = [], []

    def __enter__(self) -> Deployment:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def _start(self, name: str, module: str, argument: str) -> Channel:
        ours, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, "-m", f"{__package__}.{module}", argument]
            self._processes.append(
                subprocess.Popen([*command, str(theirs.fileno())], pass_fds=[theirs.fileno()])
            )
        self._channels.append(Channel(ours, name))
        return self._channels[-1]

    def _ran(self) -> list[float]:
        return [ran_and_waited(process.pid)[0] for process in self._processes]
