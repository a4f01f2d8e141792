"""Reads Python annotations as weft types; dataclasses are records."""

from __future__ import annotations

import ast as python
import dataclasses
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, get_args, get_origin

from ...ir.source import Source, Span
from .. import ast
from ..text.builder import negative
from ..text.type_files import FILE_TYPES, read_type_file
from .source import NotInPython, class_syntax, namespace_of, span_of

_MARKERS = {"between", "matching", "limit", *FILE_TYPES}
_GIVEN = {
    "between": ("low", "high"),
    "matching": ("pattern",),
    **dict.fromkeys(FILE_TYPES, ("path",)),
}
"""What each constraint that takes a type's place is given, in order."""
_HOLDS = {"between": "int"}
"""The type that each of them constrains, if not `str`."""
_TYPES = (
    'types are str, int, float, bool, list[T], Literal["a", "b"], Annotated[T, weft.between(1, 9)] '
    "and dataclasses"
)


class TypeReader:
    """Reads the annotations of one source; `records` collects the dataclasses that it meets."""

    def __init__(
        self, names: Mapping[str, Any], source: Source, records: dict[str, ast.Record]
    ) -> None:
        self._names = names
        self._source = source
        self._records = records

    def read(self, node: python.expr) -> ast.Type:
        """Return the type that an annotation, or a gen's first argument, means."""
        span = span_of(node, self._source)
        match node:
            case python.Constant(value=str(text)):
                inner = _parsed(text, span)
                return self.read(python.copy_location(_relocate(inner, node), node))
            case python.Name() | python.Attribute():
                return self._named(node, span)
            case python.Call(func=function) if last_name(function) in _MARKERS:
                return self._marked([node], None, span)
            case python.Subscript(value=value, slice=inner):
                return self._subscript(last_name(value), inner, span)
        raise NotInPython(what="this annotation", hint=_TYPES, span=span)

    def returns(self, node: python.expr | None) -> ast.Type | None:
        """Return a result's type; `None` is none."""
        if node is None or (isinstance(node, python.Constant) and node.value is None):
            return None
        return self.read(node)

    def parameters(self, arguments: list[python.arg], defaults: list[Any]) -> Any:
        """Return the parameters of a function, given its arguments, and defaults of the last of
        them, if not of more."""
        padded = [None] * len(arguments) + list(defaults)
        last = padded[len(padded) - len(arguments) :]
        return tuple(map(self._parameter, arguments, last))

    def _parameter(self, argument: python.arg, default: python.expr | None) -> ast.Parameter:
        span = span_of(argument, self._source)
        if argument.annotation is None:
            hint = f"write {argument.arg}: str"
            raise NotInPython(what="a parameter without a type", hint=hint, span=span)
        value = None if default is None else read_constant(default, self._source)
        return ast.Parameter(argument.arg, self.read(argument.annotation), value, span=span)

    def _named(self, node: python.expr, span: Span) -> ast.Type:
        name = last_name(node)
        meant = self._names.get(name)
        return ast.Type(name, span=span) if meant is None else self._meant(meant, span)

    def _meant(self, meant: Any, span: Span) -> ast.Type:
        """Return the type of what an annotation names in Python: a dataclass, or an alias."""
        meant = getattr(meant, "__value__", meant)  # of a `type` statement
        origin, inner = get_origin(meant), get_args(meant)
        if isinstance(meant, type) and dataclasses.is_dataclass(meant):
            self.record(meant)
            return ast.Type(meant.__name__, span=span)
        if meant in (str, int, float, bool):
            return ast.Type(meant.__name__, span=span)
        if origin is list:
            return ast.Type("list", tuple(self._meant(item, span) for item in inner), span=span)
        if origin is Literal and all(isinstance(item, str) for item in inner):
            return ast.Type("choice", inner, span=span)
        if origin is Annotated:
            return self._constrained(self._meant(inner[0], span), inner[1:], span)
        if getattr(meant, "kind", None) in _MARKERS:
            return self._constrained(_bare(meant.kind, span), [meant], span)
        name = getattr(meant, "__name__", str(meant))
        raise NotInPython(what=f"the type `{name}`", hint=_TYPES, span=span)

    def _subscript(self, name: str, inner: python.expr, span: Span) -> ast.Type:
        items = inner.elts if isinstance(inner, python.Tuple) else [inner]
        if name == "list":
            return ast.Type("list", tuple(self.read(item) for item in items), span=span)
        if name == "Literal":
            texts = tuple(item.value for item in items if isinstance(item, python.Constant))
            if len(texts) == len(items) and all(isinstance(text, str) for text in texts):
                return ast.Type("choice", texts, span=span)  # type: ignore[arg-type]
        if name == "Annotated":
            return self._marked(items[1:], items[0], span)
        raise NotInPython(what="this annotation", hint=_TYPES, span=span)

    def _marked(self, markers: list[python.expr], base: python.expr | None, span: Span) -> ast.Type:
        type = None if base is None else self.read(base)
        for marker in markers:
            if isinstance(marker, python.Name | python.Attribute):
                named = self._names.get(last_name(marker))
                if getattr(named, "kind", None) in _MARKERS:
                    bare = type or _bare(str(named.kind), span)  # type: ignore[union-attr]
                    type = self._constrained(bare, [named], span)
                continue
            if not (isinstance(marker, python.Call) and last_name(marker.func) in _MARKERS):
                continue
            kind = last_name(marker.func)
            type = type or _bare(kind, span)
            if kind == "limit":
                type = _limited(type, _options(marker, self._source), span)
                continue
            type = self._held(type, kind, _given(kind, marker, self._source), span)
        return type or ast.Type("str", span=span)

    def _constrained(self, type: ast.Type, constraints: Iterable[Any], span: Span) -> ast.Type:
        """Return a type under the constraints that an alias carries, as Python has them."""
        for one in constraints:
            kind, values = getattr(one, "kind", None), getattr(one, "values", ())
            if kind == "limit":
                bounds = zip(("max_tokens", "max_items"), values, strict=True)
                options = tuple(
                    ast.Argument(name, ast.Literal(bound, span=span), span=span)
                    for name, bound in bounds
                    if bound
                )
                type = _limited(type, options, span)
            elif kind in _MARKERS:
                type = self._held(type, str(kind), values, span)
        return type

    def _held(self, type: ast.Type, kind: str, values: tuple[Any, ...], span: Span) -> ast.Type:
        """Return a type that a constraint's values take the place of."""
        wanted = _HOLDS.get(kind, "str")
        if type.arguments and type.name in {"int", "regex", *FILE_TYPES}:
            hint = "write both as one" + ", such as weft.between(2, 9)" * (kind == "between")
            raise NotInPython(what="a second constraint of a type", hint=hint, span=span)
        if type.name != wanted:
            hint = f"write Annotated[{wanted}, weft.{kind}(...)]"
            raise NotInPython(what=f"a `{kind}` of {type.name}", hint=hint, span=span)
        if kind in FILE_TYPES:
            content = read_type_file(kind, str(values[0]), self._source, span)
            return ast.Type(kind, (str(values[0]), content), type.options, span=span)
        name = "int" if kind == "between" else "regex"
        return ast.Type(name, values, type.options, span=span)

    def record(self, cls: type) -> None:
        """Add the record of a dataclass, and those of its fields."""
        if cls.__name__ in self._records:
            return
        syntax, source = class_syntax(cls, self._source)
        self._records[cls.__name__] = ast.Record(cls.__name__, ())
        fields: dict[str, ast.Field] = {}
        for each in reversed(cls.__mro__):  # what is inherited comes first
            if "__dataclass_fields__" in vars(each):
                fields |= self._own_fields(each)
        span = span_of(syntax, source)
        self._records[cls.__name__] = ast.Record(
            cls.__name__, tuple(fields.values()), python.get_docstring(syntax), span=span
        )

    def _own_fields(self, cls: type) -> dict[str, ast.Field]:
        """Return the fields that a class itself declares, by name."""
        syntax, source = class_syntax(cls, self._source)
        reader = TypeReader({**self._names, **namespace_of(cls)}, source, self._records)
        return {
            item.target.id: ast.Field(
                item.target.id, reader.read(item.annotation), span=span_of(item, source)
            )
            for item in syntax.body
            if isinstance(item, python.AnnAssign) and isinstance(item.target, python.Name)
        }


