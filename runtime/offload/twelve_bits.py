"""Pages of bf16 numbers in twelve bits each, exactly: the link carries a quarter less.

Trained and random weights use few of bf16's 256 exponents: fifteen neighbours, and zero, are nearly
all. So a number is a byte, its sign and its mantissa, and a code of four bits for its exponent.
The few others lie beside, as whole words with their places. (DFloat11, arXiv 2504.11651, codes
exponents by Huffman's trees: eleven bits, and slower to read.)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from ...ir.diagnostics import ModelError
from .pages import PageShape, Part

FORMAT = "bf12"
RARE = "_rare"
HEAD, SHARE = 4, 512
"""Words of a part's rare ones before their places; and of how many words one may be rare."""
ZERO = 15
"""The code of exponent 0: of zeros, and of numbers next to them."""

Widen = Callable[[Tensor, Tensor, Tensor], None]
"""Writes a part of a page [N, K] bf16 from its packed words and its rare ones, where all lie."""


class TooManyRare(ModelError):
    """Weights whose exponents are spread too far."""

    template = (
        "{rare} of {words} words of a page have exponents that twelve bits a number do not hold, "
        "where {room} may"
    )
    hint = "let pages be as the weights are: leave out --offload page_format=bf12"


def twelve_bit_shape(shape: PageShape) -> PageShape:
    """Return what a page of bf16 is in twelve bits: words [3, G] of eight numbers each, and rare
    words; each part has a multiple of eight numbers."""
    parts: list[Part] = []
    for part in shape.parts:
        numbers = part.bytes // 2
        room = -(-numbers // 2 // SHARE // 4) * 4 + 4
        parts.append(replace(part, shape=(3, numbers // 8), dtype=torch.int32))
        parts.append(Part(part.role + RARE, (HEAD + 2 * room,), torch.int32))
    return PageShape(tuple(parts))


def pack(numbers: Tensor, packed: Tensor, rare: Tensor) -> None:
    """Write bf16 numbers as packed words [3, G] and rare ones; raises TooManyRare."""
    words = numbers.contiguous().view(-1).view(torch.int32)
    bits = numbers.contiguous().view(-1).view(torch.int16).to(torch.int32) & 0xFFFF
    exponents = (bits >> 7) & 255
    top = _top(exponents)
    codes = torch.where(exponents == 0, ZERO, top - exponents)
    missing = (codes < 0) | (codes > ZERO) | ((codes == ZERO) & (exponents > 0))
    places = missing.view(-1, 2).any(-1).nonzero().flatten()
    room = (len(rare) - HEAD) // 2
    if len(places) > room:
        raise TooManyRare(rare=len(places), words=len(words), room=room)
    codes = torch.where(missing, 0, codes)
    bytes_ = (bits & 127) | ((bits >> 8) & 128)
    packed.copy_(torch.stack(_planes(bytes_, codes)))
    rare.fill_(-1)
    rare[0] = top
    rare[HEAD : HEAD + len(places)] = places.to(torch.int32)
    rare[HEAD + room : HEAD + room + len(places)] = words[places]


def _planes(bytes_: Tensor, codes: Tensor) -> list[Tensor]:
    """Return the words of bytes, two, and of codes, one; number 2q + h of a group is half h of word
    q of four."""
    bytes_, codes = (each.view(4, -1, 2) for each in (bytes_, codes))
    pairs = [(bytes_[q, :, 0] | (bytes_[q, :, 1] << 8)) for q in range(4)]
    coded = [codes[q, :, h] << (8 * q + 4 * h) for q in range(4) for h in range(2)]
    every = coded[0]
    for each in coded[1:]:
        every = every | each
    return [pairs[0] | (pairs[1] << 16), pairs[2] | (pairs[3] << 16), every]


def _top(exponents: Tensor) -> int:
    """Return the exponent from which fifteen, going down, are of the most numbers."""
    counts = torch.bincount(exponents.flatten(), minlength=256).cpu()
    counts[0] = 0
    sums = torch.nn.functional.pad(counts.cumsum(0), (ZERO, 0))
    return int((sums[ZERO:] - sums[:-ZERO]).argmax())


def widen(target: Tensor, packed: Tensor, rare: Tensor) -> None:
    """Write bf16 numbers of packed words: what the GPU's kernels do, in torch."""
    bytes_, top = packed[:2], int(rare[0])
    groups = []
    for number in range(8):
        byte = (bytes_[number // 4] >> (8 * (number % 4))) & 255
        code = (packed[2] >> (4 * number)) & 15
        exponent = torch.where(code == ZERO, 0, top - code)
        groups.append((byte & 127) | ((byte & 128) << 8) | (exponent << 7))
    words = torch.stack([groups[2 * q] | (groups[2 * q + 1] << 16) for q in range(4)]).view(-1)
    places, values = rare[HEAD:].view(2, -1)
    there = places >= 0
    words[places[there].long()] = values[there]
    target.view(-1).view(torch.int32).copy_(words)


def by_kernels(launch: dict[str, Callable[..., object]]) -> Widen:
    """Return the same by the launches of `passes.tile.products.twelve_bits`."""

    def widened(target: Tensor, packed: Tensor, rare: Tensor) -> None:
        words, groups = target.view(-1).view(torch.int32), packed.shape[1]
        places, values = rare[HEAD:].view(2, -1)
        launch["widen_bf12"](groups, packed, rare[:1], words.view(4, groups))
        launch["put_rare_bf12"](len(places), len(words), places, values, words)

    return widened
