"""Partitions a mixture-of-experts model between GPU and CPU, as a policy says.

The step becomes sections, each at one place, with transfers of what passes from one to another; the
experts of a layer are divided into those whose pages lie on the GPU, pass through it or stay with
the CPU. The pipeline that runs the sections stands beside the step, as data, and is proven.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from ...cost_model.pipelines import pipeline_shape
from ...cost_model.policy import Policy
from ...cost_model.policy_text import parse
from ...ir.core import Module, Names, Operation, Region, Term, Value, make
from ...ir.diagnostics import PassError
from ...ir.offload.page_formats import LOSSY, WIDE
from ...ir.offload.schedules import build_pipeline
from ...ir.types import shape_of, tensor
from ..manager import Context, GraphPass
from ..rewrite import substitute
from .hazards import prove_hazards
from .moe_sections import DEVICE, HOST, Piece, pieces
from .moe_slices import sliced

__all__ = ["MoePartition", "PolicyMismatch", "pipeline_shape", "schedule_of"]


class PolicyMismatch(PassError):
    """A policy made for a model of another shape."""

    template = "the policy places {policy}, but the model has {model}"
    hint = "search a policy for this model: weft tune"


@dataclass(frozen=True)
class MoePartition(GraphPass):
    """Places experts, attention and keys of a model by a policy, and builds its pipeline.

    A function's own `policy` (its text) counts where the pass has none; without either it leaves
    the model whole, and says so. `prove` asks for the hazard proof of the pipeline; `reasons` say
    how the policy came about.
    """

    policy: Policy | None = None
    prove: bool = True
    reasons: tuple[str, ...] = ()

    name: ClassVar[str] = "moe-partition"
    requires: ClassVar[tuple[str, ...]] = ("fused-rope-write",)
    ensures: ClassVar[tuple[str, ...]] = ("sections",)

    def run(self, module: Module, context: Context) -> Module:
        """Return the module with its step in sections, and the pipeline that runs them."""
        out: list[Operation] = []
        for operation in module.operations:
            is_step = operation.name == "graph.func"
            policy = (self.policy or _own_policy(operation)) if is_step else None
            if policy is None:
                if is_step:
                    context.left("no policy says what does not fit the GPU: the model stays whole")
                out.append(operation)
                continue
            out.append(_Partition(policy, operation, Names.of(module)).function())
            pipeline = build_pipeline(schedule_of(policy), pipeline_shape(policy))
            for reason in self.reasons:
                context.did(reason)
            _remark(policy, context)
            if self.prove:
                context.did(str(prove_hazards(pipeline)))
            out.append(pipeline.operation())
        return Module(tuple(out))


def _own_policy(function: Operation) -> Policy | None:
    text = function.attribute("policy")
    return None if text is None else parse(text)


def schedule_of(policy: Policy) -> str:
    """Return the schedule that runs a policy: attention on the GPU is S4's."""
    return "s4" if policy.attention == "gpu" else policy.schedule


def _remark(policy: Policy, context: Context) -> None:
    for number, layer in enumerate(policy.layers):
        parts = [
            f"{len(pages)} {word}"
            for word, pages in (
                ("resident", layer.resident), ("streamed", layer.streamed),
                ("on the CPU", layer.cpu), ("from disk", layer.disk),
            ) if pages
        ]  # fmt: skip
        context.did(f"layer {number}: {', '.join(parts)} of {len(layer)} pages")
    where = "CPU, beside its keys" if policy.attention == "cpu" else "GPU"
    context.did(f"attention on the {where}; schedule {policy.schedule}, ring of {policy.ring}")
    if policy.page_format in LOSSY:
        context.did(f"pages of experts in {policy.page_format}: lossy, tokens may differ")
    if policy.overlap:
        context.did(f"prompts beside decode, at most {policy.prefill_tokens} tokens of them a step")
    if policy.kv_gpu > 0:
        context.did(f"{policy.kv_gpu:.0%} of the pages of keys on the GPU")


GROUP = 8
"""Numbers that three words hold in twelve bits each."""

_DEVICE_HOMES = ("resident", "streamed", "disk")


