"""The program dialect: streams of prompt state, and the host values between model calls.

A `stream` value is the text that the model sees so far; each operation that appends takes a
stream and gives the next one, so that sharing and lifetimes are plain def-use questions.
Regions see outer values. A region ends in `program.yield` or, outside a fork, in `program.return`,
or in a `program.if` whose two regions both return: what follows in the text is never reached.
"""

from __future__ import annotations

from ..types import STREAM
from . import program_checks as checks
from . import region_checks as regions
from .dialect import Dialect
from .dialect import OperationSpec as Op

SAMPLING = ("temperature", "top_p", "top_k", "min_p", "seed")
WHO = ("adapter", "client", "priority", "attention")
"""Who computes what a `with` block generates, how soon, and which keys it reads meanwhile."""

ANNOTATIONS = ("prefix", "note")
"""Attributes that passes add: `prefix` (tokens known, tokens reused), `note` (for `explain`)."""

DECLARATIONS = (
    Op(
        "program.record",
        "declares a record type; fields = [{name = , type = , options = {max_tokens = }}]",
        required=("name", "fields"),
    ),
    Op(
        "program.tool",
        "declares a host function; parameters = [{name = , type = }]. A `pure` one only gives a "
        "value, always the same for the same arguments",
        required=("name", "parameters", "returns"),
        optional=("timeout", "pure"),
    ),
    Op(
        "program.func",
        "a program: its region takes the stream and one value a parameter, parameters = "
        "[{name = , type = , default = }]",
        regions=1,
        required=("name", "parameters", "returns"),
        optional=("doc", *ANNOTATIONS),
        check=checks.func,
    ),
)

STREAM_OPERATIONS = (
    Op(
        "program.literal",
        "appends a text",
        1,
        1,
        required=("text",),
        optional=ANNOTATIONS,
        first=STREAM,
        check=checks.text,
    ),
    Op(
        "program.append",
        "appends a value, formatted as text",
        2,
        1,
        optional=ANNOTATIONS,
        first=STREAM,
    ),
    Op(
        "program.begin",
        "opens a chat message",
        1,
        1,
        required=("role",),
        first=STREAM,
        check=checks.role,
    ),
    Op(
        "program.end",
        "closes the chat message",
        1,
        1,
        required=("role",),
        first=STREAM,
        check=checks.role,
    ),
    Op(
        "program.gen",
        "appends what the model says; results: stream, value of `type`. `ahead` = how many of the "
        "gens that follow may be asked for in the same call",
        1,
        2,
        required=("name", "type", "max_tokens"),
        optional=("stop", "logprobs", "ahead", *SAMPLING, *WHO, *ANNOTATIONS),
        first=STREAM,
        check=checks.gen,
    ),
    Op(
        "program.select",
        "appends the most likely of a list of options; operands: stream, list<str>; results: "
        "stream, str that knows the probabilities",
        2,
        2,
        required=("name",),
        optional=("by", *WHO, *ANNOTATIONS),
        first=STREAM,
    ),
    Op(
        "program.score",
        "the log-probability of a text as a continuation of the stream; operands: stream, str",
        2,
        1,
        optional=WHO,
        first=STREAM,
    ),
    Op(
        "program.fork",
        "runs its region once for each element of a list (or N times for an int) from this "
        "stream, in parallel; region arguments: stream, element; results: list of what branches "
        "yield and, where a join wants it, list of their streams",
        2,
        (1, 2),
        regions=1,
        required=("name",),
        optional=ANNOTATIONS,
        first=STREAM,
        check=regions.fork,
    ),
    Op(
        "program.join",
        "the stream of one branch, how = best: that with most points; operands: list of streams, "
        "list of numbers; results: stream, number of the branch",
        2,
        2,
        required=("how",),
    ),
    Op(
        "program.inline",
        "runs another program's body, its region, on this stream; region argument and results: "
        "stream; stream, value. Every path of the region ends in `program.leave`",
        1,
        2,
        regions=1,
        required=("name",),
        optional=ANNOTATIONS,
        first=STREAM,
        check=regions.inlined,
    ),
    Op(
        "program.for",
        "a loop over a list; operands: list, carried values (streams among them); region "
        "arguments: element, carried values; yields and results: carried values",
        (1, None),
        (0, None),
        regions=1,
        optional=ANNOTATIONS,
        check=regions.loop(1),
    ),
    Op(
        "program.while",
        "a bounded loop; operands: carried values; the first region ends in "
        "`program.condition`, the second yields the carried values",
        (0, None),
        (0, None),
        regions=2,
        required=("limit",),
        optional=ANNOTATIONS,
        check=checks.while_loop,
    ),
    Op(
        "program.if",
        "two regions, of which one runs; both yield the results (streams among them)",
        1,
        (0, None),
        regions=2,
        optional=ANNOTATIONS,
        check=regions.same_scope,
    ),
)

TERMINATORS = (
    Op("program.yield", "gives the region's results", (0, None), terminator=True),
    Op("program.condition", "says whether a while goes on", 1, terminator=True),
    Op(
        "program.leave",
        "ends the innermost `program.inline` with its stream and value, from any depth",
        2,
        terminator=True,
        first=STREAM,
    ),
    Op("program.return", "ends the program with a value", (0, 1), terminator=True),
)

VALUE_OPERATIONS = (
    Op("program.constant", "a literal value", 0, 1, required=("value",)),
    Op("program.unary", "op: not, neg", 1, 1, required=("op",), check=checks.unary),
    Op(
        "program.binary",
        "op: + - * / // % == != < <= > >= in",
        2,
        1,
        required=("op",),
        check=checks.binary,
    ),
    Op("program.field", "a record's field", 1, 1, required=("name",)),
    Op("program.index", "an element of a list or a character of a string", 2, 1),
    Op("program.list", "a list of the operands", (0, None), 1),
    Op("program.make_record", "a record of the operands", (0, None), 1, required=("fields",)),
    Op("program.format", "text of the operands; parts = [str or index of an operand]", (0, None), 1,
       required=("parts",)),
    Op("program.method", "a string or list method", (1, None), 1, required=("name",)),
    Op("program.builtin", "len, str, int, float, min, max, sum, range, sorted", (0, None), 1,
       required=("name",)),
    Op("program.call_tool", "calls a declared tool; with `catch`, its failure is a value",
       (0, None), 1, required=("name",), optional=("catch",)),
    Op("program.call", "runs another program of the module on a stream of its own",
       (0, None), 1, required=("name",), optional=(*WHO, "critical")),
    Op("program.result", "a value as a result that is no error", 1, 1),
    Op("program.is_error", "whether a result is an error", 1, 1),
    Op("program.error", "the error of a result that is one", 1, 1),
    Op("program.expect", "the value of a result; an error that nothing matched ends the run", 1, 1),
)  # fmt: skip

DIALECT = Dialect(
    "program",
    "streams of prompt state: literal, gen, select, fork, for, if, return",
    DECLARATIONS + STREAM_OPERATIONS + TERMINATORS + VALUE_OPERATIONS,
)

EFFECTS = frozenset({"program.call_tool", "program.call"})
"""Value operations that do more than give a value: they are neither dropped nor repeated."""

VALUE_NAMES = frozenset(spec.name for spec in VALUE_OPERATIONS)
"""Host operations: they mean the same in a plan, and stay as they are there."""
