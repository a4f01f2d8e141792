"""The policy of sparse attention: which keys a decode step reads, and its text `sparse(...)`.

What a policy means, for one query position (query heads g of one key/value head, context of N
tokens, the current one included), kernel and oracle alike:

1. A context of at most `min_context` tokens, or one that k, ratio * N or the forced tokens cover,
   is read whole.
2. *Forced* tokens are always read: the first `sinks`, and the last `recent`, of which the current
   token is one (so `recent` >= 1).
3. Of the other tokens, the *middle*, token j has the score `max over g of scale * <q_g, k_j - m>`
   over the `channels` first channels of the permuted rows (`ir.sparse.calibration`), where m is
   the calibrated mean of k: it moves all scores of a head by one constant, so that heads compare.
4. With `unit=page` the middle is cut into pages of the KV cache. A page's score is its tokens'
   largest, it counts as many tokens as it has, and forced tokens make their whole page forced.
5. The middle's tokens are taken from the best score down (a tie goes to the lower position):
   `k` or `ratio`: until k or ratio * N (rounded up) tokens are read, forced ones included;
   `threshold`: all whose estimated weight exp(score) is at least `threshold` times the largest of
   the middle; `top_p`: the fewest whose weights reach `top_p` of the sum of the middle's weights.
   The last two read at most `cap` * N tokens (rounded up), forced ones included.

With `tail=mean` what is not read counts too, by estimate, as one more part of the state (`none`,
the default, leaves it out, as Double Sparsity does). For query head g, an unread token j gets the
weight exp(label score of j for g + b_g), b_g = scale * <q_g, m> + 1/2 sum over the channels c that
labels leave out of (scale * q_gc * deviation_c)^2, all C channels in the first term; and the value
that all of them get is the mean of v over the whole pages of the context (where there is none, the
tail does not count). It reads nothing but one sum of v, which is kept by page.

All query heads of a key/value head share one selection. A kernel may take whole histogram bins:
then it reads a superset of what stands here by threshold and top_p.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, fields
from typing import Any

from ..diagnostics import WeftError

LABEL_BITS = {"bf16": 16, "i8": 8, "i4": 4}
"""Label formats, and the bits of one channel in each."""
SCORE_STEPS = 256
"""Steps of a score that is compared by steps, from the least to the most that it can be; the first
is of tokens that are not chosen among."""

STEP_KINDS = 16
"""Kinds of steps that are counted at a time: sixteenths of all, or the steps of one."""

MOST_PARTS = 32
"""Programs that score a row's keys where scores are compared by steps, at most."""

MOST_SHARES = 32
"""Programs that select of a row's keys there, at most."""

FEW_PAIRS, LEAST_HEADS = 8, 8
"""Pairs of a row and a key head that are few, so that one launch chooses the keys of all: their
programs, 32 a pair, find room side by side. And key heads that a row counts as there, at least."""

MOST_SCORED = 16 * 63 * 1024
"""Tokens of the longest context whose scores are compared by steps: sixteen programs can count as
many before their counters are full, and fewer empty them between. A longer one is read whole."""

SHARERS = 4
"""Rows for which a program scores the labels of pages that they share, at most."""

LISTED, LISTED_SLOTS = 128, 64
"""Keys of a list that a GPU reads at a time: of positions, as their pages are looked up first; and
of slots."""

READ_WHOLE = "whole"
"""What a GPU's lists of layers that read everything are called in steps where others select."""

SCORE_PARTS = 16
"""Programs that share the labels of a row and key head on a GPU: enough for one row."""
AMOUNTS = ("k", "ratio", "threshold", "top_p")
"""The kinds of policy; each is a field, and a policy sets exactly one."""


def few_pairs(rows: int, kv_heads: int) -> bool:
    """Return whether so many rows have few pairs of a row and a key head."""
    return rows * max(kv_heads, LEAST_HEADS) <= FEW_PAIRS


class BadPolicy(WeftError):
    """A sparse policy that cannot be read, or that asks for what makes no sense."""

    kind = "attention error"
    template = "{text}: {problem}"
    hint = "for example sparse(ratio=1/16), or sparse(top_p=0.95, cap=1/4, labels=i4, channels=16)"


