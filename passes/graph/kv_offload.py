"""Sparse decode whose keys and values lie across a link: what is selected is fetched to a cache.

Behind `sparse-attention` and the fusions, `partial` over what is selected and over the ends becomes
one `partial` over what a `fetch` of both has brought: the union of disjoint kvsets, so nothing
changes but where keys lie. While a layer attends, the rows of the next one are fetched ahead: its
query is predicted by this layer's input through the next layer's norm, projection and rotation
(Double Sparsity's offloading, arXiv 2408.07092, section 4.3). A prediction that misses costs time
and changes nothing: what the query itself selects is fetched before it is read.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from ...ir.core import Module, Operation, Region, Term, Value, make
from ..manager import Context, GraphPass
from .body import Body, rewrite_functions


@dataclass(frozen=True)
class OffloadKeys(GraphPass):
    """Fetches what sparse layers read and, with `ahead`, what the next one is expected to."""

    ahead: bool = True

    name: ClassVar[str] = "offload-keys"
    requires: ClassVar[tuple[str, ...]] = ("labels",)

    def run(self, module: Module, context: Context) -> Module:
        """Return the module with fetches."""
        return rewrite_functions(module, lambda body: self._rewrite(body, context), _weights_first)

    def _rewrite(self, body: Body, context: Context) -> None:
        layers = {layer.number: layer for layer in _layers(body)}
        guessed = []
        for layer in layers.values():
            held = body.names.value("held", Term("kvset", (Term("approximate"),)))
            new = [make("graph.fetch", *layer.sets, layer=layer.number, results=(held,),
                        span=layer.merge.span)]  # fmt: skip
            after = layers.get(layer.number + 1)
            if self.ahead and after is not None:
                guess = _guess(body, layer, after)
                guessed += [after.number] if guess else []
                new += guess
            q, starts, _ = layer.partial.operands
            whole = replace(layer.partial, operands=(q, starts, held),
                            results=(layer.merge.result,))  # fmt: skip
            body.replace(layer.merge, [layer.merge, *layer.partials], [*new, whole])
        if layers:
            text = f"{len(layers)} layers fetch the keys that they select to a cache"
            context.did(f"{text}; for {len(guessed)} the layer before predicts which")
        for number in sorted(set(layers) - set(guessed) - {min(layers, default=0)}):
            if self.ahead:
                context.left(f"layer {number}: no sparse layer before it whose input predicts")


@dataclass(frozen=True)
class _Layer:
    """The operations of a sparse layer's attention."""

    number: int
    write: Operation
    select: Operation
    partials: tuple[Operation, Operation]
    merge: Operation

    @property
    def partial(self) -> Operation:
        """That of the selected middle."""
        return self.partials[0]

    @property
    def sets(self) -> tuple[Value, Value]:
        """The kvsets of the middle and of the ends."""
        middle, ends = (partial.operands[2] for partial in self.partials)
        return middle, ends


def _layers(body: Body) -> list[_Layer]:
    writes = {op["layer"]: op for op in body.operations if op.name == "graph.qkv_rope_write"}
    found = []
    for merge in body.operations:
        if merge.name != "graph.merge":
            continue
        partials = [body.maker[value.name] for value in merge.operands]
        select = body.maker[partials[0].operands[2].name]
        if select.name == "graph.select":
            number = select["layer"]
            found.append(_Layer(number, writes[number], select, tuple(partials), merge))  # type: ignore[arg-type]
    return found


def _guess(body: Body, layer: _Layer, after: _Layer) -> list[Operation]:
    """Return the operations that fetch ahead what the next layer is expected to read."""
    stream = _stream(body, layer.write)
    if stream is None or _stream(body, after.write) is None:
        return []
    product = body.maker[after.write.operands[0].name]
    made: list[Operation] = []

    def clone(of: Operation, *operands: Value, **more: Any) -> Value:
        results = tuple(body.names.value("guess", value.type) for value in of.results)
        made.append(replace(of, operands=operands, results=results).with_attributes(**more))
        return results[0]

    x = stream
    if not _normed(product):
        norm = body.maker[product.operands[0].name]
        type = product.operands[0].type
        made.append(make("graph.rmsnorm", stream, norm.operands[-1], eps=norm["eps"],
                         results=(body.names.value("guess", type),), span=norm.span))  # fmt: skip
        x = made[-1].result
    qkv = clone(product, x, *product.operands[1:])
    q = clone(after.write, qkv, *after.write.operands[1:], guess=True)
    views = body.maker[after.select.operands[2].name]
    ends = body.maker[after.sets[1].name]
    _, starts, _ = after.select.operands
    labels = clone(views, *views.operands)
    near = clone(ends, *ends.operands)
    middle = clone(after.select, q, starts, labels)
    made.append(make("graph.fetch", middle, near, layer=after.number, ahead=True,
                     span=after.merge.span))  # fmt: skip
    return made


def _stream(body: Body, write: Operation) -> Value | None:
    """Return the residual stream that a layer's projection comes of; None of another form."""
    product = body.maker.get(write.operands[0].name)
    if product is None or "residual" in product.attribute("parts", ()):
        return None
    if _normed(product):
        return product.operands[0]
    norm = body.maker.get(product.operands[0].name)
    if norm is None or norm.name not in {"graph.rmsnorm", "graph.add_rmsnorm"}:
        return None
    return norm.operands[0] if norm.name == "graph.rmsnorm" else norm.results[0]


def _normed(product: Operation) -> bool:
    """Whether a product norms its input; otherwise an operation of its own does."""
    return "norm" in product.attribute("parts", ())


def _weights_first(region: Region) -> Region:
    """Put weights in front: a layer's are used before it."""
    weights = tuple(op for op in region.operations if op.name == "graph.weight")
    rest = tuple(op for op in region.operations if op.name != "graph.weight")
    return replace(region, operations=(*weights, *rest))
