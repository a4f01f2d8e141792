"""Token tables checked against their own automata and their sources, by slower and plainer ways.

Each mask is worked out anew, one state at a time, from the bytes of every token; forced tokens are
followed byte by byte; texts that the automaton accepts, and their neighbours, are given to Python's
`re`, or to `json` where the constraint is a schema.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from random import Random
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from ...ir.constraints.automaton import DEAD, START, Automaton, shortest_bytes
from ...ir.constraints.tables import stop_strings
from ...ir.constraints.token_table import TokenTable
from ...ir.constraints.token_trie import TokenTrie
from ...ir.core import Module
from ...ir.vocabulary import Tokenizer
from ..manager import Context

STATES = 24
WORK = 1 << 24
"""Of a table, as many states' masks are worked out anew as states times tokens are WORK: all states
of most tables, and else that many, at least STATES, spread over all."""

BUDGETS = 24
"""Numbers of tokens that may still come, for each of these states."""

TEXTS = 12
LONGEST = 60
NEIGHBOURS = 24


def tables_hold(before: Module, after: Module, context: Context) -> Iterator[str]:
    """Yield what is wrong with the tables that the constraints of `after` have in the context."""
    if context.tables is None or context.tokenizer is None or context.constraint_of is None:
        return
    records = {op["name"].name: op for op in after.operations if op.name == "program.record"}
    for operation in after.walk():
        found = context.constraint_of(operation["type"], records) if _is_gen(operation) else None
        if found is None:
            continue
        stops = stop_strings(operation)
        table = context.tables.find(*found, stops)
        if isinstance(table, TokenTable):
            problems = _checked.get(table)
            if problems is None:
                problems = [*mask_problems(table, context.tokenizer)]
                problems += [] if stops else text_problems(table, *found)
                _checked[table] = problems
            yield from (f"gen {operation['name']}: {problem}" for problem in problems)


_checked: WeakKeyDictionary[TokenTable, list[str]] = WeakKeyDictionary()
"""What is wrong with each table: the same table serves many programs."""


def _is_gen(operation: Any) -> bool:
    return operation.name == "program.gen"


def mask_problems(table: TokenTable, tokenizer: Tokenizer) -> Iterator[str]:
    """Yield where masks, distances or forced tokens are not what the automaton says."""
    words = TokenTrie.of(tokenizer).words
    ends = np.zeros(len(words), bool)
    ends[[i for i in tokenizer.end_ids if i < len(words)]] = True
    count = len(table.moves)
    checked = min(count, max(STATES, WORK // len(words)))
    for state in np.unique(np.linspace(START, count - 1, checked).astype(int)).tolist():
        forced = table.forced_tokens(state)
        if forced:
            yield from _forced_problems(table, words, state, forced)
        else:
            yield from _state_problems(table, words, ends, state)


def _state_problems(
    table: TokenTable, words: Sequence[bytes], ends: np.ndarray, state: int
) -> Iterator[str]:
    target = _after(table, words, state)
    allowed = target != DEAD
    needs = np.where(allowed, table.distance[target].astype(np.int64) + 1, np.iinfo(np.int64).max)
    accepting = bool(table.accepting[state])
    if not accepting and not allowed.any():
        return
    least = 0 if accepting else int(needs.min())
    if least > table.distance[state]:
        yield f"state {state} is {least} tokens from an end, not {table.distance[state]}"
    most = table.mask_of.shape[1] - 1
    for left in sorted({*range(min(BUDGETS, most + 1)), most}):
        bits = table.masks[table.mask_of[state, left]].view(np.uint8)
        found = np.unpackbits(bits, bitorder="little")[: len(words)].astype(bool)
        expected = (allowed if left < least else needs <= left) | (ends if accepting else False)
        wrong = np.flatnonzero(found != expected)
        if len(wrong):
            token = words[wrong[0]]
            yield f"state {state} with {left} tokens left has {token!r} wrong, of {len(wrong)}"
            return


def _after(table: TokenTable, words: Sequence[bytes], state: int) -> np.ndarray:
    """Return the state [V] after each token; tokens without bytes lead nowhere."""
    longest = max(map(len, words))
    lengths = np.array([len(word) for word in words])
    data = np.frombuffer(b"".join(word.ljust(longest, b"\0") for word in words), np.uint8)
    data = data.reshape(len(words), longest)
    found = np.where(lengths > 0, state, DEAD)
    for at in range(longest):
        rows = np.flatnonzero((lengths > at) & (found != DEAD))
        found[rows] = table.moves[found[rows], table.classes[data[rows, at]]]
    return found


def _forced_problems(
    table: TokenTable, words: Sequence[bytes], state: int, forced: list[int]
) -> Iterator[str]:
    """Yield if another text than the forced one could follow."""
    by_byte = Automaton(table.classes, table.moves, table.accepting).by_byte()
    here = state
    for byte in b"".join(words[token] for token in forced):
        live = np.flatnonzero(by_byte[here] != DEAD).tolist()
        if live != [byte] or table.accepting[here]:
            yield f"state {state} forces {byte:#x} where {live} may follow, or the end"
            return
        here = int(by_byte[here, byte])


def text_problems(table: TokenTable, kind: str, source: Any) -> Iterator[str]:
    """Yield a text on which the automaton and the source do not agree."""
    random = Random(0)
    automaton = Automaton(table.classes, table.moves, table.accepting)
    by_byte, left = automaton.by_byte(), shortest_bytes(automaton)
    for _ in range(TEXTS):
        text = _text(by_byte, automaton.accepting, left, random)
        if kind == "json":
            try:
                json.loads(text)
            except ValueError:
                yield f"it allows {text!r}, which is no JSON"
            continue
        for other in (text, *_neighbours(text, random)):
            accepts = bool(automaton.accepting[automaton.walk(other.encode())])
            if accepts != (re.fullmatch(source, other) is not None):
                yield f"it {'allows' if accepts else 'does not allow'} {other!r}"


def _text(by_byte: np.ndarray, accepting: np.ndarray, left: np.ndarray, random: Random) -> str:
    """Return a text that the automaton accepts, drawn byte by byte."""
    data, state = bytearray(), START
    while not accepting[state] or (random.random() < 0.8 and len(data) < LONGEST):
        live = np.flatnonzero(by_byte[state] != DEAD)
        if not len(live):
            break
        if len(data) >= LONGEST:
            live = live[[left[by_byte[state, live]].argmin()]]
        byte = random.choice(live.tolist())
        data.append(byte)
        state = int(by_byte[state, byte])
    return data.decode()


def _neighbours(text: str, random: Random) -> Iterator[str]:
    """Yield texts that differ in a character, at each of the first places."""
    for at in range(min(len(text), NEIGHBOURS) + 1):
        yield text[:at] + random.choice(text or "a") + text[at:]
        yield text[:at] + text[at : at + 1] + text[at:]
        yield text[:at] + text[at + 1 :]
        yield text[:at] + "é" + text[at + 1 :]
