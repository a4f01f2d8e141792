"""A scripted endpoint: answers in turn what a test gives, and remembers what it was asked."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

Body = dict[str, Any]


@dataclass
class Reply:
    """An answer: a status and a body, a stream of chunks (bytes are sent as they are), or a
    connection that breaks."""

    status: int = 200
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    chunks: list[Any] | None = None
    cut: bool = False
    wait: float = 0.0


@dataclass
class Fake:
    """The endpoint: `replies` in turn (a function is given the body), the last one for ever."""

    replies: list[Reply | Callable[[Body], Reply]] = field(default_factory=list)
    models: list[Body] | None = field(default_factory=lambda: [{"id": "m", "owned_by": "test"}])
    asked: list[tuple[str, Body]] = field(default_factory=list)
    keys: set[str | None] = field(default_factory=set)
    missing: set[str] = field(default_factory=set)
    together: int = 0
    """Answers begin when so many calls have been under way at once, or never come to be."""
    most: int = 0
    """How many calls were under way at once."""
    port: int = 0
    running: int = 0
    _lock: Any = field(default_factory=threading.Condition)

    @staticmethod
    def said(text: str, finish: str = "stop", **more: Any) -> Reply:
        """A whole answer, of a chat call and of a completion alike."""
        choice = {"index": 0, "text": text, "message": {"role": "assistant", "content": text},
                  "finish_reason": finish, **more}  # fmt: skip
        usage = {"prompt_tokens": 7, "completion_tokens": len(text.split())}
        return Reply(body={"choices": [choice], "usage": usage})

    @staticmethod
    def streamed(pieces: list[str], finish: str | None = "stop") -> Reply:
        """An answer in pieces; without a finish, one that just ends."""
        chunks: list[Any] = [
            {"choices": [{"index": 0, "text": piece, "delta": {"content": piece}}]}
            for piece in pieces
        ]
        if finish:
            chunks += [
                {"choices": [{"index": 0, "text": "", "delta": {}, "finish_reason": finish}]}
            ]
        return Reply(chunks=chunks)

    @staticmethod
    def failed(status: int, message: str = "no", **headers: str) -> Reply:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return Reply(status, {"error": {"message": message, "code": None}}, named)

    @property
    def model(self) -> str:
        return f"openai:http://127.0.0.1:{self.port}/v1#m"

    def answers(self, *replies: Reply | Callable[[Body], Reply]) -> Fake:
        self.replies = list(replies)
        return self

    @property
    def prompts(self) -> list[Any]:
        return [body.get("messages", body.get("prompt")) for _, body in self.asked]

    def reply(self, path: str, body: Body) -> Reply:
        with self._lock:
            self.running += 1  # before the test can know of it
            self.asked.append((path, body))
            found = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
            self.most = max(self.most, self.running)
            self._lock.notify_all()
            self._lock.wait_for(lambda: self.most >= self.together, 60)
        try:
            found = found if isinstance(found, Reply) else found(body)
            time.sleep(found.wait)
            return found
        finally:
            with self._lock:
                self.running -= 1


def handler_of(fake: Fake) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            fake.keys.add(self.headers.get("Authorization"))
            known = fake.models is not None
            self._send(Reply(200 if known else 404, {"data": fake.models} if known else {}))

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            fake.keys.add(self.headers.get("Authorization"))
            path = self.path.removeprefix("/v1")
            gone = path in fake.missing
            self._send(Reply(404, {"detail": "Not Found"}) if gone else fake.reply(path, body))

        def _send(self, reply: Reply) -> None:
            if reply.chunks is not None:
                self._stream(reply)
                return
            data = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
            self.send_response(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data) + 10 * reply.cut))
            self.end_headers()
            self.wfile.write(data)
            self.close_connection = self.close_connection or reply.cut

        def _stream(self, reply: Reply) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Connection", "close")
            self.end_headers()
            try:
                for chunk in reply.chunks or []:
                    plain = isinstance(chunk, bytes)
                    data = chunk if plain else f"data: {json.dumps(chunk)}\n\n".encode()
                    self.wfile.write(data)
                    self.wfile.flush()
            except OSError:
                return  # the client has heard enough

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    return Handler


class Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that have gone: some tests are about that."""


@pytest.fixture
def fake() -> Iterator[Fake]:
    fake = Fake()
    server = Server(("127.0.0.1", 0), handler_of(fake))
    server.daemon_threads = True
    fake.port = server.server_address[1]
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
    yield fake
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Back off in milliseconds."""
    from weft.runtime.remote import service

    monkeypatch.setattr(service, "FIRST_DELAY", 0.001)
    monkeypatch.setattr(service, "LONGEST_DELAY", 0.01)
