"""The bounds prover: every access of a kernel is inside its buffer, for all launches that the
kernel's `requires` allows. Proofs are records that outlive z3."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ...ir import core, expression, types
from ...ir.core import Operation, Region, Value
from ...ir.diagnostics import KernelError, Note
from ...ir.dialects import region_checks, tile, tile_checks
from ...ir.dialects.tile import extents_of
from ...ir.dialects.tile_checks import WRITES
from ...ir.printer import print_operation

EFFORT = 10_000_000
"""Steps of z3's that an access may take, some ten seconds: the hardest takes a thousandth part. A
clock in their place would let a busy machine refuse kernels that are in bounds."""
_ACCESSES = WRITES | {"tile.load"}


class UnprovenAccess(KernelError):
    """An access that may leave its buffer, or that the prover could not decide."""

    template = "@{kernel}: index on axis {axis} of %{buffer} is not proven in bounds: {why}"
    hint = "mask the access, or state in `requires` what callers guarantee"


class ContradictoryFacts(KernelError):
    """Launch facts that no launch can meet."""

    template = "@{kernel}: no launch with {what} meets `requires`"


@dataclass(frozen=True)
class AccessProof:
    """One axis of one access: the operation as printed, how it was decided, in how many seconds."""

    operation: str
    buffer: str
    axis: int
    by: str
    seconds: float


@dataclass(frozen=True)
class BoundsProof:
    """What was proven of a kernel; `key` is the hash of the text that it speaks of."""

    kernel: str
    key: str
    accesses: tuple[AccessProof, ...]
    failures: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether every access is proven."""
        return not self.failures

    @property
    def seconds(self) -> float:
        """How long the proof took."""
        return sum(access.seconds for access in self.accesses)

    def to_json(self) -> str:
        """Return the proof as JSON."""
        return json.dumps(asdict(self), indent=1)

    @staticmethod
    def from_json(text: str) -> BoundsProof:
        """Return the proof that `to_json` wrote."""
        read = json.loads(text)
        accesses = tuple(AccessProof(**access) for access in read["accesses"])
        return BoundsProof(read["kernel"], read["key"], accesses, tuple(read["failures"]))


def proof_key(kernel: Operation) -> str:
    """Return the name of a kernel's proof: a hash of its text and of the prover's."""
    return hashlib.sha256(f"{prover_digest()}\n{print_operation(kernel)}".encode()).hexdigest()


@cache
def prover_digest() -> str:
    """Return a hash of the prover's source, and of what it asks of the IR: proofs of an older
    prover count for nothing."""
    asked = (core, expression, region_checks, tile, tile_checks, types)
    files = [*sorted(Path(__file__).parent.glob("*.py")), *(Path(str(m.__file__)) for m in asked)]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def prove_bounds(
    kernel: Operation, effort: int = EFFORT, allow_unproven: bool = False
) -> BoundsProof:
    """Prove every load, store and atomic of a kernel in bounds, each by so many steps of z3's.

    Raises UnprovenAccess for the first access that fails, with a counter-example if one is
    known; with `allow_unproven`, the proof lists the failures instead.
    """
    prover = _Prover(kernel, effort, allow_unproven)
    prover.check_facts()
    prover.block(kernel.regions[0], [])
    name = kernel["name"].name
    return BoundsProof(name, proof_key(kernel), tuple(prover.proven), tuple(prover.failures))


