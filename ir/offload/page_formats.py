"""The formats of pages of experts: their bytes, what kernels read, whether something is lost."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PageFormat:
    """Bytes of an element and of a row beside; `wide` is the format that kernels read where pages
    are only carried in this one; `lossy` formats do not hold every bf16."""

    element: float
    row: float = 0.0
    wide: str = ""
    lossy: bool = False

    @property
    def asked(self) -> bool:
        """Whether pages have it only where somebody asks: else they are as the weights."""
        return self.lossy or bool(self.wide)


PAGE_FORMATS = {
    "bf16": PageFormat(2.0),
    "f16": PageFormat(2.0),
    "f32": PageFormat(4.0),
    "bf12": PageFormat(1.5 + 4 / 512, wide="bf16"),
    "int8": PageFormat(1.0, 4.0, lossy=True),
    "int4": PageFormat(0.5, 4.0, wide="int8", lossy=True),
}
"""By name. Of bf12 one of 512 words of two numbers may lie beside, as it is, with its place; int8
and int4 have a f32 scale a row."""

ASKED = tuple(name for name, format in PAGE_FORMATS.items() if format.asked)
LOSSY = tuple(name for name, format in PAGE_FORMATS.items() if format.lossy)
WIDE = {name: format.wide for name, format in PAGE_FORMATS.items() if format.wide}
"""What formats that are only carried are made where they arrive."""
