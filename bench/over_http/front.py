"""The front: HTTP and JSON, text to tokens and back, in a process beside the engine's.

It does what vLLM's API server and SGLang's tokenizer manager do, with less between: uvicorn calls
this application, and no framework on top of it. `python -m bench.over_http.front MODEL FD`: the
channel to the engine is the open file FD; it is told the port first, and its end ends the front.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from itertools import count
from typing import Any

import uvicorn
from weft.frontend.checkpoints.checkpoint import open_checkpoint
from weft.ir.vocabulary import Tokenizer

from ..contest.asked import KINDS, Asked, Told, decode, encode
from .channel import Frames, frame

HOST, HEALTH = "127.0.0.1", "health"
_JSON = (b"content-type", b"application/json")
GONE = "the engine has ended"

Send = Callable[[dict[str, Any]], Awaitable[None]]
Receive = Callable[[], Awaitable[dict[str, Any]]]


class Front:
    """An ASGI application: `POST /generate`, `/score` and `/prefill`, and `GET /health`."""

    def __init__(self, tokenizer: Tokenizer, engine: socket.socket) -> None:
        self._tokenizer = tokenizer
        self._engine = engine
        self._numbers = count()
        self._open: dict[int, asyncio.Future[Any]] = {}
        self._arrived: list[tuple[Any, ...]] = []
        self._writer: asyncio.StreamWriter | None = None
        self._ended = False
        self.server: uvicorn.Server | None = None

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            raise ValueError(f"no {scope['type']} is served here")
        body = b""
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message["body"]
            if not message.get("more_body"):
                break
        status, found = await self._answer(scope["path"][1:], body)
        content = json.dumps(found).encode()
        headers = [_JSON, (b"content-length", b"%d" % len(content))]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": content})

    async def _answer(self, kind: str, body: bytes) -> tuple[int, dict[str, Any]]:
        """Return a status and what is to be said."""
        if kind == HEALTH:
            return 200, {}
        if kind not in KINDS:
            return 404, {"error": f"no {kind!r} is served here"}
        try:
            asked = Asked.of(kind, json.loads(body))
            tokens = encode(self._tokenizer, asked)
        except (AttributeError, TypeError, ValueError) as error:
            return 400, {"error": f"{type(error).__name__}: {error}"}
        found = await self._ask(replace(asked, parts=()), tokens)
        if not isinstance(found, Told):
            return 500, {"error": found}
        said = decode(self._tokenizer, asked, found)
        return 200, {"text": said.text, "logprobs": said.logprobs}

    def _ask(self, *asked: Any) -> asyncio.Future[Any]:
        """Ask the engine, with all that arrives in the same turn of the loop."""
        loop, number = asyncio.get_running_loop(), next(self._numbers)
        answer = loop.create_future()
        if self._ended:
            answer.set_result(GONE)
            return answer
        if not self._arrived:
            loop.call_soon(self._flush)
        self._arrived.append((number, *asked))
        self._open[number] = answer
        return answer

    def _flush(self) -> None:
        arrived, self._arrived = self._arrived, []
        assert self._writer is not None
        self._writer.write(frame(arrived))

    async def listen(self) -> None:
        """Give what the engine tells to those who wait for it, until the engine ends."""
        reader, self._writer = await asyncio.open_connection(sock=self._engine)
        frames = Frames()
        with suppress(ConnectionError):  # an engine that has died with requests unread
            while data := await reader.read(1 << 20):
                for told in frames.feed(data):
                    for number, found in told:
                        answer = self._open.pop(number)
                        if not answer.done():
                            answer.set_result(found)
        self._ended = True
        for answer in self._open.values():
            if not answer.done():
                answer.set_result(GONE)
        if self.server is not None:
            self.server.should_exit = True

    async def serve(self, listening: socket.socket) -> None:
        """Serve HTTP until the engine ends."""
        config = uvicorn.Config(
            self, log_level="warning", access_log=False, lifespan="off", ws="none",
            timeout_keep_alive=3600, server_header=False, date_header=False,
        )  # fmt: skip
        self.server = uvicorn.Server(config)
        heard = asyncio.create_task(self.listen())
        await self.server.serve(sockets=[listening])
        heard.cancel()


def listen_anywhere() -> socket.socket:
    """Return a socket that listens on a free port of this machine alone."""
    return socket.create_server((HOST, 0), backlog=2048)


def run(front: Front, listening: socket.socket) -> None:
    """Serve in the fastest event loop that is there."""
    factory = uvicorn.Config(front).get_loop_factory()
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(front.serve(listening))


def main() -> None:
    """Serve the model's text for the engine at the other end of the channel."""
    engine = socket.socket(fileno=int(sys.argv[2]))
    front = Front(open_checkpoint(sys.argv[1]).tokenizer, engine)
    listening = listen_anywhere()
    engine.sendall(frame(listening.getsockname()[1]))
    run(front, listening)


if __name__ == "__main__":
    main()
