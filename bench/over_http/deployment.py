"""The processes of the HTTP side: the front and the clients, beside the engine's own."""

from __future__ import annotations

import socket
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

from ..measure import ran_and_waited
from .channel import Channel, Ended
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
        self._few_cores = few_cores
        try:
            self.front = self._start("the HTTP front", "front", model)
            (self.port,) = self.front.wait()
            self.clients = self._start("the clients' process", "client", str(self.port))
        except BaseException:
            self.close()
            raise

    def run(self, server: Any, job: Job | Volley) -> Spent:
        """Let the clients make a run on an engine; return what came of it. Raises Ended."""
        before = self._ran()
        lost = Lost([process.pid for process in self._processes]) if self._few_cores else None
        self.clients.send(job)
        try:
            done = serve(server, self.front, self.clients, lost)
        except Ended:
            raise
        except Exception as error:  # the clients wait for answers that nobody gives any more
            self.close()
            raise Ended(f"the engine failed: {type(error).__name__}: {error}") from error
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
