"""What calibration knows of a model's keys: which channels carry its scores, and their range.

The channels of k and q are permuted *after* rope, by one order per key/value head that its query
heads share, so that the label of a token is a prefix slice of its row of k. Scores do not change:
<Pq, Pk> = <q, k> for every permutation P. v is not touched, and neither are the weights: rope pairs
channels i and i + C/2, so only an order that keeps pairs could be folded into w_q and w_k. What
writes k into its pages (`graph.kv_write`, `graph.qkv_rope_write`) writes it in the new order, and
gives q in the new order.

Labels of token j, for the r first channels c of the order, and m, s of `HeadChannels`:
  bf16: the channels of k itself, rounded to bf16; <q, m> is taken from the score of head q.
  i8, i4: clip(round_half_even((k - m) / s), -Q, Q), Q = 127 or 7; q times s stays in f32.
m and s are constants of the file: a label needs no scale of its own in memory.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..diagnostics import ModelError
from ..model import ModelConfig
from .policy import SparsePolicy

ROPE_LAYOUTS = ("halves", "interleaved")
"""Which channels of a head rotate together: i and i + C/2 (Hugging Face), or 2i and 2i + 1."""
ROPE_LAYOUT = "halves"
STATISTICS = ("centred", "qk", "q", "k")
LEVELS = {"i8": 127, "i4": 7}
_CLIP_4_BIT = 2.5
"""Where 15 levels clip, in standard deviations: near the least squared error of a normal value."""


class BadCalibration(ModelError):
    """A calibration file that is missing, cut short, or holds what cannot be."""

    template = "{file}: {problem}"
    hint = "make it again: weft calibrate-attention MODEL --text FILE"


class OtherModel(ModelError):
    """A calibration file of another model than the one it is used with."""

    template = "{file} was made for another model: {problem}"
    hint = "make one for {model}: weft calibrate-attention {model} --text FILE"


class OtherRopeLayout(ModelError):
    """A calibration file whose channels are numbered for another layout of rope."""

    template = "{file} numbers channels for the rope layout {found!r}, and weft's is {wanted!r}"
    hint = "make it again here: weft calibrate-attention MODEL --text FILE"


class NotCalibrated(ModelError):
    """Sparse attention asked of a model that has no calibration file."""

    template = "sparse attention needs the calibration of {model}, and there is no {file}"
    hint = "run: weft calibrate-attention {model} --text FILE"


class NoLabelRange(ModelError):
    """Integer labels, or a tail, asked of a calibration that knows only the order of channels."""

    template = "{file} orders the channels but does not hold their range, which {needs} need"
    hint = (
        "use labels=bf16 without a tail, or make the range: "
        "weft calibrate-attention MODEL --text FILE"
    )


@dataclass(frozen=True)
class HeadChannels:
    """One key/value head: `order`, its channels by importance, most important first.

    By channel as the model numbers them (not by order), over k after rope: `mean`, and of k - mean
    `deviation` (root of the mean square) and `peak` (largest magnitude). The last three are empty
    in a file that only orders channels (the published layout); then the mean counts as 0.
    """

    order: tuple[int, ...]
    mean: tuple[float, ...] = ()
    deviation: tuple[float, ...] = ()
    peak: tuple[float, ...] = ()

    def problem(self, head_dim: int) -> str:
        """Return what is wrong with the head, or an empty text."""
        if len(self.order) != head_dim or sorted(self.order) != list(range(head_dim)):
            return f"its order is no permutation of {head_dim} channels"
        ranges = (self.mean, self.deviation, self.peak)
        if any(ranges) and {len(values) for values in ranges} != {head_dim}:
            return f"mean, deviation and peak must have {head_dim} values each"
        return ""

    def label_means(self, channels: int) -> list[float]:
        """Return the mean of k of the first channels of the order."""
        return [self.mean[c] if self.mean else 0.0 for c in self.order[:channels]]

    def label_scales(self, channels: int, labels: str) -> list[float]:
        """Return what one level of the labels i8 or i4 is worth, by place in the order."""
        clip = _CLIP_4_BIT if labels == "i4" else float("inf")
        tops = [min(self.peak[c], clip * self.deviation[c]) for c in self.order[:channels]]
        return [max(top, 1e-12) / LEVELS[labels] for top in tops]


@dataclass(frozen=True)
class Provenance:
    """Where a calibration comes from: identity of the model, text and tokens, statistic, date.

    `model` is the identity of a checkpoint (`Checkpoint.identity` of frontend/checkpoints), empty
    in the published layout, which does not know it; `text` is the SHA-256 of the text.
    """

    model: str = ""
    name: str = ""
    text: str = ""
    tokens: int = 0
    statistic: str = "centred"
    date: str = ""


@dataclass(frozen=True)
class AttentionCalibration:
    """The channels of every layer and key/value head: `layers[l][k]`, and the model's shape."""

    heads: int
    kv_heads: int
    head_dim: int
    layers: tuple[tuple[HeadChannels, ...], ...]
    provenance: Provenance = Provenance()
    rope_layout: str = ROPE_LAYOUT
    file: str = ""

    @property
    def ranged(self) -> bool:
        """Whether the range of channels is known, which integer labels need."""
        return all(head.mean for layer in self.layers for head in layer)

    def head(self, layer: int, kv_head: int) -> HeadChannels:
        """Return the channels of a head; raises BadCalibration where the file lacks it."""
        if layer >= len(self.layers) or kv_head >= len(self.layers[layer]):
            raise BadCalibration(file=self.file, problem=f"layer {layer} has no head {kv_head}")
        return self.layers[layer][kv_head]

    def check(self, config: ModelConfig, identity: str, model: str) -> None:
        """Raise the error that names the mend unless the calibration is of this model.

        `identity` is the checkpoint's; a file of the published layout has none to compare.
        """
        if self.rope_layout != ROPE_LAYOUT:
            raise OtherRopeLayout(file=self.file, found=self.rope_layout, wanted=ROPE_LAYOUT)
        shapes = [
            ("layers", len(self.layers), config.layers),
            ("query heads", self.heads, config.heads),
            ("key/value heads", self.kv_heads, config.kv_heads),
            ("channels a head", self.head_dim, config.head_dim),
        ]
        for what, found, wanted in shapes:
            if found != wanted:
                problem = f"it has {found} {what}, and the model {wanted}"
                raise OtherModel(file=self.file, problem=problem, model=model)
        if self.provenance.model and self.provenance.model != identity:
            made_for = self.provenance.name or self.provenance.model[:12]
            problem = f"the weights differ from those of {made_for} at {self.provenance.date}"
            raise OtherModel(file=self.file, problem=problem, model=model)

    def check_policy(self, policy: SparsePolicy) -> None:
        """Raise NoLabelRange where a policy needs the range of channels, and they have none."""
        needs = [f"labels={policy.labels}"] * (policy.labels in LEVELS)
        needs += [f"tail={policy.tail}"] * (policy.tail != "none")
        if needs and not self.ranged:
            raise NoLabelRange(file=self.file, needs=" and ".join(needs))
