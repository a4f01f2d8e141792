"""The plan dialect: what the engine executes. Texts are tokens now, streams are KV handles.

A `kv` value names a sequence of tokens whose keys and values are, or will be, in paged memory;
forks share pages. Host values keep the program dialect's value operations.
"""

from __future__ import annotations

from ..types import KV
from . import region_checks as regions
from .dialect import Dialect
from .dialect import OperationSpec as Op
from .program import SAMPLING, WHO
from .program_checks import while_loop

OPERATIONS = (
    Op(
        "plan.func",
        "a planned program; its region takes the root kv and one value a parameter",
        regions=1,
        required=("name", "parameters", "returns"),
        optional=("model", "prefix_hits", "doc", "note", "budget", "critical"),
        check=regions.returns,
    ),
    Op(
        "plan.tokens",
        "a closed segment, known now: ids = [...], text for the reader",
        0,
        1,
        required=("ids", "text"),
    ),
    Op(
        "plan.tokenize",
        "an open segment: parts = [token ids, text, or {value = i}]. Texts and values between ids "
        "are joined, also across segments and `plan.extend`s, and encoded together (never as "
        "special tokens) when the kv is next used by the model",
        (0, None),
        1,
        required=("parts",),
        optional=("note",),
    ),
    Op(
        "plan.extend",
        "appends segments to a kv. `lifetime`, here and below, says which operations read the "
        "tokens that it adds: see `passes/program/memory/lifetimes.py`",
        (2, None),
        1,
        optional=("lifetime", "note"),
        first=KV,
    ),
    Op(
        "plan.decode",
        "generates; results: kv, value. `constraint` names a compiled constraint, `ends` the "
        "token ids that end it without being appended; `heal` is text that the generation must "
        "begin with and the value does not hold; `forced` is what the value must begin with and "
        "the kv holds already: it does not count among `max_tokens`",
        1,
        2,
        required=("name", "type", "max_tokens"),
        optional=(
            "lifetime",
            "stop",
            "ends",
            "constraint",
            "forced",
            "heal",
            "logprobs",
            "prefix",
            "note",
            "critical",
            *SAMPLING,
            *WHO,
        ),
        first=KV,
    ),
    Op(
        "plan.select",
        "scores options, each with the text `heal` before it; operands: kv, list<str>; results: "
        "kv, str. `tokens` are the options' ids, where they are known now",
        2,
        2,
        required=("name",),
        optional=("lifetime", "by", "heal", "tokens", "prefix", "note", "critical", *WHO),
        first=KV,
    ),
    Op(
        "plan.score",
        "as program.score, on a kv that stays as it is; the text follows `heal`",
        2,
        1,
        optional=("heal", "note", "critical", *WHO),
        first=KV,
    ),
    Op(
        "plan.fork",
        "runs its region for each element on a copy-on-write fork of the kv; results: list of "
        "values and, for a join, list of kvs. The first branch that reads the kv computes it for "
        "all; `shared`: all do, so the kv holds it from then on, and its memory is counted once",
        2,
        (1, 2),
        regions=1,
        required=("name",),
        optional=("prefix", "shared", "note", "critical"),
        first=KV,
        check=regions.fork,
    ),
    Op("plan.join", "as program.join; the other kvs are freed", 2, 2, required=("how",)),
    Op(
        "plan.inline",
        "as program.inline, with kv values",
        1,
        2,
        regions=1,
        required=("name",),
        first=KV,
        check=regions.inlined,
    ),
    Op("plan.leave", "ends the innermost plan.inline", 2, terminator=True, first=KV),
    Op(
        "plan.for",
        "as program.for, with kv values",
        (1, None),
        (0, None),
        regions=1,
        check=regions.loop(1),
    ),
    Op(
        "plan.while",
        "as program.while",
        (0, None),
        (0, None),
        regions=2,
        required=("limit",),
        check=while_loop,
    ),
    Op("plan.if", "as program.if", 1, (0, None), regions=2, check=regions.same_scope),
    Op("plan.free", "the last use of a kv: its pages may go", 1, first=KV),
    Op("plan.yield", "gives the region's results", (0, None), terminator=True),
    Op("plan.condition", "says whether a while goes on", 1, terminator=True),
    Op("plan.return", "ends the plan with a value", (0, 1), terminator=True),
    Op(
        "plan.constraint",
        "a compiled constraint: kind = regex | json | lark, source = pattern, schema or grammar; "
        "`table` is the key of its token table, of `states` states and `bytes` bytes: without one "
        "it is worked out while the program runs; its texts have at most `longest` bytes; `stop` "
        "are strings that may end them",
        required=("name", "kind", "source"),
        optional=("stop", "table", "states", "bytes", "longest", "note"),
    ),
)

DIALECT = Dialect("plan", "what the engine executes: segments, prefill, decode, KV", OPERATIONS)
