"""Graph to kernels: every operation becomes a `graph.call` of a tile kernel made for its shapes.

One lowered module serves one regime: decode steps of up to `rows` rows, or (rows = 0) any step,
where large matmuls go to the library.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, ParamSpec, TypeVar

from ....ir.core import Module, Names, Operation, Symbol, Term, Value, make, walk
from ....ir.diagnostics import PassError
from ....ir.types import SCALED, dtype_of, shape_of
from ...graph.allowed_head import WORDS
from ...manager import Context, GraphPass
from ..attention.paged import Attention, attention, decode, tile_rows
from ..given import check_given
from ..products.matmul import Matmul, blocks, matmul, word_blocks
from ..products.scaled_matmul import ROUNDED_ROWS, ScaledMatmul, scaled_matmul
from ..rows import elementwise
from ..rows.rope import Heads, qkv_rope_write
from . import fetch, moe, sparse, streams
from .call_arguments import call_arguments
from .library_choices import library_choices
from .parts import lower_parts
from .value_shapes import format_of, rows_of, scale_of, sizes_of, width_of

P = ParamSpec("P")
T = TypeVar("T")

ROWS_OF_LOGITS = 4
"""Rows a program of the head's matmul takes in steps of many rows, of which few give logits."""

PROGRAMS = 128
"""Programs that keep a GPU busy: a block of a product is not so large that there are fewer."""


class CannotLower(PassError):
    """A graph operation that has no kernel in this form."""

    template = "no kernel for {operation}: {problem}"
    hint = "run the fusions of passes/graph before lowering"


@dataclass(frozen=True)
class LowerToTiles(GraphPass):
    """Chooses and builds the kernels of a graph for decode steps of up to `rows` rows, or any.

    For the target `cuda` matmuls go to the library, but for those of a single row (rows = 1), and
    attention runs over a work list; `apart` says that no keys are read for many rows at once.
    `offload`: keys of sparse layers lie across a link, behind a cache. `decoding`: steps of any
    rows are mostly of sequences with one query each.
    """

    rows: int = 0
    context_length: int = 8192
    page_size: int = 16
    kv: str = "f32"
    target: str = "cpu"
    apart: bool = False
    offload: bool = False
    decoding: bool = False

    name: ClassVar[str] = "lower-to-tiles"
    writes: ClassVar[tuple[str, ...]] = ("graph", "tile")
    requires: ClassVar[tuple[str, ...]] = ("fused-rope-write",)
    ensures: ClassVar[tuple[str, ...]] = ("lowered",)
    keeps: ClassVar[tuple[str, ...]] = ("weight-formats",)

    def run(self, module: Module, context: Context) -> Module:
        """Return the module's functions as calls, and the kernels that they call."""
        lowering = _Lowering(self, Names.of(module))
        functions = tuple(lowering.function(op) for op in module.operations)
        for function in functions:
            check_given(function, lowering.kernels.values())
        calls = sum(op.name == "graph.call" for function in functions for op in walk((function,)))
        steps = f"decode steps of up to {self.rows} rows" if self.rows else "steps of many rows"
        context.did(f"{steps}: {calls} launches of {len(lowering.kernels)} kernels")
        for text in library_choices(functions, lowering.on_gpu and not self.rows):
            context.did(f"{steps}: {text}")
        return Module((*lowering.kernels.values(), *functions))


