"""What the checker can find wrong: one class a mistake, with template and hint."""

from __future__ import annotations

from ...ir.core import Term
from ...ir.diagnostics import WeftError, WeftNameError, WeftTypeError
from ...ir.types import written


class _OfTypes(WeftError):
    """An error whose message has types in it: they read as a program writes them."""

    @property
    def message(self) -> str:
        """The filled template."""
        return self.template.format_map(
            {name: written(value) if isinstance(value, Term) else value
             for name, value in self.fields.items()}
        )  # fmt: skip


class UnknownName(WeftNameError):
    """A use of a name that is not bound on every path to it."""

    template = "`{name}` is not bound here"


class UnknownFunction(WeftNameError):
    """A call of something that is no tool, builtin or record."""

    template = "there is no {what} `{name}`"


class NotSelectable(WeftNameError):
    """The probability of an option that the select does not have."""

    template = "the select of `{name}` has no option {option}"


class UnknownMethod(_OfTypes, WeftNameError):
    """A method that values of the type do not have."""

    template = "{type} has no method `{name}`"


class UnknownField(_OfTypes, WeftNameError):
    """A field that the record does not declare."""

    template = "{type} has no field `{name}`"


class UnknownOption(WeftNameError):
    """An option that its place does not take."""

    template = "{place} takes no option `{name}`"


class AlreadyBound(WeftNameError):
    """A `let` of a name that is bound already."""

    template = "`{name}` is bound already"
    hint = "write {name} = ... to give it another value"


class DeclaredTwice(WeftNameError):
    """Two declarations, fields or parameters of one name."""

    template = "{what} `{name}` is declared twice"


class ReservedName(WeftNameError):
    """A binding of a name that means something else."""

    template = "`{name}` is {meaning} and cannot be bound"


class ChangedInFork(WeftNameError):
    """A branch that gives another value to a name from outside it."""

    template = "a branch cannot change `{name}`, which all branches see"
    hint = "bind another name here, and `yield` what the branch found"


class WrongType(_OfTypes, WeftTypeError):
    """A value of another type than its place wants."""

    template = "{place} wants {want}, but this is {have}"


class WrongOperands(WeftTypeError):
    """An operator between values that it does not take."""

    template = "`{op}` does not take {have}"


class WrongArguments(WeftTypeError):
    """A call whose arguments do not fit what is called."""

    template = "`{name}` takes {want}, but is given {have}"


class MissingArgument(WeftTypeError):
    """A call that leaves out an argument without a default."""

    template = "`{name}` also needs `{missing}`"


class NotConstant(WeftTypeError):
    """A value that must be known before the program runs, and is not."""

    template = "{place} must be written as a value: it is needed before the program runs"


class WrongOption(WeftTypeError):
    """An option's value outside its range."""

    template = "`{name}` {problem}"


class RecursiveProgram(WeftTypeError):
    """A program that runs itself."""

    template = "programs cannot run themselves: {names}"
    hint = "a loop with a bound says the same: while CONDITION up to N:"


class RecursiveRecord(WeftTypeError):
    """A record that contains itself."""

    template = "the record `{name}` contains itself, so its text would have no end"


class ImpossibleCase(_OfTypes, WeftTypeError):
    """A case that the matched value never fits."""

    template = "{pattern} never fits a value of {type}"


class UnreachableCase(WeftTypeError):
    """A case after one that fits the same."""

    template = "nothing reaches this case: one above it takes the same values"


class MisplacedJoin(WeftTypeError):
    """A join without a fork whose streams it could go on with."""

    template = "no fork stands above this join"
    hint = "a join follows its fork in the same block, and nothing is appended between them"


class MissingReturn(_OfTypes, WeftTypeError):
    """A path through a program that returns nothing, where a type is declared."""

    template = "`{name}` promises {type}, but can end without a return"
    hint = "end it with return VALUE, in each branch of an if or below it; or leave out the type"


class NestedMessage(WeftTypeError):
    """A message inside a message."""

    template = "the {role} message cannot begin inside the {outer} message"
    hint = "end the outer block first: a chat is a list of messages"


class MisplacedYield(WeftTypeError):
    """A yield that is not the last statement of a fork."""

    template = "`yield` must be the last statement of a fork's own block"
    hint = "bind the value in the branches of an if, and yield it after them"


class MissingYield(WeftTypeError):
    """A fork that yields nothing."""

    template = "this fork yields nothing, so `{name}` would be empty"
    hint = "end its block with yield VALUE"


class ReturnInFork(WeftTypeError):
    """A return inside a branch."""

    template = "a branch of a fork cannot return from the program"
    hint = "yield the value, and return after the fork"


class InvalidPattern(WeftTypeError):
    """A regular expression that does not compile."""

    template = "this is no regular expression: {problem}"
    hint = r"patterns are Python's (re): a sign that means something there is written \[, \( or \."
