"""The AST as .weft text again: what a Python program reads like, and the parser's inverse."""

from __future__ import annotations

import re
from collections.abc import Iterable

from . import ast
from .text.type_files import FILE_TYPES

_LEVELS = {
    "or": 1, "and": 2, "not": 3, "==": 4, "!=": 4, "<": 4, "<=": 4, ">": 4, ">=": 4, "in": 4,
    "+": 5, "-": 5, "*": 6, "/": 6, "//": 6, "%": 6, "neg": 7,
}  # fmt: skip
_ESCAPES = {
    "\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t", "\r": "\\r", "\0": "\\0", "{": "{{",
    "}": "}}",
}  # fmt: skip
_POSTFIX = 8


def unparse(file: ast.File) -> str:
    """Return a file's text; parsing it gives an equal file."""
    blocks = [_quoted_doc(file.doc, "")] if file.doc else []
    blocks += [_declaration(item) for item in file.declarations]
    return "\n\n".join(blocks) + "\n"


def unparse_expression(expression: ast.Expression) -> str:
    """Return an expression's text."""
    return _expression(expression, 0)


def _quoted_doc(doc: str, indent: str) -> str:
    text = doc.replace("\\", "\\\\").replace('"', '\\"').replace("{", "{{").replace("}", "}}")
    return f'{indent}"""{text}"""'.replace("\n", f"\n{indent}")


def _declaration(node: ast.Declaration) -> str:
    match node:
        case ast.Record(name=name, fields=fields, doc=doc):
            lines = [_quoted_doc(doc, "    ")] if doc else []
            lines += [f"    {field.name}: {_type(field.type)}" for field in fields]
            return "\n".join([f"record {name}:", *lines])
        case ast.Tool(timeout=timeout):
            bound = f" timeout {timeout}" if timeout is not None else ""
            return f"{'pure ' if node.pure else ''}tool {_signature(node)}{bound}"
        case ast.Program(body=body, doc=doc):
            lines = [_quoted_doc(doc, "    ")] if doc else []
            return "\n".join([f"program {_signature(node)}:", *lines, *_block(body)])
    raise AssertionError(f"no text for {type(node).__name__}")


def _signature(node: ast.Tool | ast.Program) -> str:
    parameters = ", ".join(
        f"{item.name}: {_type(item.type)}"
        + (f" = {unparse_expression(item.default)}" if item.default is not None else "")
        for item in node.parameters
    )
    returns = f" -> {_type(node.returns)}" if node.returns else ""
    return f"{node.name}({parameters}){returns}"


def _type(type: ast.Type) -> str:
    options = [_named(item) for item in type.options]
    if type.name == "int" and type.arguments:
        low, high = type.arguments
        return f"int({', '.join([f'{low}..{high}', *options])})"
    text = type.name
    if type.name in {"regex", *FILE_TYPES}:
        text += f" {_raw(str(type.arguments[0]))}"
    elif type.arguments:
        inner = (
            _type(item) if isinstance(item, ast.Type) else _string(str(item))
            for item in type.arguments
        )
        text += f"[{', '.join(inner)}]"
    return text + (f"({', '.join(options)})" if options else "")


def _named(argument: ast.Argument) -> str:
    return f"{argument.name}={unparse_expression(argument.value)}"


def _options(options: Iterable[ast.Argument]) -> str:
    given = ", ".join(map(_named, options))
    return f"({given})" if given else ""


def _block(body: Iterable[ast.Statement]) -> list[str]:
    return ["    " + line for statement in body for line in _statement(statement)]


def _statement(node: ast.Statement) -> list[str]:
    match node:
        case ast.Append(text=value) | ast.Evaluate(value=value):
            return [unparse_expression(value)]
        case ast.Message(role=role, body=(ast.Append() | ast.Gen() | ast.Select() as only,)):
            return [f"{role} {_statement(only)[0]}"]
        case ast.Message(role=role, body=body):
            return [f"{role}:", *_block(body)]
        case ast.Gen(name=name, type=type, options=options):
            note = "" if type == ast.Type("str") else f": {_type(type)}"
            return [f"gen {name}{_options(options)}{note}"]
        case ast.Select(name=name, choices=choices, options=options):
            return [f"select {name}{_options(options)} from {unparse_expression(choices)}"]
        case ast.Fork(variable=variable, over=over, name=name, body=body):
            each = f"{variable} in {unparse_expression(over)}" if variable else _expression(over, 5)
            return [f"fork {each} as {name}:", *_block(body)]
        case ast.Yield(value=value):
            return [f"yield {unparse_expression(value)}"]
        case ast.For(variable=variable, over=over, body=body):
            return [f"for {variable} in {unparse_expression(over)}:", *_block(body)]
        case ast.While(condition=condition, limit=limit, body=body):
            return [f"while {unparse_expression(condition)} up to {limit}:", *_block(body)]
        case ast.If(condition=condition, then=then, otherwise=otherwise):
            lines = [f"if {unparse_expression(condition)}:", *_block(then)]
            return lines + (["else:", *_block(otherwise)] if otherwise else [])
        case ast.Match(subject=subject, cases=cases):
            return [f"match {unparse_expression(subject)}:", *_cases(cases)]
        case ast.Join(how=how, options=options, name=bound):
            return [f"join {how}{_options(options)}" + (f" as {bound}" if bound else "")]
        case ast.With(kind=kind, value=value, body=body):
            return [f"with {kind} {unparse_expression(value)}:", *_block(body)]
        case ast.Assign(name=name, value=value, type=type, declares=declares):
            note = f": {_type(type)}" if type else ""
            return [f"{'let ' if declares else ''}{name}{note} = {unparse_expression(value)}"]
        case ast.Return(value=value):
            return ["return" if value is None else f"return {unparse_expression(value)}"]
    raise AssertionError(f"no text for {node!r}")


