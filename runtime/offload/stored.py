"""How pages lie in host memory, by their format: as kernels read them, or packed."""

from __future__ import annotations

import torch

from ...ir.diagnostics import ModelError
from .narrow import packed_shape
from .pages import PageShape
from .twelve_bits import FORMAT, twelve_bit_shape

PACKED = {"int4": packed_shape, FORMAT: twelve_bit_shape}
"""What a page is in the formats that it is only carried in; `packed` makes them wide."""


class NotSixteenBits(ModelError):
    """Pages of twelve bits a number, of weights that are no bf16."""

    template = "pages of bf12 are bf16 weights in twelve bits; these weights are {dtype}"
    hint = "ask for weights of bf16 (--weights bf16), or for other pages"


def stored_shape(page: PageShape, page_format: str) -> PageShape:
    """Return the shape in which pages that kernels read as `page` are kept and moved; raises
    NotSixteenBits."""
    if page_format == FORMAT:
        _require_bf16(page)
    return PACKED[page_format](page) if page_format in PACKED else page


def _require_bf16(page: PageShape) -> None:
    for part in page.parts:
        if part.dtype != torch.bfloat16:
            raise NotSixteenBits(dtype=str(part.dtype).removeprefix("torch."))