@dataclass(frozen=True)
class SparsePolicy:
    """Which tokens a decode step reads, and how it estimates them; the module says what it means.

    One of `k` (tokens), `ratio` (of the context), `threshold` (of the largest weight), `top_p` (of
    the estimated mass). `dense` layers read everything. `channels` is r, the channels of a label;
    0 is as many as take 1/16 of a bf16 row of k. `labels` is their format; `tail` what becomes of
    tokens that are not read.
    """

    k: int = 0
    ratio: float = 0.0
    threshold: float = 0.0
    top_p: float = 0.0
    cap: float = 1.0
    unit: str = "token"
    sinks: int = 4
    recent: int = 16
    dense: tuple[int, ...] = ()
    channels: int = 0
    labels: str = "i4"
    tail: str = "none"
    min_context: int = 256

    def __post_init__(self) -> None:
        for problem in self._problems():
            raise BadPolicy(text=str(self), problem=problem)

    def _problems(self) -> list[str]:
        """Return what is wrong, most basic first."""
        given = [name for name in AMOUNTS if getattr(self, name)]
        found = [f"{name} must be above 0" for name in AMOUNTS if getattr(self, name) < 0]
        if len(given) != 1:
            found.append(f"it needs one of {', '.join(AMOUNTS)}, above 0, "
                         f"and has {' and '.join(given) or 'none'}")  # fmt: skip
        found += [
            f"{name} is a share, above 0 and at most 1, not {getattr(self, name)}"
            for name in ("ratio", "threshold", "top_p", "cap")
            if getattr(self, name) > 1 or not math.isfinite(getattr(self, name))
        ]
        if self.cap <= 0:
            found.append("cap must be above 0")
        if self.cap != 1 and self.adaptive is False:
            found.append("cap belongs to threshold and top_p: k and ratio are their own caps")
        if self.unit not in ("token", "page"):
            found.append(f"unit is token or page, not {self.unit!r}")
        if self.labels not in LABEL_BITS:
            found.append(f"labels is one of {', '.join(LABEL_BITS)}, not {self.labels!r}")
        if self.tail not in ("none", "mean"):
            found.append(f"tail is none or mean, not {self.tail!r}")
        if self.sinks < 0 or self.min_context < 0 or self.channels < 0:
            found.append("sinks, channels and min_context must not be negative")
        if self.recent < 1:
            found.append("recent must be at least 1: the current token is always read")
        if self.k and self.k < self.sinks + self.recent:
            found.append(f"k={self.k} is less than its sinks and recent tokens, "
                         f"{self.sinks + self.recent}, which are always read")  # fmt: skip
        if any(layer < 0 for layer in self.dense):
            found.append("dense lists layers, from 0")
        return found

    @property
    def adaptive(self) -> bool:
        """Whether how many tokens are read depends on their scores."""
        return bool(self.threshold or self.top_p)

    def in_words(self, head_dim: int) -> bool:
        """Return whether a GPU keeps labels as words and compares scores by steps
        (`passes.tile.selection.word_labels`): where single tokens are chosen."""
        each = {"i4": 8, "i8": 4}.get(self.labels, 0)
        return self.unit == "token" and each > 0 and self.label_channels(head_dim) % each == 0

    def attends_at_once(self, head_dim: int, group: int) -> bool:
        """Return whether the launch that chooses the keys of few pairs may attend to them, too: its
        programs join as many of the results of a group of heads each."""
        alike = group * head_dim % MOST_SHARES == 0
        return self.in_words(head_dim) and not self.adaptive and self.tail == "none" and alike

    def budget(self, context: int) -> int:
        """Return the most tokens that one selection over `context` tokens reads."""
        if context <= self.min_context:
            return context
        share = self.cap if self.adaptive else self.ratio
        wanted = self.k or math.ceil(share * context)
        return min(context, max(wanted, self.sinks + self.recent))

    def reads_whole(self, context: int) -> bool:
        """Return whether a context of so many tokens is read without selecting."""
        if context <= max(self.min_context, self.sinks + self.recent):
            return True
        return not self.adaptive and self.budget(context) >= context

    def label_channels(self, head_dim: int) -> int:
        """Return r of a head of C = head_dim; raises BadPolicy where a head has too few."""
        r = self.channels or max(1, head_dim // LABEL_BITS[self.labels])
        if r > head_dim:
            raise BadPolicy(text=str(self), problem=f"{r} channels, but a head has {head_dim}")
        if self.labels == "i4" and r % 2:
            raise BadPolicy(text=str(self), problem=f"{r} channels of 4 bits fill no whole bytes",
                            hint="i4 packs two channels a byte: give an even number")  # fmt: skip
        return r

    def label_bytes(self, head_dim: int) -> int:
        """Return the bytes of one token's label of one key/value head."""
        return self.label_channels(head_dim) * LABEL_BITS[self.labels] // 8

    def check_layers(self, layers: int) -> None:
        """Raise BadPolicy where `dense` names a layer that a model of so many layers lacks."""
        beyond = [layer for layer in self.dense if layer >= layers]
        if beyond:
            raise BadPolicy(text=str(self), problem=f"there is no layer {beyond[0]} among {layers}")

    def __str__(self) -> str:
        parts = [
            f"{item.name}={_print(getattr(self, item.name))}"
            for item in fields(self)
            if getattr(self, item.name) != item.default
        ]
        return f"sparse({', '.join(parts)})"


def _print(value: Any) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(str, value))}]"
    whole = round(1 / value) if isinstance(value, float) and 0 < value < 1 else 0
    return f"1/{whole}" if whole and 1 / whole == value else str(value)


