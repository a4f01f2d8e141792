"""Blocks that decoders share, as graph IR: embedding, attention, feed-forward, experts, head."""

from __future__ import annotations

import math
from typing import Any

from ...ir.core import Module, Names, Operation, Region, Symbol, Term, Value, make
from ...ir.model import ModelConfig
from ...ir.types import tensor

INPUTS = (
    ("tokens", ("T",)), ("positions", ("T",)), ("slots", ("T",)), ("query_starts", ("B1",)),
    ("kv_lengths", ("B",)), ("page_table", ("B", "MAXP")), ("logits_rows", ("R",)),
)  # fmt: skip
"""The step's inputs, all i32; B1 is B + 1."""

KVSET, STATE = Term("kvset"), Term("state")


class GraphBuilder:
    """Appends the operations of one model step; every method returns the value it made."""

    def __init__(self, config: ModelConfig) -> None:
        self.config = config
        self._names = Names()
        self._operations: list[Operation] = []
        self.inputs = {
            name: self._names.value(name, tensor("i32", *shape)) for name, shape in INPUTS
        }

    def emit(self, name: str, hint: str, type: Term, *operands: Value, **attributes: Any) -> Value:
        """Append an operation of one result."""
        result = self._names.value(hint, type)
        self._operations.append(make(name, *operands, results=(result,), **attributes))
        return result

    def weight(self, hint: str, tensors: str | list[str] | list[list[str]], *shape: int) -> Value:
        """Declare a tensor of the checkpoint, by its name or names there."""
        return self.emit("graph.weight", hint, tensor("f32", *shape), tensors=tensors)

    def linear(self, x: Value, prefix: str, out_width: int, in_width: int, bias: bool = False,
               rows: str = "T") -> Value:  # fmt: skip
        """Multiply by `prefix.weight` and add `prefix.bias`: x [rows, K] -> [rows, N]."""
        hint = prefix.rpartition(".")[2].removesuffix("_proj")
        operands = [x, self.weight(f"w_{hint}", f"{prefix}.weight", out_width, in_width)]
        if bias:
            operands.append(self.weight(f"b_{hint}", f"{prefix}.bias", out_width))
        return self.emit("graph.matmul", hint, tensor("f32", rows, out_width), *operands)

    def norm(self, x: Value, name: str) -> Value:
        """Normalise rows of x [T, D] with the weight `name`."""
        weight = self.weight("w_norm", name, self.config.width)
        return self.emit("graph.rmsnorm", "normed", x.type, x, weight, eps=self.config.norm_eps)

    def add(self, x: Value, y: Value) -> Value:
        """Add to the residual stream."""
        return self.emit("graph.add", "x", x.type, x, y)

    def attention(self, x: Value, prefix: str, layer: int) -> Value:
        """Project, rotate, write k and v, attend over the layer's pages: x [T, D] -> [T, D]."""
        c = self.config
        q_width, kv_width = c.heads * c.head_dim, c.kv_heads * c.head_dim
        q = self.linear(x, f"{prefix}.q_proj", q_width, c.width, c.qkv_bias)
        k = self.linear(x, f"{prefix}.k_proj", kv_width, c.width, c.qkv_bias)
        v = self.linear(x, f"{prefix}.v_proj", kv_width, c.width, c.qkv_bias)
        if c.head_norms:
            q = self._head_norm(q, f"{prefix}.q_norm.weight", c.heads)
            k = self._head_norm(k, f"{prefix}.k_norm.weight", c.kv_heads)
        q, k = self._rope(q, c.heads), self._rope(k, c.kv_heads)
        self._operations.append(make("graph.kv_write", k, v, self.inputs["slots"], layer=layer))
        seen = self._attend(q, layer)
        return self.linear(seen, f"{prefix}.o_proj", c.width, q_width, c.output_bias)

    def _head_norm(self, x: Value, name: str, heads: int) -> Value:
        weight = self.weight("w_head_norm", name, self.config.head_dim)
        return self.emit("graph.head_norm", x.name, x.type, x, weight,
                         eps=self.config.norm_eps, heads=heads)  # fmt: skip

    def _rope(self, x: Value, heads: int) -> Value:
        c = self.config
        return self.emit("graph.rope", x.name, x.type, x, self.inputs["positions"], heads=heads,
                         head_dim=c.head_dim, rope=c.rope.table())  # fmt: skip

    def _attend(self, q: Value, layer: int) -> Value:
        c = self.config
        pages, lengths = self.inputs["page_table"], self.inputs["kv_lengths"]
        window = c.windows[layer] or None
        kvset = self.emit("graph.kvset", "kvset", KVSET, pages, lengths, layer=layer,
                          window=window)  # fmt: skip
        state = self.emit(
            "graph.partial", "state", STATE, q, self.inputs["query_starts"], kvset,
            heads=c.heads, kv_heads=c.kv_heads, head_dim=c.head_dim,
            scale=1.0 / math.sqrt(c.head_dim), causal=True,
        )  # fmt: skip
        return self.emit("graph.finalize", "seen", q.type, state)

    def gated_ffn(self, x: Value, prefix: str) -> Value:
        """Multiply silu(gate) with up, then project down: x [T, D] -> [T, D]."""
        c = self.config
        gate = self.linear(x, f"{prefix}.gate_proj", c.ffn, c.width, c.mlp_bias)
        up = self.linear(x, f"{prefix}.up_proj", c.ffn, c.width, c.mlp_bias)
        both = self.emit("graph.concat", "gate_up", tensor("f32", "T", 2 * c.ffn), gate, up)
        hidden = self.emit("graph.silu_mul", "hidden", tensor("f32", "T", c.ffn), both)
        return self.linear(hidden, f"{prefix}.down_proj", c.width, c.ffn, c.mlp_bias)

    def experts(self, x: Value, router: str, gate_up: list[list[str]] | str,
                down: list[list[str]] | str) -> Value:  # fmt: skip
        """Send each token to its experts and sum what they give: x [T, D] -> [T, D]."""
        c = self.config
        logits = self.linear(x, router, c.experts, c.width)
        weights, chosen = self._names.value("route_w", tensor("f32", "T", c.experts_per_token)), \
            self._names.value("route_e", tensor("i32", "T", c.experts_per_token))  # fmt: skip
        order, starts = self._names.value("order", tensor("i32", "M")), \
            self._names.value("starts", tensor("i32", c.experts + 1))  # fmt: skip
        self._operations += [
            make("graph.moe_route", logits, results=(weights, chosen), top_k=c.experts_per_token,
                 renormalize=c.renormalize or None),
            make("graph.moe_dispatch", chosen, results=(order, starts), experts=c.experts),
        ]  # fmt: skip
        w_in = self.weight("w_gate_up", gate_up, c.experts, 2 * c.ffn, c.width)
        w_out = self.weight("w_down", down, c.experts, c.width, c.ffn)
        both = self.emit("graph.moe_expert", "gate_up", tensor("f32", "M", 2 * c.ffn), x, w_in,
                         order, starts, per_row=c.experts_per_token)  # fmt: skip
        hidden = self.emit("graph.silu_mul", "hidden", tensor("f32", "M", c.ffn), both)
        rows = self.emit("graph.moe_expert", "rows", tensor("f32", "M", c.width), hidden, w_out,
                         order, starts, per_row=1)  # fmt: skip
        return self.emit("graph.moe_combine", "mixed", x.type, rows, weights)

    def embed(self, name: str = "model.embed_tokens.weight") -> Value:
        """Look the tokens up: [T, D]."""
        self.table = self.weight("embedding", name, self.config.vocab_size, self.config.width)
        type = tensor("f32", "T", self.config.width)
        return self.emit("graph.embedding", "x", type, self.table, self.inputs["tokens"])

    def head(self, x: Value) -> Value:
        """Return the logits [R, V] of the wanted rows of x [T, D]."""
        c = self.config
        type = tensor("f32", "R", c.width)
        x = self.emit("graph.take_rows", "last", type, x, self.inputs["logits_rows"])
        x = self.norm(x, "model.norm.weight")
        table = self.table if c.tied else self.weight(
            "w_head", "lm_head.weight", c.vocab_size, c.width)  # fmt: skip
        return self.emit("graph.matmul", "logits", tensor("f32", "R", c.vocab_size), x, table)

    def finish(self, result: Value) -> Module:
        """Return the module of the step, `@step`."""
        body = (*self._operations, make("graph.return", result))
        c = self.config
        return Module((
            make("graph.func", name=Symbol("step"), model=c.architecture, config=c.table(),
                 regions=(Region(tuple(self.inputs.values()), body),)),
        ))  # fmt: skip
