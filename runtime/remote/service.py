"""One endpoint over HTTP: bounded concurrency, retries with back-off, errors that help."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from ...ir.display.units import counted
from .address import Address
from .errors import (
    BadRemoteModel,
    CutStream,
    Malformed,
    MissingPackage,
    MissingRoute,
    Refused,
    ServerFailed,
    UnknownRemoteModel,
    UnnamedRemoteModel,
    Unreachable,
    UnsendableKey,
)
from .failures import Passing, delay_of, refusal
from .line import Cancelled, Line, Over

if TYPE_CHECKING:
    import ssl

    import httpx

T = TypeVar("T")
CONNECT_SECONDS = 10.0
FIRST_DELAY = 0.25
LONGEST_DELAY = 20.0
_NO_DATA = (":", "event:", "id:", "retry:")
"""What lines of a stream of events begin with that hold no data."""


class Settings(Protocol):
    """The options that calls depend on; see `options.RemoteOptions`."""

    @property
    def concurrency(self) -> int: ...  # noqa: D102
    @property
    def timeout(self) -> float: ...  # noqa: D102
    @property
    def retries(self) -> int: ...  # noqa: D102
    @property
    def key(self) -> str: ...  # noqa: D102


class _BadStatus(Exception):
    """An answer whose status says that there is none."""

    def __init__(self, status: int, text: str, headers: Any) -> None:
        super().__init__(status)
        self.status = status
        self.text = text
        self.headers = headers


@dataclass
class Counts:
    """What a service has done since it was made."""

    calls: int = 0
    retries: int = 0


def need_packages() -> None:
    """Raise MissingPackage where what speaks to endpoints is not installed."""
    for package in ("httpx", "tenacity"):
        if find_spec(package) is None:
            raise MissingPackage(package=package)


class Service:
    """Speaks to one endpoint; threads may share it."""

    def __init__(self, address: Address, settings: Settings) -> None:
        self.address = address
        self.counts = Counts()
        self._settings = settings
        self._key = settings.key.strip()  # a file's last line end is no part of it
        self._slots = threading.BoundedSemaphore(settings.concurrency)
        self._lock = threading.Lock()
        self._listing = threading.Lock()
        self._lines: list[Line] = []
        self._tls: ssl.SSLContext | None = None
        self._models: list[dict[str, Any]] | None = None

    def models(self) -> list[dict[str, Any]]:
        """Return the entries of the endpoint's model list; none where it has no list."""
        with self._listing:
            if self._models is None:
                self._models = self._fetch_models()
            return self._models

    def name(self) -> str:
        """Return the model's name; raises UnnamedRemoteModel where none was given, and none or
        several are listed."""
        if self.address.name:
            return self.address.name
        names = self.names()
        if len(names) != 1:
            known = ", ".join(map(repr, names)) or "none"
            raise UnnamedRemoteModel(url=self.address.base, known=known)
        return names[0]

    def names(self) -> list[str]:
        """Return the names of the models that the endpoint lists."""
        return [str(entry.get("id")) for entry in self.models()]

    def unknown(self, what: str, name: str) -> UnknownRemoteModel:
        """Return the error for a name that is not served."""
        known = ", ".join(map(repr, self.names())) or "nothing that it lists"
        return UnknownRemoteModel(url=self.address.base, what=what, name=name, known=known)

    def post(self, path: str, body: dict[str, Any], what: str, over: Over) -> Any:
        """Return the JSON answer to a call; `what` names the statement, `over` cancels it."""

        def once() -> Any:
            with self._sent("POST", path, body, what, over) as response:
                return self._json(response.read(), what)

        return self.attempt(once, over)

    @contextmanager
    def chunks(
        self, path: str, body: dict[str, Any], what: str, over: Over
    ) -> Iterator[Iterator[Any]]:
        """Send a call whose answer is streamed, once; gives the chunks' JSON as they come."""
        with self._sent("POST", path, body, what, over) as response:
            yield self._events(response, what)

    def attempt(self, once: Callable[[], T], over: Over) -> T:
        """Run `once` until it does not fail in passing; waits longer and longer in between."""
        import tenacity

        def count(state: Any) -> None:
            with self._lock:
                self.counts.retries += 1

        def rest(seconds: float) -> None:
            if over.wait(seconds):
                raise Cancelled

        tries = self._settings.retries + 1
        backoff = tenacity.wait_random_exponential(FIRST_DELAY, LONGEST_DELAY)
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(Passing),
            stop=tenacity.stop_after_attempt(tries),
            wait=lambda state: max(backoff(state), _asked(state)),
            before_sleep=count,
            sleep=rest,
            reraise=True,
        )
        try:
            return retrying(once)
        except Passing as failure:
            raise self._final(failure, tries) from None

    def _final(self, failure: Passing, tries: int) -> Exception:
        url, problem, made = self.address.base, failure.problem, counted(tries, "attempt")
        if failure.kind == "cut":
            return CutStream(url=url, problem=problem, tries=made)
        if failure.kind == "network":
            return Unreachable(url=url, problem=problem, tries=made)
        return ServerFailed(url=url, problem=problem, status=failure.kind, tries=made)

    @contextmanager
    def _sent(
        self, method: str, path: str, body: Any, what: str, over: Over
    ) -> Iterator[httpx.Response]:
        """Send a request; its answer's status is good. Network failures become `Passing`."""
        try:
            with self._slots, self._line(over) as line:
                with self._answered(line, method, path, body) as response:
                    yield response
        except Passing:
            if over.is_set():  # the connection was shut
                raise Cancelled from None
            raise
        except _BadStatus as bad:  # the slot is free again: the model list may be asked for
            raise self._refused(bad, path, what) from None

    @contextmanager
    def _answered(self, line: Line, method: str, path: str, body: Any) -> Iterator[httpx.Response]:
        import httpx

        with self._lock:
            self.counts.calls += method == "POST"
        url, traced = self.address.url(path), {"trace": line.hear}
        try:
            with line.client.stream(method, url, json=body, extensions=traced) as response:
                if response.status_code != 200:
                    text = response.read().decode("utf-8", "replace")
                    raise _BadStatus(response.status_code, text, response.headers)
                yield response
        except httpx.TimeoutException as error:
            problem = f"no answer within {self._settings.timeout:g} s"
            raise Passing("network", problem) from error
        except (httpx.RemoteProtocolError, httpx.DecodingError) as error:
            raise Passing("cut", str(error)) from error
        except (httpx.TransportError, httpx.StreamError) as error:
            raise Passing("network", str(error) or type(error).__name__) from error
        except httpx.InvalidURL as error:
            raise BadRemoteModel(model=str(self.address), problem=str(error)) from None

    def _refused(self, bad: _BadStatus, path: str, what: str) -> Exception:
        text = bad.text.replace(self._key, "***") if self._key else bad.text
        found = refusal(bad.status, text, self.address.base, path, what, delay_of(bad.headers))
        name = self.address.name
        told = "model" in text.lower() or repr(name) in text
        about_model = bad.status == 404 or (bad.status == 400 and told)
        if about_model and path != "/models" and name:
            listed = self.names()
            if listed and name not in listed:
                return self.unknown("model", name)
        return found

    def _events(self, response: httpx.Response, what: str) -> Iterator[Any]:
        """Yield the data of server-sent events; a stream that just ends, be it within a line, is
        `Passing`. A server that does not stream answers at once, as if it had not been asked to.
        """
        ended, other, broken = False, "", None
        streams = "text/event-stream" in response.headers.get("content-type", "")
        for line in response.iter_lines():
            if broken is not None:  # not the last line: nothing was cut
                raise broken
            if not line.startswith("data:"):
                other += "" if line.startswith(_NO_DATA) else line
                continue
            data, streams = line[5:].strip(), True
            if data == "[DONE]":
                return
            try:
                chunk = self._json(data, what)
            except Malformed as error:
                broken = error
                continue
            if chunk.get("error"):
                raise Passing("cut", f"the stream has an error: {str(chunk['error'])[:200]}")
            ended = ended or _finishes(chunk)
            yield chunk
        if other.strip() and not streams:
            chunk = self._json(other, what)
            if first_choice(chunk) is None:
                raise Malformed(what=what, url=self.address.base, problem="it has no choices")
            yield chunk
        elif not ended:
            raise Passing("cut", "the stream has no end")

    def _json(self, data: bytes | str, what: str) -> Any:
        try:
            found = json.loads(data)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            shown = data[:80] if isinstance(data, str) else data[:80].decode("utf-8", "replace")
            problem = f"{shown!r} is no JSON object"
            raise Malformed(what=what, url=self.address.base, problem=problem)
        return found

    def _fetch_models(self) -> list[dict[str, Any]]:
        over = Over()

        def once() -> Any:
            try:
                with self._sent("GET", "/models", None, "the model list", over) as response:
                    return self._json(response.read(), "the model list")
            except Passing as failure:
                if failure.kind == "network":
                    raise
                return {}  # a list that fails is no list: the calls themselves will tell

        try:
            found = self.attempt(once, over)
        except (MissingRoute, Refused, Malformed):
            return []
        data = found.get("data")
        return (
            [entry for entry in data if isinstance(entry, dict)] if isinstance(data, list) else []
        )

    @contextmanager
    def _line(self, over: Over) -> Iterator[Line]:
        """Give a connection that no other call has, the one used last; `over` shuts it."""
        with self._lock:
            line = self._lines.pop() if self._lines else self._opened()
        try:
            with over.shuts(line):
                yield line
        finally:
            with self._lock:
                self._lines.append(line)

    def _opened(self) -> Line:
        import httpx

        key = self._key
        if not (key.isascii() and key.isprintable()):
            raise UnsendableKey(url=self.address.base)
        self._tls = self._tls or httpx.create_ssl_context()
        client = httpx.Client(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(self._settings.timeout, connect=CONNECT_SECONDS),
            limits=httpx.Limits(max_connections=1),
            verify=self._tls,
        )
        return Line(client)


def first_choice(found: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the first choice of an answer, or of a chunk of one; None where it has none."""
    choices = found.get("choices")
    given = choices[0] if isinstance(choices, list) and choices else None
    return given if isinstance(given, dict) else None


def _finishes(chunk: dict[str, Any]) -> bool:
    """Say whether a chunk of a streamed answer, of whatever form, ends it."""
    choices = chunk.get("choices")
    found = choices if isinstance(choices, list) else []
    return any(isinstance(choice, dict) and choice.get("finish_reason") for choice in found)


def _asked(state: Any) -> float:
    """Return the seconds that the failed try's answer asked to wait."""
    failure = state.outcome.exception()
    return failure.delay if isinstance(failure, Passing) else 0.0
