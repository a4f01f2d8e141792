"""Cuts a partitioned step into functions, one a section, that are lowered each for its place.

A function's arguments and results have the names of their roles: `x` the residual stream, `qkv`,
`q`, `seen` on the way through attention, `normed`, `weights`, `order`, `starts` what the router
gives, `rows` the experts' rows by pair, `logits`. Weights of experts become arguments: `gate_up`
and `down` are pages in any order, and `places` says which page an expert is.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ...ir.core import Operation, Region, Symbol, Value, make
from ...ir.types import dtype_of, shape_of, tensor
from ..rewrite import substitute

_RESULTS = {
    "embed": "x", "pre": "qkv", "append": "q", "attend": "seen", "experts": "rows", "combine": "x",
    "head": "logits",
}  # fmt: skip
_ROUTED = {
    "graph.moe_route": ("weights", "chosen"), "graph.moe_dispatch": ("order", "starts"),
    "graph.rmsnorm": ("normed",), "graph.add": ("x",), "graph.add_rmsnorm": ("x", "normed"),
}  # fmt: skip
PAGE_PARTS = ("gate_up", "down")
"""The roles of an expert's weights, in the order in which its matmuls come."""


@dataclass(frozen=True)
class Section:
    """A function of one section: what it is, of which layer (-1: none), where it runs.

    `results` are the roles of what it returns; `weights` are the `graph.weight` operations of an
    experts section, which its function has not.
    """

    kind: str
    place: str
    layer: int
    function: Operation
    results: tuple[str, ...] = ()
    weights: tuple[Operation, ...] = ()

    @property
    def name(self) -> str:
        """Its function's name."""
        return self.function["name"].name


def cut(function: Operation) -> list[Section]:
    """Return the sections of a partitioned `graph.func`, in order."""
    roles = {value.name: value.name for value in function.regions[0].arguments}
    sections = []
    for operation in function.regions[0].operations:
        if operation.name == "graph.section":
            sections.append(_section(function, operation, roles))
        elif operation.results:  # transfers and joins keep the role
            roles[operation.result.name] = roles[operation.operands[0].name]
    return sections


def _section(function: Operation, operation: Operation, roles: dict[str, str]) -> Section:
    kind, place = operation["kind"].name, operation["place"].name
    layer = operation.attribute("layer", -1)
    body = operation.regions[0].operations
    _name_results(kind, operation, roles)
    own = {value.name for op in body for value in op.results}
    outer = {v.name: v for op in body for v in op.operands if v.name not in own}
    renamed = {name: Value(roles[name], value.type) for name, value in outer.items()}
    arguments = {value.name: value for value in renamed.values()}
    weights: tuple[Operation, ...] = ()
    if kind == "experts":
        body, pages, weights = _paged(body)
        arguments |= pages
    inner = tuple(substitute(_ended(op), renamed) for op in body)
    suffix = f"_{layer}" if layer >= 0 else ""
    made = make(
        "graph.func", name=Symbol(f"{kind}{suffix}" + ("_host" if place == "host" else "")),
        model=function.attribute("model"), config=function["config"],
        regions=(Region(tuple(arguments.values()), inner),),
    )  # fmt: skip
    results = tuple(roles[value.name] for value in operation.results)
    return Section(kind, place, layer, made, results, weights)


def _name_results(kind: str, operation: Operation, roles: dict[str, str]) -> None:
    body = operation.regions[0].operations
    makers = {v.name: (op, place) for op in body for place, v in enumerate(op.results)}
    for result, given in zip(operation.results, body[-1].operands, strict=True):
        maker, place = makers[given.name]
        roles[result.name] = _ROUTED[maker.name][place] if kind == "route" else _RESULTS[kind]


def _ended(operation: Operation) -> Operation:
    return replace(operation, name="graph.return") if operation.name == "graph.yield" else operation


def _paged(
    body: tuple[Operation, ...],
) -> tuple[tuple[Operation, ...], dict[str, Value], tuple[Operation, ...]]:
    """Return a body whose experts are pages, the arguments for them, the weights taken out."""
    weights = {op.result.name: op for op in body if op.name == "graph.weight"}
    arguments: dict[str, Value] = {}
    used: list[Operation] = []
    out: list[Operation] = []
    for operation in body:
        if operation.name == "graph.weight":
            continue
        if operation.name == "graph.moe_expert":
            x, w, order, starts = operation.operands
            type = weights[w.name].result.type
            experts, n, k = shape_of(type)
            role = PAGE_PARTS[len(used)]
            arguments[role] = Value(role, tensor(dtype_of(type), "S", n, k))
            arguments["places"] = Value("places", tensor("i32", experts))
            used.append(weights[w.name])
            operands = (x, arguments[role], order, starts, arguments["places"])
            operation = replace(operation, operands=operands).with_attributes(experts=None)
        out.append(operation)
    return tuple(out), arguments, tuple(used)
