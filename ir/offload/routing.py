"""Routing traces: which experts each token of a run took, layer by layer, kept in a file.

A trace says what a router's weights cannot: which experts real prompts use, and which are used
together. The policy search reads popularity from it, and the offloading bench replays it.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..diagnostics import ModelError, reason
from ..whole_file import write_whole

FORMAT = "weft routing 1"
_PARTS = ("format", "model", "experts", "chosen", "decode")


class BadRouting(ModelError):
    """A file that holds no routing trace, or that of another model; or one that cannot be made."""

    template = "{file}: {problem}"
    hint = "record one with `weft run --gpu-memory SIZE --record-routing FILE`"


@dataclass(frozen=True)
class RoutingTrace:
    """The experts that tokens took.

    chosen   [T, L, A] u16, experts of each token in each layer, the best first
    decode   [T] bool, whether a token was the only one of its sequence in its step
    experts  E, experts a layer
    """

    chosen: NDArray[np.uint16]
    decode: NDArray[np.bool_]
    experts: int
    model: str = ""

    @property
    def tokens(self) -> int:
        """T."""
        return self.chosen.shape[0]

    @property
    def layers(self) -> int:
        """L."""
        return self.chosen.shape[1]

    @property
    def top_k(self) -> int:
        """A, experts a token."""
        return self.chosen.shape[2]

    def counts(self) -> list[list[int]]:
        """Return how many tokens each expert of each layer had: of decode steps, if there are any.

        Prompts and decode steps differ in what they use, and most of a run is decode.
        """
        rows = self.chosen[self.decode] if self.decode.any() else self.chosen
        return [
            np.bincount(rows[:, layer].ravel(), minlength=self.experts).tolist()
            for layer in range(self.layers)
        ]

    def check(self, file: str, layers: int, experts: int, top_k: int) -> RoutingTrace:
        """Return the trace; raises BadRouting where the model is of another shape."""
        mine, wanted = (self.layers, self.experts, self.top_k), (layers, experts, top_k)
        if mine != wanted:
            text = "{} layers of {} experts, {} a token"
            problem = f"{self.model or 'its model'} has {text.format(*mine)}"
            raise BadRouting(file=file, problem=f"{problem}; this one {text.format(*wanted)}")
        return self

    def save(self, file: str | Path) -> None:
        """Write the trace, whole or not at all; raises BadRouting."""
        packed = io.BytesIO()
        np.savez_compressed(packed, format=FORMAT, model=self.model, experts=self.experts,
                            chosen=self.chosen, decode=self.decode)  # fmt: skip
        try:
            write_whole(file, packed.getvalue())
        except OSError as error:
            problem = f"it cannot be written: {reason(error)}"
            raise BadRouting(file=file, problem=problem, hint="give another place") from None

    @staticmethod
    def load(file: str | Path) -> RoutingTrace:
        """Return the trace of a file; raises BadRouting."""
        try:
            with np.load(file, allow_pickle=False) as read:
                parts = {name: read[name] for name in _PARTS}
        except Exception as error:  # zipfile, zlib and numpy each raise their own
            raise BadRouting(file=file, problem=f"it holds no routing trace: {error}") from None
        if str(parts["format"]) != FORMAT:
            raise BadRouting(file=file, problem=f"its format is {str(parts['format'])!r:.40}")
        return _checked(
            RoutingTrace(parts["chosen"], parts["decode"], int(parts["experts"]),
                         str(parts["model"])), str(file)
        )  # fmt: skip

    @staticmethod
    def is_one(file: str | Path) -> bool:
        """Whether a file is an archive, as traces are; raises OSError."""
        with Path(file).open("rb") as opened:
            return opened.read(4) == b"PK\x03\x04"

    @staticmethod
    def drawn(
        layers: int, experts: int, top_k: int, tokens: int, exponent: float, seed: int = 0
    ) -> RoutingTrace:
        """Return a drawn trace: the r-th expert of a layer has a weight of r ** -exponent (Zipf),
        in an order of the layer's own; a token takes A different ones (Gumbel's top A)."""
        draw = np.random.default_rng(seed)
        weights = -exponent * np.log(np.arange(1, experts + 1))
        order = np.stack([draw.permutation(experts) for _ in range(layers)])
        keys = weights[order][None] + draw.gumbel(size=(tokens, layers, experts))
        best = np.argsort(-keys, axis=-1)[..., :top_k].astype(np.uint16)
        return RoutingTrace(best, np.ones(tokens, bool), experts, f"zipf {exponent:g}")


def _checked(trace: RoutingTrace, file: str) -> RoutingTrace:
    """Return the trace; raises BadRouting where its arrays do not fit together."""
    chosen, decode = trace.chosen, trace.decode
    if chosen.ndim != 3 or chosen.dtype != np.uint16 or decode.dtype != np.bool_:
        raise BadRouting(file=file, problem="its arrays have other shapes or types than a trace's")
    if decode.shape != chosen.shape[:1] or not len(chosen):
        raise BadRouting(file=file, problem=f"{len(chosen)} tokens, {decode.size} of them told")
    if not 0 < trace.top_k <= trace.experts or int(chosen.max()) >= trace.experts:
        raise BadRouting(file=file, problem=f"it names experts beyond its {trace.experts}")
    return trace
