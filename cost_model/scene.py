"""What one operation does (FLOPs, bytes by kind), and the scene in which it is priced."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..ir.core import Module, Operation, Term, Value
from ..ir.types import DTYPE_BYTES, dtype_of, shape_of
from .binding import Binding, Formats, weight_bytes


@dataclass(frozen=True)
class Work:
    """FLOPs and bytes of one operation; `dtype` is what its products are computed from."""

    flops: float = 0.0
    weight_bytes: float = 0.0
    activation_bytes: float = 0.0
    kv_read_bytes: float = 0.0
    kv_written_bytes: float = 0.0
    dtype: str = "f32"
    dense: bool = False
    """Matrix products (tensor cores, FMA tiles), not elementwise work."""

    @property
    def resident_bytes(self) -> float:
        """Bytes that live from step to step: weights and KV."""
        return self.weight_bytes + self.kv_read_bytes + self.kv_written_bytes

    @property
    def bytes(self) -> float:
        """All bytes moved."""
        return self.resident_bytes + self.activation_bytes

    @property
    def intensity(self) -> float:
        """Operational intensity: FLOPs a byte; 0 for an operation that moves nothing."""
        return self.flops / self.bytes if self.bytes else 0.0

    def __add__(self, other: Work) -> Work:
        """Both one after the other; the sum has the data type of the matrix products in it."""
        return Work(
            self.flops + other.flops,
            self.weight_bytes + other.weight_bytes,
            self.activation_bytes + other.activation_bytes,
            self.kv_read_bytes + other.kv_read_bytes,
            self.kv_written_bytes + other.kv_written_bytes,
            other.dtype if other.dense and not self.dense else self.dtype,
            self.dense or other.dense,
        )


@dataclass(frozen=True)
class Scene:
    """What pricing one operation needs to see around it."""

    binding: Binding
    formats: Formats
    definitions: Mapping[str, Operation]
    fused_states: frozenset[str] = frozenset()
    """Attention states that only a `graph.finalize` reads: one kernel makes and finishes them."""

    @staticmethod
    def of(module: Module, binding: Binding, formats: Formats = Formats()) -> Scene:  # noqa: B008
        """Return the scene of a module's operations; binds M, pairs of token and expert."""
        made = {value.name: op for op in module.walk() for value in op.results}
        for operation in module.walk():
            if operation.name in _CHOSEN:
                chosen = operation.operands[_CHOSEN[operation.name]]
                pairs = binding.elements(shape_of(chosen.type))
                dim = shape_of(operation.results[0].type)[0]
                if isinstance(dim, Term):
                    binding = binding.with_dims(**{dim.name: pairs})
        return Scene(binding, formats, made, _fused_states(module))

    def maker(self, value: Value) -> str:
        """Return the name of the operation that defines a value; '' for an argument."""
        operation = self.definitions.get(value.name)
        return operation.name if operation else ""

    def is_weight(self, value: Value) -> bool:
        """Return whether a value comes from the checkpoint."""
        return self.maker(value) == "graph.weight"

    def rows(self, value: Value) -> int:
        """Return the extent of the first axis."""
        return self.binding.size(shape_of(value.type)[0])

    def elements(self, value: Value) -> int:
        """Return how many elements a tensor has."""
        return self.binding.elements(shape_of(value.type))

    def activations(self, *values: Value) -> float:
        """Return the bytes of those values that are tensors and no weights."""
        tensors = (v for v in values if v.type.name == "tensor" and not self.is_weight(v))
        return float(sum(self.elements(v) * DTYPE_BYTES[dtype_of(v.type)] for v in tensors))

    def weight(self, value: Value, format: str | None = None) -> float:
        """Return the bytes of a weight [.., N, K] in its format (own, operation's, override)."""
        shape = shape_of(value.type)
        columns = self.binding.size(shape[-1])
        rows = self.binding.elements(shape[:-1])
        matrix = len(shape) > 1
        chosen = format or (self.formats.weight if matrix else None) or dtype_of(value.type)
        return weight_bytes(rows, columns, chosen)


def _fused_states(module: Module) -> frozenset[str]:
    readers: dict[str, list[str]] = {}
    for operation in module.walk():
        for value in operation.operands:
            if value.type.name == "state":
                readers.setdefault(value.name, []).append(operation.name)
    return frozenset(name for name, ops in readers.items() if ops == ["graph.finalize"])


_CHOSEN = {"graph.moe_dispatch": 0, "graph.moe_gated": 2}
"""Operations whose first result has M rows, and which operand has the experts of each pair."""
