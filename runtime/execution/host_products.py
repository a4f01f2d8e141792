"""Which of torch's two libraries multiplies f32 rows on a CPU: its BLAS, or oneDNN.

The BLAS (MKL) is made for Intel's processors. On an AMD one it reached 113 of the 255 GFLOP/s that
oneDNN did with 512 rows and weights of 1,536 by 256, one thread. So both are timed, once a machine
and model.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .library import Launch, Multiply, blas
from .timing import once_seconds

GRANULE = 8
"""oneDNN makes code for each number of rows: 0.2 to 0.5 ms a shape of weights when a number comes
for the first time, and it keeps 1,024 of them. So rows are rounded up; what the rows too many hold
is of no matter, and nothing reads what comes of them."""

FEW = 8
"""With fewer rows, as of logits, the BLAS multiplies: it begins sooner, by 10 us."""

ROWS = 64
"""Rows that are timed: a short prompt, or what a step of chunks mostly has."""

MOST_COLUMNS = 2048
"""Rows of a weight that are timed: a head has more, and its products are those of few rows."""

ROUNDS = 7
"""In turn, so that what else runs on a machine disturbs both; the first one does not count."""

GAIN = 0.05
"""Share by which oneDNN must be faster: less is noise."""


@dataclass(frozen=True)
class HostProduct:
    """A library for products of f32 rows: how one is launched, and what rows are rounded up to."""

    name: str
    launch: Multiply
    granule: int = 1

    def rows(self, tokens: int, most: int) -> int:
        """Return the rows that a step's products are of, where there is room for `most`."""
        return min(-(-tokens // self.granule) * self.granule, most)


def _onednn(x: Tensor, w: Tensor, bias: Tensor | None, out: Tensor) -> Launch:
    return blas(x, w, bias, out) if len(x) < FEW else (_run_onednn, (x, w, bias, out))


def _run_onednn(x: Tensor, w: Tensor, bias: Tensor | None, out: Tensor) -> None:
    # It has no form that writes into `out`; the copy is 2 to 5 % of the product.
    out.copy_(torch.ops.mkldnn._linear_pointwise.default(x, w, bias, "none", [], ""))


BLAS = HostProduct("BLAS", blas)
ONEDNN = HostProduct("oneDNN", _onednn, GRANULE)

PRODUCTS = {product.name: product for product in (BLAS, ONEDNN)}


@dataclass(frozen=True)
class ProductChoice:
    """The library that was chosen; seconds of a layer's products by both say why (both 0 where
    nothing was timed)."""

    name: str = BLAS.name
    blas_seconds: float = 0.0
    onednn_seconds: float = 0.0

    @property
    def library(self) -> HostProduct:
        """Return what the name stands for."""
        return PRODUCTS[self.name]

    def describe(self) -> str:
        """Return the choice in words."""
        told = f"f32 products of many rows are {self.name}'s"
        if not self.blas_seconds:
            return told
        ratio = self.blas_seconds / self.onednn_seconds
        return f"{told}: the BLAS takes {ratio:.2f} times as long as oneDNN, as timed here"


def read(said: Mapping[str, Any]) -> ProductChoice:
    """Return a choice that was kept; raises ValueError or TypeError for what is none."""
    found = ProductChoice(**said)
    if found.name not in PRODUCTS or (found.library is ONEDNN and not available()):
        raise ValueError(said)
    return found


def available() -> bool:
    """Return whether torch was built with oneDNN, and has its product."""
    built = torch.backends.mkldnn.is_available()
    return built and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def measured(shapes: Iterable[tuple[int, int]]) -> ProductChoice:
    """Return which library multiplies ROWS rows with weights [N, K] of some shapes sooner."""
    wanted = sorted(set(shapes))
    if not wanted or not available():
        return ProductChoice()
    runs: dict[str, list[Launch]] = {name: [] for name in PRODUCTS}
    for columns, depth in wanted:
        w = torch.ones(min(columns, MOST_COLUMNS), depth)
        x, out = torch.ones(ROWS, depth), torch.empty(ROWS, len(w))
        for name, product in PRODUCTS.items():
            runs[name].append(product.launch(x, w, None, out))
    rounds = [{name: _seconds(launches) for name, launches in runs.items()} for _ in range(ROUNDS)]
    theirs, its = (min(each[name] for each in rounds[1:]) for name in PRODUCTS)
    faster = ONEDNN if its < theirs * (1 - GAIN) else BLAS
    return ProductChoice(faster.name, theirs, its)


def _seconds(launches: list[Launch]) -> float:
    def run() -> None:
        for function, arguments in launches:
            function(*arguments)

    return once_seconds(run)