@dataclass
class _Lowering:
    options: LowerToTiles
    names: Names
    kernels: dict[str, Operation] = field(default_factory=dict)
    makers: dict[str, Operation] = field(default_factory=dict)
    fetches: fetch.Fetches = field(default_factory=fetch.Fetches)
    built: dict[tuple[Any, ...], Any] = field(default_factory=dict)
    selects: bool = False

    @property
    def on_gpu(self) -> bool:
        """Whether kernels are made for a GPU."""
        return self.options.target == "cuda"

    def function(self, function: Operation) -> Operation:
        """Lower the operations of a graph.func; kvsets and states vanish into attention calls."""
        region = function.regions[0]
        self.makers = {v.name: op for op in region.operations for v in op.results}
        self.selects = function.attribute("attention") is not None
        lowered: list[Operation] = []
        for operation in region.operations:
            lowered += self._operation(operation)
        body = replace(region, operations=tuple(lowered))
        apart = True if self.on_gpu and self.options.apart else None
        return replace(function.with_attributes(apart=apart), regions=(body,))

    def _operation(self, operation: Operation) -> list[Operation]:
        if operation.name in {"graph.weight", "graph.return"}:
            return [operation]
        rule = _RULES.get(operation.name)
        if rule is None:
            raise CannotLower(operation=operation.name, problem="it has no rule",
                              span=operation.span)  # fmt: skip
        return rule(self, operation)

    def once(self, build: Callable[P, T], *shapes: P.args, **named: P.kwargs) -> T:
        """Return what a function makes of these shapes, made once: most layers are alike."""
        key = (build, shapes, tuple(named.items()))
        if key not in self.built:
            self.built[key] = build(*shapes, **named)
        return self.built[key]

    def call(
        self, operation: Operation, kernel: Operation, arguments: str | list[Term],
        operands: tuple[Value, ...] | None = None, results: tuple[Value, ...] | None = None,
    ) -> Operation:  # fmt: skip
        """Return a call of a kernel; `arguments` as in "T in0 in1 out0 k3"."""
        return make(
            "graph.call", *(operation.operands if operands is None else operands),
            results=operation.results if results is None else results,
            kernel=Symbol(self.declare(kernel)), arguments=call_arguments(arguments),
            of=operation.name, span=operation.span,
        )  # fmt: skip

    def declare(self, kernel: Operation) -> str:
        """Keep a kernel under its name, or another where the name means another kernel."""
        name, number = kernel["name"].name, 0
        if (
            self.options.rows == 0 and not self.on_gpu
        ):  # scheduled otherwise than the kernel of few rows
            name += "_many"
            kernel = kernel.with_attributes(name=Symbol(name))
        wanted = name
        while self.kernels.get(wanted, kernel) != kernel:
            number += 1
            wanted = f"{name}_{number}"
            kernel = kernel.with_attributes(name=Symbol(wanted))
        self.kernels[wanted] = kernel
        return wanted

    def embedding(self, op: Operation) -> list[Operation]:
        """Rows of the table, whatever its format; those of a head are read where they lie."""
        table, _ = op.operands
        if rows_of(op.result) == WORDS:
            return []
        rows, width = sizes_of(table)
        factor = op.attribute("scale", 1.0)
        kernel = self.once(elementwise.embedding, rows, width, dtype_of(table.type), factor,
                           dtype_of(op.result.type))  # fmt: skip
        return [self.call(op, kernel, "T in0 in1 out0" + scale_of(table, 0))]  # fmt: skip

    def rmsnorm(self, op: Operation) -> list[Operation]:
        """Rows may be tokens or rows of logits."""
        x, narrow = op.operands[0], len(op.results) == 2
        kernel = self.once(elementwise.rmsnorm, width_of(x), op["eps"], dtype_of(x.type),
                           narrow=narrow)  # fmt: skip
        return [self.call(op, kernel, f"{rows_of(x)} in0 in1 out0" + " out1" * narrow)]

    def add_rmsnorm(self, op: Operation) -> list[Operation]:
        """Both results are written."""
        x, narrow = op.operands[0], len(op.results) == 3
        y = shape_of(op.operands[1].type)
        parts = y[0] if len(y) > 2 else 1
        assert isinstance(parts, int)
        kernel = self.once(elementwise.add_rmsnorm, width_of(x), op["eps"], dtype_of(x.type),
                           narrow=narrow, parts=parts)  # fmt: skip
        outs = "out0 out1" + " out2" * narrow
        return [self.call(op, kernel, f"{rows_of(x)} in0 in1 in2 {outs}")]

    def add(self, op: Operation) -> list[Operation]:
        """A residual that no norm follows at once."""
        kernel = self.once(elementwise.add, width_of(op.result), format_of(op))
        return [self.call(op, kernel, f"{rows_of(op.result)} in0 in1 out0")]

    def silu_mul(self, op: Operation) -> list[Operation]:
        """Rows are tokens, or pairs of experts."""
        x, narrow = op.operands[0], len(op.results) == 2
        width = width_of(op.results[0])
        kernel = self.once(elementwise.silu_mul, width, dtype_of(x.type), narrow=narrow)
        return [self.call(op, kernel, f"{rows_of(x)} in0 out0" + " out1" * narrow)]

    def quantize_rows(self, op: Operation) -> list[Operation]:
        """Rows that nothing but a product reads, in 8 bits."""
        (x,) = op.operands
        kernel = self.once(elementwise.quantize_rows, width_of(x), dtype_of(x.type))
        return [self.call(op, kernel, f"{rows_of(x)} in0 out0 out1")]

    def scaled_matmul(self, op: Operation) -> list[Operation]:
        """Both sides in 8 bits, scaled by rows: a kernel of ours for up to 64 rows, and for as many
        as there may be where a machine holds two blocks of rows at once; else the library."""
        x, _, weight, *bias = op.operands
        n = width_of(op.result)
        if 0 < self.options.rows <= ROUNDED_ROWS or self.options.rows and n <= 32 * PROGRAMS:
            shape = ScaledMatmul(
                n, width_of(weight), dtype_of(weight.type), dtype_of(x.type), format_of(op),
                bool(bias), block_k=128 if n >= 2 * 64 * PROGRAMS else 256,
            )  # fmt: skip
            rest = " in3" if bias else ""
            arguments = f"{rows_of(op.result)} in0 in2 out0 scale2 in1{rest}"
            return [self.call(op, self.once(scaled_matmul, shape), arguments)]
        return [self.library(op, "scaled_matmul", "both sides are fp8, which the vendor library "
                             "multiplies at twice the rate of bf16")]  # fmt: skip

    def take_rows(self, op: Operation) -> list[Operation]:
        """The rows whose logits are wanted."""
        kernel = self.once(elementwise.take_rows, width_of(op.result), format_of(op))
        return [self.call(op, kernel, "T R in0 in1 out0")]

    def qkv_rope_write(self, op: Operation) -> list[Operation]:
        """Head norms, rotation and the write to pages."""
        heads = Heads(op["heads"], op["kv_heads"], op["head_dim"], self.options.page_size)
        eps, layer = op.attribute("eps"), op["layer"]
        ordered, guess = bool(op.attribute("ordered")), bool(op.attribute("guess"))
        shape = shape_of(op.operands[0].type)
        cuts = shape[0] if len(shape) > 2 else 1
        assert isinstance(cuts, int)
        kernel = self.once(qkv_rope_write, heads, self.options.context_length, self.options.kv, eps,
                           format_of(op), ordered, guess,
                           apart=self.on_gpu and self.options.rows == 1, cuts=cuts)  # fmt: skip
        norms = (" in3 in4" if eps else "") + (f" order{layer}" if ordered else "")
        if guess:
            return [self.call(op, kernel, f"T in0 cos sin in1 out0{norms}")]
        return [self.call(op, kernel, f"T N in0 cos sin in1 in2 out0 k{layer} v{layer}{norms}")]

    def matmul(self, op: Operation) -> list[Operation]:
        """A kernel for few rows; the library where there may be many: on a GPU, more than one."""
        bias = ["bias"] if len(op.operands) == 3 else []
        if shape_of(op.result.type)[-1] == Term(WORDS):
            return [self._matmul(op, bias)]
        if self.on_gpu and self.options.rows == 1 and self._streams(op):
            return [streams.lower_matvec(self, op, bias)]
        if self.on_gpu and self._scaled(op) and (self.options.rows or rows_of(op.result) == "R"):
            return [self._scaled_matmul(op, bias)]
        if self.on_gpu or (self.options.rows == 0 and self._many_rows(op)):
            why = "many rows: the library's blocked product is faster"
            why = "dense products are the vendor library's on a GPU" if self.on_gpu else why
            return [self.library(op, "matmul", why)]
        return [self._matmul(op, bias)]

    def library(self, op: Operation, routine: str, why: str) -> Operation:
        """Return an operation as the call of a library's routine."""
        return make("graph.library", *op.operands, results=op.results, routine=routine, why=why,
                    of=op.name, span=op.span)  # fmt: skip

    def fused_matmul(self, op: Operation) -> list[Operation]:
        """A kernel for few rows with its parts."""
        if self.on_gpu and self.options.rows > 1:
            return streams.lower_skinny(self, op)
        if self.on_gpu:
            return [streams.lower_matvec(self, op, list(op["parts"]))]
        return [self._matmul(op, list(op["parts"]))]

    def by_rows(self, call: Operation, few: Operation, up_to: int) -> Operation:
        """Return a call that takes another kernel in steps of up to some rows."""
        return call.with_attributes(few=Symbol(self.declare(few)), up_to=up_to)

    def collective(self, op: Operation) -> list[Operation]:
        """What ranks exchange goes through torch.distributed."""
        routine = op.name.removeprefix("graph.")
        return [self.library(op, routine, "ranks exchange through torch.distributed")]

    def _many_rows(self, op: Operation) -> bool:
        """Whether there are rows enough to widen narrow weights for (of logits: a few)."""
        return rows_of(op.result) == "T" or dtype_of(op.operands[1].type) == "f32"

    def _streams(self, op: Operation) -> bool:
        """Whether a product's weights are in the activations' format, or a narrower one; or in f32,
        as are those that choose experts."""
        x, weight = op.operands[:2]
        return dtype_of(weight.type) in {dtype_of(x.type), "f32"} or self._scaled(op)

    def _scaled(self, op: Operation) -> bool:
        """Whether the rows of a product's weights have scales."""
        return dtype_of(op.operands[1].type) in SCALED

    def _scaled_matmul(self, op: Operation, parts: list[str]) -> Operation:
        x, weight = op.operands[:2]
        n = width_of(op.result)
        shape = ScaledMatmul(
            n, width_of(weight), dtype_of(weight.type), dtype_of(x.type), format_of(op),
            "bias" in parts, block_n=128 if n >= 128 * PROGRAMS else 64,
        )  # fmt: skip
        rest = " in2" if parts else ""
        return self.call(op, self.once(scaled_matmul, shape),
                         f"{rows_of(op.result)} in0 in1 out0 scale1{rest}")  # fmt: skip

    def _matmul(self, op: Operation, parts: list[str]) -> Operation:
        x, weight, *rest = op.operands
        most, n, words = self.options.rows or ROWS_OF_LOGITS, shape_of(op.result.type)[-1], ()
        if some := n == Term(WORDS):  # rows of a head, which the kernel finds by their numbers
            weight, *words = self.makers[weight.name].operands
            n = shape_of(weight.type)[0]
        assert isinstance(n, int)
        k = width_of(weight)
        block_n, block_k = (word_blocks if some else blocks)(n, k, most)
        shape = Matmul(
            n, k, dtype_of(weight.type), most, "bias" in parts, "residual" in parts,
            op["eps"] if "norm" in parts else None, bool(op.attribute("silu")), block_n, block_k,
            some,
        )  # fmt: skip
        operands = (x, weight, *words, *rest)
        more = "".join(f" in{place}" for place in range(2 + some, len(operands)))
        of = f"{rows_of(op.result)} W C in0 in1 in2" if some else f"{rows_of(op.result)} in0 in1"
        arguments = f"{of} out0{scale_of(weight, 1)}{more}"
        return self.call(op, self.once(matmul, shape), arguments, operands)

    def finalize(self, op: Operation) -> list[Operation]:
        """Attention over a layer's pages: kvset, partial and finalize together."""
        partial = self.makers[op.operands[0].name]
        found = sparse.selected_part(self, partial) if partial.name == "graph.merge" else None
        if found is not None:
            return sparse.lower_selected(self, op, *found)
        if partial.name != "graph.partial":
            raise CannotLower(operation=op.name, problem="its state is merged", span=op.span)
        q, starts, kvset_value = partial.operands
        kvset = self.makers[kvset_value.name]
        if kvset.name == "graph.fetch":
            return fetch.lower_held(self, op, partial, kvset)
        if self.on_gpu:
            return lower_parts(self, op, q, partial, kvset)
        table, lengths = kvset.operands
        most, few = tile_rows(partial["heads"] // partial["kv_heads"], self.options.decoding)
        shape = Attention(
            partial["heads"], partial["kv_heads"], partial["head_dim"], self.options.page_size,
            self.options.kv, partial["scale"], kvset.attribute("window", 0),
            rows=most, few=few,
        )  # fmt: skip
        if self.options.rows:
            kernel, extents = self.once(decode, shape), "B N MAXP"
            operands = (q, table, lengths)
        else:
            kernel, extents = self.once(attention, shape), "T B B1 N MAXP"
            operands = (q, table, starts, lengths)
        inputs = " ".join(f"in{place}" for place in range(len(operands)))
        layer = kvset["layer"]
        arguments = f"{extents} {inputs} k{layer} v{layer} out0"
        return [self.call(op, kernel, arguments, operands)]

    def nothing(self, op: Operation) -> list[Operation]:
        """Kvsets and states are lowered with the operation that finalizes them."""
        return []


_RULES: dict[str, Callable[[_Lowering, Operation], list[Operation]]] = {
    "graph.embedding": _Lowering.embedding, "graph.rmsnorm": _Lowering.rmsnorm,
    "graph.add_rmsnorm": _Lowering.add_rmsnorm, "graph.add": _Lowering.add,
    "graph.silu_mul": _Lowering.silu_mul, "graph.take_rows": _Lowering.take_rows,
    "graph.qkv_rope_write": _Lowering.qkv_rope_write, "graph.moe_route": moe.lower_route,
    "graph.moe_dispatch": moe.lower_dispatch, "graph.moe_expert": moe.lower_expert,
    "graph.moe_combine": moe.lower_combine, "graph.moe_gated": moe.lower_gated,
    "graph.moe_mixed": moe.lower_mixed, "graph.matmul": _Lowering.matmul,
    "graph.fused_matmul": _Lowering.fused_matmul, "graph.cut_matmul": streams.lower_skinny,
    "graph.finalize": _Lowering.finalize,
    "graph.scaled_matmul": _Lowering.scaled_matmul, "graph.quantize_rows": _Lowering.quantize_rows,
    "graph.all_reduce": _Lowering.collective, "graph.all_gather": _Lowering.collective,
    "graph.kvset": _Lowering.nothing, "graph.partial": _Lowering.nothing,
    "graph.select": _Lowering.nothing, "graph.merge": _Lowering.nothing,
    "graph.label_write": sparse.lower_label_write, "graph.tail": _Lowering.nothing,
    "graph.value_sums": sparse.lower_value_sums, "graph.fetch": fetch.lower_fetch,
}  # fmt: skip
