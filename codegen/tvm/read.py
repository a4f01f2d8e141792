"""Reads our own TVMScript: each function's statements become calls that build its IR, run at once.

TVM's parser evaluates a text node by node, and takes longer for it than LLVM for the machine code.
What is read here is what the emitter writes: TVM reads other text.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable
from typing import Any

from .macros import macros


class OtherText(Exception):
    """Text that is not of the form that the emitter writes."""


def read_module(text: str, places: bool = False) -> Any:
    """Return the IRModule of a text of `@I.ir_module`; raises OtherText.

    With `places`, what a statement makes has its lines, by which machine code is found.
    """
    import tvm
    import tvm.s_tir.analysis
    from tvm.script.ir_builder import IRBuilder
    from tvm.script.ir_builder import ir as I  # noqa: N812

    (module,) = ast.parse(text).body
    if not isinstance(module, ast.ClassDef):
        raise OtherText("not a module")
    functions = [node for node in module.body if isinstance(node, ast.FunctionDef)]
    if len(functions) != len(module.body):
        raise OtherText("a module with other things than functions")
    names = macros()
    with IRBuilder() as builder, I.ir_module():
        for function in functions:
            parameters = [_parameter(node, names) for node in function.args.args]
            for node, parameter in zip(function.args.args, parameters, strict=True):
                IRBuilder.name(node.arg, parameter)
            I.decl_function(function.name, tvm.tirx.PrimFunc(parameters, None))
        for function in functions:
            _define(function, names, places)
    built: Any = builder.get()
    tvm.s_tir.analysis.verify_well_formed(built)
    return built


def _parameter(node: ast.arg, names: dict[str, Any]) -> Any:
    """Return a fresh variable of a parameter's type (`T.int32`, `T.handle`)."""
    if node.annotation is None:
        raise OtherText(f"{node.arg} has no type")
    return eval(compile(ast.Expression(node.annotation), "<type>", "eval"), names)()


def _define(function: ast.FunctionDef, names: dict[str, Any], places: bool) -> None:
    """Build a function in the module that is being built."""
    from tvm.tirx.script import builder as T  # noqa: N812

    if ast.unparse(function.decorator_list) != "T.prim_func(s_tir=True)":  # type: ignore[arg-type]
        raise OtherText(f"{function.name} has another decorator")
    writer = _Writer(places)
    body = writer.block(function.body)
    code = ast.fix_missing_locations(ast.Module(body, []))
    with T.prim_func(is_private=False, s_tir=True, persistent=False):
        T.func_name(function.name)
        variables = {
            node.arg: T.arg(node.arg, _parameter(node, names)) for node in function.args.args
        }
        exec(compile(code, f"<{function.name}>", "exec"), names | _calls() | variables)


class _Writer(ast.NodeTransformer):
    """Writes a function's statements as calls of `_calls`, and checks its expressions."""

    def __init__(self, places: bool) -> None:
        self._bound: set[str] = set()
        self._places = places

    def block(self, statements: list[ast.stmt]) -> list[ast.stmt]:
        """Return the calls of a block."""
        return [call for statement in statements for call in self._placed(statement)]

    def _placed(self, node: ast.stmt) -> list[ast.stmt]:
        calls = self._statement(node)
        if not self._places:
            return calls
        lines = map(ast.Constant, (node.lineno, node.end_lineno))
        return [_call("_at", *lines), *calls, _call("_behind")]

    def _statement(self, node: ast.stmt) -> list[ast.stmt]:
        match node:
            case ast.For(ast.Name(name), frame, body, []):
                return [self._binding("_loop", name, frame), *self.block(body), _call("_leave")]
            case ast.AnnAssign(ast.Name(name), annotation, ast.expr() as value):
                return [self._binding("_scalar", name, annotation, value)]
            case ast.Assign([ast.Name(name)], value) if name in self._bound:
                return [_call("_set", ast.Name(name, ast.Load()), self.visit(value))]
            case ast.Assign([ast.Name(name)], value):
                return [self._binding("_buffer", name, value)]
            case ast.Assign([ast.Subscript(buffer, index)], value):
                parts = index.elts if isinstance(index, ast.Tuple) else [index]
                return [_call("_store", *map(self.visit, (buffer, value, *parts)))]
            case ast.If(test, body, otherwise):
                then = [_call("_then"), *self.block(body), _call("_leave")]
                other = [_call("_else"), *self.block(otherwise), _call("_leave")]
                whole = [*then, *(other if otherwise else [])]
                return [_call("_if", self.visit(test)), *whole, _call("_leave")]
            case ast.Expr(value):
                return [_call("_evaluate", self.visit(value))]
        raise OtherText(f"a statement: {ast.unparse(node)[:80]}")

    def _binding(self, call: str, name: str, *values: ast.expr) -> ast.stmt:
        """Return the call that makes a name's value; each name is bound once, so that none needs
        to come back behind an inner block."""
        if name in self._bound:
            raise OtherText(f"{name} is bound twice")
        arguments = [ast.Constant(name), *map(self.visit, values)]
        self._bound.add(name)
        return ast.Assign([ast.Name(name, ast.Store())], _call(call, *arguments).value)

    def visit_Compare(self, node: ast.Compare) -> ast.expr:
        """Write `a < b` as a call: operands of one vector and one number are made alike."""
        if len(node.ops) > 1:
            raise OtherText("a chain of comparisons")
        values = map(self.visit, (node.left, *node.comparators))
        return _call(f"_{type(node.ops[0]).__name__}", *values).value

    def generic_visit(self, node: ast.AST) -> ast.AST:
        """Refuse what TVM's parser would not leave to Python."""
        if not isinstance(node, _PLAIN):
            raise OtherText(f"a part of an expression: {type(node).__name__}")
        return super().generic_visit(node)


