"""The abstract syntax of weft programs: what both surfaces, text and Python, are read into."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..ir.source import Source, Span


@dataclass(frozen=True, kw_only=True)
class Node:
    """Base of every node; the span takes no part in equality."""

    span: Span | None = field(default=None, compare=False, repr=False)


class Expression(Node):
    """Something that has a value."""


class Statement(Node):
    """Something that a program does."""


class Declaration(Node):
    """A record, a tool or a program."""


# Expressions


@dataclass(frozen=True)
class Literal(Expression):
    """A number, a truth value or none."""

    value: int | float | bool | None


@dataclass(frozen=True)
class Text(Expression):
    """A string: literal parts and interpolated expressions, in order."""

    parts: tuple[str | Expression, ...] = ()

    @property
    def constant(self) -> str | None:
        """The string, where nothing is interpolated."""
        if any(isinstance(part, Expression) for part in self.parts):
            return None
        return "".join(part for part in self.parts if isinstance(part, str))


@dataclass(frozen=True)
class Name(Expression):
    """A use of a bound name."""

    name: str


@dataclass(frozen=True)
class Unary(Expression):
    """`not x` or `-x`; op is `not` or `neg`."""

    op: str
    operand: Expression


@dataclass(frozen=True)
class Binary(Expression):
    """Arithmetic or a comparison."""

    op: str
    left: Expression
    right: Expression


@dataclass(frozen=True)
class Logical(Expression):
    """`and` or `or`: the right side runs only where it decides."""

    op: str
    left: Expression
    right: Expression


@dataclass(frozen=True)
class Argument(Node):
    """A named argument of a record, or an option of a gen."""

    name: str
    value: Expression


@dataclass(frozen=True)
class Pattern(Expression):
    """A regular expression as an option's value: `stop=regex "[.!?]"`."""

    source: str


@dataclass(frozen=True)
class Call(Expression):
    """A builtin or tool call, or, with named arguments, a new record."""

    function: str
    arguments: tuple[Expression, ...] = ()
    named: tuple[Argument, ...] = ()


@dataclass(frozen=True)
class Run(Expression):
    """Another program of the file; `how`: `call` on a fresh stream, or `inline` on this one."""

    how: str
    program: str
    arguments: tuple[Expression, ...] = ()
    named: tuple[Argument, ...] = ()


@dataclass(frozen=True)
class Method(Expression):
    """A string or list method."""

    receiver: Expression
    name: str
    arguments: tuple[Expression, ...] = ()


@dataclass(frozen=True)
class FieldOf(Expression):
    """A record's field."""

    receiver: Expression
    name: str


@dataclass(frozen=True)
class Index(Expression):
    """An element of a list, or a character of a string."""

    receiver: Expression
    index: Expression


@dataclass(frozen=True)
class ListOf(Expression):
    """A list of its elements."""

    elements: tuple[Expression, ...] = ()


@dataclass(frozen=True)
class Type(Node):
    """A type as written: `list[T]`, `int(1..10)`, `choice[...]`, a record's name, with options."""

    name: str
    arguments: tuple[Type | str | int, ...] = ()
    options: tuple[Argument, ...] = ()


# Statements


@dataclass(frozen=True)
class Append(Statement):
    """A string statement: appends to the stream."""

    text: Expression


@dataclass(frozen=True)
class Message(Statement):
    """A chat message of one role, around what its body appends."""

    role: str
    body: tuple[Statement, ...]


@dataclass(frozen=True)
class Gen(Statement):
    """Appends what the model says, and binds it."""

    name: str
    type: Type
    options: tuple[Argument, ...] = ()


@dataclass(frozen=True)
class Select(Statement):
    """Appends the likeliest of a list of strings, and binds it."""

    name: str
    choices: Expression
    options: tuple[Argument, ...] = ()


@dataclass(frozen=True)
class Fork(Statement):
    """Branches from the present stream, one an element, and the list of what they yield."""

    variable: str | None
    over: Expression
    name: str
    body: tuple[Statement, ...]


@dataclass(frozen=True)
class Yield(Statement):
    """Gives a branch's value."""

    value: Expression


@dataclass(frozen=True)
class For(Statement):
    """A loop over a list."""

    variable: str
    over: Expression
    body: tuple[Statement, ...]


@dataclass(frozen=True)
class While(Statement):
    """A loop that runs at most `limit` times."""

    condition: Expression
    limit: int
    body: tuple[Statement, ...]


@dataclass(frozen=True)
class If(Statement):
    """One of two bodies; an `elif` is an If in `otherwise`."""

    condition: Expression
    then: tuple[Statement, ...]
    otherwise: tuple[Statement, ...] = ()


@dataclass(frozen=True)
class Case(Node):
    """One case of a match; `kind`: `literal` (one of `values`), `error`, `value` or `any`."""

    kind: str
    values: tuple[Expression, ...]
    name: str | None
    body: tuple[Statement, ...]


@dataclass(frozen=True)
class Match(Statement):
    """The first of some cases that fits a value."""

    subject: Expression
    cases: tuple[Case, ...]


@dataclass(frozen=True)
class Join(Statement):
    """Goes on with the stream of a branch of the fork above; `name` is bound to its value."""

    how: str
    options: tuple[Argument, ...]
    name: str | None = None


@dataclass(frozen=True)
class With(Statement):
    """Says who computes what its body generates (`adapter`, `client`), or how soon."""

    kind: str
    value: Expression
    body: tuple[Statement, ...]


@dataclass(frozen=True)
class Assign(Statement):
    """Binds a name (`declares`: written with `let`), or gives it another value."""

    name: str
    value: Expression
    type: Type | None = None
    declares: bool = True


@dataclass(frozen=True)
class Evaluate(Statement):
    """A tool call whose value is dropped."""

    value: Expression


@dataclass(frozen=True)
class Return(Statement):
    """Ends the program."""

    value: Expression | None = None


# Declarations


@dataclass(frozen=True)
class Field(Node):
    """A record's field."""

    name: str
    type: Type


@dataclass(frozen=True)
class Record(Declaration):
    """A record type."""

    name: str
    fields: tuple[Field, ...]
    doc: str | None = None


@dataclass(frozen=True)
class Parameter(Node):
    """A parameter of a tool or a program."""

    name: str
    type: Type
    default: Expression | None = None


@dataclass(frozen=True)
class Tool(Declaration):
    """A host function, bound at run time; a `pure` one may be run when compiling, or not at all."""

    name: str
    parameters: tuple[Parameter, ...]
    returns: Type | None = None
    timeout: float | None = None
    pure: bool = False


@dataclass(frozen=True)
class Program(Declaration):
    """A program: it owns one stream."""

    name: str
    parameters: tuple[Parameter, ...]
    returns: Type | None
    body: tuple[Statement, ...]
    doc: str | None = None


@dataclass(frozen=True)
class File(Node):
    """Everything of one source."""

    declarations: tuple[Declaration, ...]
    doc: str | None = None
    source: Source = field(default=Source("<none>", ""), compare=False, repr=False)

    @property
    def records(self) -> tuple[Record, ...]:
        """The records, in order."""
        return tuple(item for item in self.declarations if isinstance(item, Record))

    @property
    def tools(self) -> tuple[Tool, ...]:
        """The tools, in order."""
        return tuple(item for item in self.declarations if isinstance(item, Tool))

    @property
    def programs(self) -> tuple[Program, ...]:
        """The programs, in order."""
        return tuple(item for item in self.declarations if isinstance(item, Program))
