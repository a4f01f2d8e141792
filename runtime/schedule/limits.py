"""What a request may ask of a model, whatever else runs."""

from __future__ import annotations

from ...ir.diagnostics import CapacityError
from .batch import MAX_ENDS
from .request import Request


class ContextTooLong(CapacityError):
    """A stream that the model's context cannot hold."""

    template = (
        "row {row}, {what}: {tokens} tokens of prompt and at most {new} new ones are {excess} more "
        "than the model's context of {context}"
    )
    hint = "shorten the prompt or lower max_tokens"


class TextTooLong(CapacityError):
    """A loop's text of many times what the model's context holds."""

    template = (
        "row {row}: after {rounds} rounds of a loop its text has {tokens} tokens, more than "
        "{times} times the model's context of {context}: nothing can be generated behind it"
    )
    hint = "let the loop end earlier, or add less text in it"


class KVTooSmall(CapacityError):
    """A sequence that the KV memory cannot hold, even alone."""

    template = "row {row}, {what}: {tokens} tokens need {pages} KV pages, {short} more than {have}"
    hint = "give the KV cache more memory, or lower max_tokens or the prompt's length"


def check_limits(request: Request, context: int) -> None:
    """Raise ContextTooLong, or a CapacityError where a gen has too many end tokens."""
    new = request.sampling.max_tokens if request.sampling else 0
    tokens = request.sequence.length
    if tokens + new > context:
        raise ContextTooLong(
            row=request.row, what=request.name, tokens=tokens, new=new, context=context,
            excess=tokens + new - context,
        )  # fmt: skip
    if request.sampling and len(request.sampling.ends) > MAX_ENDS:
        raise CapacityError(message=f"{request.name}: more than {MAX_ENDS} end tokens")
