"""Checks a file before it is lowered: names bound on every path, types, forks, messages."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ...ir.core import Term
from ...ir.diagnostics import Note, Warning, WeftError
from ...ir.source import Span
from ...ir.types import ANY, BOOL, INT, NONE, SELECTION, STR, list_of, result_of
from .. import ast
from ..faults import Faults, in_order
from .constants import int_of
from .declarations import (
    KEYWORDS,
    check_finite,
    check_signature,
    check_type,
    check_unique,
    no_options,
)
from .effects import appends, assigned, caught, selected
from .errors import (
    AlreadyBound,
    ChangedInFork,
    MisplacedYield,
    MissingReturn,
    MissingYield,
    NestedMessage,
    ReservedName,
    ReturnInFork,
    UnknownName,
    WrongOption,
    WrongType,
)
from .expressions import Binding, Flow, World, check_expression, expect
from .match import check_match
from .nesting import check_nesting
from .options import check_gen_options, check_select_options
from .programs import check_recursion
from .signatures import BUILTINS, base, common, element, fits
from .texts import check_texts
from .type_names import bound_type, did_you_mean, options_of, record_fields
from .with_blocks import check_join, check_with

COUNTED = "range(N) is the list of the numbers from 0 to N - 1"


def check(file: ast.File) -> list[Warning]:
    """Check a file and return its warnings; raises the first error, with the source's lines."""
    try:
        return _check_file(file, Faults())
    except WeftError as error:
        raise _with_lines(error, file) from None


def check_all(file: ast.File) -> tuple[list[WeftError], list[Warning]]:
    """Return all errors of a file, with the source's lines, in the order of their places; and its
    warnings."""
    faults = Faults(gather=True)
    warnings = _check_file(file, faults)
    errors = [_with_lines(error, file) for error in faults.found]
    return in_order(errors), warnings


def _with_lines(error: WeftError, file: ast.File) -> WeftError:
    return error if error.source is not None else error.with_source(file.source)


def _check_file(file: ast.File, faults: Faults) -> list[Warning]:
    with faults.attempt():
        check_nesting(file)
    if faults.found:
        return []  # the other checks walk by recursion, too
    with faults.attempt():
        check_texts(file)
    check_unique("the declaration", file.declarations, faults)
    record_names = [record.name for record in file.records]
    for record in file.records:
        check_unique("the field", record.fields, faults)
        for field in record.fields:
            with faults.attempt():
                check_type(field.type, record_names, inside=True)
                check_gen_options(field.type.options, "a field's type", inside=True)
    check_finite(file, faults)
    for declaration in (*file.tools, *file.programs):
        check_signature(declaration, file, faults)
    fields = record_fields(file, faults)
    tools = {tool.name: tool for tool in file.tools}
    programs = {program.name: program for program in file.programs}
    with faults.attempt():
        check_recursion(programs)
    warnings: list[Warning] = []
    for program in file.programs:
        world = World(fields, tools, programs, caught(program.body), faults=faults,
                      options=selected(program.body), warnings=warnings)  # fmt: skip
        with faults.attempt():
            Checker(world).program(program)
    return warnings


