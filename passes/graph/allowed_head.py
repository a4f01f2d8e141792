"""Multiplies the head's rows of some words only: those that a step's constraints allow.

Where every row that a step draws is held to a constraint, the logits of all other words are masked
right after they are computed. Which words are left is known before the step runs: the masks follow
from the states of compiled constraints, and not from logits. So the ids of those words become an
argument, and the logits have W columns: column j is that of word words[j], as it was.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from ...ir.core import Module, Names, Operation, Term, make
from ...ir.types import dtype_of, shape_of, tensor
from ..manager import Context, GraphPass

WORDS = "W"
"""The dimension of the words that are left."""


@dataclass(frozen=True)
class AllowedHead(GraphPass):
    """Lets the matmul that gives logits take rows of its weight only: words [W] i32, which are the
    last argument, say which.

    The function's attribute `head` names the weight.
    """

    name: ClassVar[str] = "allowed-head"

    def run(self, module: Module, context: Context) -> Module:
        """Return the module with each function's logits so computed, where it may be."""
        operations = [
            _narrowed(module, op, context) if op.name == "graph.func" else op
            for op in module.operations
        ]
        return Module(tuple(operations))


def _narrowed(module: Module, function: Operation, context: Context) -> Operation:
    """Return a function whose last product takes those rows of its weight that are asked for."""
    region = function.regions[0]
    *_, end = region.operations
    makers = {value.name: op for op in region.operations for value in op.results}
    product = makers.get(end.operands[0].name)
    if product is None or product.name != "graph.matmul" or len(product.operands) != 2:
        context.left(f"{_ALL}: no product without a bias gives them", function.span)
        return function
    x, weight = product.operands
    maker = makers.get(weight.name)
    if maker is None or maker.name != "graph.weight":
        context.left(f"{_ALL}: what they are a product with is no weight", function.span)
        return function
    count, depth, names = Term(WORDS), shape_of(weight.type)[-1], Names.of(module)
    words = names.value("words", tensor("i32", count))
    head = names.value("head", tensor(dtype_of(x.type), count, depth))
    taken = make("graph.embedding", weight, words, results=(head,), span=product.span)
    rows = shape_of(product.result.type)[0]
    logits = replace(product.result, type=tensor(dtype_of(product.result.type), rows, count))
    narrow = replace(product, operands=(x, head), results=(logits,))
    operations = [op for op in region.operations[:-1] if op is not product]
    operations += [taken, narrow, replace(end, operands=(logits, *end.operands[1:]))]
    context.did("logits may be computed of the words only that constraints allow", product.span)
    body = replace(region, arguments=(*region.arguments, words), operations=tuple(operations))
    return replace(function.with_attributes(head=weight.name), regions=(body,))


_ALL = "logits are computed of all words"
