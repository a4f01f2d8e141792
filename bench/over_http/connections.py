"""A server behind HTTP as a `TaskLoop` drives it: requests on connections that stay open.

One thread waits for all answers with `select`, where SGLang's interpreter has a thread a row. Of 64
requests at once each takes it 0.10 to 0.19 ms of a processor, JSON included; aiohttp takes 0.38 to
0.44 with uvloop, httpx over 8.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from selectors import EVENT_READ, DefaultSelector
from types import SimpleNamespace
from typing import Any

from weft.ir.diagnostics import RunError
from weft.runtime.programs.timed_tools import TimedTools

from ..contest.asked import Asked, Said
from ..contest.server import Step
from .channel import Ended
from .front import HEALTH, HOST

_END = b"\r\n\r\n"
_LENGTH = b"content-length: "
CLOSED = "the HTTP front has closed a connection"


class HttpError(RunError):
    """A request that the server refused, or could not answer."""

    template = "the server answered {status}: {error}"
    hint = ""


@dataclass(eq=False)
class Post:
    """One request: what is sent where, and the answer's status and body once it is there."""

    path: str
    body: bytes
    status: int = 0
    answer: bytes = b""
    error: None = None

    def bytes(self) -> bytes:
        """Return the request as HTTP has it."""
        head = f"POST /{self.path} HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: {len(self.body)}"
        return head.encode() + b"\r\ncontent-type: application/json\r\n\r\n" + self.body


def post_of(asked: Asked) -> Post:
    """Return a question as a request: its kind is the path, the rest JSON."""
    fields = {**vars(asked)}
    return Post(fields.pop("kind"), json.dumps(fields).encode())


class Connection:
    """A connection that stays open, with at most one request on its way."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection((HOST, port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.post: Post | None = None
        self._read = b""

    def send(self, post: Post) -> None:
        """Send a request."""
        self.post, self._read = post, b""
        try:
            self.socket.sendall(post.bytes())
        except OSError as error:
            raise Ended(CLOSED) from error

    def receive(self) -> Post | None:
        """Take what has come; return the request if its answer is whole."""
        try:
            data = self.socket.recv(1 << 20)
        except OSError:
            data = b""
        if not data:
            raise Ended(CLOSED)
        self._read += data
        head, found, body = self._read.partition(_END)
        if not found:
            return None
        length = head.lower().partition(_LENGTH)[2].partition(b"\r\n")[0]
        if not length.isdigit():
            raise Ended("the HTTP front has answered without a length")
        if len(body) < int(length):
            return None
        post, self.post = self.post, None
        assert post is not None
        post.status, post.answer = int(head.split(None, 2)[1]), body
        return post


class HttpEngine:
    """What a `TaskLoop` drives in place of an engine: a step waits for answers.

    Tools run in this thread, and at once: those of the programs here take microseconds.
    """

    trace, may_begin, now = None, False, 0.0

    def __init__(self, port: int) -> None:
        self.steps = 0
        self.executor = SimpleNamespace(tools=self._make_tools)
        self._port = port
        self._idle: list[Connection] = []
        self._busy: dict[Post, Connection] = {}
        self._selector = DefaultSelector()
        self._tools: TimedTools | None = None

    def _make_tools(self, records: Mapping[str, Any]) -> TimedTools:
        self._tools = TimedTools(records, self, lambda tool: 0.0)
        return self._tools

    def warm(self, connections: int) -> None:
        """Open connections, and have each used once."""
        for _ in range(connections - len(self._idle)):
            self._idle.append(self._connect())
        for _ in range(connections):
            self.submit(Post(HEALTH, b""))
        while self:
            self.step()

    def submit(self, post: Post) -> None:
        """Send a request."""
        connection = self._idle.pop() if self._idle else self._connect()
        self._busy[post] = connection
        connection.send(post)

    def step(self) -> list[Post]:
        """Wait until an answer comes, or a tool's; return the requests that are answered."""
        self.steps += 1
        done = []
        for key, _ in self._selector.select(0 if self._tools else None):
            if (post := key.data.receive()) is not None:
                self._idle.append(self._busy.pop(post))
                done.append(post)
        return done

    def cancel(self, post: Post) -> None:
        """Hang up: nobody wants the answer any more."""
        connection = self._busy.pop(post)
        self._selector.unregister(connection.socket)
        connection.socket.close()

    def close(self) -> None:
        """Close all connections."""
        for post in [*self._busy]:
            self.cancel(post)
        for connection in self._idle:
            connection.socket.close()
        self._selector.close()

    @property
    def busy(self) -> int:
        """How many requests are on their way."""
        return len(self._busy)

    def __bool__(self) -> bool:
        return bool(self._busy)

    def _connect(self) -> Connection:
        connection = Connection(self._port)
        self._selector.register(connection.socket, EVENT_READ, connection)
        return connection


class HttpServer:
    """A server as clients see it."""

    def __init__(self, port: int) -> None:
        self.engine = HttpEngine(port)

    def ask(self, asked: Asked) -> Step:
        """Return what is `Said`; raises HttpError."""
        post = yield post_of(asked)
        found = json.loads(post.answer)
        if post.status != 200:
            raise HttpError(status=post.status, error=found["error"])
        return Said(found["text"], found["logprobs"])