class Checker:
    """Checks the statements of one program, following every path."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.faults = world.faults
        self._warnings = world.warnings
        self._returns = NONE
        self._declared = False

    def program(self, program: ast.Program) -> None:
        """Check a whole program."""
        flow = Flow(self.world, {})
        for parameter in program.parameters:
            with self.faults.attempt():
                self.bind(
                    parameter.name, base(self.world.term(parameter.type)), parameter.span, flow
                )
        self._declared = program.returns is not None
        self._returns = self.world.term(program.returns)
        self.body(program.body, flow)
        if self._declared and not flow.ended:
            raise MissingReturn(name=program.name, type=self._returns, span=program.span)
        if self.faults.found:
            return  # what is wrong may hide a use
        for parameter in program.parameters:
            if parameter.name not in self.world.used:
                message = f"the parameter `{parameter.name}` is never used"
                self._warnings.append(Warning(message, parameter.span))

    def body(self, body: Iterable[ast.Statement], flow: Flow) -> None:
        """Check the statements of a block."""
        warned, flow.fork = False, None
        for statement in body:
            if flow.ended and not warned:
                message = "nothing reaches this statement: every path above it returns"
                self._warnings.append(Warning(message, statement.span))
                warned = True
            try:
                self._statement(statement, flow)
            except WeftError as error:
                self.faults.report(error)
                _recover(statement, flow)
            if isinstance(statement, ast.Fork):
                flow.fork = statement.name
            elif appends((statement,)):
                flow.fork = None
        flow.fork = None

    def _statement(self, statement: ast.Statement, flow: Flow) -> None:
        match statement:
            case ast.Append(text=value) | ast.Evaluate(value=value):
                check_expression(value, flow)
            case ast.Message():
                self._message(statement, flow)
            case ast.Gen():
                self._gen(statement, flow)
            case ast.Select():
                expect(statement.choices, list_of(STR), "select", flow)
                check_select_options(statement)
                self.bind(statement.name, SELECTION, statement.span, flow)
            case ast.Fork():
                self._fork(statement, flow)
            case ast.Yield():
                raise MisplacedYield(span=statement.span)
            case ast.For():
                self._for(statement, flow)
            case ast.While():
                expect(statement.condition, BOOL, "while", flow)
                self._loop(statement.body, flow.child(), flow, statement)
            case ast.If():
                self._if(statement, flow)
            case ast.Join():
                check_join(self, statement, flow)
            case ast.With():
                check_with(self, statement, flow)
            case ast.Match():
                check_match(self, statement, flow)
            case ast.Assign():
                self._assign(statement, flow)
            case ast.Return():
                self._return(statement, flow)

    def bind(self, name: str, type: Term, span: Span | None, flow: Flow) -> None:
        """Bind a name; a bound name keeps the kind of value it has."""
        for known, meaning in (
            (BUILTINS, "a builtin"),
            (KEYWORDS, "a word of the language"),
            (self.world.tools, "a tool"),
            (self.world.fields, "a record"),
            (self.world.programs, "a program"),
        ):
            if name in known:
                raise ReservedName(name=name, meaning=meaning, span=span)
        if name in flow.outside and name in flow.bound:
            note = Note("it is bound here", flow.bound[name].span)
            raise ChangedInFork(name=name, notes=(note,), span=span)
        before = flow.bound.get(name)
        if before is not None:
            if not fits(base(type), base(before.type)):
                note = Note("it is bound here", before.span)
                raise WrongType(
                    place=f"`{name}`", want=before.type, have=type, notes=(note,), span=span
                )
            type = before.type if type == before.type else base(before.type)
        flow.bound[name] = Binding(type, before.span if before else span)
        flow.lost.pop(name, None)

    def _message(self, message: ast.Message, flow: Flow) -> None:
        outer = flow.role
        if outer is not None:
            self.faults.report(NestedMessage(role=message.role, outer=outer, span=message.span))
        flow.role = message.role
        self.body(message.body, flow)
        flow.role = outer

    def _gen(self, gen: ast.Gen, flow: Flow) -> None:
        type = check_type(gen.type, self.world.fields)
        more = ("max_items",) if type.name == "list" else ()
        check_gen_options((*gen.type.options, *gen.options), "a gen", more=more)
        options = options_of(gen.options)
        found = bound_type(type, options)
        if options.get("logprobs") and found == type:
            message = f"`logprobs` does nothing: a gen of {type} binds no text, which would have it"
            self._warnings.append(Warning(message, gen.span))
        self.bind(gen.name, found, gen.span, flow)

    def _fork(self, fork: ast.Fork, flow: Flow) -> None:
        inner = flow.child()
        inner.outside, inner.in_fork = frozenset(flow.bound), True
        if fork.variable is None:
            expect(fork.over, INT, "fork N", flow)
            count = int_of(fork.over)
            if count is not None and count < 0:
                problem, hint = "has a number of branches, at least 0", "`fork 0` makes none"
                error = WrongOption(name="fork", problem=problem, hint=hint, span=fork.over.span)
                self.faults.report(error)
        else:
            self._bind_element(fork.variable, fork.over, "fork", fork.span, flow, inner)
        *body, last = fork.body
        self.body(body, inner)
        if not isinstance(last, ast.Yield):
            self._statement(last, inner)
            raise MissingYield(name=fork.name, span=fork.span)
        yielded = check_expression(last.value, inner)
        self._lose(inner, flow, Note("it is bound only inside this fork", fork.span))
        self.bind(fork.name, list_of(base(yielded)), fork.span, flow)

    def _bind_element(
        self,
        variable: str,
        over: ast.Expression,
        place: str,
        span: Span | None,
        flow: Flow,
        inner: Flow,
    ) -> None:
        type = check_expression(over, flow)
        if type.name not in {"list", "any"}:
            where, hint = f"`{place} {variable} in`", COUNTED if base(type) == INT else ""
            error = WrongType(place=where, want="a list", have=type, hint=hint, span=over.span)
            self.faults.report(error)
            type = ANY
        with self.faults.attempt():
            if variable in flow.bound:
                note = Note("it is bound here", flow.bound[variable].span)
                hint = "give the loop's variable a name of its own"
                raise AlreadyBound(name=variable, hint=hint, notes=(note,), span=span)
            self.bind(variable, element(type), span, inner)
        inner.bound.setdefault(variable, Binding(ANY, span))

    def _for(self, loop: ast.For, flow: Flow) -> None:
        inner = flow.child()
        self._bind_element(loop.variable, loop.over, "for", loop.span, flow, inner)
        self._loop(loop.body, inner, flow, loop)

    def _loop(
        self, body: tuple[ast.Statement, ...], inner: Flow, flow: Flow, loop: ast.Statement
    ) -> None:
        self.body(body, inner)
        self._lose(
            inner, flow, Note("it is bound only inside this loop, which may not run", loop.span)
        )

    def _lose(self, inner: Flow, flow: Flow, note: Note) -> None:
        """Remember why the names of an inner block are not bound after it."""
        for name in {**inner.lost, **inner.bound}:
            if name not in flow.bound:
                flow.lost[name] = note

    def _if(self, statement: ast.If, flow: Flow) -> None:
        expect(statement.condition, BOOL, "if", flow)
        branches = (flow.child(), flow.child())
        self.body(statement.then, branches[0])
        self.body(statement.otherwise, branches[1])
        self.meet(branches, flow, "if", statement)

    def meet(self, paths: Sequence[Flow], flow: Flow, what: str, statement: ast.Statement) -> None:
        """Let paths meet again: what each path that goes on binds is bound after them."""
        living = [path for path in paths if not path.ended]
        flow.ended = not living
        for name in {name: None for path in paths for name in path.bound}:
            if name not in flow.bound:
                self._merge(name, living, flow, what, statement)

    def _merge(
        self, name: str, living: list[Flow], flow: Flow, what: str, statement: ast.Statement
    ) -> None:
        """Bind a name where each path that goes on binds it to one kind of value."""
        found = [path.bound[name] for path in living if name in path.bound]
        if len(found) < len(living) or not found:
            flow.lost[name] = Note(f"only one path through this {what} binds it", statement.span)
            return
        type: Term | None = found[0].type
        for binding in found[1:]:
            type = common(type, binding.type) if type is not None else None
        if type is None:
            kinds = " and ".join(str(binding.type) for binding in found)
            flow.lost[name] = Note(f"this {what} binds it to {kinds}", statement.span)
            return
        flow.bound[name] = Binding(type, found[0].span)

    def _assign(self, statement: ast.Assign, flow: Flow) -> None:
        name, before = statement.name, flow.bound.get(statement.name)
        type = check_expression(statement.value, flow)
        if statement.type is not None:
            wanted = self.world.term(statement.type)
            no_options(statement.type)
            expect(statement.value, wanted, f"`{name}`", flow)
            type = wanted
        if name in self.world.caught:
            type = result_of(base(type))
        if statement.declares and before is not None and name not in flow.outside:
            note = Note("it is bound here", before.span)
            raise AlreadyBound(name=name, notes=(note,), span=statement.span)
        if not statement.declares and before is None:
            near = did_you_mean(name, flow.bound)
            notes = (flow.lost[name],) if name in flow.lost else ()
            hint = near or f"write let {name} = ... to bind a new name"
            raise UnknownName(name=name, hint=hint, notes=notes, span=statement.span)
        self.bind(name, base(type), statement.span, flow)

    def _return(self, statement: ast.Return, flow: Flow) -> None:
        if flow.in_fork:
            raise ReturnInFork(span=statement.span)
        if statement.value is not None:
            if not self._declared:
                hint = "declare what the program returns: -> TYPE behind its parameters"
                have = check_expression(statement.value, flow)
                raise WrongType(
                    place="return", want="no value", have=have, hint=hint, span=statement.span
                )
            expect(statement.value, self._returns, "return", flow)
        elif self._declared:
            raise WrongType(place="return", want=self._returns, have="none", span=statement.span)
        flow.ended = True


def _recover(statement: ast.Statement, flow: Flow) -> None:
    """Go on behind a statement that is wrong: what it was to bind is bound, to any value."""
    for name in assigned((statement,)):
        flow.bound.setdefault(name, Binding(ANY, statement.span))
    flow.ended = flow.ended or isinstance(statement, ast.Return)