def _cases(cases: Iterable[ast.Case]) -> list[str]:
    lines: list[str] = []
    for case in cases:
        words = " | ".join(map(unparse_expression, case.values))
        if case.kind != "literal":
            words = " ".join(["_" if case.kind == "any" else case.kind, *filter(None, [case.name])])
        lines += [f"    case {words}:", *("    " + line for line in _block(case.body))]
    return lines


def _expression(node: ast.Expression, level: int) -> str:
    """Return the text, in parentheses where it binds looser than its place (`level`)."""
    text, own = _with_level(node)
    return text if own >= level else f"({text})"


def _with_level(node: ast.Expression) -> tuple[str, int]:
    match node:
        case ast.Literal(value=value):
            return _literal(value)
        case ast.Unary(op=op, operand=operand):
            sign = "not " if op == "not" else "-"
            return sign + _expression(operand, _LEVELS[op]), _LEVELS[op]
        case ast.Binary(op=op, left=left, right=right) | ast.Logical(op=op, left=left, right=right):
            own = _LEVELS[op]
            first = own + 1 if own == _LEVELS["=="] else own  # comparisons do not chain
            return f"{_expression(left, first)} {op} {_expression(right, own + 1)}", own
    return _postfix(node), _POSTFIX


def _postfix(node: ast.Expression) -> str:
    match node:
        case ast.Text():
            return _text(node)
        case ast.Name(name=name):
            return name
        case ast.Call(function=function, arguments=arguments, named=named):
            inner = [*map(unparse_expression, arguments), *map(_named, named)]
            return f"{function}({', '.join(inner)})"
        case ast.Pattern(source=source):
            return f"regex {_raw(source)}"
        case ast.Run(how=how, program=program, arguments=arguments, named=named):
            inner = [*map(unparse_expression, arguments), *map(_named, named)]
            return f"{how} {program}({', '.join(inner)})"
        case ast.Method(receiver=receiver, name=name, arguments=arguments):
            inner = ", ".join(map(unparse_expression, arguments))
            return f"{_expression(receiver, _POSTFIX)}.{name}({inner})"
        case ast.FieldOf(receiver=receiver, name=name):
            return f"{_expression(receiver, _POSTFIX)}.{name}"
        case ast.Index(receiver=receiver, index=index):
            return f"{_expression(receiver, _POSTFIX)}[{unparse_expression(index)}]"
        case ast.ListOf(elements=elements):
            return f"[{', '.join(map(unparse_expression, elements))}]"
    raise AssertionError(f"no text for {type(node).__name__}")


def _literal(value: int | float | bool | None) -> tuple[str, int]:
    if value is None or isinstance(value, bool):
        return {None: "none", True: "true", False: "false"}[value], _POSTFIX
    return repr(value), _LEVELS["neg"] if repr(value).startswith("-") else _POSTFIX


def _string(text: str) -> str:
    return '"' + "".join(_ESCAPES.get(character, character) for character in text) + '"'


_RAW = {'"': r'(\\.|[^"\\\n])*', "'": r"(\\.|[^'\\\n])*", '"""': r'(\\.|(?!"""|"\Z)[^\\])*'}


def _raw(text: str) -> str:
    """Return a text as written, such as a pattern's, in the first quotes that it does not end."""
    for quotes, inside in _RAW.items():
        if re.fullmatch(inside, text, re.DOTALL):
            return f"{quotes}{text}{quotes}"
    return '"' + re.sub(r'(\\.)|"', lambda found: found[1] or '\\"', text, flags=re.DOTALL) + '"'


def _text(node: ast.Text) -> str:
    parts = [
        _string(part)[1:-1] if isinstance(part, str) else "{" + unparse_expression(part) + "}"
        for part in node.parts
    ]
    return '"' + "".join(parts) + '"'