def parse_policy(text: str) -> SparsePolicy | None:
    """Return the policy of `sparse(...)`, None of `dense`; raises BadPolicy."""
    if text.strip() == "dense":
        return None
    found = re.fullmatch(r"\s*sparse\s*\((.*)\)\s*", text, re.DOTALL)
    if found is None:
        raise BadPolicy(text=text.strip() or "''", problem="it is neither dense nor sparse(...)")
    values: dict[str, Any] = {}
    for part in split_list(found[1]):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals:
            raise BadPolicy(text=text.strip(), problem=f"{part!r} is not name=value")
        if name in values:
            raise BadPolicy(text=text.strip(), problem=f"{name} is given twice")
        values[name] = _read(text.strip(), name, value)
        if name in AMOUNTS and not values[name]:
            raise BadPolicy(text=text.strip(), problem=f"{name} must be above 0")
    return SparsePolicy(**values)


def parse_policies(text: str) -> list[SparsePolicy | None]:
    """Return the policies of a list `dense, sparse(...), ...`; raises BadPolicy."""
    return [parse_policy(part) for part in split_list(text)]


def split_list(text: str) -> list[str]:
    """Split at commas that stand outside of brackets; empty parts are left out."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "([") - (letter in ")]")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts if part.strip()]


def _read(text: str, name: str, value: str) -> Any:
    kinds = {item.name: type(item.default) for item in fields(SparsePolicy)}
    if name not in kinds:
        raise BadPolicy(text=text, problem=f"there is no {name!r}; names: {', '.join(kinds)}")
    try:
        return _READERS[kinds[name]](value)
    except (ValueError, ZeroDivisionError):
        wanted = _WANTED[kinds[name]]
        raise BadPolicy(text=text, problem=f"{name} is {wanted}, not {value!r}") from None


def _fraction(value: str) -> float:
    over, slash, under = value.partition("/")
    return float(over) / float(under) if slash else float(over)


def _layers(value: str) -> tuple[int, ...]:
    if not (value.startswith("[") and value.endswith("]")):
        raise ValueError
    return tuple(sorted({int(part) for part in value[1:-1].split(",") if part.strip()}))


_READERS: dict[type, Any] = {int: int, float: _fraction, str: str, tuple: _layers}
_WANTED = {
    int: "a whole number", float: "a number or a fraction such as 1/16", str: "a word",
    tuple: "a list of layers such as [0, 1]",
}  # fmt: skip