class _Prover:
    """Walks a kernel with the conditions of the loops around each access."""

    def __init__(self, kernel: Operation, effort: int, lenient: bool) -> None:
        from .symbolic import Values

        self.kernel, self.lenient = kernel, lenient
        self.values = Values(kernel, effort)
        self.proven: list[AccessProof] = []
        self.failures: list[str] = []
        self._entered: list[tuple[Any, list[Any]]] = []

    def check_facts(self) -> None:
        """Refuse facts that no launch meets: anything would follow from them."""
        import z3

        name = self.kernel["name"].name
        with self.values.assuming([]) as solver:
            if solver.check() == z3.unsat:
                raise ContradictoryFacts(kernel=name, what="a program in its grid")
        if self.values.no_elements():
            raise ContradictoryFacts(kernel=name, what="an element in each buffer of its facts")

    def block(self, region: Region, path: list[Any]) -> None:
        """Prove the accesses of a region."""
        for operation in region.operations:
            if operation.name in _ACCESSES:
                self._access(operation, path)
            elif operation.name == "tile.for":
                (inner,) = operation.regions
                loop = self.values.loops[inner.arguments[0].name]
                self._entered.append((loop, path))
                self.block(inner, [*path, *loop.range()])

    def _access(self, operation: Operation, path: list[Any]) -> None:
        buffer, indices, mask, lane = self._parts(operation)
        active = [] if mask is None else [self.values.at(mask, lane)]
        for axis, (index, extent) in enumerate(
            zip(indices, self.values.contents.extents(buffer), strict=True)
        ):
            start = time.perf_counter()
            term = self.values.at(index, lane)
            how, obstacle = self._decide(term, extent, path + active)
            seconds = round(time.perf_counter() - start, 6)
            if obstacle is not None:
                self._fail(operation, axis, obstacle, term, extent, lane)
            else:
                shown = print_operation(operation)
                self.proven.append(AccessProof(shown, buffer.name, axis, how, seconds))

    def _parts(self, operation: Operation) -> tuple[Value, list[Value], Value | None, Any]:
        """Return buffer, indices, mask and fresh lanes of an access."""
        buffer, *rest = operation.operands
        shapes = [extents_of(v.type) for v in rest]
        rank = max(map(len, shapes), default=0)
        padded = [(1,) * (rank - len(shape)) + shape for shape in shapes]
        lane = self.values.lanes([max(extents) for extents in zip(*padded, strict=True)])
        mask = rest.pop() if operation.attribute("masked") else None
        valued = operation.name in ("tile.store", "tile.atomic_add")
        indices = rest[:-1] if valued else rest
        return buffer, indices, mask, lane

    def _decide(self, term: Any, extent: Any, path: list[Any]) -> tuple[str, Any]:
        """Return how it was proven, and else what stood in the way; seek invariants if needed."""
        if self._plain(term, extent):
            return "grid", None
        if self._obstacle(term, extent, path) is None:
            return "z3", None
        for loop, around in self._entered:
            loop.settle(around)
        return "invariant", self._obstacle(term, extent, path)

    def _plain(self, term: Any, extent: Any) -> bool:
        """Return whether the index is a constant inside, or a program id below that extent."""
        import z3

        if z3.is_int_value(term) and z3.is_int_value(extent):
            return 0 <= term.as_long() < extent.as_long()
        limits = [(p, self.kernel["grid"][axis]) for axis, p in enumerate(self.values.programs)]
        return any(term.eq(program) and str(extent) == limit for program, limit in limits)

    def _obstacle(self, term: Any, extent: Any, path: list[Any]) -> Any:
        """Return None if the index is inside, else a model in which it is not, or "unknown"."""
        import z3

        with self.values.assuming(path) as solver:
            answer = solver.check(z3.Not(z3.And(term >= 0, term < extent)))
            if answer == z3.unsat:
                return None
            return solver.model() if answer == z3.sat else "unknown"

    def _fail(
        self, operation: Operation, axis: int, model: Any, term: Any, extent: Any, lane: Any
    ) -> None:  # fmt: skip
        if model == "unknown":
            why = "the prover gave up after its time limit"
        else:
            why = "for example with " + ", ".join(self._example(model, term, extent, lane))
        error = UnprovenAccess(
            kernel=self.kernel["name"].name, axis=axis, buffer=operation.operands[0].name,
            why=why, span=operation.span,
            notes=(Note(f"in this operation: {print_operation(operation)}"),),
        )  # fmt: skip
        if not self.lenient:
            raise error
        self.failures.append(error.render())

    def _example(self, model: Any, term: Any, extent: Any, lane: Any) -> Iterator[str]:
        def value(part: Any) -> str:
            return str(model.eval(part, model_completion=True))

        for name, scalar in self.values.contents.scalars.items():
            yield f"{name} = {value(scalar)}"
        yield f"program ({', '.join(map(value, self.values.programs))})"
        for name, loop in self.values.loops.items():
            if any(found.name() == name for found in model.decls()):
                yield f"{name} = {value(loop.index)}"
        if lane:
            yield f"lane ({', '.join(map(value, lane))})"
        yield f"index {value(term)}, extent {value(extent)}"
