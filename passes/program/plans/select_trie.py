"""Options of a select that are known now: their tokens, and the trie that they share."""

from __future__ import annotations

from typing import Any

from ....ir.core import Operation, Value
from ....ir.vocabulary import Tokenizer
from ...manager import Context
from .segments import StreamState


def option_tokens(
    operation: Operation,
    options: Any,
    before: StreamState,
    heal: str,
    tokenizer: Tokenizer,
    context: Context,
) -> list[list[int]] | None:
    """Encode options that are constants, where the text before them is known too."""
    known = not isinstance(before.pieces[-1], Value) if before.pieces else before.sealed
    if not isinstance(options, tuple) or not known:
        return None
    found = [tokenizer.encode(heal + option) for option in options]
    total = sum(map(len, found))
    nodes = len({tuple(ids[: end + 1]) for ids in found for end in range(len(ids))})
    name = operation["name"]
    context.did(
        f"select {name}: {len(found)} options of {total} tokens are a trie of {nodes}",
        operation.span,
    )
    return found
