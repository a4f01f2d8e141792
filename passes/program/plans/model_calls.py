"""Which parts of a program certainly call the model on the stream that they are given."""

from __future__ import annotations

from collections.abc import Mapping

from ....ir.core import Operation, Region, Term, walk

_EXITS = {"program.leave", "program.return"}


def always_calls(region: Region, records: Mapping[str, Operation]) -> bool:
    """Whether every run of a region makes a model call that reads the region's stream.

    Not counted: scores, whose text may be empty; gens that their type may force whole; loops,
    which may run no round; calls, which have streams of their own.
    """
    for operation in region.operations:
        if _calls(operation, records):
            return True
        if any(inner.name in _EXITS for inner in walk((operation,))):
            return False
    return False


def _calls(operation: Operation, records: Mapping[str, Operation]) -> bool:
    if operation.name == "program.gen":
        return has_a_choice(operation["type"], records)
    if operation.name == "program.select":
        return True
    if operation.name == "program.inline":
        return always_calls(operation.regions[0], records)
    if operation.name == "program.if":
        return all(always_calls(region, records) for region in operation.regions)
    return False


def has_a_choice(type: Term, records: Mapping[str, Operation]) -> bool:
    """Whether values of a type differ, so that the model must be asked for one."""
    if type.name == "choice":
        return len(set(type.parameters)) > 1
    if type.name == "int" and type.parameters:
        return type.parameters[0] != type.parameters[1]
    if type.name == "record":
        record = records.get(str(type.parameters[0]))
        fields = record["fields"] if record is not None else ()
        return any(has_a_choice(field["type"], records) for field in fields)
    return type.name in {"str", "int", "float", "bool"}