_PLAIN = (
    ast.Name, ast.Constant, ast.Attribute, ast.Subscript, ast.Call, ast.keyword, ast.Tuple,
    ast.List, ast.Dict, ast.BinOp, ast.operator, ast.UnaryOp, ast.USub, ast.expr_context,
)  # fmt: skip


def _call(name: str, *arguments: ast.expr) -> ast.Expr:
    return ast.Expr(ast.Call(ast.Name(name, ast.Load()), list(arguments), []))


def _calls() -> dict[str, Callable[..., Any]]:
    """Return what the written statements call, with frames of their own."""
    from tvm.tirx.script import builder

    frames: list[Any] = []

    def enter(frame: Any) -> Any:
        frames.append(frame)
        return frame.__enter__()

    def leave() -> None:
        frames.pop().__exit__(None, None, None)

    return {
        "_leave": leave, **_lines(), **_flow(builder, enter), **_values(builder), **_comparisons(),
    }  # fmt: skip


def _lines() -> dict[str, Callable[..., Any]]:
    """Return the calls that say on which lines what is made next stands, and that it ends."""
    from tvm.ir import SourceName, Span
    from tvm.script.ir_builder import IRBuilder

    opened: list[Any] = []

    def at(first: int, last: int) -> None:
        place = IRBuilder.current().with_source_span(Span(SourceName("<str>"), first, last, 1, 1))
        opened.append(place)
        place.__enter__()

    return {"_at": at, "_behind": lambda: opened.pop().__exit__(None, None, None)}


def _flow(T: Any, enter: Callable[[Any], Any]) -> dict[str, Callable[..., Any]]:  # noqa: N803
    """Return the calls that enter a frame: loops and branches."""
    from tvm import ir
    from tvm.script.ir_builder import IRBuilder

    def loop(name: str, frame: Any) -> Any:
        variable = enter(frame)
        IRBuilder.name(name, variable)
        return variable

    def branch(test: Any) -> None:
        if not ir.is_prim_expr(test):
            raise OtherText("a condition that is known")
        enter(T.If(test))

    return {
        "_loop": loop, "_if": branch, "_then": lambda: enter(T.Then()),
        "_else": lambda: enter(T.Else()),
    }  # fmt: skip


def _values(T: Any) -> dict[str, Callable[..., Any]]:  # noqa: N803
    """Return the calls that name values and store them."""
    from tvm import ir, tirx
    from tvm.script.ir_builder import IRBuilder

    def scalar(name: str, annotation: Any, value: Any) -> Any:
        made = T.local_scalar(dtype=str(annotation().ty)).scalar
        IRBuilder.name(name, made.source)
        T.buffer_store(made.source, value, [0])
        return made

    def set_scalar(held: Any, value: Any) -> None:
        if not isinstance(held, ir.TensorLoad):
            raise OtherText("a name that holds no scalar is set")
        T.buffer_store(held.source, value, [0])

    def buffer(name: str, value: Any) -> Any:
        if not tirx.is_buffer_var(value):
            raise OtherText(f"{name} holds no buffer")
        IRBuilder.name(name, value)
        return value

    def evaluate(value: Any) -> None:
        if value is not None:
            T.evaluate(value)

    return {
        "_scalar": scalar, "_set": set_scalar, "_buffer": buffer, "_evaluate": evaluate,
        "_store": lambda held, value, *index: T.buffer_store(held, value, list(index)),
    }  # fmt: skip


_COMPARED: dict[str, Callable[[Any, Any], Any]] = {
    "Eq": operator.eq, "NotEq": operator.ne, "Lt": operator.lt, "LtE": operator.le,
    "Gt": operator.gt, "GtE": operator.ge,
}  # fmt: skip


def _comparisons() -> dict[str, Callable[..., Any]]:
    """Return the calls that compare: terms as TVM's parser does, numbers as Python."""
    from tvm import ir, tirx
    from tvm.script.parser._core import dispatch, doc

    def compare(name: str, of_numbers: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
        alike: Any = dispatch.get_op(tirx.Expr, getattr(doc, name), 0, None)

        def of(left: Any, right: Any) -> Any:
            terms = ir.is_prim_expr(left) or ir.is_prim_expr(right)
            return (alike if terms else of_numbers)(left, right)

        return of

    return {f"_{name}": compare(name, of_numbers) for name, of_numbers in _COMPARED.items()}
