"""One program instance: a plan's operations on host values and kv handles, as a coroutine."""

from __future__ import annotations

from typing import Any

from ..ir.core import Operation
from .control import ControlFlow, Step
from .frame import Frame, Handle
from .model_calls import ModelCalls, ProgramFailed
from .tasks import Branches


class Instance(ControlFlow, ModelCalls):
    """Runs one row of a plan; `run` is its coroutine."""

    def run(self) -> Step:
        """Run the plan; returns its value."""
        region = self._machine.function.regions[0]
        root = self._own(self._engine.create(self._order()), self.trunk)
        values = (Handle(root, 0), *self._arguments.values())
        _, results = yield from self._region(region, values, self.trunk)
        return results[0] if results else None

    def _fork(self, operation: Operation, frame: Frame) -> Step:
        over = frame.get(operation.operands[1])
        elements = list(range(over)) if isinstance(over, int) else over
        name = operation["name"]
        occurrence = frame.occurrence(name)
        parent = self._settle(operation.operands[0], frame)
        branches = [
            self._branch(operation, parent, element, frame.branch(name, occurrence, number))
            for number, element in enumerate(elements)
        ]
        results = yield Branches(branches)
        if len(operation.results) == 2:
            frame.bind(operation.results[1:], ([found[1] for found in results],))
        value = [found[0] if found else None for found in results]
        frame.bind(operation.results[:1], (value,))
        self._tell(frame, name, value)

    def _branch(self, operation: Operation, parent: Handle, element: Any, frame: Frame) -> Step:
        order = self._order()
        child = self._own(self._engine.fork(parent.sequence, parent.length, order), frame)
        values = (Handle(child, child.length), element)
        _, results = yield from self._region(operation.regions[0], values, frame)
        kept = {value.sequence for value in results if isinstance(value, Handle)}
        for sequence in list(frame.owned):
            if sequence not in kept:
                self._free_sequence(sequence)
        return results

    def _join(self, operation: Operation, frame: Frame) -> Step:
        """Go on with the stream of the branch that has most points, the first of equals."""
        handles, points = (frame.get(value) for value in operation.operands)
        if not handles or len(points) != len(handles):
            problem = f"join best has {len(handles)} branches and {len(points)} points"
            raise ProgramFailed(row=self.row, problem=problem, span=operation.span)
        best = max(range(len(points)), key=points.__getitem__)
        for number, handle in enumerate(handles):
            if number != best:
                self._free_sequence(handle.sequence)
        self._own(handles[best].sequence, frame)
        if not frame.path:
            self.stream = handles[best].sequence
        frame.bind(operation.results, (handles[best], best))
        return
        yield

    def _call_program(self, operation: Operation, operands: list[Any], frame: Frame) -> Step:
        """Run another program on a stream of its own; its samples are named by the call."""
        name = operation["name"].name
        label = f"call {name}"
        inner = Frame(self.row, (*frame.path, (label, frame.occurrence(label), 0)))
        root = self._own(self._engine.create(self._order()), inner)
        region = self._machine.programs[name].regions[0]
        _, results = yield from self._region(region, (Handle(root, 0), *operands), inner)
        for sequence in list(inner.owned):
            self._free_sequence(sequence)
        return results[0] if results else None
