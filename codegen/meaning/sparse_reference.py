"""The meaning of sparse attention, in torch and in full: the oracle of its kernels.

Plain and slow: it scores every token from its label, sorts, and masks. What it does is written in
`ir.sparse.policy` (selection) and `ir.sparse.calibration` (labels). Letters as in
`ir.dialects.graph`, and S tokens of the context, R channels of a label.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ...ir.core import Operation
from ...ir.sparse.calibration import LEVELS, AttentionCalibration, HeadChannels
from ...ir.sparse.policy import SCORE_STEPS, SparsePolicy
from .graph_reference import GraphRun, Kvset, State, dense_partial, state_of


def permuted(x: Tensor, heads: Sequence[HeadChannels]) -> Tensor:
    """Return x [..., H or K, C] with each head's channels in its key/value head's order."""
    group = x.shape[-2] // len(heads)
    orders = torch.tensor([head.order for head in heads], device=x.device)
    orders = orders.repeat_interleave(group, dim=0)
    return x.gather(-1, orders.expand(x.shape))


def quantized_labels(k: Tensor, head: HeadChannels, labels: str) -> Tensor:
    """Return the integers of labels i8 or i4 of rows k [S, R], the first channels of the order."""
    mean, scale = _label_range(k, head, labels)
    top = LEVELS[labels]
    return torch.round((k - mean) / scale).clamp(-top, top)


def _label_range(k: Tensor, head: HeadChannels, labels: str) -> tuple[Tensor, Tensor]:
    channels = k.shape[-1]
    mean, scale = head.label_means(channels), head.label_scales(channels, labels)
    return k.new_tensor(mean), k.new_tensor(scale)


def head_scores(
    q: Tensor, k: Tensor, heads: Sequence[HeadChannels], policy: SparsePolicy, scale: float
) -> Tensor:
    """Return the label score of each token for each query head [H, T, S].

    q [T, H, C] and k [S, K, C] are after rope and permuted; `scale` is that of the attention.
    """
    channels, group = policy.label_channels(k.shape[-1]), q.shape[1] // k.shape[1]
    found = []
    for number, head in enumerate(heads):
        rows = k[:, number, :channels]
        queries = q[:, number * group : (number + 1) * group, :channels] * scale
        if policy.labels == "bf16":
            mean = k.new_tensor(head.label_means(channels))
            rows = rows.bfloat16().to(k.dtype)
            scores = torch.einsum("tgr,sr->gts", queries, rows) - (queries @ mean).T[..., None]
        else:
            _, steps = _label_range(rows, head, policy.labels)
            whole = quantized_labels(rows, head, policy.labels)
            scores = torch.einsum("tgr,sr->gts", queries * steps, whole)
        found.append(scores)
    return torch.cat(found)


def label_scores(
    q: Tensor, k: Tensor, heads: Sequence[HeadChannels], policy: SparsePolicy, scale: float
) -> Tensor:
    """Return the score of each token for each key/value head [K, T, S]; arguments as above."""
    return _by_kv_head(head_scores(q, k, heads, policy, scale), len(heads))


def stepped_scores(
    q: Tensor, k: Tensor, heads: Sequence[HeadChannels], policy: SparsePolicy, scale: float = 1.0
) -> Tensor:
    """Return the step of each token's score for each key/value head [K, T, S], as f32; for an
    adaptive policy times what a step is worth, with the attention's `scale`.

    q [T, H, C] and k [S, K, C] are after rope and permuted. Queries, times what a code is worth,
    are rounded to bytes with one scale a key head; a step is a share of the most that a score of
    these bytes can be, 255 of them from the least to the most.
    """
    channels, group = policy.label_channels(k.shape[-1]), q.shape[1] // k.shape[1]
    found, count = [], SCORE_STEPS - 1
    for number, head in enumerate(heads):
        rows = k[:, number, :channels]
        _, worth = _label_range(rows, head, policy.labels)
        queries = q[:, number * group : (number + 1) * group, :channels] * worth
        largest = queries.abs().amax((1, 2), keepdim=True).clamp_min(1e-30)
        whole = torch.floor(queries * (127 / largest) + 0.5)
        codes = quantized_labels(rows, head, policy.labels)
        scores = torch.einsum("tgr,sr->gts", whole, codes).amax(0)
        most = whole.abs().sum(-1).amax(-1) * (8 if policy.labels == "i4" else 127)
        span = (2 * most + 1).clamp_min(count + 1)[:, None]
        steps = torch.floor((scores + most[:, None]) * (count / span))
        worth = scale * largest[..., 0] / 127 * span / count
        found.append(steps.clamp_max(count - 1) * (worth if policy.adaptive else 1.0))
    return torch.stack(found).float()


def _by_kv_head(scores: Tensor, kv_heads: int) -> Tensor:
    return scores.unflatten(0, (kv_heads, -1)).amax(1)


def tail_base(q: Tensor, heads: Sequence[HeadChannels], channels: int, scale: float) -> Tensor:
    """Return what a label's score lacks of the log of a token's expected weight [H, T].

    The mean of all channels, and half the variance of those that the label leaves out, taken as
    normal and independent. q [T, H, C] is after rope and permuted.
    """
    group, width = q.shape[1] // len(heads), q.shape[2]
    means = q.new_tensor([head.label_means(width) for head in heads])
    spreads = q.new_tensor([[head.deviation[c] for c in head.order] for head in heads])
    means, spreads = (x.repeat_interleave(group, 0) for x in (means, spreads))
    left_out = (q * spreads * scale)[..., channels:].square().sum(-1)
    return ((q * means * scale).sum(-1) + left_out / 2).T


def select(
    scores: Tensor, at: Tensor, policy: SparsePolicy, page: int = 16, window: int | None = None
) -> Tensor:
    """Return which tokens are read, bool [K, T, S], of label scores [K, T, S].

    at [T] is each query's position; tokens after it, and before its sliding window, do not count.
    """
    tokens = scores.shape[-1]
    ends = policy.sinks, policy.recent, policy.unit
    seen, forced = forced_tokens(tokens, at, ends, page, window)
    if policy.unit == "page":
        middle = seen & ~forced
        best = _by_page(scores.masked_fill(~middle, -math.inf), page, -math.inf).amax(-1)
        found = _spread(_best(best, seen, forced, policy, page), page, tokens)
    else:
        best = scores.masked_fill(~(seen & ~forced), -math.inf)
        found = _best(best, seen, forced, policy, 1)
    return torch.where(_whole(seen, policy), seen, seen & (forced | found))


def forced_tokens(
    tokens: int, at: Tensor, ends: tuple[int, int, str], page: int, window: int | None = None
) -> tuple[Tensor, Tensor]:
    """Return which of so many tokens queries at positions at [T] see, and which of these are always
    read, both [T, S]; `ends` are sinks, recent and the unit."""
    sinks, recent, unit = ends
    position, at = torch.arange(tokens), at[:, None]
    seen = position <= at
    if window is not None:
        seen = seen & (position > at - window)
    forced = seen & ((position < sinks) | (position > at - recent))
    if unit == "page":
        forced = seen & _spread(_by_page(forced, page, False).any(-1), page, tokens)
    return seen, forced


def _whole(seen: Tensor, policy: SparsePolicy) -> Tensor:
    """Return [T, 1]: whether the whole context is read."""
    return torch.tensor([policy.reads_whole(n) for n in seen.sum(-1).tolist()])[:, None]


def _best(scores: Tensor, seen: Tensor, forced: Tensor, policy: SparsePolicy, size: int) -> Tensor:
    """Return the units taken [K, T, U] of scores, -inf where a unit is not of the middle."""
    ordered, order = scores.sort(dim=-1, descending=True, stable=True)
    budgets = torch.tensor([policy.budget(n) for n in seen.sum(-1).tolist()])
    rank = torch.arange(scores.shape[-1])
    taken = rank * size < (budgets - forced.sum(-1))[:, None]
    taken = taken & (ordered > -math.inf)
    if policy.threshold:
        taken = taken & (ordered >= ordered[..., :1] + math.log(policy.threshold))
    if policy.top_p:
        weights = torch.exp(ordered - ordered[..., :1].clamp_min(-1e30))
        mass = weights.cumsum(-1)
        taken = taken & (mass - weights < policy.top_p * mass[..., -1:])
    return torch.zeros_like(taken).scatter(-1, order, taken)


def _by_page(x: Tensor, page: int, fill: float | bool) -> Tensor:
    """Cut the last axis into pages: [..., S] -> [..., U, page]."""
    short = -x.shape[-1] % page
    x = torch.cat([x, x.new_full((*x.shape[:-1], short), fill)], dim=-1) if short else x
    return x.unflatten(-1, (-1, page))


def _spread(x: Tensor, page: int, tokens: int) -> Tensor:
    return x.repeat_interleave(page, dim=-1)[..., :tokens]


@dataclass
class Reads:
    """Tokens that a layer read, of how many in context; `scored` of these by label, in so many
    `rows`. Sums over rows and key/value heads.
    """

    read: int = 0
    context: int = 0
    scored: int = 0
    rows: int = 0

    @property
    def share(self) -> float:
        """Tokens read over tokens of context."""
        return self.read / max(self.context, 1)


@dataclass
class SparseAttention:
    """Attends by a policy: give it to a GraphRun as `attend`. It counts what is read by layer.

    `page` is the size of pages that the policy sees; 0: those of the run. With `words` scores are
    compared by steps where a GPU does so (`passes.tile.selection.word_labels`).
    """

    policy: SparsePolicy
    calibration: AttentionCalibration
    reads: dict[int, Reads] = field(default_factory=dict)
    page: int = 0
    words: bool = False

    def __call__(
        self, run: GraphRun, operation: Operation, q: Tensor, starts: Tensor, kvset: Kvset
    ) -> State:
        """Return the state of q [T, H*C] over the keys that the policy reads."""
        if kvset.layer in self.policy.dense:
            return dense_partial(run, operation, q, starts, kvset)
        assert kvset.first == 0 and operation.attribute("causal", True)
        heads, width = operation["heads"], operation["head_dim"]
        q = q.unflatten(-1, (heads, width))
        edges = zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True)
        parts = [
            self._sequence(run, operation, q[low:high], kvset, number)
            for number, (low, high) in enumerate(edges)
        ]
        return State(*(torch.cat(pieces) for pieces in zip(*parts, strict=True)))

    def _sequence(
        self, run: GraphRun, operation: Operation, q: Tensor, kvset: Kvset, number: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        layer, slots, length = kvset.layer, kvset.slots[number], kvset.lengths[number]
        shape = (operation["kv_heads"], operation["head_dim"])
        k, v = (cache[layer][slots].unflatten(-1, shape) for cache in (run.keys, run.values))
        at = torch.arange(length - q.shape[0], length)
        heads, scale = self.calibration.layers[layer], operation["scale"]
        ordered = permuted(q, heads)
        labels = head_scores(ordered, permuted(k, heads), heads, self.policy, scale)
        page = self.page or run.page_size
        if self.words and self.policy.in_words(q.shape[-1]):
            scores = stepped_scores(ordered, permuted(k, heads), heads, self.policy, scale)
        else:
            scores = _by_kv_head(labels, len(heads))
        read = select(scores, at, self.policy, page, kvset.window)
        self._count(layer, read, at, kvset.window)
        group = q.shape[1] // k.shape[1]
        k, v, read = (k.repeat_interleave(group, 1), v.repeat_interleave(group, 1),
                      read.repeat_interleave(group, 0))  # fmt: skip
        scores = torch.einsum("thc,shc->hts", q * scale, k)
        state = state_of(scores.masked_fill(~read, -torch.inf), v)
        if self.policy.tail == "none":
            return state
        channels = self.policy.label_channels(q.shape[-1])
        weights = labels + tail_base(ordered, heads, channels, scale)[..., None]
        return _with_tail(state, weights, read, v, at, page, kvset.window)

    def _count(self, layer: int, read: Tensor, at: Tensor, window: int | None) -> None:
        found, kv_heads = self.reads.setdefault(layer, Reads()), read.shape[0]
        contexts = [min(int(n) + 1, window or int(n) + 1) for n in at]
        chosen = [n for n in contexts if not self.policy.reads_whole(n)]
        found.read += int(read.sum())
        found.context += kv_heads * sum(contexts)
        found.scored += kv_heads * sum(chosen)
        found.rows += kv_heads * len(chosen)


def _with_tail(
    state: tuple[Tensor, Tensor, Tensor], weights: Tensor, read: Tensor, v: Tensor, at: Tensor,
    page: int, window: int | None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Return the state with the tokens not read [H, T, S], by their expected log-weights and the
    mean of v [S, H, C] over the context's whole pages.
    """
    top, total, accumulator = state
    rest, mean = tail_of(weights, read, v, at, page, window)
    mass = torch.exp(rest - top.T[..., None]).sum(-1).T
    return top, total + mass, accumulator + mass[..., None] * mean


def tail_of(
    weights: Tensor, read: Tensor, v: Tensor, at: Tensor, page: int, window: int | None = None
) -> tuple[Tensor, Tensor]:
    """Return the log-weights of tokens not read [H, T, S], -inf elsewhere, and the value that they
    get [T, H, C]; arguments as above."""
    position = torch.arange(read.shape[-1])
    seen = position <= at[:, None]
    if window is not None:
        seen = seen & (position > at[:, None] - window)
    whole = seen & (position < (at[:, None] + 1) // page * page)
    rest = weights.masked_fill(read | ~seen | ~whole.any(-1, keepdim=True), -torch.inf)
    count = whole.sum(-1).clamp_min(1)[:, None, None]
    return rest, torch.einsum("ts,shc->thc", whole.to(v.dtype), v) / count
