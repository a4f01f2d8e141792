"""Which rank of a run has ended: each holds a port while it lives, at which the others may look.

An exchange that fails says that some rank is lost, not which: with three and more, those that
fail next fail because of those that failed first. So who finds a rank lost writes it down where
all can read it, and who comes later reads that.
"""

from __future__ import annotations

import errno
import socket
import time
import zlib

import torch
from torch.distributed.distributed_c10d import Store

HERE = "127.0.0.1"
LOST = "weft/lost"
"""The key of the store under which the ranks that were lost first stand, as "1" or "1 3"."""

GIVEN_S = 5.0
"""How long a rank that is lost may take to end: its connections close before its port does."""
LOOKED_S = 0.01


class Lives:
    """The ranks of a run, by the ports that they hold.

    `store` is where the ranks met. Ranks of other machines hold ports that cannot be looked at from
    here: they count as living.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._held = socket.create_server((HERE, 0))
        self._ports: dict[int, int] = {}

    def own(self) -> torch.Tensor:
        """Return what the others need to know of this rank: its port, and its machine."""
        machine = zlib.crc32(socket.gethostname().encode())
        return torch.tensor([self._held.getsockname()[1], machine])

    def know(self, all_ranks: list[torch.Tensor]) -> None:
        """Take what each rank's `own` has given, in order."""
        machine = int(self.own()[1])
        found = (each.tolist() for each in all_ranks)
        self._ports = {rank: port for rank, (port, at) in enumerate(found) if at == machine}

    def lost(self) -> list[int]:
        """Return the ranks that ended first; none where all those that can be looked at live."""
        if noted := self._noted():
            return noted
        until = time.monotonic() + GIVEN_S
        while not (ended := [rank for rank, port in self._ports.items() if not _holds(port)]):
            if time.monotonic() > until:
                return []
            time.sleep(LOOKED_S)
        return self._note(ended)

    def close(self) -> None:
        """Give the port back: this rank has ended its part of the run."""
        self._held.close()

    def _noted(self) -> list[int]:
        try:
            return _ranks(self._store.get(LOST)) if self._store.check([LOST]) else []
        except RuntimeError:
            return []  # the store has ended with the rank that held it

    def _note(self, ended: list[int]) -> list[int]:
        try:
            return _ranks(self._store.compare_set(LOST, "", " ".join(map(str, ended))))
        except RuntimeError:
            return ended


def named(lost: list[int]) -> str:
    """Return how a message calls ranks that were lost."""
    if not lost:
        return "another rank"
    return f"rank{'s' * (len(lost) > 1)} {' and '.join(map(str, lost))}"


def _ranks(noted: bytes) -> list[int]:
    return [int(rank) for rank in noted.split()]


def _holds(port: int) -> bool:
    """Return whether a process listens at a port of this machine: it does not answer, so its queue
    of those who look may be full, which is no refusal."""
    with socket.socket() as probe:
        probe.settimeout(GIVEN_S)
        return probe.connect_ex((HERE, port)) != errno.ECONNREFUSED