class _Partition:
    """One function under partition: values by place, sections in order."""

    def __init__(self, policy: Policy, function: Operation, names: Names) -> None:
        self._policy, self._function, self._names = policy, function, names
        self._out: list[Operation] = []
        self._place: dict[str, str] = {}
        self._moved: dict[tuple[str, str], Value] = {}

    def function(self) -> Operation:
        """Return the function in sections."""
        self._check()
        self._function = sliced(self._function, self._policy.pages_per_expert)
        attention = HOST if self._policy.attention == "cpu" else DEVICE
        found = pieces(self._function, attention)
        used_after = _uses_after(found)
        for piece, used in zip(found, used_after, strict=True):
            self._add(piece, used)
        region = replace(self._function.regions[0], operations=tuple(self._out))
        changed = replace(self._function, regions=(region,))
        return changed.with_attributes(kv=Term(HOST))

    def _check(self) -> None:
        config, policy = self._function["config"], self._policy
        model = (config["layers"], config.get("experts", 0))
        if (len(policy.layers), policy.experts) != model:
            raise PolicyMismatch(
                policy=f"{policy.experts} experts in each of {len(policy.layers)} layers",
                model=f"{model[1]} in each of {model[0]}",
            )
        if config["ffn"] % policy.pages_per_expert:
            raise PolicyMismatch(
                policy=f"{policy.pages_per_expert} pages an expert",
                model=f"experts of {config['ffn']} rows, which do not divide into so many",
                hint="pages_per_expert must divide the width of an expert",
            )
        if policy.page_format == "int4" and config["ffn"] // policy.pages_per_expert % 2:
            raise PolicyMismatch(
                policy="pages of int4, two numbers a byte",
                model=f"slices of {config['ffn'] // policy.pages_per_expert} columns",
                hint="take slices of an even width, or int8 pages",
            )
        if policy.page_format in WIDE and any(layer.cpu for layer in policy.layers):
            wide = WIDE[policy.page_format]
            raise PolicyMismatch(
                policy=f"experts on the CPU, in pages of {policy.page_format}",
                model=f"kernels there that read {wide}, and nothing that unpacks for them",
                hint=f"take pages of {wide} (leave out page_format), or no experts on the CPU "
                "(cpu_experts=0)",
            )
        numbers = config["width"] * config["ffn"] // policy.pages_per_expert
        if policy.page_format == "bf12" and numbers % GROUP:
            raise PolicyMismatch(
                policy="pages of bf12, eight numbers in three words", model=f"{numbers} numbers",
                hint="take pages as the weights are",
            )  # fmt: skip

    def _add(self, piece: Piece, used: set[str]) -> None:
        if piece.kind == "return":
            (operation,) = piece.operations
            self._out.append(self._seen_from(operation, HOST))
        elif piece.kind == "experts":
            self._experts(piece, used)
        else:
            self._section(piece, piece.operations, used)

    def _experts(self, piece: Piece, used: set[str]) -> None:
        """The experts of both places, and their rows joined where the sum is taken."""
        layer = self._policy.layers[piece.layer]
        places = {DEVICE: (*layer.resident, *layer.ringed), HOST: layer.cpu}
        made: dict[str, tuple[Value, ...]] = {}
        for place, experts in places.items():
            if experts or (place == DEVICE and not places[HOST]):
                homes = {"host": layer.cpu}
                if place == DEVICE:
                    homes = {word: getattr(layer, word) for word in _DEVICE_HOMES}
                made[place] = self._section(
                    replace(piece, place=place), _only(piece.operations, sorted(experts)), used,
                    rename=place != DEVICE or not experts, **homes,
                )  # fmt: skip
        if len(made) == 2:
            self._join(piece, made, layer.cpu)
        elif HOST in made:
            (rows,), (original,) = made[HOST], [v for v in _made(piece) if v.name in used]
            self._rename(original, rows, HOST)

    def _join(self, piece: Piece, made: dict[str, tuple[Value, ...]], cpu: tuple[int, ...]) -> None:
        (rows,), (other,) = made[DEVICE], made[HOST]
        order, starts = next(op.operands[2:4] for op in piece.operations
                             if op.name == "graph.moe_expert")  # fmt: skip
        joined = self._names.value(rows.name, rows.type)
        self._out.append(self._seen_from(
            make("graph.moe_join", rows, self._at(other, DEVICE), order, starts,
                 results=(joined,), experts=cpu), DEVICE))  # fmt: skip
        self._rename(rows, joined, DEVICE)

    def _rename(self, old: Value, new: Value, place: str) -> None:
        """Let later uses of `old`, at the place where `new` is, mean `new`."""
        self._place[old.name] = place
        self._moved[old.name, place] = new
        if place != DEVICE:
            self._moved[old.name, DEVICE] = self._at(new, DEVICE)

    def _section(
        self, piece: Piece, operations: Iterable[Operation], used: set[str], rename: bool = False,
        **homes: tuple[int, ...],
    ) -> tuple[Value, ...]:  # fmt: skip
        """Append a section; its results have the names of the values that they stand for."""
        inner: dict[str, Value] = {}
        body, outputs = [], []
        for operation in operations:
            made = tuple(
                self._names.value(v.name, self._type_of(operation, v, piece))
                for v in operation.results
            )
            placed = self._seen_from(substitute(operation, inner), piece.place, inner)
            body.append(replace(placed, results=made))
            for value, copy in zip(operation.results, made, strict=True):
                inner[value.name] = copy
                if value.name in used:
                    outputs.append(value)
        results = tuple(self._names.value(v.name, v.type) if rename else v for v in outputs)
        body.append(make("graph.yield", *(inner[v.name] for v in outputs)))
        lists: dict[str, Any] = {word: list(pages) for word, pages in homes.items() if pages}
        self._out.append(make(
            "graph.section", results=results, regions=(Region((), tuple(body)),),
            kind=Term(piece.kind), place=Term(piece.place),
            layer=piece.layer if piece.layer >= 0 else None, **lists,
        ))  # fmt: skip
        self._place.update({value.name: piece.place for value in results})
        return results

    def _type_of(self, operation: Operation, value: Value, piece: Piece) -> Term:
        """Return a value's type; pages of experts may be narrower than the other weights."""
        narrow = piece.kind == "experts" and operation.name == "graph.weight"
        if narrow and self._policy.page_format in LOSSY:
            return tensor("i8", *shape_of(value.type))
        return value.type

    def _seen_from(
        self, operation: Operation, place: str, inner: dict[str, Value] | None = None
    ) -> Operation:
        """Return an operation whose operands are at the place, transferred where they were not."""
        own = {value.name for value in (inner or {}).values()}
        changes = {
            value.name: self._at(value, place)
            for value in operation.operands
            if value.name not in own and value.name in self._place
        }
        return substitute(operation, changes)

    def _at(self, value: Value, place: str) -> Value:
        """Return a value at a place; the step's inputs are at both."""
        if (value.name, place) in self._moved:
            return self._moved[value.name, place]
        if self._place[value.name] == place:
            return value
        moved = self._names.value(f"{value.name}_{place}", value.type)
        self._out.append(make("graph.transfer", value, results=(moved,), to=Term(place)))
        self._moved[value.name, place] = moved
        return moved


def _only(operations: Iterable[Operation], experts: list[int]) -> list[Operation]:
    """Return operations whose matmuls of experts are only of those listed."""
    return [op.with_attributes(experts=tuple(experts)) if op.name == "graph.moe_expert" else op
            for op in operations]  # fmt: skip


def _made(piece: Piece) -> list[Value]:
    return [value for operation in piece.operations for value in operation.results]


def _uses_after(found: list[Piece]) -> list[set[str]]:
    """Return, for each piece, the values that later pieces take; weights each declares itself."""
    weights = {v.name for piece in found for op in piece.operations
               if op.name == "graph.weight" for v in op.results}  # fmt: skip
    after: list[set[str]] = []
    used: set[str] = set()
    for piece in reversed(found):
        after.append(used - weights)
        used |= {value.name for op in piece.operations for value in op.operands}
    return after[::-1]
