"""How pages lie in host memory, by their format: as kernels read them, or packed."""

from __future__ import annotations

import torch

from ...ir.diagnostics import ModelError
from .narrow import packed_shape
from .pages import PageShape
from .twelve_bits import FORMAT, twelve_bit_shape


class NotSixteenBits(ModelError):
    """Pages of twelve bits a number, of weights that are no bf16."""

    template = "pages of bf12 are bf16 weights in twelve bits; these weights are {dtype}"
    hint = "ask for weights of bf16 (--weights bf16), or for other pages"


def stored_shape(page: PageShape, page_format: str) -> PageShape:
    """Return the shape in which pages that kernels read as `page` are kept and moved; raises
    NotSixteenBits."""
    if page_format == "int4":
        return packed_shape(page)
    if page_format != FORMAT:
        return page
    for part in page.parts:
        if part.dtype != torch.bfloat16:
            raise NotSixteenBits(dtype=str(part.dtype).removeprefix("torch."))
    return twelve_bit_shape(page)
