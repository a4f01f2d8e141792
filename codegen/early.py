"""What a kernel may do before the kernel in front of it has ended."""

from __future__ import annotations

from ..ir.core import Operation

_ALONE = frozenset(
    f"tile.{name}" for name in "program_id full iota map expand reshape transpose reduce".split()
)
"""Operations that neither read nor write memory, and have no regions."""


def parted(kernel: Operation) -> tuple[list[Operation], list[Operation]]:
    """Return the operations of a kernel that need nothing of the kernels before, and the others.

    Such read no memory but what is `steady`, and take only what such operations give.
    """
    region, steady = kernel.regions[0], frozenset(kernel.attribute("steady") or ())
    known = {value.name for value in region.arguments}
    early: list[Operation] = []
    late: list[Operation] = []
    for operation in region.operations:
        reads_steady = operation.name == "tile.load" and operation.operands[0].name in steady
        alone = reads_steady or operation.name in _ALONE
        if alone and all(value.name in known for value in operation.operands):
            early.append(operation)
            known |= {value.name for value in operation.results}
        else:
            late.append(operation)
    return early, late