def _limited(type: ast.Type, options: Iterable[ast.Argument], span: Span) -> ast.Type:
    """Return a type with more limits; raises NotInPython for one that it has."""
    more = tuple(options)
    if {one.name for one in more} & {one.name for one in type.options}:
        hint = "write each limit once"
        raise NotInPython(what="a second limit of a type", hint=hint, span=span)
    return dataclasses.replace(type, options=(*type.options, *more))


def _bare(kind: str, span: Span) -> ast.Type:
    """Return the type of a constraint that stands without one."""
    return ast.Type(_HOLDS.get(kind, "str"), span=span)


def _given(kind: str, marker: python.Call, source: Source) -> tuple[Any, ...]:
    """Return the values of `between(1, 9)`, `between(low=1, high=9)`, and of others like it."""
    names = _GIVEN[kind]
    given = {item.arg or "**": item.value for item in marker.keywords}
    given |= dict(zip(names, marker.args, strict=False))
    if sorted(given) != sorted(names) or len(marker.args) + len(marker.keywords) > len(names):
        hint = f"write weft.{kind}({', '.join(name.upper() for name in names)})"
        raise NotInPython(what=f"this `{kind}`", hint=hint, span=span_of(marker, source))
    values = [read_constant(given[name], source) for name in names]
    return tuple(
        value.constant if isinstance(value, ast.Text) else getattr(value, "value", None)
        for value in values
    )


def _parsed(text: str, span: Span) -> python.expr:
    """Return the expression that an annotation in quotes holds."""
    try:
        return python.parse(text, mode="eval").body
    except (SyntaxError, ValueError):
        raise NotInPython(what=f"the annotation {text!r}", span=span) from None


def last_name(node: python.expr) -> str:
    """Return `x` of `x` and of `a.b.x`."""
    if isinstance(node, python.Attribute):
        return node.attr
    return node.id if isinstance(node, python.Name) else ""


def read_constant(node: python.expr, source: Source) -> ast.Expression:
    """Return a literal, or a list of literals; others raise NotInPython."""
    span = span_of(node, source)
    match node:
        case python.Constant(value=str(text)):
            return ast.Text((text,) if text else (), span=span)
        case python.Constant(value=int() | float() | None as value):
            return ast.Literal(value, span=span)
        case python.UnaryOp(op=python.USub(), operand=operand):
            return negative(read_constant(operand, source), span)
        case python.List(elts=elements) | python.Tuple(elts=elements):
            return ast.ListOf(tuple(read_constant(item, source) for item in elements), span=span)
    raise NotInPython(what="a computed value here", hint="write the value itself", span=span)


def _options(marker: python.Call, source: Source) -> tuple[ast.Argument, ...]:
    given = list(zip(("max_tokens", "max_items"), marker.args, strict=False))
    given += [(item.arg or "", item.value) for item in marker.keywords]
    return tuple(
        ast.Argument(name, read_constant(value, source), span=span_of(value, source))
        for name, value in given
    )


def _relocate(tree: python.expr, place: python.expr) -> python.expr:
    for node in python.walk(tree):
        python.copy_location(node, place)
    return tree
