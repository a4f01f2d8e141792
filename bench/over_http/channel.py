"""Messages between processes: pickled, with their length before them, over a pair of sockets."""

from __future__ import annotations

import pickle
import select
import socket
from typing import Any

_LENGTH = 4
_MOST = 1 << 20
"""Bytes taken at a time."""


class Ended(RuntimeError):
    """The process at the other end is gone."""


def frame(message: Any) -> bytes:
    """Return a message as bytes: its length, then the pickle."""
    body = pickle.dumps(message, 5)
    return len(body).to_bytes(_LENGTH, "little") + body


class Frames:
    """Puts messages together from bytes as they come."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, data: bytes) -> list[Any]:
        """Take bytes; return the messages that are whole now."""
        self._rest += data
        found, at = [], 0
        while len(self._rest) - at >= _LENGTH:
            begin = at + _LENGTH
            end = begin + int.from_bytes(self._rest[at:begin], "little")
            if end > len(self._rest):
                break
            found.append(pickle.loads(self._rest[begin:end]))
            at = end
        del self._rest[:at]
        return found


class Channel:
    """One end of a pair of sockets: a message is sent whole; those that came are taken at once.

    Who takes without waiting pays for a system call, not for a thread.
    """

    def __init__(self, end: socket.socket, name: str) -> None:
        """`name` says who is at the other end."""
        end.setblocking(True)
        self.name = name
        self._end = end
        self._frames = Frames()
        self._poll = select.poll()
        self._poll.register(end, select.POLLIN)

    def fileno(self) -> int:
        """Return what `select` waits for."""
        return self._end.fileno()

    def send(self, message: Any) -> None:
        """Send a message; raises Ended."""
        try:
            self._end.sendall(frame(message))
        except OSError as error:
            raise self._ended() from error

    def take(self) -> list[Any]:
        """Return what has come, and wait for nothing; raises Ended."""
        return self._read() if self._poll.poll(0) else []

    def wait(self) -> list[Any]:
        """Return at least one message; raises Ended."""
        found: list[Any] = []
        while not found:
            found = self._read()
        return found

    def close(self) -> None:
        """Close this end: the other one reads that it is over."""
        self._end.close()

    def _read(self) -> list[Any]:
        try:
            data = self._end.recv(_MOST)
        except OSError as error:
            raise self._ended() from error
        if not data:
            raise self._ended()
        return self._frames.feed(data)

    def _ended(self) -> Ended:
        return Ended(f"{self.name} has ended")
