"""Which tile operation each line of an emitted text comes from.

Operations are numbered as `ir.core.walk` meets them: 0 is the kernel itself. A line of TVMScript
may hold several, since values that are computed where they are used have no line of their own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from ..ir.core import Operation, Value, walk
from ..ir.schedule import Schedule
from .triton.emitter import Emitter as TritonEmitter
from .triton.gluon.emit import gluon_lines
from .tvm.emit import Emitter as TVMEmitter

Origins = tuple[int, ...]

_PTX_LOC = re.compile(r"^\s*\.loc\s")
_PTX_PLACES = re.compile(r"\b(?:loc\s+|inlined_at )1 (\d+) ")
_PTX_NOISE = re.compile(r"^\s*(?:\.loc|\.file|//|\$L__(?:tmp|func_))")


@dataclass(frozen=True)
class Located:
    """A text's lines, and for each the numbers of the operations that it comes from."""

    lines: tuple[str, ...]
    origins: tuple[Origins, ...]


def numbers_of(kernel: Operation) -> dict[int, int]:
    """Return the number of each operation of a kernel, by `id`."""
    return {id(operation): number for number, operation in enumerate(walk((kernel,)))}


def locate_tile(kernel: Operation) -> Located:
    """Return the tile IR text of a kernel; closing braces belong to what they close."""
    from ..ir.printer import located_lines

    numbers = numbers_of(kernel)
    pairs = list(located_lines((kernel,)))
    return Located(tuple(text for text, _ in pairs), tuple((numbers[id(op)],) for _, op in pairs))


def locate_triton(kernel: Operation, schedule: Schedule) -> Located:
    """Return the Triton file of a kernel, in Gluon where its schedule says so."""
    if schedule.specialised:
        pairs = list(gluon_lines(kernel, schedule))
        return Located(tuple(text for text, _ in pairs), tuple((at,) for _, at in pairs))
    emitter = _Triton(kernel, schedule)
    lines = emitter.file().split("\n")
    first = next(at for at, line in enumerate(lines) if line.startswith(f"def {emitter.name}(")) + 1
    body = dict(enumerate(emitter.origins, first))
    return Located(tuple(lines), tuple(body.get(at, (0,)) for at in range(len(lines))))


def locate_tvm(kernel: Operation, schedule: Schedule) -> Located:
    """Return the TVMScript of a kernel."""
    emitter = _TVM(kernel, schedule)
    lines = emitter.emit().rstrip("\n").split("\n")
    if sum(line.count("\n") + 1 for line, _ in emitter.noted) != len(lines):
        raise AssertionError("a line was written without being noted")
    origins = [found for text, found in emitter.noted for _ in text.split("\n")]
    return Located(tuple(lines), tuple(origins))


def locate_ptx(kernel: Operation, schedule: Schedule, arch: int = 90) -> Located:
    """Return a kernel's PTX for an NVIDIA architecture, linked by its line directives.

    What Triton's own library computes belongs to the line that calls it. Raises KernelError.
    """
    from .triton.compile import compile_offline

    source = locate_triton(kernel, schedule).origins
    lines: list[str] = []
    origins: list[Origins] = []
    now: Origins = ()
    text = str(compile_offline(kernel, schedule, arch)["ptx"])
    for line in text.split("\t.section")[0].split("\n"):
        if _PTX_LOC.match(line):
            places = [int(at) - 1 for at in _PTX_PLACES.findall(line)]
            found = [source[at] for at in places if 0 <= at < len(source)]
            outer = found[-1] if found else () if places else now
            now = next((each for each in found if each != (0,)), outer)
        elif line.strip() and not _PTX_NOISE.match(line):
            lines.append(line.replace("\t", "    ", 1).replace("\t", " "))
            origins.append(now)
    return Located(tuple(lines), tuple(origins))


class _Triton(TritonEmitter):
    def __init__(self, kernel: Operation, schedule: Schedule) -> None:
        super().__init__(kernel, schedule)
        self.origins: list[Origins] = []
        self._numbers = numbers_of(kernel)
        self._now: Origins = (0,)

    def _block(self, operations: Sequence[Operation | str]) -> None:
        outer = self._now
        super()._block(operations)
        self._now = outer

    def _begin(self, operations: Sequence[Operation | str]) -> None:
        numbers = tuple(self._numbers[id(op)] for op in operations if not isinstance(op, str))
        self._now = numbers or (0,)

    def _line(self, text: str) -> None:
        super()._line(text)
        self.origins.append(self._now)


class _TVM(TVMEmitter):
    """Notes which values a line was made of: those that were asked for since the line before."""

    def __init__(self, kernel: Operation, schedule: Schedule) -> None:
        super().__init__(kernel, schedule)
        self.noted: list[tuple[str, Origins]] = []
        self._numbers, self._now = numbers_of(kernel), 0
        self._makers = {
            value.name: self._numbers[id(op)] for op in walk((kernel,)) for value in op.results
        }
        self._used: dict[int, None] = {}
        write = self.out.line

        def line(text: str) -> None:
            write(text)
            self.noted.append((text, tuple(dict.fromkeys((self._now, *self._used)))))
            self._used.clear()

        self.out.line = line  # type: ignore[method-assign]

    def operation(self, operation: Operation) -> None:
        with self._at(self._numbers[id(operation)]):
            super().operation(operation)

    def of(self, value: Value):  # noqa: ANN202
        if value.name in self._makers:
            self._used[self._makers[value.name]] = None
        return super().of(value)

    @contextmanager
    def _at(self, number: int) -> Iterator[None]:
        outer, self._now = self._now, number
        yield
        self._now = outer
